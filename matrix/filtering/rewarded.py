"""Filters on the rewards of a row's own answers: their worth, the gap of a pair, and what it tells of the prompt.
prompt.

Cost: one reward an answer, shared by all filters and cells over the same rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from matrix.filtering.base import Facts, FilterConfig, Need, Rejection, RowFilter
from matrix.filtering.window import Unit, Window
from matrix.records import PreferencePair
from matrix.rows import TrainingRow


class Measured:
    """Judges rows by several measures, each with its window; the first that a row misses gives the reason."""

    def __init__(self, *measures: tuple[str, Callable[[TrainingRow], float | None], Window]) -> None:
        self.measures = measures

    def judge(self, rows: Sequence[TrainingRow]) -> list[Rejection | None]:
        """See `RowFilter.judge`; the value is what was measured. Quantiles are those of all rows that have it."""
        verdicts: list[Rejection | None] = [None] * len(rows)
        for name, measure, window in self.measures:
            found = window.judge([measure(row) for row in rows], name, f"{name} unknown")
            verdicts = [first or second for first, second in zip(verdicts, found, strict=True)]
        return verdicts


@dataclass(kw_only=True)
class RewardedConfig(FilterConfig):
    """Keeps rows whose answer (of a pair: the chosen one) has a reward within the window.

    Magpie (arXiv 2406.08464) keeps rewards above an absolute value; scales differ between reward models, so the
    default is a quantile.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.rewards})

    window: Window = field(default_factory=lambda: Window(low=0.2))

    def build(self, facts: Facts) -> RowFilter:
        """The filter over these rewards."""
        return Measured(("reward", lambda row: worth(facts, row), self.window))


@dataclass(kw_only=True)
class MarginConfig(FilterConfig):
    """Keeps pairs with a good chosen answer and a gap in reward that is neither noise nor trivial.

    What the chosen answer is worth matters most (arXiv 2508.18312); the widest gaps hurt (arXiv 2502.16825).
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.rewards})
    pairs_only: ClassVar[bool] = True

    chosen: Window = field(default_factory=lambda: Window(low=0.2))
    """Reward of the chosen answer."""
    gap: Window = field(default_factory=lambda: Window(low=0.0, unit=Unit.absolute))
    """Reward of the chosen answer minus that of the rejected one; below 0 the reward model would turn the pair
    round."""

    def build(self, facts: Facts) -> RowFilter:
        """The filter over these rewards."""
        return Measured(
            ("chosen reward", lambda row: of(facts, row, "chosen"), self.chosen),
            ("reward gap", lambda row: gap(facts, row), self.gap),
        )


@dataclass(kw_only=True)
class SigmaConfig(FilterConfig):
    """Keeps pairs whose rejected answer lies near mean - 2 standard deviations of the policy's rollouts.

    Among many samples that is a better rejected answer than the worst one (arXiv 2502.16825). Mean and (unbiased)
    standard deviation are those of the rollouts' rewards; a prompt whose rollouts all earn the same is dropped. Cost:
    rollouts and their rewards besides those of the pair.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.rewards, Need.rollouts})
    pairs_only: ClassVar[bool] = True

    deviations: Window = field(default_factory=lambda: Window(low=-3.0, high=-1.0, unit=Unit.absolute))
    """(Reward of the rejected answer - mean) / standard deviation."""

    def build(self, facts: Facts) -> RowFilter:
        """The filter over these rewards."""
        import statistics

        def deviation(row: TrainingRow) -> float | None:
            rewards, rejected = facts.rollout_rewards.get(row.id, []), of(facts, row, "rejected")
            spread = statistics.stdev(rewards) if len(rewards) > 1 else 0.0
            return (rejected - statistics.fmean(rewards)) / spread if rejected is not None and spread else None

        return Measured(("deviation of the rejected answer", deviation, self.deviations))


@dataclass(kw_only=True)
class RipConfig(FilterConfig):
    """Rejecting Instruction Preferences (RIP, arXiv 2501.18578): a poor prompt shows in its rejected answer.

    Drops pairs whose rejected answer has a low reward or is short, or whose gap is wide. The paper tunes the quantiles
    on held-out data (there WildChat's 20,000 prompts shrink to about 4,500); the medians here are a start.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.rewards})
    pairs_only: ClassVar[bool] = True

    rejected: Window = field(default_factory=lambda: Window(low=0.5))
    """Reward of the rejected answer."""
    length: Window = field(default_factory=lambda: Window(low=0.5))
    """Length of the rejected answer in characters."""
    gap: Window = field(default_factory=lambda: Window(high=0.5))
    """Reward of the chosen answer minus that of the rejected one."""

    def build(self, facts: Facts) -> RowFilter:
        """The filter over these rewards."""
        return Measured(
            ("rejected reward", lambda row: of(facts, row, "rejected"), self.rejected),
            ("rejected length", rejected_length, self.length),
            ("reward gap", lambda row: gap(facts, row), self.gap),
        )


def of(facts: Facts, row: TrainingRow, part: str) -> float | None:
    """Reward of a part of the row, if it has one."""
    return facts.rewards.get(row.id, {}).get(part)


def worth(facts: Facts, row: TrainingRow) -> float | None:
    """Reward of the answer to learn."""
    return of(facts, row, "chosen" if isinstance(row, PreferencePair) else "response")


def gap(facts: Facts, row: TrainingRow) -> float | None:
    """Reward of the chosen answer minus that of the rejected one."""
    chosen, rejected = of(facts, row, "chosen"), of(facts, row, "rejected")
    return None if chosen is None or rejected is None else chosen - rejected


def rejected_length(row: TrainingRow) -> float:
    """In characters."""
    assert isinstance(row, PreferencePair)
    return len(row.rejected)
