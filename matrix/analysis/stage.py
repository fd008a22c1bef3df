"""Analyse: the stage that says what a set of training rows is made of, and what the filters made of it.

Reads the rows of an upstream result and what was measured of them before; the report draws what it writes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from matrix.analysis.distributions import balance, histogram, histograms, labels
from matrix.analysis.diversity import COMPARED, describe, nearest, plane, sample
from matrix.analysis.overlap import NGRAM, by_meaning, by_words
from matrix.analysis.table import Line, line, write_table
from matrix.analysis.verbs import top_requests
from matrix.engines.embedder import Embedder, EmbedderConfig, Vectors
from matrix.filtering.semantic import REQUEST
from matrix.jsonl import iter_jsonl
from matrix.provenance import derive_seed
from matrix.records import Drop, Question, Score, Tags
from matrix.rows import read_rows
from matrix.stage import Result, Stage

POINTS = 1000
"""Rows on the map of `analysis.json`; of more a sample is drawn. All have their place in `rows.parquet`."""
SHOWN = 5
"""Rows nearest to evaluation questions that are named."""
EXCERPT = 200
"""Characters of their texts."""


@dataclass(kw_only=True)
class Analyse(Stage):
    """Writes `rows.parquet` (`matrix.analysis.table.Line`, one a row, in their order) and `analysis.json`.

    Where the upstream result is a filter's, what it dropped is counted too: every distribution is there `before` and
    `kept`. `analysis.json` holds `rows` (set -> number), `histograms`, `labels` (`matrix.analysis.distributions`),
    `diversity` (set -> part -> `matrix.analysis.diversity.describe`), `requests`
    (`matrix.analysis.verbs.top_requests`), `balance` (`agent`, `scenario`), `map`, and `evaluation`, the overlap with
    evaluation questions; the last two only where there is an embedder, or questions.
    """

    name: ClassVar[str] = "analysis"

    rows: Result
    """A result with `rows.jsonl` of `Conversation` or `PreferencePair`, e.g. a filter's."""
    tags: Result | None = None
    rewards: Result | None = None
    """What was measured of the rows before they were filtered."""
    questions: Result | None = None
    """A result with `questions.jsonl`."""
    embedder: EmbedderConfig | None = None
    """Without one there is no map, and diversity is counted in words alone."""

    def run(self, work: Path) -> None:
        """Count and measure. Only the instructions are embedded.

        Raises:
            RowError: a line of an upstream file is not what it should be.
            EngineError: the embedder failed.
        """
        kept, dropped = self._lines("rows.jsonl"), self._lines("dropped.jsonl")
        lines = kept + dropped
        sets = {"kept": kept} | ({"before": lines} if (self.rows.path / "dropped.jsonl").exists() else {})
        asked = list(iter_jsonl(self.questions.path / "questions.jsonl", Question)) if self.questions else []
        seed, vectors, of_questions = derive_seed(self.seed, self.name), None, None
        with ExitStack() as stack:
            if self.embedder:
                embedder = stack.enter_context(Embedder(self.embedder))
                vectors = embedded(embedder, [item.instruction for item in lines])
                of_questions = embedded(embedder, [question.instruction for question in asked])
        found: dict[str, Any] = {"rows": {name: len(members) for name, members in sets.items()}}
        if vectors is not None and of_questions is not None:
            found["map"] = place(lines, vectors, seed)
        if asked:
            found["evaluation"] = overlap(kept, asked, vectors, of_questions)
        if vectors is not None:
            which = sample(len(kept), COMPARED, seed)
            for position, distance in zip(which, nearest(vectors[: len(kept)], which), strict=True):
                kept[position].min_neighbor_distance = round(float(distance), 4) if len(kept) > 1 else None
        found["histograms"], found["labels"] = histograms(sets), labels(sets)
        found["diversity"] = {name: diversity(members, vectors, seed) for name, members in sets.items()}
        found["requests"] = top_requests([(item.verb, item.object) for item in kept])
        found["balance"] = {column: balance(kept, column) for column in ("agent", "scenario")}
        write_table(work / "rows.parquet", kept)
        (work / "analysis.json").write_text(json.dumps(found, indent=1, ensure_ascii=False), encoding="utf-8")

    def _lines(self, name: str) -> list[Line]:
        file = self.rows.path / name
        if not file.exists():
            return []
        tags = {t.id: t for t in iter_jsonl(self.tags.path / "tags.jsonl", Tags)} if self.tags else {}
        rewards: dict[str, dict[str, float]] = {}
        if self.rewards:
            for score in iter_jsonl(self.rewards.path / "rewards.jsonl", Score):
                rewards.setdefault(score.row, {})[score.part] = score.reward
        drops = self.rows.path / "drops.jsonl"
        by = {drop.id: drop.filter for drop in iter_jsonl(drops, Drop)} if drops.exists() else {}
        rows = read_rows(file)
        return [line(row, tags.get(row.id), rewards.get(row.id, {}), by.get(row.id, "")) for row in rows]


