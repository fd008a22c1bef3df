"""The society: groups of agents live scenario by scenario, and modulators carry news between them (paper section 3.3).

Groups run concurrently; within a scenario a group's agents act one after another. News for other groups is delivered
between scenarios. Every seed hangs on (agent or action, purpose): concurrency and the order of answers change nothing.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import cycle

import msgspec

from matrix.engines.base import LanguageModel
from matrix.engines.embedder import Embedder
from matrix.progress import Progress
from matrix.prompting import Asker, Decoding, first_paragraph
from matrix.provenance import derive_seed
from matrix.records import Action, Profile, Scenario
from matrix.simulation.agent import Life, bring_to_life, unique_names
from matrix.simulation.grouping import Grouping, GroupingConfig, assign_groups, cohesion, plane
from matrix.simulation.modulator import Communication, Modulator, at_random, shortlist
from matrix.simulation.profiles import ProfilesConfig


class Closes(StrEnum):
    """When a scenario ends; the paper has both (section 3.3 and appendix B.3, which agree for groups of three)."""

    steps = "steps"
    everyone = "everyone"


@dataclass(kw_only=True)
class SimulatorConfig:
    """Size and rules of a society."""

    num_agents: int = 1000
    """N (paper section 3.1: 1000)."""
    profiles: ProfilesConfig = field(default_factory=ProfilesConfig)
    grouping: GroupingConfig = field(default_factory=GroupingConfig)
    communication: Communication = Communication.structured
    num_scenarios: int = 10000
    """Scenarios wanted of the society (paper figure 4b: 100 to 10,000); fewer if all goals are reached before."""
    scenario_closes: Closes = Closes.steps
    steps_per_scenario: int = 3
    """Actions of a scenario with `scenario_closes=steps` (paper appendix B.3: 3)."""
    plan_steps: int = 8
    """Steps of an agent's plan (paper table 15 shows 8)."""
    share_candidates: int = 8
    """Groups that a modulator may choose from when it passes an action on, by embedding similarity (paper: all others,
    whose memories do not fit a context; 0: never share)."""
    memory_entries: int = 6
    """Most memories in a prompt (paper: not stated)."""
    memory_tokens: int = 400
    """Most tokens of memories in a prompt (paper: not stated)."""
    max_observations: int = 8
    """Most news that an agent reacts to at once, the newest; older news goes into its memory unanswered."""
    max_posts: int = 6
    """Past posts in the prompts that make an agent; all of them go into its memory."""
    birth: Decoding = field(default_factory=lambda: Decoding(max_tokens=512))
    """Sampling of role, personality, goal and plan."""
    acting: Decoding = field(default_factory=lambda: Decoding(max_tokens=128))
    """Sampling of actions and scenario summaries."""
    routing: Decoding = field(default_factory=lambda: Decoding(temperature=0.2, max_tokens=96))
    """Sampling of the modulators' decisions."""

    def __post_init__(self) -> None:
        if self.num_agents < 1 or self.steps_per_scenario < 1 or self.plan_steps < 1 or self.num_scenarios < 1:
            raise ValueError("num_agents, num_scenarios, steps_per_scenario and plan_steps must be at least 1")
        if min(self.share_candidates, self.memory_entries, self.memory_tokens, self.max_posts) < 0:
            raise ValueError("share_candidates, memory_entries, memory_tokens and max_posts must not be negative")
        if self.max_observations < 1:
            raise ValueError("max_observations must be at least 1; communication=none keeps agents from hearing news")
        self.grouping.check(self.num_agents)

    @property
    def group_size(self) -> float:
        """Mean number of agents in a group."""
        single = self.grouping.kind is Grouping.single
        return self.num_agents if single else self.num_agents / self.grouping.num_groups

    @property
    def scenario_size(self) -> float:
        """Mean number of actions in a scenario, while nobody has reached the goal."""
        return self.steps_per_scenario if self.scenario_closes is Closes.steps else self.group_size


