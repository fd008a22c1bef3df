"""Tasks written by people, from which Evol-Instruct and Self-Instruct start: those shipped here, or a file."""

from __future__ import annotations

from pathlib import Path

from matrix.generation.sources import ColumnsConfig, SourceConfig, SourceError, UnusableRow, chat, load
from matrix.jsonl import read_jsonl
from matrix.records import Row

SHIPPED = Path(__file__).parent / "seeds.jsonl"
"""Not part of a result's key: who changes it raises `GenerationStage.version`."""


class Seed(Row, frozen=True, kw_only=True):
    """One task."""

    id: str
    category: str = ""
    instruction: str


def read_seeds(path: str | None) -> list[Seed]:
    """The tasks of a file, or those shipped here.

    Args:
        path: JSON Lines, JSON, CSV or Parquet in one of `sources.LAYOUTS`; of a chat the first user turn counts.

    Raises:
        SourceError: there is no such file, or no task in it.
    """
    if path is None:
        return read_jsonl(SHIPPED, Seed)
    seeds = []
    for number, row in enumerate(load(SourceConfig(path=path))):
        try:
            turns = chat(row, ColumnsConfig())
        except UnusableRow:
            continue
        text = next(turn.content for turn in turns if turn.role == "user")
        category = str(row.get("category") or "")
        seeds.append(Seed(id=f"{Path(path).stem}-{number:05}", category=category, instruction=text))
    if not seeds:
        raise SourceError(
            f'seeds={path}: no row of it has a task. Give rows like {{"instruction": "..."}}, or Alpaca, ShareGPT or '
            "messages rows"
        )
    return seeds
