"""This project's side of `benchmarks/training_speed.py`: the training process, from `matrix.training.worker.fit` on.

What a recipe leaves to the plan, which rows make an optimizer step, is given, so that both sides train the same steps.
DPO's pass over the reference is on the clock.
"""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path
from typing import Any

from training_run import BETA, RATE, Clock, Run, train_all

from matrix.training.chat import Sequence
from matrix.training.data import Example
from matrix.training.dpo import DPO, Referring
from matrix.training.machines import LoggerConfig, StrategyConfig, Tracker
from matrix.training.module import Source, Trained
from matrix.training.plan import Step, make_plan
from matrix.training.recipe import DPOConfig, Packing, Precision, Schedule, SFTConfig
from matrix.training.sft import SFT
from matrix.training.worker import fit


class Timed(Trained):
    """Lets the clock run while Lightning trains."""

    clock: Clock

    def on_train_start(self) -> None:
        """Everything is set up, no batch has been asked for."""
        self.clock.start()
        super().on_train_start()

    def on_train_end(self) -> None:
        """The last optimizer step is over."""
        super().on_train_end()
        self.clock.stop()


class TimedSFT(Timed, SFT):
    """As SFT."""


class TimedDPO(Timed, DPO):
    """As DPO."""


class TimedReferring(Timed, Referring):
    """As Referring."""


def example(row: dict[str, list[int]], number: int, branches: tuple[str, ...]) -> Example:
    """A row as the trainer takes it."""
    prompt = row["prompt"]
    sequences = [
        Sequence([*prompt, *row[branch]], [False] * len(prompt) + [True] * len(row[branch])) for branch in branches
    ]
    return Example(str(number), tuple(sequences))


def train(run: Run, rows: list[dict[str, list[int]]], clock: Clock) -> list[float]:
    """The loss of each step, from `metrics.csv`."""
    options: dict[str, Any] = {
        "epochs": 1, "learning_rate": RATE, "schedule": Schedule.constant, "warmup_ratio": 0.0, "gradient_clip": 1.0,
        "weight_decay": 0.0, "batch_size": run.batch, "micro_batch_size": run.batch, "max_length": run.length,
        "packing": Packing.isolated if run.packed else Packing.padded, "precision": Precision.fp32,
        "checkpoint_every": 0,
    }  # fmt: skip
    pairs = run.kind == "dpo"
    recipe = DPOConfig(beta=BETA, **options) if pairs else SFTConfig(**options)
    examples = [example(row, n, ("chosen", "rejected") if pairs else ("chosen",)) for n, row in enumerate(rows)]
    targets = [len(row["chosen"]) for row in rows]
    steps = [
        Step([step], len(step), sum(targets[i] for i in step), sum(examples[i].tokens for i in step))
        for step in run.steps
    ]
    plan = replace(make_plan(examples, recipe, 1, seed=0), steps=steps, accumulation=1)
    shared = (Source(name=run.model), recipe, StrategyConfig(threads=1), plan, examples, 0)
    work = Path(run.work)

    def timed(module: Timed, folder: Path) -> None:
        module.clock = clock
        folder.mkdir()
        fit(module, folder, LoggerConfig(tracker=Tracker.none), seed=0)

    if pairs:
        timed(TimedReferring(work / "reference.jsonl", *shared), work / "reference")
        timed(TimedDPO(work / "reference.jsonl", *shared), work / "policy")
    else:
        timed(TimedSFT(*shared), work / "policy")
    with (work / "policy" / "metrics.csv").open() as table:
        return [float(line["loss"]) for line in csv.DictReader(table)]


if __name__ == "__main__":
    train_all(train)
