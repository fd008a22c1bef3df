"""Training rows, whatever their type: reads them, and says what is asked in one and what is answered."""

from __future__ import annotations

import json
from pathlib import Path

from matrix.jsonl import read_jsonl
from matrix.records import Conversation, Message, PreferencePair

TrainingRow = Conversation | PreferencePair
"""What a filter can judge."""


def read_rows(path: Path) -> list[TrainingRow]:
    """All rows of a file.

    Raises:
        RowError: a line is not a row.
    """
    return [*read_jsonl(path, row_type(path))]


def count_rows(path: Path, expected: int) -> int:
    """Rows of a file for a plan; as many as are expected where it is not there yet."""
    return path.read_bytes().count(b"\n") if path.exists() else expected


def row_type(source: Path) -> type[Conversation] | type[PreferencePair]:
    """What the rows of a file are, by its first line: a pair has `chosen`; an empty file counts as conversations."""
    with source.open() as file:
        first = file.readline()
    return PreferencePair if first.strip() and "chosen" in json.loads(first) else Conversation


def instruction(row: TrainingRow) -> str:
    """What the user asks: all user turns, a blank line between two."""
    return _turns(prompt(row) if isinstance(row, PreferencePair) else row.messages, "user")


def prompt(row: TrainingRow) -> list[Message]:
    """The chat that the last answer replies to."""
    return row.prompt if isinstance(row, PreferencePair) else row.messages[:-1]


def preferred(row: TrainingRow) -> str:
    """The answer to learn: all assistant turns of a conversation, the chosen answer of a pair."""
    return _turns(row.messages, "assistant") if isinstance(row, Conversation) else row.chosen


def responses(row: TrainingRow) -> list[str]:
    """Every answer of a row: one for a conversation, chosen and rejected for a pair."""
    return [preferred(row)] if isinstance(row, Conversation) else [row.chosen, row.rejected]


def answers(row: TrainingRow) -> dict[str, str]:
    """Part -> last answer: `response` of a conversation, `chosen` and `rejected` of a pair."""
    if isinstance(row, PreferencePair):
        return {"chosen": row.chosen, "rejected": row.rejected}
    return {"response": row.messages[-1].content}


def _turns(messages: list[Message], role: str) -> str:
    return "\n\n".join(message.content for message in messages if message.role == role)
