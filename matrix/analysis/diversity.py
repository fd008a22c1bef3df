"""How diverse a set of texts is: distinct n-grams, the Vendi score, and the way to the nearest neighbour.

Used by the stage of this package and by benchmarks that compare data sets; knows no rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matrix.engines.embedder import Vectors
from matrix.texts import WORD, folded

NEAR = 0.9
"""Cosine from which on a neighbour is a near-duplicate, as in the filter `semantic`."""
COMPARED = 20_000
"""Texts whose nearest neighbour is looked for, among all texts; of more a sample is drawn."""
BLOCK, STEP = 1024, 8192
"""Texts that are compared at a time, and with how many: 32 MiB of similarities."""
ROUNDING = 1e-5
"""Two embeddings of the same text differ by less in their cosine."""


def describe(texts: Sequence[str], vectors: Vectors | None = None, seed: int = 0) -> dict[str, Any]:
    """Measures of diversity; compare sets of the same size only, and see how long their texts are.

    Args:
        texts: the texts.
        vectors: their unit embeddings, shape (texts, dimension); without them only words are counted.
        seed: of the sample whose neighbours are looked for, if there are more than `COMPARED` texts.

    Returns:
        `rows`, `words` (a text's, on average), `distinct_1`, `distinct_2`, `distinct_3` (`distinct`); with vectors also
        `vendi` (`vendi`), `nearest` and `nearest_median` (cosine distance to the nearest other text, 0..2),
        `near_duplicates` (share with a neighbour from cosine `NEAR` on) and `compared` (how many texts that is said
        of). What cannot be had, e.g. the neighbours of a single text, is None.
    """
    words = [WORD.findall(folded(text)) for text in texts]
    found: dict[str, Any] = {
        "rows": len(texts),
        "words": round(sum(map(len, words)) / len(words), 2) if words else None,
        **{f"distinct_{size}": share for size, share in enumerate(distinct(words), 1)},
    }
    if vectors is None:
        return found
    distances = nearest(vectors, sample(len(vectors), COMPARED, seed))
    known = len(distances) and len(vectors) > 1
    return found | {
        "vendi": vendi(vectors),
        "nearest": round(float(distances.mean()), 4) if known else None,
        "nearest_median": round(float(np.median(distances)), 4) if known else None,
        "near_duplicates": round(float((distances <= 1 - NEAR + ROUNDING).mean()), 4) if known else None,
        "compared": len(distances),
    }


def distinct(words: Sequence[Sequence[str]]) -> list[float | None]:
    """Distinct n-grams over all n-grams, 0..1, for n = 1, 2, 3 (Li et al., arXiv 1510.03055).

    It falls with the number of words, whatever they are.
    """
    numbers: dict[str, int] = {}
    ids = np.array([numbers.setdefault(word, len(numbers)) for text in words for word in text], dtype=np.int64)
    text = np.repeat(np.arange(len(words)), [len(text) for text in words])
    shares: list[float | None] = []
    codes = ids
    for size in (1, 2, 3):
        if size > 1:
            codes = codes[:-1] * len(numbers) + ids[size - 1 :]
        whole = codes[text[: len(codes)] == text[size - 1 :]]
        shares.append(round(len(np.unique(whole)) / len(whole), 4) if len(whole) else None)
    return shares


def vendi(vectors: Vectors) -> float | None:
    """The Vendi score with the cosine kernel (Friedman & Dieng, arXiv 2210.02410): how many unlike texts there are.

    It is the exponential of the entropy of the eigenvalues of K/n: 1 where all texts are equal, n where all are
    orthogonal. K = X X^T has the nonzero eigenvalues of X^T X, which is small, so the score is exact for any n; it is
    at most the dimension.

    Args:
        vectors: unit vectors X, shape (n, dimension).
    """
    if not len(vectors):
        return None
    x = vectors.astype(np.float64) / np.sqrt(len(vectors))
    values = np.linalg.eigvalsh(x.T @ x if x.shape[1] < len(x) else x @ x.T)
    values = values[values > 1e-12]
    return round(float(np.exp(-(values * np.log(values)).sum())), 4)


def nearest(vectors: Vectors, which: NDArray[np.int64]) -> NDArray[np.float32]:
    """Cosine distance (0..2) of the vectors `which` to their nearest other vector; 1 where there is no other.

    Magpie's minimum neighbour distance (arXiv 2406.08464, section 3) up to the metric: the squared Euclidean distance
    of unit vectors is twice this one.

    Args:
        vectors: unit vectors, shape (n, dimension).
        which: positions, shape (m,).

    Returns:
        Shape (m,).
    """
    best = np.zeros(len(which), np.float32) if len(vectors) < 2 else np.full(len(which), -1.0, np.float32)
    for start, stop in blocks(len(which), BLOCK):
        for low, high in blocks(len(vectors), STEP):
            similar = vectors[which[start:stop]] @ vectors[low:high].T
            own = np.flatnonzero((which[start:stop] >= low) & (which[start:stop] < high))
            similar[own, which[start:stop][own] - low] = -1.0
            np.maximum(best[start:stop], similar.max(axis=1), out=best[start:stop])
    return np.maximum(1 - best, 0.0).astype(np.float32)


def blocks(number: int, size: int) -> list[tuple[int, int]]:
    """Start and stop of runs of `size` that cover `range(number)`."""
    return list(pairwise([*range(0, number, size), number]))


def sample(number: int, most: int, seed: int) -> NDArray[np.int64]:
    """All positions, ascending; a random `most` of them where there are more."""
    if number <= most:
        return np.arange(number)
    return np.sort(np.random.default_rng(seed).choice(number, most, replace=False))


def plane(vectors: Vectors) -> tuple[NDArray[np.float64], list[float]]:
    """Two principal components: coordinates, shape (n, 2), and the share of the variance that each explains.

    The sign of a component, which means nothing, is such that its greatest weight is positive.
    """
    x = vectors.astype(np.float64)
    x -= x.mean(axis=0) if len(x) else 0.0
    values, axes = np.linalg.eigh(x.T @ x)
    chosen, total = axes[:, ::-1][:, :2], max(float(values.sum()), 1e-12)
    chosen = chosen * np.sign(chosen[np.abs(chosen).argmax(axis=0), range(chosen.shape[1])])
    shares = [round(max(float(value), 0.0) / total, 4) for value in values[::-1][:2]]
    return x @ chosen, shares


def gini(counts: Sequence[int]) -> float | None:
    """How unequal counts are: 0 where all are equal, towards 1 where one has everything."""
    if not sum(counts):
        return None
    ordered = np.sort(np.asarray(counts, dtype=np.float64))
    ranks = np.arange(1, len(ordered) + 1)
    return round(float((2 * ranks - len(ordered) - 1) @ ordered / (len(ordered) * ordered.sum())), 4)
