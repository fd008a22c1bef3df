"""Simulate: the stage that runs a society and writes its agents, actions and scenarios."""

from __future__ import annotations

import asyncio
import glob
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from matrix.engines.base import ModelConfig
from matrix.engines.embedder import Embedder, EmbedderConfig
from matrix.engines.opening import open_model
from matrix.jsonl import RowWriter, iter_jsonl, write_jsonl
from matrix.progress import show
from matrix.prompting import Asker, expected
from matrix.provenance import derive_seed
from matrix.records import Action, Profile, Scenario
from matrix.simulation.config import SimulatorConfig
from matrix.simulation.modulator import Communication
from matrix.simulation.profiles import load_profiles
from matrix.simulation.society import Society
from matrix.stage import Estimate, Stage

PROMPT_TOKENS, ENTRY_TOKENS, ANSWER_TOKENS = 200, 40, 60
"""Behind the plan's estimates: tokens of a prompt without lists, of a list's entry (memory, member, group) and of an
answer. A society of 20 agents took 140 to 230 for prompts without lists and 37 to 101 for answers."""


@dataclass(kw_only=True)
class Simulate(Stage):
    """MATRIX: agents live, scenarios come out.

    Writes profiles.jsonl, agents.jsonl, actions.jsonl, scenarios.jsonl and failures.jsonl; grouping.json (cohesion,
    messages), similarity.json (some agents' profiles against each other, paper figure 6) and counts.json (identifiers
    masked after the rewrite, answers that could not be parsed, profiles left out).
    """

    name: ClassVar[str] = "simulate"
    version: ClassVar[int] = 2
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
        act_prompt = PROMPT_TOKENS + min(c.memory.tokens, c.memory.entries * ENTRY_TOKENS)
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
        skipped: Counter[str] = Counter()
        people = work / "profiles.jsonl"
        write_jsonl(people, load_profiles(c.profiles, c.num_agents, derive_seed(seed, "profiles"), skipped))
        forked = [stored_journal(work.parent, c.fork_from)] if c.fork_from else []
        with (
            show("simulate", c.num_agents + round(c.num_scenarios * c.scenario_size), work) as progress,
            Embedder(self.embedder) as embedder,
            RowWriter(work / "actions.jsonl") as actions,
            RowWriter(work / "scenarios.jsonl") as scenarios,
        ):
            async with open_model(self.llm, work / "journal.jsonl", progress, forked=forked) as model:

                def keep(done: list[Action], scenario: Scenario) -> None:
                    for action in done:
                        actions.write(action)
                    scenarios.write(scenario)

                asker = Asker("matrix.simulation", model, f"{self.name}-{self.key()[:12]}")
                embedder.start()  # loads while agents are born
                society = Society(c, asker, embedder, seed, progress, keep, self.llm.concurrency)
                await society.run(iter_jsonl(people, Profile))
        write_jsonl(work / "agents.jsonl", (life.row() for life in society.lives))
        write_jsonl(work / "failures.jsonl", asker.sorted_failures())
        goals = sum(a.next_step >= len(a.plan) for a in society.lives)
        indices, matrix = society.sample
        shown = [society.lives[i] for i in indices]
        counts = {
            "masked": sum((life.masked for life in society.lives), Counter()),
            "unparsed": Counter(failure.purpose for failure in asker.failures),
            "profiles_skipped": skipped,
        }
        for name, content in {
            "grouping": society.figures | {"goals_reached": goals},
            "counts": {name: dict(sorted(found.items())) for name, found in counts.items()},
            "similarity": {
                "agents": [life.id for life in shown], "groups": [life.group for life in shown], "matrix": matrix
            },
        }.items():  # fmt: skip
            (work / f"{name}.json").write_text(json.dumps(content, indent=None if name == "similarity" else 1))


def stored_journal(store: Path, name: str) -> Path:
    """The journal of a simulation in the store, finished or not.

    Raises:
        ValueError: none has this name, or several have.
    """
    key = name.removeprefix("simulate-")
    found = sorted(store.glob(f"*{glob.escape(key)}*/journal.jsonl"))
    if len(found) != 1:
        there = ", ".join(sorted(p.parent.name for p in store.glob("*/journal.jsonl"))) or "none"
        raise ValueError(
            f"simulator.fork_from={name}: {len(found)} stored simulations have this name. There are: {there}"
        )
    return found[0]
