"""The contract of a filter: it sees all rows at once and keeps each, or drops it with a reason.

Seeing all rows lets a filter compare them (near-duplicates) or set its threshold by a quantile of what it measured.
A new filter is one file here: a `FilterConfig` with its knobs and the `RowFilter` that it builds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from matrix.records import Conversation, Message, PreferencePair

TrainingRow = Conversation | PreferencePair
"""What a filter can judge."""


class Rejection(NamedTuple):
    """Why a row is dropped."""

    reason: str
    """A few words out of a small set, so that drops can be counted by reason."""
    value: str = ""
    """What was measured, or the id of the row that this one repeats."""


class RowFilter(Protocol):
    """Judges rows; deterministic, and does not change them."""

    def judge(self, rows: Sequence[TrainingRow]) -> list[Rejection | None]:
        """One verdict a row, in the order of the rows: None keeps it."""
        ...


@dataclass(kw_only=True)
class FilterConfig(ABC):
    """Base of the variants in this package; each carries the knobs of one filter."""

    @abstractmethod
    def build(self) -> RowFilter:
        """The filter with these knobs; loads what it needs."""


def instruction(row: TrainingRow) -> str:
    """What the user asks: all user turns, a blank line between two."""
    return _turns(row.messages if isinstance(row, Conversation) else row.prompt, "user")


def preferred(row: TrainingRow) -> str:
    """The answer to learn: all assistant turns of a conversation, the chosen answer of a pair."""
    return _turns(row.messages, "assistant") if isinstance(row, Conversation) else row.chosen


def responses(row: TrainingRow) -> list[str]:
    """Every answer of a row: one for a conversation, chosen and rejected for a pair."""
    return [preferred(row)] if isinstance(row, Conversation) else [row.chosen, row.rejected]


def _turns(messages: list[Message], role: str) -> str:
    return "\n\n".join(message.content for message in messages if message.role == role)
