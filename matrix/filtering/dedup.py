"""Drops rows that repeat an earlier row: word for word, or nearly so (MinHash)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from matrix.filtering.base import Facts, FilterConfig, Rejection, RowFilter
from matrix.rows import TrainingRow, instruction, responses
from matrix.texts import NearDuplicates, normalised


class Part(StrEnum):
    """Which text of a row has to be new."""

    instruction = "instruction"
    response = "response"
    row = "row"


class Method(StrEnum):
    """How two texts are compared."""

    exact = "exact"
    """The same but for case, white space and Unicode form."""
    minhash = "minhash"
    """Nearly the same word n-grams."""


@dataclass(kw_only=True)
class DedupConfig(FilterConfig):
    """Keep the first of rows that repeat each other.

    A row is compared with the rows that were kept, so a chain of small changes does not swallow a whole topic.
    MinHash only proposes candidates; the similarity that decides is the true Jaccard similarity of the n-gram sets.
    """

    method: Method = Method.minhash
    """How texts are compared; the three knobs below belong to `minhash`."""
    part: Part = Part.instruction
    """Text that is compared."""
    threshold: float = 0.7
    """Jaccard similarity (0..1) from which on a row is a repetition. data-juicer: 0.7; datatrove: about 0.72."""
    ngram: int = 3
    """Tokens in an n-gram. datatrove takes 5 for web pages; instructions are short, and one changed word changes n."""
    num_perm: int = 128
    """Hash functions of a signature, a power of two."""

    def __post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise ValueError(f"threshold must lie in (0, 1], not {self.threshold}")
        if self.ngram < 1:
            raise ValueError(f"ngram must be at least 1, not {self.ngram}")
        if self.num_perm < 16 or self.num_perm & (self.num_perm - 1):
            raise ValueError(f"num_perm must be a power of two from 16 on, e.g. 128, not {self.num_perm}")

    def build(self, facts: Facts) -> RowFilter:
        """The filter of this method."""
        return ExactDedup(self) if self.method is Method.exact else MinHashDedup(self)


class ExactDedup:
    """Remembers normalised texts."""

    def __init__(self, config: DedupConfig) -> None:
        self.config = config

    def judge(self, rows: Sequence[TrainingRow]) -> list[Rejection | None]:
        """See `RowFilter.judge`; the value is the id of the row that is repeated."""
        first: dict[str, int] = {}
        verdicts: list[Rejection | None] = []
        for number, row in enumerate(rows):
            original = first.setdefault(normalised(text_of(row, self.config.part)), number)
            verdicts.append(None if original == number else Rejection("exact duplicate", rows[original].id))
        return verdicts


class MinHashDedup:
    """Locality-sensitive hashing for candidates, true Jaccard similarity for the verdict."""

    def __init__(self, config: DedupConfig) -> None:
        self.config = config

    def judge(self, rows: Sequence[TrainingRow]) -> list[Rejection | None]:
        """See `RowFilter.judge`; the value is the id of the most similar earlier row."""
        c = self.config
        kept = NearDuplicates(c.threshold, c.ngram, c.num_perm)
        verdicts: list[Rejection | None] = []
        for number, row in enumerate(rows):
            signed = kept.sign(text_of(row, c.part))
            if similar := kept.similar(signed):
                _, nearest = max(similar, key=lambda found: (found[0], -found[1]))
                verdicts.append(Rejection("near duplicate", rows[nearest].id))
                continue
            kept.add(number, signed)
            verdicts.append(None)
        return verdicts


def text_of(row: TrainingRow, part: Part) -> str:
    """The text that `part` stands for."""
    texts = [] if part is Part.response else [instruction(row)]
    return "\n".join(texts if part is Part.instruction else [*texts, *responses(row)])
