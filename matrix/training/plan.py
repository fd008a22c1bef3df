"""The order of training, fixed before it starts: optimizer steps, their micro-batches and how much each step weighs.

The plan follows from seed, rows and batch size alone. Micro-batch size and number of processes only cut its steps into
pieces, so they change no loss; resuming needs nothing but the number of steps done.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import IterableDataset

from matrix.provenance import derive_seed
from matrix.training.data import Example


@dataclass(frozen=True)
class Step:
    """One optimizer step."""

    micro_batches: list[list[int]]
    """Indices of examples; micro-batch `j * world + rank` is the j-th of `rank`. Empty ones fill a partial step up."""
    normaliser: int
    """What the summed loss of the whole step is divided by: target tokens for SFT, pairs for DPO."""
    tokens: int
    """Tokens of the step, padding left out."""


@dataclass(frozen=True)
class Plan:
    """All optimizer steps of a training."""

    steps: list[Step]
    accumulation: int
    """Micro-batches a process computes in each step."""


def make_plan(
    examples: list[Example], epochs: int, batch_size: int, micro_batch_size: int, world: int, seed: int
) -> Plan:
    """Shuffle every epoch, cut it into steps of `batch_size` rows, and each step into micro-batches of similar length.

    Args:
        examples: what to train on.
        epochs: passes over them.
        batch_size: rows a step over all processes; the last step of an epoch may have fewer.
        micro_batch_size: rows a process computes at once.
        world: processes.
        seed: of the shuffles.
    """
    accumulation = math.ceil(batch_size / (micro_batch_size * world))
    steps = []
    for epoch in range(epochs):
        order = list(range(len(examples)))
        random.Random(derive_seed(seed, "epoch", epoch)).shuffle(order)
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            pairs = len(examples[rows[0]].sequences) == 2
            normaliser = len(rows) if pairs else sum(examples[i].targets for i in rows)
            tokens = sum(examples[i].tokens for i in rows)
            rows.sort(key=lambda i: (-examples[i].length, i))
            cut = [rows[i : i + micro_batch_size] for i in range(0, len(rows), micro_batch_size)]
            cut += [[] for _ in range(accumulation * world - len(cut))]
            steps.append(Step(cut, normaliser, tokens))
    return Plan(steps, accumulation)


def collate(examples: list[Example], rows: list[int], normaliser: int) -> dict[str, Any]:
    """A micro-batch as tensors, padded on the right; n sequences, for DPO all chosen ones before all rejected ones.

    Returns:
        `rows` (indices of the examples), `ids` (n, length) int64, `targets` (n, length) bool, `normaliser` int. There
        is no attention mask: under causal attention no real token looks at padding to its right. There is no float
        tensor: DeepSpeed casts those to bf16. A micro-batch without rows has one token and no target.
    """
    sequences = [s for column in zip(*(examples[i].sequences for i in rows), strict=True) for s in column]
    length = max((len(s.ids) for s in sequences), default=1)
    ids = torch.zeros(max(len(sequences), 1), length, dtype=torch.long)
    targets = torch.zeros_like(ids, dtype=torch.bool)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence.ids)] = torch.tensor(sequence.ids)
        targets[row, : len(sequence.ids)] = torch.tensor(sequence.targets)
    return {"rows": torch.tensor(rows, dtype=torch.long), "ids": ids, "targets": targets, "normaliser": normaliser}


class MicroBatches(IterableDataset[dict[str, Any]]):
    """This process's micro-batches from optimizer step `start` on.

    It has no length on purpose: Lightning then takes the number of steps from the plan and not from the loader.
    """

    def __init__(self, examples: list[Example], plan: Plan, rank: int, world: int, start: int) -> None:
        self.examples, self.plan, self.rank, self.world, self.start = examples, plan, rank, world, start

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for step in self.plan.steps[self.start :]:
            for rows in step.micro_batches[self.rank :: self.world]:
                yield collate(self.examples, rows, step.normaliser)
