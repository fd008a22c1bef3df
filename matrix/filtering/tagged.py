"""Keeps rows by an LLM's labels: how well the instruction is put, how hard it is, its kind of task, whether it is safe.

The labels are Magpie's (arXiv 2406.08464, section 3), whose own filter asks for `good` quality. Estimator and cost are
those of the stage that gives them (`matrix.filtering.tags`): one call for each row and label; these filters themselves
ask nothing.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar

from matrix.filtering.base import Facts, FilterConfig, Need, Rejection
from matrix.filtering.tags import LABELS, TagName
from matrix.rows import TrainingRow


class Untagged(StrEnum):
    """What becomes of a row whose label could not be had."""

    keep = "keep"
    drop = "drop"


class Safety(StrEnum):
    """Which rows are kept; `any` judges none, for a grid whose other cells do."""

    safe = "safe"
    unsafe = "unsafe"
    any = "any"


@dataclass(kw_only=True)
class LabelConfig(FilterConfig):
    """What filters on one label have in common."""

    needs: ClassVar[frozenset[Need]] = frozenset({Need.tags})
    reads: ClassVar[frozenset[TagName]]
    """The tags without which the filter judges nothing."""

    untagged: Untagged = Untagged.keep
    """What becomes of rows without the label."""

    def build(self, facts: Facts) -> LabelFilter:
        """The filter on the labels of `facts.tags`."""
        return LabelFilter(self, facts)

    @abstractmethod
    def reasons(self, labels: Sequence[str]) -> list[str]:
        """Why each label's row is dropped, in the order of the rows; empty keeps it."""


class LabelFilter:
    """Looks labels up and lets the config judge them."""

    def __init__(self, config: LabelConfig, facts: Facts) -> None:
        self.config = config
        self.facts = facts
        (self.tag,) = config.reads

    def judge(self, rows: Sequence[TrainingRow]) -> list[Rejection | None]:
        """See `RowFilter.judge`; the value is the label."""
        tags = self.facts.tags
        labels = [getattr(tags[row.id], self.tag) if row.id in tags else "" for row in rows]
        reasons = iter(self.config.reasons([label for label in labels if label]))
        otherwise = Rejection(f"no {self.tag}") if self.config.untagged is Untagged.drop else None
        return [
            otherwise if not label else Rejection(reason, label) if (reason := next(reasons)) else None
            for label in labels
        ]


@dataclass(kw_only=True)
class QualityConfig(LabelConfig):
    """How well the instruction has to be put."""

    reads: ClassVar[frozenset[TagName]] = frozenset({TagName.quality})

    at_least: str = "average"
    """`very poor`, `poor`, `average`, `good` or `excellent`."""

    def __post_init__(self) -> None:
        _rank(TagName.quality, "at_least", self.at_least)

    def reasons(self, labels: Sequence[str]) -> list[str]:
        """See `LabelConfig.reasons`."""
        low = _rank(TagName.quality, "at_least", self.at_least)
        return ["quality too low" if LABELS[TagName.quality].index(label) < low else "" for label in labels]


@dataclass(kw_only=True)
class DifficultyConfig(LabelConfig):
    """How hard the task may be, bounds included."""

    reads: ClassVar[frozenset[TagName]] = frozenset({TagName.difficulty})

    at_least: str = "very easy"
    """`very easy`, `easy`, `medium`, `hard` or `very hard`."""
    at_most: str = "very hard"
    """The same."""

    def __post_init__(self) -> None:
        low, high = self._bounds()
        if low > high:
            raise ValueError(f"at_least={self.at_least} is above at_most={self.at_most}: every row would be dropped")

    def _bounds(self) -> tuple[int, int]:
        tag = TagName.difficulty
        return _rank(tag, "at_least", self.at_least), _rank(tag, "at_most", self.at_most)

    def reasons(self, labels: Sequence[str]) -> list[str]:
        """See `LabelConfig.reasons`."""
        low, high = self._bounds()
        ranks = map(LABELS[TagName.difficulty].index, labels)
        return ["difficulty too low" if r < low else "difficulty too high" if r > high else "" for r in ranks]


@dataclass(kw_only=True)
class CategoriesConfig(LabelConfig):
    """Which kinds of task are kept, and how many rows of each."""

    reads: ClassVar[frozenset[TagName]] = frozenset({TagName.category})

    keep: list[str] = field(default_factory=list)
    """Categories to keep, e.g. `[Math, Coding & Debugging]`; empty: all."""
    quotas: dict[str, float] = field(default_factory=dict)
    """Category -> greatest share (0..1, rounded down) of the rows with a category that reach the filter; first come,
    first kept. Categories without a quota are not bounded. Hydra's command line takes names without `&` only."""

    def __post_init__(self) -> None:
        for category in [*self.keep, *self.quotas]:
            _rank(TagName.category, "keep and quotas", category)
        if not all(0 <= share <= 1 for share in self.quotas.values()):
            raise ValueError(f"quotas are shares of the rows, 0..1, not {self.quotas}")

    def reasons(self, labels: Sequence[str]) -> list[str]:
        """See `LabelConfig.reasons`."""
        seen: Counter[str] = Counter()
        reasons = []
        for label in labels:
            seen[label] += 1
            full = seen[label] > self.quotas.get(label, 1.0) * len(labels) + 1e-9  # 0.1 x 30 is a little over 3
            wanted = not self.keep or label in self.keep
            reasons.append("category not wanted" if not wanted else "category beyond its quota" if full else "")
        return reasons


@dataclass(kw_only=True)
class SafetyConfig(LabelConfig):
    """Whether instructions have to be safe to follow."""

    reads: ClassVar[frozenset[TagName]] = frozenset({TagName.safety})

    keep: Safety = Safety.safe
    """`safe`, `unsafe` (to train refusals) or `any`."""

    def reasons(self, labels: Sequence[str]) -> list[str]:
        """See `LabelConfig.reasons`."""
        return [f"{label} instruction" if self.keep not in (label, Safety.any) else "" for label in labels]


def _rank(tag: TagName, knob: str, label: str) -> int:
    """Place of a label on its scale."""
    if label not in LABELS[tag]:
        raise ValueError(f"{knob}: there is no {tag} {label!r}. Use {', '.join(LABELS[tag])}")
    return LABELS[tag].index(label)