def embedded(embedder: Embedder, texts: Sequence[str]) -> Vectors:
    """Unit vectors, shape (texts, dimension)."""
    parts = [embedder.embed(list(texts[start : start + REQUEST])) for start in range(0, len(texts), REQUEST)]
    return np.concatenate(parts) if parts else np.empty((0, 1), np.float32)


def diversity(lines: Sequence[Line], vectors: Vectors | None, seed: int) -> dict[str, dict[str, Any]]:
    """How diverse instructions and responses are; `vectors` begin with those of the lines' instructions."""
    own = None if vectors is None else vectors[: len(lines)]
    return {
        "instructions": describe([item.instruction for item in lines], own, seed),
        "responses": describe([item.response for item in lines]),
    }


def place(lines: Sequence[Line], vectors: Vectors, seed: int) -> dict[str, Any]:
    """Give the lines their places on the map, and list `x`, `y`, `label` and `dropped_by` of some of them."""
    points, explained = plane(vectors)
    for item, point in zip(lines, points.round(4).tolist(), strict=True):
        item.x, item.y = (*point, 0.0)[:2]
    shown = [lines[position] for position in sample(len(lines), POINTS, seed)]
    return {
        "explained": explained,
        "x": [item.x for item in shown],
        "y": [item.y for item in shown],
        "label": [item.task_category or item.requested_category or item.kind for item in shown],
        "dropped_by": [item.dropped_by for item in shown],
    }


def overlap(
    lines: Sequence[Line], asked: Sequence[Question], vectors: Vectors | None, of_questions: Vectors | None
) -> dict[str, Any]:
    """How near the lines come to evaluation questions, and the nearest of them.

    Returns:
        `ngram`, `questions` (evaluation set -> number), and by `words` and `meaning` a histogram over the lines and
        `nearest`: the rows with the largest values, each with its question.
    """
    texts = [question.instruction for question in asked]
    ways = {"words": ("evaluation_ngrams", by_words([item.instruction for item in lines], texts))}
    if vectors is not None and of_questions is not None:
        ways["meaning"] = ("evaluation_cosine", by_meaning(vectors[: len(lines)], of_questions))
    sets = [question.category for question in asked]
    found: dict[str, Any] = {"ngram": NGRAM, "questions": {name: sets.count(name) for name in sorted(set(sets))}}
    for way, (column, values) in ways.items():
        for item, near in zip(lines, values, strict=True):
            setattr(item, column, near.value)
        ranked = sorted(range(len(lines)), key=lambda i: (-values[i].value, i))[:SHOWN]
        found[way] = {
            **(histogram({"kept": [near.value for near in values]}) if values else {}),
            "nearest": [
                {
                    "id": lines[i].id,
                    "value": values[i].value,
                    "instruction": lines[i].instruction[:EXCERPT],
                    "set": asked[values[i].question].category,
                    "question": asked[values[i].question].instruction[:EXCERPT],
                }
                for i in ranked
                if values[i].question >= 0
            ],
        }
    return found
