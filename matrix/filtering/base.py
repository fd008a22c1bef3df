"""The contract of a filter: it sees all rows at once and keeps each, or drops it with a reason.

Seeing all rows lets a filter compare them (near-duplicates) or set its threshold by a quantile of what it measured.
A new filter is one file here: a `FilterConfig` with its knobs and the `RowFilter` that it builds. What costs model
calls is not measured by a filter but by a stage before it (`Need`), so that filters and cells of a grid share it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar, NamedTuple, Protocol

from matrix.engines.embedder import Embedder
from matrix.records import Likelihood, Tags
from matrix.rows import TrainingRow


class Rejection(NamedTuple):
    """Why a row is dropped."""

    reason: str
    """A few words out of a small set, so that drops can be counted by reason."""
    value: str = ""
    """What was measured, or the id of the row that this one repeats."""


class RowFilter(Protocol):
    """Judges rows, any number of times; deterministic, and does not change them."""

    def judge(self, rows: Sequence[TrainingRow]) -> list[Rejection | None]:
        """One verdict a row, in the order of the rows: None keeps it."""
        ...


class Need(StrEnum):
    """What a filter may need beside the rows; each is a field of `Facts`."""

    tags = "tags"
    """An LLM's labels (`matrix.filtering.tags`)."""
    rewards = "rewards"
    """Rewards of the rows' own answers (`matrix.filtering.reward`)."""
    rollouts = "rollouts"
    """Answers of the model that is about to be trained, and their rewards (`matrix.filtering.rollouts`)."""
    likelihoods = "likelihoods"
    """Log-probabilities of the answers under the model that is about to be trained (`matrix.filtering.likelihood`)."""
    reference = "reference"
    """The same under the model that it was tuned from."""
    embeddings = "embeddings"
    questions = "questions"
    """The instructions of every configured evaluation set."""


@dataclass(kw_only=True)
class Facts:
    """What is known of the rows, by row id; what no filter of the chain needs is empty."""

    tags: dict[str, Tags] = field(default_factory=dict)
    rewards: dict[str, dict[str, float]] = field(default_factory=dict)
    """Row -> `response`, or `chosen` and `rejected` -> reward."""
    rollout_rewards: dict[str, list[float]] = field(default_factory=dict)
    """Row -> rewards of the rollouts of its prompt."""
    likelihoods: dict[str, dict[str, Likelihood]] = field(default_factory=dict)
    """Row -> part as in `rewards`."""
    reference: dict[str, dict[str, Likelihood]] = field(default_factory=dict)
    embedder: Embedder | None = None
    questions: dict[str, list[str]] = field(default_factory=dict)
    """Evaluation set -> its instructions."""


@dataclass(kw_only=True)
class FilterConfig(ABC):
    """Base of the variants in this package; each carries the knobs of one filter."""

    needs: ClassVar[frozenset[Need]] = frozenset()
    reads: ClassVar[frozenset[str]] = frozenset()
    """Which tags it reads, if it needs tags."""
    pairs_only: ClassVar[bool] = False
    """Judges preference pairs, and has no part in the chain of conversations."""

    @abstractmethod
    def build(self, facts: Facts) -> RowFilter:
        """The filter with these knobs; loads what it needs."""

    def check(self, verdicts: Sequence[Rejection | None]) -> None:  # noqa: B027  # most filters have no such limit
        """Look at what the filter did to its rows; raise a `ValueError` if the run must not go on with it."""
