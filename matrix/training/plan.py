"""The order of training, fixed before it starts: optimizer steps, their micro-batches and how much each step weighs.

The plan follows from seed, rows and recipe alone. Micro-batches and processes only cut its steps into pieces, so they
change no loss; resuming needs nothing but the number of steps done.
"""

from __future__ import annotations

import heapq
import math
import random
from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from matrix.provenance import derive_seed
from matrix.training.data import Example
from matrix.training.recipe import BatchUnit, Packing, Schedule, TrainConfig, TrainingError


@dataclass(frozen=True)
class Step:
    """One optimizer step. Its counts are those of all processes."""

    micro_batches: list[list[int]]
    """Indices of examples; micro-batch `j * world + rank` is the j-th of `rank`. Empty ones fill a step up."""
    rows: int
    """Rows or pairs; what the summed loss of a preference step is divided by."""
    targets: int
    """Target tokens, of pairs those of the chosen answers; what the summed loss of an SFT step is divided by."""
    tokens: int
    """Tokens that are computed, padding left out; a packed pair's prompt counts once."""


@dataclass(frozen=True)
class Plan:
    """All optimizer steps of a training."""

    steps: list[Step]
    accumulation: int
    """Micro-batches a process computes in each step."""
    warmup: int
    """Steps with a rising learning rate."""
    held_out: Step | None
    """Examples that are evaluated and not trained."""
    evaluations: frozenset[int]
    """Numbers of optimizer steps, from 1, after which the held-out examples are evaluated."""
    world: int
    """Processes."""
    packed: bool
    efficiency: float
    """Tokens that are computed over all that could be meanwhile: padding and waiting for slower ranks are lost."""

    def micro_batches(self, start: int, rank: int) -> Iterator[tuple[Step, list[int]]]:
        """What `rank` computes from optimizer step `start` (from 0) on."""
        for step in self.steps[start:]:
            for rows in step.micro_batches[rank :: self.world]:
                yield step, rows


def make_plan(examples: Sequence[Example], recipe: TrainConfig, world: int, seed: int) -> Plan:
    """Shuffle every epoch, cut it into optimizer steps, and each step into micro-batches of similar size.

    Args:
        examples: what to train on.
        recipe: epochs, batch and micro-batch sizes, packing, warm-up and held-out share.
        world: processes.
        seed: of the shuffles.

    Raises:
        TrainingError: no row is left to train on, or there are more processes than rows in a step.
    """
    cutter = _Cutter(examples, recipe, world)
    rows = list(range(len(examples)))
    if recipe.held_out:
        random.Random(derive_seed(seed, "held_out")).shuffle(rows)
    kept_out = min(math.ceil(len(rows) * recipe.held_out), len(rows) - 1)
    held_out, trained = sorted(rows[:kept_out]), sorted(rows[kept_out:])
    groups: list[list[int]] = []
    ends = []
    for epoch in range(recipe.epochs):
        order = trained.copy()
        random.Random(derive_seed(seed, "epoch", epoch)).shuffle(order)
        units = [[i] for i in order]
        if recipe.batch_unit is BatchUnit.packs:
            units = pack(order, cutter.sizes, recipe.max_length * cutter.branches)
            random.Random(derive_seed(seed, "packs", epoch)).shuffle(units)
        size = recipe.batch_size
        groups += [[i for unit in units[at : at + size] for i in unit] for at in range(0, len(units), size)]
        ends.append(len(groups))
    largest = max(map(len, groups))
    if world > largest:
        raise TrainingError(
            f"{world} processes cannot share optimizer steps of {largest} rows ({len(trained)} rows, batch_size="
            f"{recipe.batch_size}). Lower recipe.strategy.devices, or raise batch_size"
        )
    accumulation = math.ceil(max(len(cutter.cut(group)) for group in groups) / world)
    steps = [cutter.step(group, accumulation * world) for group in groups]
    every = recipe.evaluate_every
    return Plan(
        steps,
        accumulation,
        warmup=_warmup(recipe, len(steps)),
        held_out=cutter.step(held_out, world) if held_out else None,
        evaluations=frozenset({*range(every, len(steps), every), len(steps)} if every else ends),
        world=world,
        packed=cutter.packed,
        efficiency=sum(step.tokens for step in steps) / sum(map(cutter.slots, steps)),
    )


