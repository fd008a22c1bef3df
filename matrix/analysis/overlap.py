"""How near training instructions come to the questions that the model will be evaluated with."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from matrix.analysis.diversity import BLOCK, blocks
from matrix.engines.embedder import Vectors
from matrix.texts import WORD, Gram, folded, grams

NGRAM = 8
"""Words in an n-gram, as in the filter `decontaminate` (Tülu 3, arXiv 2411.15124, section 3.2)."""


class Nearest(NamedTuple):
    """The question that a row is nearest to; position -1 where there is none."""

    value: float
    question: int


def by_words(texts: Sequence[str], questions: Sequence[str]) -> list[Nearest]:
    """For each text the question with the largest share (0..1) of its word n-grams in the text.

    Questions with fewer than `NGRAM` words are not found this way.
    """
    of: defaultdict[Gram, list[int]] = defaultdict(list)
    sizes = []
    for number, question in enumerate(questions):
        found = set(grams(tuple(WORD.findall(folded(question))), NGRAM))
        sizes.append(len(found))
        for gram in found:
            of[gram].append(number)
    nearest = []
    for text in texts:
        held = set(grams(tuple(WORD.findall(folded(text))), NGRAM)) & of.keys()
        counts = Counter(number for gram in held for number in of[gram])
        shares = [Nearest(round(count / sizes[number], 4), number) for number, count in counts.items()]
        nearest.append(max(shares, key=lambda near: (near.value, -near.question), default=Nearest(0.0, -1)))
    return nearest


def by_meaning(vectors: Vectors, questions: Vectors) -> list[Nearest]:
    """For each unit vector, shape (n, dimension), the question with the largest cosine, of shape (m, dimension)."""
    nearest: list[Nearest] = []
    for start, stop in blocks(len(vectors), BLOCK):
        similar = vectors[start:stop] @ questions.T
        best = similar.argmax(axis=1)
        values = similar[range(len(best)), best]
        nearest += [Nearest(round(float(v), 4), int(b)) for v, b in zip(values, best, strict=True)]
    return nearest
