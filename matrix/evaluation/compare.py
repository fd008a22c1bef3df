"""Paired comparison of two evaluations on the same questions: is one tuned model better than the other?

Reads two Evaluate results. Both must have the same judge and reference; only questions judged in both count.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from matrix.evaluation.intervals import interval, percent, points, resamples
from matrix.jsonl import read_jsonl
from matrix.records import Judgement


class CompareError(ValueError):
    """Two evaluations cannot be compared; says what differs."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Score of `a` minus score of `b` in percentage points, over the questions judged in both."""

    benchmark: str
    a: str
    b: str
    score_a: float
    score_b: float
    difference: float
    interval: list[float]
    """Central 95% of the difference over resampled questions."""
    p_value: float
    """Two-sided: twice the share of resamples on the far side of zero, at least 1 / rounds."""
    wins: int
    """Questions on which `a` did better than `b`."""
    losses: int
    questions: int
    left_out: int
    """Questions without a judgement in one of the two."""


def compare(a: Path, b: Path, benchmark: str, rounds: int = 10_000, seed: int = 0) -> Comparison:
    """Compare two Evaluate results (folders with `judgements.jsonl` and `scores.json`) on one benchmark.

    Raises:
        CompareError: judge, reference or questions differ, the benchmark is missing, or nothing was judged in both.
    """
    heads = [_head(path, benchmark) for path in (a, b)]
    for field in ("judge", "reference"):
        if heads[0][field] != heads[1][field]:
            raise CompareError(
                f"{a} and {b} have different {field}s ({heads[0][field]}, {heads[1][field]}); only scores of one judge "
                "against one reference can be compared"
            )
    rows = [
        [j for j in read_jsonl(path / "judgements.jsonl", Judgement) if j.benchmark == benchmark] for path in (a, b)
    ]
    of_a, of_b = points(rows[0]), points(rows[1])
    if of_a.keys() != of_b.keys():
        raise CompareError(f"{a} and {b} judge different questions of {benchmark}; evaluate both on one set")
    both = [question for question in of_a if of_a[question][1] and of_b[question][1]]
    if not both:
        raise CompareError(f"no question of {benchmark} was judged in both {a} and {b}")
    won_a, played_a = np.array([of_a[question] for question in both]).T
    won_b, played_b = np.array([of_b[question] for question in both]).T
    drawn = resamples(len(both), rounds, seed)
    differences = percent(won_a, played_a, drawn) - percent(won_b, played_b, drawn)
    score_a, score_b = (100 * won_a.sum() / played_a.sum(), 100 * won_b.sum() / played_b.sum())
    tail = min(float(np.mean(differences <= 0)), float(np.mean(differences >= 0)))
    return Comparison(
        benchmark=benchmark,
        a=heads[0]["model"],
        b=heads[1]["model"],
        score_a=float(score_a),
        score_b=float(score_b),
        difference=float(score_a - score_b),
        interval=interval(differences),
        p_value=min(1.0, max(2 * tail, 1 / rounds)),
        wins=int((won_a / played_a > won_b / played_b).sum()),
        losses=int((won_a / played_a < won_b / played_b).sum()),
        questions=len(both),
        left_out=len(of_a) - len(both),
    )


def _head(path: Path, benchmark: str) -> dict[str, Any]:
    scores: list[dict[str, Any]] = json.loads((path / "scores.json").read_text())["benchmarks"]
    for score in scores:
        if score["benchmark"] == benchmark:
            return score
    raise CompareError(f"{path} holds no {benchmark}, only {', '.join(s['benchmark'] for s in scores)}")