def rate(step: int, plan: Plan, recipe: TrainConfig) -> float:
    """Share of the peak rate at optimizer step `step` (from 0): linear warm-up, then the schedule."""
    if step < plan.warmup:
        return (step + 1) / (plan.warmup + 1)
    done = (step - plan.warmup) / max(len(plan.steps) - plan.warmup, 1)
    course = {
        Schedule.cosine: 0.5 * (1 + math.cos(math.pi * done)),
        Schedule.linear: 1 - done,
        Schedule.constant: 1.0,
    }[recipe.schedule]
    return recipe.min_rate + (1 - recipe.min_rate) * course


def _warmup(recipe: TrainConfig, total: int) -> int:
    by_ratio = math.ceil(total * recipe.warmup_ratio)
    if recipe.warmup_steps is None or recipe.warmup_steps > total / 4:
        return by_ratio
    return recipe.warmup_steps


def pack(rows: list[int], sizes: list[int], capacity: int) -> list[list[int]]:
    """Best-fit decreasing: rows into as few packs of `capacity` as it finds; what is larger has a pack of its own."""
    packs: list[list[int]] = []
    room: list[tuple[int, int]] = []
    for i in sorted(rows, key=lambda i: (-sizes[i], i)):
        at = bisect_left(room, (sizes[i], -1))
        if at < len(room):
            left, number = room.pop(at)
        else:
            left, number = capacity, len(packs)
            packs.append([])
        packs[number].append(i)
        insort(room, (left - sizes[i], number))
    return packs


class _Cutter:
    """Cuts the rows of an optimizer step into micro-batches."""

    def __init__(self, examples: Sequence[Example], recipe: TrainConfig, world: int) -> None:
        if not examples:
            raise TrainingError("there is no row to train on; look at what the filters kept")
        self.packed = recipe.packing is not Packing.padded
        self.branches = len(examples[0].sequences)
        self.lengths = [e.length for e in examples]
        self.sizes = [e.tokens - self.packed * (self.branches - 1) * e.prefix for e in examples]
        """Tokens that are computed for an example."""
        self.targets = [sum(e.sequences[0].targets) for e in examples]
        self.lines = recipe.micro_batch_size
        self.capacity = recipe.micro_batch_size * recipe.max_length * self.branches
        self.world = world

    def step(self, rows: list[int], multiple: int) -> Step:
        """A step whose number of micro-batches is a multiple of `multiple`."""
        number = math.ceil(len(self.cut(rows)) / multiple) * multiple
        targets, tokens = sum(self.targets[i] for i in rows), sum(self.sizes[i] for i in rows)
        return Step(self.fill(rows, number), len(rows), targets, tokens)

    def cut(self, rows: list[int]) -> list[list[int]]:
        """As few micro-batches as are needed."""
        if self.packed:
            return pack(rows, self.sizes, self.capacity)
        rows = sorted(rows, key=lambda i: (-self.lengths[i], i))
        return [rows[at : at + self.lines] for at in range(0, len(rows), self.lines)]

    def fill(self, rows: list[int], number: int) -> list[list[int]]:
        """`number` micro-batches: packs of about equal size, for the largest is waited for, or lines and empties."""
        fewest = self.cut(rows)
        if self.packed and number > 1:
            heap = [(0, n) for n in range(number)]
            even: list[list[int]] = [[] for _ in heap]
            for i in sorted(rows, key=lambda i: (-self.sizes[i], i)):
                load, n = heapq.heappop(heap)
                even[n].append(i)
                heapq.heappush(heap, (load + self.sizes[i], n))
            if all(load <= self.capacity or len(even[n]) == 1 for load, n in heap):
                fewest = sorted(even, key=lambda rows: -sum(self.sizes[i] for i in rows))
        return fewest + [[] for _ in range(number - len(fewest))]

    def slots(self, step: Step) -> int:
        """Tokens for which all ranks together have time until the last of them is done with the step."""

        def computed(rows: list[int]) -> int:
            if self.packed:
                return sum(self.sizes[i] for i in rows)
            return max((self.lengths[i] for i in rows), default=0) * len(rows) * self.branches

        sizes = [computed(rows) for rows in step.micro_batches]
        return self.world * sum(max(sizes[at : at + self.world]) for at in range(0, len(sizes), self.world))
