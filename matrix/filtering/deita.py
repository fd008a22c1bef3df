"""Keeps a budget of complex, well-answered and diverse rows (DEITA, arXiv 2312.15685, section 2.4 and algorithm 1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from matrix.filtering.base import Facts, FilterConfig, Need, Rejection
from matrix.filtering.dedup import Part, text_of
from matrix.filtering.tags import TagName
from matrix.rows import TrainingRow

if TYPE_CHECKING:
    from matrix.engines.embedder import Embedder

CHUNK = 512
"""Rows that are embedded at a time; those beyond the budget are not."""


@dataclass(kw_only=True)
class DeitaConfig(FilterConfig):
    """Score first, diversity-aware: from the best row on, keep what is not similar to a row that was kept.

    Estimator: complexity x response quality, each an LLM's expected score 1..6 (`matrix.filtering.tags`), and the
    cosine of the embeddings. DEITA takes trained scorers, sums over the turns of a conversation (here it is scored as a
    whole) and embeds with LLaMA-1 13B: with another embedder `threshold` means another similarity.
    Cost: two LLM calls a row in the stage before, and the embeddings of the rows that are reached.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({Need.tags, Need.embeddings})
    reads: ClassVar[frozenset[TagName]] = frozenset({TagName.complexity, TagName.response_quality})

    num_rows: int = 6000
    """Most rows that are kept (DEITA: 6,000 and 10,000)."""
    threshold: float = 0.9
    """Cosine from which on a row is similar to a better one (DEITA: 0.9)."""
    part: Part = Part.row
    """Text that is embedded; an embedder reads the first tokens of a long one only (the default one's model: 256)."""

    def __post_init__(self) -> None:
        if self.num_rows < 1:
            raise ValueError(f"num_rows must be at least 1, not {self.num_rows}")
        if not 0 < self.threshold <= 1:
            raise ValueError(f"threshold must lie in (0, 1], not {self.threshold}")

    def build(self, facts: Facts) -> DeitaFilter:
        """The filter.

        Raises:
            ValueError: `facts` has no embedder.
        """
        if facts.embedder is None:
            raise ValueError("deita: needs an embedder, e.g. embedder=minilm")
        return DeitaFilter(self, facts, facts.embedder)


class DeitaFilter:
    """Goes through the rows from the highest score to the lowest."""

    def __init__(self, config: DeitaConfig, facts: Facts, embedder: Embedder) -> None:
        self.config = config
        self.tags = facts.tags
        self.embedder = embedder

    def judge(self, rows: Sequence[TrainingRow]) -> list[Rejection | None]:
        """See `RowFilter.judge`; the value is the score, or the id of the most similar better row.

        A row without both scores is dropped. Of equal scores the first row goes first.
        """
        import numpy as np

        c = self.config
        verdicts: list[Rejection | None] = [Rejection("no score")] * len(rows)
        scores = {number: score for number, row in enumerate(rows) if (score := self._score(row)) is not None}
        order = sorted(scores, key=lambda number: -scores[number])
        for number in order:
            verdicts[number] = Rejection("beyond the budget", f"{scores[number]:.4g}")
        kept: list[int] = []
        vectors = np.empty((0, 0), np.float32)
        for start in range(0, len(order), CHUNK):
            chunk = order[start : start + CHUNK]
            embedded = self.embedder.embed([text_of(rows[number], c.part) for number in chunk])
            if not kept:
                vectors = np.empty((min(c.num_rows, len(order)), embedded.shape[1]), np.float32)
            for number, vector in zip(chunk, embedded, strict=True):
                similar = vectors[: len(kept)] @ vector
                if kept and similar.max() >= c.threshold:
                    verdicts[number] = Rejection("similar to a better row", rows[kept[similar.argmax()]].id)
                    continue
                verdicts[number] = None
                vectors[len(kept)] = vector
                kept.append(number)
                if len(kept) == c.num_rows:
                    return verdicts
        return verdicts

    def _score(self, row: TrainingRow) -> float | None:
        tags = self.tags.get(row.id)
        if tags is None or tags.complexity is None or tags.response_quality is None:
            return None
        return tags.complexity * tags.response_quality
