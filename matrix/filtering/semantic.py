"""Drops rows that say what an earlier row says in other words: cosine similarity of text embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from matrix.engines.embedder import Embedder, Vectors
from matrix.filtering.base import Facts, FilterConfig, Need, Rejection
from matrix.filtering.dedup import Part, text_of
from matrix.rows import TrainingRow

REQUEST = 8192
"""Texts that are embedded at a time."""
BLOCK = 1024
"""Rows that are compared at a time with the kept ones, and in steps of `STEP` of these: 32 MiB of similarities."""
STEP = 8192
ROUNDING = 1e-5
"""Two embeddings of the same text differ by less in their cosine: float32, and other company in a batch."""


@dataclass(kw_only=True)
class SemanticDedupConfig(FilterConfig):
    """Keep the first of rows that mean the same.

    A row is compared with the rows that were kept, so a chain of small changes does not swallow a whole topic. An
    embedding sees a text's first tokens only (the default embedder's model: 256), so prefer the instruction. The work
    grows with the square of the rows; use it up to some 200,000.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.embeddings})

    threshold: float = 0.9
    """Cosine similarity from which on a row is a repetition. SemHash: 0.9; embedders differ, so look at the drops."""
    part: Part = Part.instruction
    """Text that is compared."""

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise ValueError(f"threshold must lie in (0, 1], not {self.threshold}")

    def build(self, facts: Facts) -> SemanticDedup:
        """The filter.

        Raises:
            ValueError: there is no embedder.
        """
        if not facts.embedder:
            raise ValueError("semantic: needs an embedder, e.g. embedder=minilm")
        return SemanticDedup(self, facts.embedder)


class SemanticDedup:
    """Exact search: blocks of rows against all kept vectors."""

    def __init__(self, config: SemanticDedupConfig, embedder: Embedder) -> None:
        self.config = config
        self.embedder = embedder

    def judge(self, rows: Sequence[TrainingRow]) -> list[Rejection | None]:
        """See `RowFilter.judge`; the value is the id of the most similar kept row."""
        texts = [text_of(row, self.config.part) for row in rows]
        originals = first_of(self._embedded(texts), self.config.threshold)
        return [Rejection("same meaning", rows[other].id) if other >= 0 else None for other in originals]

    def _embedded(self, texts: list[str]) -> Vectors:
        parts = [self.embedder.embed(texts[start : start + REQUEST]) for start in range(0, len(texts), REQUEST)]
        return np.concatenate(parts) if parts else np.empty((0, 1), np.float32)


def first_of(vectors: Vectors, threshold: float) -> list[int]:
    """For each row the position of the most similar kept row, or -1 for a row that is kept.

    Args:
        vectors: unit vectors, shape (rows, dimension); overwritten.
        threshold: cosine similarity (0..1) from which on a row is not kept.
    """
    least = threshold - ROUNDING
    originals: list[int] = []
    kept = np.empty(len(vectors), dtype=np.int64)
    count = 0  # vectors[:count] are those of the rows kept[:count]
    for start in range(0, len(vectors), BLOCK):
        block = vectors[start : start + BLOCK].copy()
        best, nearest = np.full(len(block), -1.0, np.float32), np.full(len(block), -1)
        for low in range(0, count, STEP):
            similar = block @ vectors[low : min(low + STEP, count)].T
            column = similar.argmax(axis=1)
            value = similar[np.arange(len(block)), column]
            better = value > best
            best[better], nearest[better] = value[better], kept[low + column[better]]
        within = block @ block.T
        for row in range(len(block)):
            if best[row] >= least:
                originals.append(int(nearest[row]))
                continue
            originals.append(-1)
            vectors[count], kept[count] = block[row], start + row
            count += 1
            better = within[row, row + 1 :] > best[row + 1 :]
            best[row + 1 :][better], nearest[row + 1 :][better] = within[row, row + 1 :][better], start + row
    return originals
