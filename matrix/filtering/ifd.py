"""Keeps rows whose answer is still hard to get from the instruction: instruction-following difficulty (Cherry LLM)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar

from matrix.filtering.base import Facts, FilterConfig, Need, Rejection
from matrix.filtering.window import Window
from matrix.records import Likelihood
from matrix.rows import TrainingRow, answers


class Ratio(StrEnum):
    """What is divided; both are below 1 for the same rows, but rank them differently."""

    perplexity = "perplexity"
    """exp(mean loss), as in Superfiltering (arXiv 2402.00530)."""
    loss = "loss"
    """The mean losses themselves, as in Cherry LLM."""


@dataclass(kw_only=True)
class IfdConfig(FilterConfig):
    """Keep the rows with a high IFD below 1 (Cherry LLM, arXiv 2308.12032; Superfiltering, arXiv 2402.00530).

    Estimator: how hard the answer is given the prompt over how hard it is alone, by the mean negative log-likelihood of
    its tokens under the model that is about to be trained. Near 0 the instruction all but gives the answer away; from 1
    on it does not help at all, so that answer and instruction do not belong together. A pair is judged by its chosen
    answer. Cherry LLM first trains the model on a thousand rows; Superfiltering takes a small one as it comes.
    Cost: no LLM call; two forward passes an answer in the stage before (`matrix.filtering.likelihood`).
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.likelihoods})

    ratio: Ratio = Ratio.perplexity
    """What is divided."""
    window: Window = field(default_factory=lambda: Window(low=0.9))
    """Which IFDs are kept out of those below 1; default: the top tenth (Cherry LLM: 5 to 10%)."""

    def build(self, facts: Facts) -> IfdFilter:
        """The filter on `facts.likelihoods`."""
        return IfdFilter(self, facts)


class IfdFilter:
    """Computes IFDs and lets the window judge them."""

    def __init__(self, config: IfdConfig, facts: Facts) -> None:
        self.config = config
        self.likelihoods = facts.likelihoods

    def judge(self, rows: Sequence[TrainingRow]) -> list[Rejection | None]:
        """See `RowFilter.judge`; the value is the IFD. A row without a likelihood is dropped."""
        values = [self._ifd(row) for row in rows]
        below = [value if value is not None and value < 1 else None for value in values]
        verdicts = self.config.window.judge(below, "IFD", "no likelihood")
        return [
            Rejection("the instruction does not help", f"{value:.4g}") if value is not None and value >= 1 else verdict
            for value, verdict in zip(values, verdicts, strict=True)
        ]

    def _ifd(self, row: TrainingRow) -> float | None:
        part = next(iter(answers(row)))  # the response, or the chosen answer
        measured = self.likelihoods.get(row.id, {}).get(part)
        return ifd(measured, self.config.ratio) if measured else None


def ifd(measured: Likelihood, ratio: Ratio) -> float | None:
    """Instruction-following difficulty of an answer, above 0; None for an answer without tokens."""
    if not measured.tokens:
        return None
    given, alone = -measured.logp / measured.tokens, -measured.logp_alone / measured.tokens
    if ratio is Ratio.perplexity:
        return math.exp(given - alone)
    return given / alone if alone else math.inf  # certain already without the instruction
