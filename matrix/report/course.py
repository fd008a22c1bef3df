"""The course of a training: its tables `metrics.csv`, a line a step, and `held_out.csv`, a line an evaluation.

Drawn by curves.py, told by training.py.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

Table = dict[str, list[float]]
"""Column -> a number a line, NaN where a cell holds no finite one."""


class CurveError(ValueError):
    """A folder has no training curves; says what was looked for."""


@dataclass
class Course:
    """What one training wrote down step by step."""

    train: Table
    held_out: Table = field(default_factory=dict)

    @property
    def steps(self) -> list[float]:
        """Optimizer steps, from 1."""
        return self.train["step"]

    @property
    def skipped(self) -> list[float]:
        """Steps that were left out: there the count of them, which starts again with a resumed process, moves."""
        counts = self.train.get("skipped", [])
        return [step for step, (before, now) in zip(self.steps, pairwise([0.0, *counts]), strict=False)
                if now and now != before]  # fmt: skip

    def lowest(self) -> tuple[float, float] | None:
        """Step and value of the lowest held-out loss."""
        points = zip(self.held_out.get("step", []), self.held_out.get("loss", []), strict=True)
        return min((point for point in points if math.isfinite(point[1])), key=lambda point: point[1], default=None)


def read_course(metrics: Path, held_out: Path | None = None) -> Course:
    """The tables of a training result.

    Raises:
        CurveError: `metrics` has no columns `step` and `loss`.
    """
    train = _read_table(metrics)
    if not {"step", "loss"} <= train.keys():
        raise CurveError(f"{metrics} has no columns step and loss; it has: {', '.join(train) or 'none'}")
    return Course(train, _read_table(held_out) if held_out else {})


def _read_table(path: Path) -> Table:
    with path.open(newline="") as lines:
        reader = csv.DictReader(lines)
        table: Table = {name: [] for name in reader.fieldnames or []}
        for row in reader:
            for name, values in table.items():
                values.append(_number(row[name]))
    return table


def _number(text: str | None) -> float:
    try:
        value = float(text or "nan")
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan
