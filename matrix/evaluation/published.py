"""Published numbers of the paper's tables, to be shown beside our own and marked as published."""

from __future__ import annotations

import csv
from pathlib import Path

import msgspec


class PublishedRow(msgspec.Struct, frozen=True, kw_only=True):
    """One row of a table in arXiv 2410.14251. Percent; None where the table has no number."""

    table: str
    """`Table 2` and so on."""
    label: str
    """What the row stands for: mostly the training data."""
    base: str
    """The model that the row's tuning starts from, as the table's caption has it."""
    length_controlled_win_rate: float | None = None
    """AlpacaEval 2."""
    win_rate: float | None = None
    standard_error: float | None = None
    """The tables' column SD; it is the standard error of the win rate."""
    score: float | None = None
    """Arena-Hard v0.1."""


METRICS = {
    "alpaca_eval2": ("length_controlled_win_rate", "win_rate", "standard_error"),
    "arena_hard_v0.1": ("score",),
}


def published(benchmark: str) -> list[PublishedRow]:
    """The published rows that have a number for `benchmark`, in the tables' order.

    Raises:
        KeyError: there is no such benchmark in the tables.
    """
    metrics = METRICS[benchmark]
    with (Path(__file__).parent / "published.csv").open(newline="", encoding="utf-8") as file:
        rows = [
            msgspec.convert({k: v or None for k, v in line.items()}, PublishedRow, strict=False)
            for line in csv.DictReader(file)
        ]
    return [row for row in rows if any(getattr(row, metric) is not None for metric in metrics)]
