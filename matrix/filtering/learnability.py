"""Learnability: keeps the prompts from which the model that is about to be trained can still learn.

Where every rollout earns the same reward, a policy gradient is zero: DAPO (arXiv 2503.14476, section 3.2) samples such
prompts away while it trains. Here it is done once, before training, on rollouts of the starting model, together with
the window of difficulty in which most of the signal lies. Cost: `rollouts.samples` calls and as many rewards a row,
shared by all filters and cells over the same rows and model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

from matrix.filtering.base import Facts, FilterConfig, Need, Rejection
from matrix.filtering.window import Unit, Window
from matrix.rows import TrainingRow


@dataclass(kw_only=True)
class LearnabilityConfig(FilterConfig):
    """Which rewards the rollouts of a row may have.

    With k rewards r of one prompt the estimators are the mean, and the unbiased sample variance
    sum((r - mean)^2) / (k - 1). With `pass_reward` every reward is first made 1 (passed) or 0, so that the mean is the
    pass rate p and the variance k / (k - 1) p (1 - p).
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.rollouts})

    min_std: float = 1e-6
    """Standard deviation up to which the rewards of a prompt count as equal, and the row is dropped."""
    pass_reward: float | None = None
    """Reward from which an answer counts as passed; null: rewards are taken as they are."""
    mean: Window = field(default_factory=Window)
    """Mean rewards, or pass rates, that are kept; e.g. `{low: 0.2, high: 0.8, unit: absolute}` for pass rates."""
    keep: float = 1.0
    """Share (0..1) of the rows left after that, those with the largest variance."""

    def __post_init__(self) -> None:
        if self.min_std < 0 or not 0 < self.keep <= 1:
            raise ValueError(f"min_std >= 0 and 0 < keep <= 1 are needed, not {self.min_std} and {self.keep}")

    def build(self, facts: Facts) -> LearnabilityFilter:
        """The filter over these rewards."""
        return LearnabilityFilter(self, facts)


class Moments(NamedTuple):
    """What the rewards of one prompt tell."""

    mean: float
    std: float
    """Root of the unbiased variance."""


class LearnabilityFilter:
    """Knows mean and variance of every row's rewards."""

    def __init__(self, config: LearnabilityConfig, facts: Facts) -> None:
        self.config, self.rewards = config, facts.rollout_rewards

    def judge(self, rows: Sequence[TrainingRow]) -> list[Rejection | None]:
        """See `RowFilter.judge`; the value is the standard deviation or the mean."""
        c = self.config
        moments = [self.moments(row.id) for row in rows]
        verdicts = c.mean.judge([m and m.mean for m in moments], "mean reward", "fewer than two rewarded rollouts")
        for at, m in enumerate(moments):
            if m and m.std <= c.min_std:
                verdicts[at] = Rejection("every rollout earns the same", f"{m.std:.4g}")
        left = {at: m.std for at, (m, verdict) in enumerate(zip(moments, verdicts, strict=True)) if m and not verdict}
        low, _ = Window(low=1 - c.keep, unit=Unit.quantile).bounds([*left.values()])
        for at, std in left.items():
            if std < low:
                verdicts[at] = Rejection("reward variance too low", f"{std:.4g}")
        return verdicts

    def moments(self, row: str) -> Moments | None:
        """Moments of a row's rewards; None where there are fewer than two."""
        passed = self.config.pass_reward
        rewards = [r if passed is None else float(r >= passed) for r in self.rewards.get(row, [])]
        if len(rewards) < 2:
            return None
        mean = sum(rewards) / len(rewards)
        variance = sum((reward - mean) ** 2 for reward in rewards) / (len(rewards) - 1)
        return Moments(mean, variance**0.5)
