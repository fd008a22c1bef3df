"""Filters on how likely the model that is about to be trained finds the answers: what it prefers before it is trained.

Cost: two forward passes an answer (with and without the prompt), for `implicit_gap` as many again with the reference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from matrix.filtering.base import Facts, FilterConfig, Need, Rejection, RowFilter
from matrix.filtering.rewarded import Measured
from matrix.filtering.window import Unit, Window
from matrix.records import PreferencePair
from matrix.rows import TrainingRow


@dataclass(kw_only=True)
class ImplicitGapConfig(FilterConfig):
    """Keeps the pairs with the smallest gap of DPO's implicit reward: the hardest ones (arXiv 2508.04149).

    The implicit reward of an answer is log pi(answer | prompt) - log pi_ref(answer | prompt), up to beta, which changes
    no quantile (DPO, arXiv 2305.18290); pi is the model that is about to be trained and pi_ref the one that it was
    tuned from. The gap is that of the chosen answer minus that of the rejected one.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.likelihoods, Need.reference})
    pairs_only: ClassVar[bool] = True

    gap: Window = field(default_factory=lambda: Window(high=0.5))

    def build(self, facts: Facts) -> RowFilter:
        """The filter over these likelihoods."""

        def implicit(row: TrainingRow, part: str) -> float:
            return facts.likelihoods[row.id][part].logp - facts.reference[row.id][part].logp

        return Measured(("implicit gap", lambda row: implicit(row, "chosen") - implicit(row, "rejected"), self.gap))


@dataclass(kw_only=True)
class OnPolicyConfig(FilterConfig):
    """Drops what the policy would say anyway.

    Of a pair: log pi(chosen) - log pi(rejected), each a mean over its tokens; above 0 the policy already prefers the
    chosen answer. Of a conversation: the mean log-probability of its answer, near 0 for what the policy already says
    and very low for what is far from all that it would say. The means over tokens keep long answers from looking
    unlikely (as in SimPO, arXiv 2405.14734).
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.likelihoods})

    preference: Window = field(default_factory=lambda: Window(high=0.0, unit=Unit.absolute))
    """For pairs."""
    likelihood: Window = field(default_factory=lambda: Window(low=0.1, high=0.9))
    """For conversations, in nats a token."""

    def build(self, facts: Facts) -> RowFilter:
        """The filter over these likelihoods."""

        def mean(row: TrainingRow, part: str) -> float:
            found = facts.likelihoods[row.id][part]
            return found.logp / found.tokens

        return OnPolicyFilter(
            Measured(("likelihood", lambda row: mean(row, "response"), self.likelihood)),
            Measured(("policy's preference", lambda row: mean(row, "chosen") - mean(row, "rejected"), self.preference)),
        )


class OnPolicyFilter:
    """Judges conversations by one measure and pairs by another."""

    def __init__(self, conversations: RowFilter, pairs: RowFilter) -> None:
        self.conversations, self.pairs = conversations, pairs

    def judge(self, rows: Sequence[TrainingRow]) -> list[Rejection | None]:
        """See `RowFilter.judge`."""
        pairs = any(isinstance(row, PreferencePair) for row in rows)
        return (self.pairs if pairs else self.conversations).judge(rows)
