"""Rollouts: what the model that is about to be trained says to the prompts of the rows, several times each.

A result of its own, so that every filter that asks how much a row has to teach, and every cell of a grid, shares it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from matrix.engines.base import HOW, ModelConfig
from matrix.engines.opening import open_model
from matrix.jsonl import write_jsonl
from matrix.progress import show
from matrix.prompting import Decoding, expected
from matrix.provenance import derive_seed
from matrix.records import Origin, Rollout
from matrix.rows import count_rows, prompt, read_rows
from matrix.stage import Estimate, Result, Stage
from matrix.tasks import pooled

PROMPT_TOKENS, ANSWER_TOKENS = 80, 450
"""Behind the plan's estimates."""


@dataclass(kw_only=True)
class RolloutConfig:
    """How often and how a prompt is answered."""

    samples: int = 8
    """Answers to every prompt; variances need at least 2. DAPO (arXiv 2503.14476) takes 16."""
    decoding: Decoding = field(default_factory=lambda: Decoding(temperature=1.0, top_p=1.0, max_tokens=2048))
    """As rollouts are sampled in reinforcement learning: the model's own distribution."""

    def __post_init__(self) -> None:
        if self.samples < 2:
            raise ValueError(f"samples must be at least 2, or there is no variance, not {self.samples}")


@dataclass(kw_only=True)
class Roll(Stage):
    """Writes rollouts.jsonl (Rollout): `samples` a row, in the order of the rows."""

    name: ClassVar[str] = "rollout"

    rollouts: RolloutConfig
    model: ModelConfig
    """How the checkpoint is served; `model.model` is replaced by it."""
    checkpoint: Result
    """The model that is about to be trained."""
    rows: Result
    expected_rows: int = field(default=0, metadata=HOW)
    """For the plan, as long as the upstream rows are not there to be counted."""

    def estimate(self) -> Estimate:
        """One call a sample."""
        calls = count_rows(self.rows.path / "rows.jsonl", self.expected_rows) * self.rollouts.samples
        return expected((self.model, calls, PROMPT_TOKENS, min(self.rollouts.decoding.max_tokens, ANSWER_TOKENS)))

    def readable(self) -> str:
        """Number of samples."""
        return f"{self.rollouts.samples}x"

    def run(self, work: Path) -> None:
        """Ask for every sample; finished calls are in `work/journal.jsonl`."""
        asyncio.run(self._run(work))

    async def _run(self, work: Path) -> None:
        rows, samples = read_rows(self.rows.path / "rows.jsonl"), self.rollouts.samples
        served = self.model.serving(self.checkpoint.path)
        stage = f"{self.name}-{self.key()[:12]}"
        with show("rollout", len(rows) * samples, work) as progress:
            async with open_model(served, work / "journal.jsonl", progress, name=self.checkpoint.name) as model:

                async def one(number: int) -> Rollout:
                    row, index = rows[number // samples], number % samples
                    seed = derive_seed(self.seed, self.name, row.id, index)
                    completion = await model.chat(prompt(row), self.rollouts.decoding.sampling(seed), (number,))
                    progress.advance()
                    return Rollout(
                        row=row.id, index=index, text=completion.text.strip(), tokens=completion.completion_tokens,
                        finish_reason=completion.finish_reason,
                        origin=Origin(stage=stage, model=model.name, seed=seed, instruction=row.id),
                    )  # fmt: skip

                found = await pooled(len(rows) * samples, one, 2 * self.model.concurrency)
        write_jsonl(work / "rollouts.jsonl", found)
