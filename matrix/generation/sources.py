"""Data sets on the hub or on disk: rows drawn by seed, and where a row holds the turns of its chat.

What `dataset.py`, `pair_datasets.py` and `seeds.py` read. A row that is no chat is told apart, never fatal.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from heapq import nsmallest
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matrix.engines.base import HOW
from matrix.engines.sources import source_identity
from matrix.records import Message

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

LOADERS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}
ROLES = {
    "user": "user", "human": "user", "prompter": "user", "assistant": "assistant", "gpt": "assistant",
    "chatgpt": "assistant", "model": "assistant", "system": "system",
}  # fmt: skip
"""What data sets call the speakers -> what we call them."""

DataRow = dict[str, Any]


class SourceError(ValueError):
    """A data set that cannot be read; says what to type instead."""


class UnusableRow(ValueError):
    """A row that is no chat; says why."""


@dataclass(kw_only=True)
class SourceConfig:
    """A data set."""

    path: str = field(metadata={"identity": source_identity})
    """Hub id, or a JSON Lines, JSON, Parquet or CSV file, or a folder of them."""
    subset: str | None = None
    """Configuration of a hub data set; null: its default."""
    split: str = "train"
    revision: str | None = None
    """Commit, branch or tag on the hub; null takes what is newest on the day."""
    streaming: bool = field(default=False, metadata=HOW)
    """Read a hub data set once over the network instead of storing it: the same rows, no disk."""

    def __post_init__(self) -> None:
        if Path(self.path).suffix in LOADERS and not Path(self.path).exists():
            raise SourceError(f"source.path: there is no file {Path(self.path).absolute()}; hub ids are OWNER/NAME")

    @property
    def name(self) -> str:
        """What rows call it."""
        return f"{self.path}@{self.revision}" if self.revision else self.path


@dataclass(kw_only=True)
class ColumnsConfig:
    """Where a row holds what. Dots lead into nested columns, numbers into lists: `a.b`, `turns.0.text`."""

    turns: str = ""
    """List of turns, each with role and content, or from and value; empty: the columns below."""
    prompt: str = ""
    """What is asked."""
    context: str = ""
    """What belongs to it (Alpaca's `input`); missing and empty ones are left out."""
    response: str = ""
    """The answer; empty: the rows have none."""
    system: str = ""
    """System message; missing and empty ones are left out."""

    def __post_init__(self) -> None:
        if self.turns and (self.prompt or self.response):
            raise ValueError(
                f"columns.turns={self.turns} holds whole chats: leave columns.prompt and columns.response empty"
            )


LAYOUTS = [
    *(ColumnsConfig(turns=turns) for turns in ("messages", "conversations", "conversation")),
    ColumnsConfig(prompt="instruction", context="input", response="output"),
    ColumnsConfig(prompt="instruction", response="response"),
    ColumnsConfig(prompt="prompt", response="response"),
    ColumnsConfig(prompt="prompt", response="completion"),
    ColumnsConfig(prompt="instruction", context="input"),
    ColumnsConfig(prompt="prompt"),
]
"""Tried in this order where no column is named; the first whose columns the row has is taken."""


def load(config: SourceConfig) -> Dataset | IterableDataset:
    """The rows of a data set; only those of a hub data set that is not streamed have a length and an index.

    Raises:
        SourceError: it cannot be found or read.
    """
    from datasets import Dataset, IterableDataset, load_dataset

    path = Path(config.path).expanduser()
    try:
        if path.is_file():
            kind = next((LOADERS[suffix] for suffix in path.suffixes if suffix in LOADERS), None)
            if kind is None:
                raise SourceError(f"{path}: expected a file of the kind {', '.join(LOADERS)}")
            found = load_dataset(kind, data_files={config.split: str(path)}, split=config.split, streaming=True)
        else:
            found = load_dataset(
                config.path, config.subset, split=config.split, revision=config.revision,
                streaming=config.streaming or path.is_dir(),
            )  # fmt: skip
    except (OSError, ValueError) as error:
        raise SourceError(
            f"data set {config.name}, split {config.split}: {error}. Give a file or folder that exists (from "
            f"{Path.cwd()}), or a hub id with its subset and split; a machine without network needs the data in its "
            "hub cache"
        ) from error
    assert isinstance(found, Dataset | IterableDataset)  # not a dictionary of splits
    return found


def sample(config: SourceConfig, most: int, seed: int) -> list[tuple[int, DataRow]]:
    """At most so many rows with their numbers, in an order drawn by `seed`; a larger `most` adds rows behind.

    Every row is drawn with the same probability. Only the rows drawn are held in memory.

    Raises:
        SourceError: see `load`.
    """
    from datasets import Dataset

    rows, dice = load(config), random.Random(seed)
    if isinstance(rows, Dataset):
        drawn = nsmallest(most, ((dice.random(), number) for number in range(len(rows))))
        return [(number, rows[number]) for _, number in drawn]
    return [(n, row) for _, n, row in nsmallest(most, ((dice.random(), n, row) for n, row in enumerate(rows)))]


def at(row: Any, column: str) -> Any:
    """What a row holds under a dotted name; None if there is nothing."""
    for part in column.split("."):
        if isinstance(row, dict):
            row = row.get(part)
        elif isinstance(row, list) and part.isdecimal() and int(part) < len(row):
            row = row[int(part)]
        else:
            return None
    return row


def text_at(row: DataRow, column: str) -> str:
    """The text under a dotted name, without space around it; empty if no column is named or nothing is there.

    Raises:
        UnusableRow: it holds something else.
    """
    found = at(row, column) if column else None
    if not isinstance(found, str | None):
        raise UnusableRow(f"column {column} holds no text but {type(found).__name__}")
    return (found or "").strip()


def layout(row: DataRow) -> ColumnsConfig:
    """The first of `LAYOUTS` that a row has.

    Raises:
        UnusableRow: none.
    """
    for columns in LAYOUTS:
        if all(row.get(name) is not None for name in (columns.turns, columns.prompt, columns.response) if name):
            return columns
    raise UnusableRow(f"its columns are {', '.join(row)}: say with `columns` which of them hold the chat")


def turns_of(value: Any, column: str) -> list[Message]:
    """A list of turns, by whatever names.

    Raises:
        UnusableRow: it is neither, or a speaker is unknown.
    """
    if not isinstance(value, list) or not all(isinstance(turn, dict) for turn in value):
        raise UnusableRow(f"column {column} holds no list of turns but {type(value).__name__}")
    found = []
    for turn in value:
        speaker, text = turn.get("role") or turn.get("from"), turn.get("content") or turn.get("value")
        if speaker not in ROLES:
            raise UnusableRow(f"a turn of {speaker!r}; known are {', '.join(ROLES)}")
        if not isinstance(text, str) or not text.strip():
            raise UnusableRow("a turn without text")
        found.append(Message(role=ROLES[speaker], content=text.strip()))
    return found


def chat(row: DataRow, columns: ColumnsConfig) -> list[Message]:
    """The chat that a row holds: at most one system message, then user and assistant in turn, from a user's turn on.

    Turns of the assistant before the first of the user are left out.

    Raises:
        UnusableRow: it holds none.
    """
    if not (columns.turns or columns.prompt):
        columns = layout(row)
    if columns.turns:
        turns = turns_of(at(row, columns.turns), columns.turns)
    else:
        asked = "\n\n".join(filter(None, (text_at(row, columns.prompt), text_at(row, columns.context))))
        answer = text_at(row, columns.response)
        if not asked or (columns.response and not answer):
            raise UnusableRow(f"column {columns.response if asked else columns.prompt} is empty")
        turns = [Message(role="user", content=asked)]
        turns += [Message(role="assistant", content=answer)] if answer else []
    system = [turn for turn in turns if turn.role == "system"]
    if instructions := text_at(row, columns.system):
        system.append(Message(role="system", content=instructions))
    said = [turn for turn in turns if turn.role != "system"]
    while said and said[0].role == "assistant":
        said = said[1:]
    if not said or len(system) > 1:
        raise UnusableRow("no turn of a user" if not said else "more than one system message")
    if any(turn.role == after.role for turn, after in pairwise(said)):
        raise UnusableRow("user and assistant do not take turns")
    return [*system, *said]