@dataclass
class Society:
    """A running simulation; `actions` and `scenarios` grow, everything else is fixed after `populate`."""

    config: SimulatorConfig
    asker: Asker
    embedder: Embedder
    seed: int
    progress: Progress
    lives: list[Life] = field(default_factory=list)
    modulators: list[Modulator] = field(default_factory=list)
    actions: list[Action] = field(default_factory=list)
    scenarios: list[Scenario] = field(default_factory=list)
    similarity: dict[str, float] = field(default_factory=dict)

    @property
    def model(self) -> LanguageModel:
        """The one aligned LLM behind agents and modulators."""
        return self.asker.model

    async def populate(self, profiles: list[Profile]) -> None:
        """Bring all agents to life and form the groups."""
        c = self.config

        async def birth(number: int, profile: Profile) -> Life:
            life = await bring_to_life(self.asker, number, profile, self.seed, c.plan_steps, c.max_posts, c.birth)
            self.progress.advance()
            return life

        self.lives = await asyncio.gather(*(birth(i, p) for i, p in enumerate(profiles)))
        unique_names(self.lives)
        vectors = self.embedder.embed([life.persona for life in self.lives])
        groups = assign_groups(vectors, c.grouping, derive_seed(self.seed, "grouping"))
        self.similarity = cohesion(vectors, groups)
        for life, group, point in zip(self.lives, groups, plane(vectors), strict=True):
            life.group, life.position = group, point
        for group in range(max(groups) + 1):
            rows = [i for i, g in enumerate(groups) if g == group]
            self.modulators.append(Modulator(group, [self.lives[i] for i in rows], vectors[rows].mean(axis=0)))

    async def live(self) -> None:
        """Run scenarios until there are enough of them or nobody has anything left to do."""
        while (wanted := self.config.num_scenarios - len(self.scenarios)) > 0:
            active = [m for m in self.modulators if any(not life.done for life in m.members)][:wanted]
            if not active:
                break
            stories = await asyncio.gather(*(self._scenario(m, len(m.memory)) for m in active))
            for modulator, (actions, scenario) in zip(active, stories, strict=True):
                modulator.remember(scenario.summary, self.embedder)
                self.scenarios.append(scenario)
                self.actions.extend(actions)
            if self.config.num_scenarios > len(self.scenarios):
                await self._exchange([action for actions, _ in stories for action in actions])

    async def _scenario(self, modulator: Modulator, index: int) -> tuple[list[Action], Scenario]:
        """One scenario of one group: actions, routing after each of them, summary."""
        scenario = f"g{modulator.group:03}-s{index:02}"
        seed = derive_seed(self.seed, scenario)
        order = sorted(modulator.members, key=lambda life: derive_seed(seed, "order", life.id))
        by_steps = self.config.scenario_closes is Closes.steps
        actions: list[Action] = []
        for life in cycle(order) if by_steps else order:
            if by_steps and (len(actions) == self.config.steps_per_scenario or all(other.done for other in order)):
                break
            if not life.done:
                actions.append(await self._act(modulator, life, scenario, len(actions)))
                self.progress.advance()
        texts = [f"{self._life(a.agent).name}: {a.text}" for a in actions]
        summary = await self.asker.ask(
            "summarise", scenario, seed, self.config.acting, lambda t: first_paragraph(t, 120), actions=texts
        )
        return actions, Scenario(
            id=scenario,
            group=modulator.group,
            index=index,
            agents=sorted({a.agent for a in actions}),
            actions=[a.id for a in actions],
            summary=summary or " ".join(texts),
            origin=self.asker.origin(seed, "summarise"),
        )

    async def _act(self, modulator: Modulator, life: Life, scenario: str, step: int) -> Action:
        """React to what is new, or go on with the plan; then the modulator spreads the word (paper section 3.1)."""
        c, action = self.config, f"{scenario}-t{step}"
        seed = derive_seed(self.seed, life.id, action)
        memories = life.memory.recall(c.memory_entries, c.memory_tokens, self.model.count_tokens)
        news, life.inbox = life.inbox, []
        observations = news[-c.max_observations :]
        prompt = "react" if observations else "act"
        about = {"observations": observations} if observations else {"step": life.plan[life.next_step]}
        text = await self.asker.ask(
            prompt, action, derive_seed(seed, "act"), c.acting, lambda t: first_paragraph(t, 60),
            persona=life.persona, goal=life.goal, name=life.name, memories=memories, **about,
        )  # fmt: skip
        plan_step = -1 if observations else life.next_step
        life.next_step += not observations
        unparsed = [] if text else [prompt]
        text = text or (observations or [life.plan[plan_step]])[0]
        for entry in (*news, text):
            life.memory.add(entry)
        aware: list[Life] = []
        reason, parsed = "", True
        prompts = [prompt]
        if c.communication is not Communication.none:
            prompts.append("route")
            aware, reason, parsed = await modulator.route(self.asker, action, life, text, seed, c.routing)
        if c.communication is Communication.random:
            others = [i for i, other in enumerate(self.lives) if other.group == life.group and other is not life]
            aware = [self.lives[i] for i in at_random(len(aware), others, derive_seed(seed, "random"))]
        for member in aware:
            member.inbox.append(f"{life.name}: {text}")
        return Action(
            id=action, agent=life.id, group=life.group, scenario=scenario, step=step, text=text,
            observations=observations, plan_step=plan_step, aware=[member.id for member in aware],
            reason=reason, unparsed=unparsed + ([] if parsed else ["route"]),
            origin=self.asker.origin(seed, *prompts),
        )  # fmt: skip

    async def _exchange(self, news: list[Action]) -> None:
        """Pass the actions of the closed scenarios on to other groups; they act on them in their next scenario."""
        c = self.config
        if c.communication is Communication.none or not c.share_candidates or len(self.modulators) == 1:
            return
        vectors = self.embedder.embed([action.text for action in news])

        async def decide(action: Action, position: int) -> Action:
            own, seed = self.modulators[action.group], derive_seed(self.seed, action.id)
            candidates = shortlist(self.modulators, action.group, vectors[position], c.share_candidates)
            chosen, parsed = await own.share(self.asker, action.id, action.text, candidates, seed, c.routing)
            groups = sorted(m.group for m in chosen)
            if c.communication is Communication.random:
                others = [m.group for m in self.modulators if m.group != action.group]
                groups = at_random(len(groups), others, derive_seed(seed, "random"))
            return msgspec.structs.replace(
                action, shared=groups, unparsed=action.unparsed + ([] if parsed else ["share"])
            )

        decided = await asyncio.gather(*(decide(action, i) for i, action in enumerate(news)))
        self.actions[-len(news) :] = decided
        for action in decided:
            for group in action.shared:
                # One member hears of it, as people do of news from elsewhere, and spreads it by acting on it.
                members = self.modulators[group].members
                listener = random.Random(derive_seed(self.seed, action.id, group)).choice(members)
                listener.inbox.append(f"{self._life(action.agent).name}: {action.text}")

    def _life(self, agent: str) -> Life:
        return self.lives[int(agent[1:])]
