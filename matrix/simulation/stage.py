"""Simulate: the stage that runs a society and writes its agents, actions and scenarios."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from matrix.engines.base import ModelConfig
from matrix.engines.embedder import Embedder, EmbedderConfig
from matrix.engines.opening import open_model
from matrix.progress import show
from matrix.prompting import Asker, expected
from matrix.provenance import derive_seed
from matrix.records import Agent, write_jsonl
from matrix.simulation.modulator import Communication
from matrix.simulation.profiles import load_profiles
from matrix.simulation.society import SimulatorConfig, Society
from matrix.stage import Estimate, Stage

PROMPT_TOKENS, ENTRY_TOKENS, ANSWER_TOKENS = 200, 40, 60
"""Behind the plan's estimates: tokens of a prompt without lists, of a list's entry (memory, member, group) and of an
answer. A society of 20 agents took 140 to 230 for prompts without lists and 37 to 101 for answers."""


@dataclass(kw_only=True)
class Simulate(Stage):
    """MATRIX: agents live, scenarios come out. Writes agents.jsonl, actions.jsonl, scenarios.jsonl, grouping.json."""

    name: ClassVar[str] = "simulate"
    prompts: ClassVar[str | None] = "matrix.simulation"

    simulator: SimulatorConfig
    llm: ModelConfig
    embedder: EmbedderConfig

    def readable(self) -> str:
        """Number of agents and scenarios."""
        return f"{self.simulator.num_agents}x{self.simulator.num_scenarios}"

    def estimate(self) -> Estimate:
        """Four calls an agent, one to three an action, one a scenario, if nobody reaches the goal before the quota.

        Without communication there are no reactions, so that plans bound the number of actions.
        """
        c, talks = self.simulator, self.simulator.communication is not Communication.none
        actions = round(c.num_scenarios * c.scenario_size)
        if not talks:
            actions = min(actions, c.num_agents * c.plan_steps)
        routed = actions if talks and c.group_size > 1 else 0
        shared = actions if talks and c.share_candidates and c.group_size < c.num_agents else 0
        act_prompt = PROMPT_TOKENS + min(c.memory_tokens, c.memory_entries * ENTRY_TOKENS)
        birth, acting, routing = (min(d.max_tokens, ANSWER_TOKENS) for d in (c.birth, c.acting, c.routing))
        return expected(
            (self.llm, 4 * c.num_agents, PROMPT_TOKENS, birth),
            (self.llm, actions, act_prompt, acting),
            (self.llm, routed, PROMPT_TOKENS + ENTRY_TOKENS * c.group_size, routing),
            (self.llm, shared, PROMPT_TOKENS + ENTRY_TOKENS * c.share_candidates, routing),
            (self.llm, round(actions / c.scenario_size), PROMPT_TOKENS + ENTRY_TOKENS * c.scenario_size, acting),
        )

    def run(self, work: Path) -> None:
        """Run the society; every finished call is in `work/journal.jsonl`, so a second run repeats none."""
        asyncio.run(self._run(work))

    async def _run(self, work: Path) -> None:
        c = self.simulator
        seed = derive_seed(self.seed, self.name)
        profiles = load_profiles(c.profiles, c.num_agents, derive_seed(seed, "profiles"))
        with show("simulate", c.num_agents + round(c.num_scenarios * c.scenario_size), work) as progress:
            async with open_model(self.llm, work / "journal.jsonl", progress) as model:
                asker = Asker("matrix.simulation", model, f"{self.name}-{self.key()[:12]}")
                society = Society(c, asker, Embedder(self.embedder), seed, progress)
                await society.populate(profiles)
                await society.live()
        agents = [
            Agent(
                id=a.id, name=a.name, description=a.description, posts=a.posts, personality=a.personality, goal=a.goal,
                plan=a.plan, group=a.group, profile=a.profile, position=a.position, origin=a.origin,
            )
            for a in society.lives
        ]  # fmt: skip
        write_jsonl(work / "profiles.jsonl", profiles)
        write_jsonl(work / "agents.jsonl", agents)
        write_jsonl(work / "actions.jsonl", society.actions)
        write_jsonl(work / "scenarios.jsonl", society.scenarios)
        write_jsonl(work / "failures.jsonl", asker.sorted_failures())
        goals = sum(a.next_step >= len(a.plan) for a in society.lives)
        (work / "grouping.json").write_text(json.dumps({**society.similarity, "goals_reached": goals}, indent=1))
