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
from matrix.prompting import Asker
from matrix.provenance import derive_seed
from matrix.records import Agent, write_jsonl
from matrix.simulation.profiles import load_profiles
from matrix.simulation.society import Closes, SimulatorConfig, Society
from matrix.stage import Stage


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

    def run(self, work: Path) -> None:
        """Run the society; every finished call is in `work/journal.jsonl`, so a second run repeats none."""
        asyncio.run(self._run(work))

    async def _run(self, work: Path) -> None:
        c = self.simulator
        seed = derive_seed(self.seed, self.name)
        profiles = load_profiles(c.profiles, c.num_agents, derive_seed(seed, "profiles"))
        per_scenario = (
            c.steps_per_scenario if c.scenario_closes is Closes.STEPS else c.num_agents // c.grouping.num_groups
        )
        with show("simulate", c.num_agents + c.num_scenarios * per_scenario, work) as progress:
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
