"""Counts over lines: histograms, label shares, and how evenly rows are spread over agents and scenarios.

Each is counted twice with the same bins: over the rows that were kept, and over all rows before the filters.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from matrix.analysis.diversity import gini
from matrix.analysis.table import Line
from matrix.analysis.verbs import top

BINS = 24
"""Of a histogram; few rows have fewer."""
LENGTHS = ("instruction_words", "response_words", "rejected_words")
REWARDS = ("instruct_reward", "rejected_reward", "margin")
NEAREST = "min_neighbor_distance"
"""Among the kept rows, so there is none before."""
LABELS = ("task_category", "input_quality", "difficulty", "safety", "language", "turns", "kind", "requested_category",
          "complexity", "style", "dropped_by")  # fmt: skip

Sets = Mapping[str, Sequence[Line]]
"""Name of a set (`kept`, `before`) -> its lines."""


def histograms(sets: Sets) -> dict[str, Any]:
    """Column -> `{"log", "edges", <set>: {"counts", "rows", "mean", "median", "p95"}}`; no column without values.

    Lengths have bins that grow with the length, the first with empty texts in it; a bin holds its lower edge, and the
    last one its upper edge too.
    """
    found = {
        column: {name: values(lines, column) for name, lines in sets.items() if name == "kept" or column != NEAREST}
        for column in (*LENGTHS, *REWARDS, NEAREST)
    }
    return {column: histogram(had, column in LENGTHS) for column, had in found.items() if any(had.values())}


def values(lines: Sequence[Line], column: str) -> list[float]:
    """What is there of a column."""
    return [value for line in lines if (value := getattr(line, column)) is not None]


def histogram(found: Mapping[str, Sequence[float]], log: bool = False) -> dict[str, Any]:
    """Counts of several sets over the same bins; see `histograms`."""
    together = [value for numbers in found.values() for value in numbers]
    low, high = min(together), max(together)
    bins = min(BINS, 2 + round(2 * len(together) ** 0.5))
    if log:
        edges = np.unique(np.geomspace(max(low, 1), max(high, 1) + 1, bins + 1).round())
    else:
        edges = np.linspace(low, high if high > low else low + 1, bins + 1)
    return {"log": log, "edges": [round(float(edge), 6) for edge in edges]} | {
        name: {
            "counts": np.histogram(np.maximum(numbers, edges[0]), edges)[0].tolist(),
            "rows": len(numbers),
            "mean": round(float(np.mean(numbers)), 4) if numbers else None,
            "median": round(float(np.median(numbers)), 4) if numbers else None,
            "p95": round(float(np.quantile(numbers, 0.95)), 4) if numbers else None,
        }
        for name, numbers in found.items()
    }


def labels(sets: Sets) -> dict[str, dict[str, dict[str, int]]]:
    """Column -> set -> label -> rows, the commonest first; an empty label is one that could not be had."""
    counted = {
        column: {name: Counter(str(getattr(line, column)) for line in lines) for name, lines in sets.items()}
        for column in LABELS
    }
    return {
        column: {name: dict(top(counts, len(counts))) for name, counts in found.items()}
        for column, found in counted.items()
        if any(counts.keys() - {""} for counts in found.values())
    }


def balance(lines: Sequence[Line], column: str, most: int = 10) -> dict[str, Any]:
    """How evenly rows are spread over agents or scenarios, of those that have any row.

    Returns:
        `number` of them, `gini` (0: all have as many rows), `largest` (share of the rows of the greatest), `top`
        (`[[id, rows]]`), and `without`: rows that grew out of none.
    """
    counts = Counter(name for line in lines if (name := getattr(line, column)))
    return {
        "number": len(counts),
        "gini": gini(list(counts.values())),
        "largest": round(max(counts.values()) / counts.total(), 4) if counts else None,
        "top": [list(item) for item in top(counts, most)],
        "without": len(lines) - counts.total(),
    }
