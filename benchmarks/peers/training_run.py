"""What both sides of `benchmarks/training_speed.py` share: what is to be trained, and the clock.

A side is a script beside this file that gets a list of `Run`s as JSON and trains one after the other. The clock runs
from the moment at which the trainer is set up, before the first rows are collated, to the end of the last optimizer
step: no loading, no tokenising, no packing.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import psutil

RATE = 1e-4
BETA = 0.1


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training."""

    kind: str
    """`sft` or `dpo`."""
    packed: bool
    model: str
    """Folder of a Hugging Face model and its tokenizer."""
    rows: str
    """JSON file: rows of `prompt`, `chosen` and `rejected`, token ids. SFT trains the chosen answer."""
    steps: list[list[int]]
    """Rows of each optimizer step."""
    batch: int
    """Rows an optimizer step and micro-batch, where rows are what steps are made of."""
    length: int
    """Tokens that a pack, or a sequence, may have."""
    packs: bool
    """A step is one pack of TRL's and not `batch` rows."""
    work: str
    """Folder for what the library writes; `result.json` comes to lie there too."""


@dataclass
class Clock:
    """CPU and wall seconds of this process, over one or several spans."""

    cpu: float = 0.0
    wall: float = 0.0
    before: float = 0.0
    """Resident MB at the first start."""
    _since: tuple[float, float] = field(default=(0.0, 0.0), repr=False)

    def start(self) -> None:
        """Go on from here."""
        self.before = self.before or psutil.Process().memory_info().rss / 1e6
        self._since = _cpu(), time.perf_counter()

    def stop(self) -> None:
        """Add what has passed since the start."""
        self.cpu += _cpu() - self._since[0]
        self.wall += time.perf_counter() - self._since[1]


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def train_all(train: Callable[[Run, list[dict[str, list[int]]], Clock], list[float]]) -> None:
    """Do every run that is asked for: `train` returns the loss of each step."""
    import torch

    torch.set_num_threads(1)
    for task in json.loads(sys.argv[1]):
        run, clock = Run(**task), Clock()
        Path(run.work).mkdir()
        losses = train(run, json.loads(Path(run.rows).read_text()), clock)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
        result: dict[str, Any] = asdict(clock) | {"peak": peak, "losses": losses}
        result.pop("_since")
        (Path(run.work) / "result.json").write_text(json.dumps(result))
