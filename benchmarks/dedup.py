"""What the filters that compare texts find and miss, against exact search, and what they cost.

Texts are posts of synthetic people, strung together. Near-duplicates are copies with some of their words replaced by
words of other posts; contaminated rows hold one passage of an evaluation question. Both come in all degrees, and are
tabulated by the similarity (covered share) that exact search measures: recall of what it drops, and precision.

    OMP_NUM_THREADS=1 python benchmarks/dedup.py --quick
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from matrix.engines.embedder import Vectors
from matrix.filtering.base import Facts
from matrix.filtering.decontaminate import DecontaminateConfig
from matrix.filtering.dedup import DedupConfig
from matrix.filtering.semantic import first_of
from matrix.records import Conversation, Message, Origin
from matrix.rows import TrainingRow
from matrix.simulation.synthetic import synthetic_profile
from matrix.texts import WORD, folded, ngrams

ROWS = 5000
PLANTED = 2000
"""Rows of `ROWS` that are copies, or hold a passage."""
QUESTIONS = 300
DIMENSION = 384
ORIGIN = Origin(stage="benchmark")


def posts(people: int, seed: int) -> list[str]:
    """Everything that a population writes."""
    return [post for index in range(people) for post in synthetic_profile(seed, index).posts]


def strung(material: Sequence[str], count: int, seed: int) -> list[str]:
    """Texts of three to six posts."""
    draw = random.Random(seed)
    return [" ".join(draw.sample(material, draw.randint(3, 6))) for _ in range(count)]


def rows(texts: Sequence[str]) -> list[TrainingRow]:
    """Texts as instructions."""
    answer = Message(role="assistant", content="Yes.")
    return [
        Conversation(id=str(n), messages=[Message(role="user", content=text), answer], origin=ORIGIN)
        for n, text in enumerate(texts)
    ]


def near_duplicates(material: Sequence[str]) -> list[str]:
    """Texts of which `PLANTED` are copies of earlier ones with up to 15 % of their words replaced."""
    draw = random.Random(1)
    texts = strung(material, ROWS - PLANTED, seed=2)
    words = " ".join(material).split()
    for number in range(PLANTED):
        copy = draw.choice(texts[: ROWS - PLANTED]).split()
        for _ in range(round(len(copy) * 0.15 * number / PLANTED)):
            copy[draw.randrange(len(copy))] = draw.choice(words)
        texts.append(" ".join(copy))
    return texts


def greedy(similar: NDArray[np.float64], threshold: float) -> NDArray[np.float64]:
    """Greatest similarity of each row to a row that is kept before it; shape (rows,)."""
    best = np.zeros(len(similar))
    kept: list[int] = []
    for row in range(len(similar)):
        best[row] = similar[row, kept].max(initial=0)
        if best[row] < threshold:
            kept.append(row)
    return best


def all_jaccard(texts: Sequence[str], size: int) -> NDArray[np.float64]:
    """Jaccard similarity of every pair, from counted intersections; shape (texts, texts)."""
    number: dict[str, int] = {}
    sets = [[number.setdefault(gram, len(number)) for gram in ngrams(text, size)] for text in texts]
    ends = np.cumsum([0, *map(len, sets)])
    table = csr_matrix((np.ones(ends[-1]), np.concatenate(sets), ends), shape=(len(sets), len(number)))
    common = (table @ table.T).toarray()
    sizes = np.diff(ends)
    found: NDArray[np.float64] = common / (sizes[:, None] + sizes[None, :] - common)
    return found


def contaminated(material: Sequence[str], questions: Sequence[str]) -> list[str]:
    """Texts of which `PLANTED` have a passage of a question, of any length, between their own posts."""
    draw = random.Random(3)
    texts = strung(material, ROWS, seed=4)
    for number in range(PLANTED):
        passage = draw.choice(questions).split()
        passage = passage[: round(len(passage) * (number + 1) / PLANTED)]
        own = texts[number].split()
        place = draw.randrange(len(own))
        texts[number] = " ".join([*own[:place], *passage, *own[place:]])
    return texts


def all_covered(texts: Sequence[str], questions: Sequence[str], size: int) -> NDArray[np.float64]:
    """Greatest share of a question's words that lie in an n-gram of the text; every question against every text."""
    asked = [WORD.findall(folded(question)) for question in questions]
    split = [[" ".join(words[i : i + size]) for i in range(len(words) - size + 1)] for words in asked]
    best = np.zeros(len(texts))
    for number, text in enumerate(texts):
        words = WORD.findall(folded(text))
        present = {" ".join(words[i : i + size]) for i in range(len(words) - size + 1)}
        for of, parts in zip(asked, split, strict=True):
            places = {i + k for i, gram in enumerate(parts) if gram in present for k in range(size)}
            best[number] = max(best[number], len(places) / len(of))
    return best


def clustered(count: int, seed: int = 0) -> Vectors:
    """Unit vectors, shape (count, DIMENSION), half of them near an earlier one: cosine 0.8 to 1."""
    rng = np.random.default_rng(seed)
    vectors = rng.standard_normal((count, DIMENSION), dtype=np.float32)
    half = count // 2
    spread = np.linspace(0, 0.75, count - half, dtype=np.float32)[:, None]
    vectors[half:] = vectors[rng.integers(0, half, count - half)] + spread * vectors[half:]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def agreement(dropped: Sequence[bool], exact: NDArray[np.float64], threshold: float) -> dict[str, Any]:
    """Recall and precision of drops, and both by what exact search measured."""
    drops, true = np.asarray(dropped), exact >= threshold
    both = int((drops & true).sum())
    found: dict[str, Any] = {"exact": int(true.sum()), "dropped": int(drops.sum())}
    found |= {"recall": both / max(true.sum(), 1), "precision": both / max(drops.sum(), 1)}
    edges = [0.0, *np.arange(0.3, 1.0, 0.1).round(1).tolist(), 1.0001]
    inside = [(low, (exact >= low) & (exact < high)) for low, high in pairwise(edges)]
    found["bands"] = [{"from": low, "rows": int(band.sum()), "dropped": int(drops[band].sum())} for low, band in inside]
    return found


def measured(material: Sequence[str], questions: Sequence[str], timed: int) -> dict[str, dict[str, Any]]:
    """Filter -> agreement with exact search on `ROWS` rows, and seconds for `timed` rows."""
    found: dict[str, dict[str, Any]] = {}
    many = rows(strung(material, timed, seed=5))
    minhash = DedupConfig()
    texts = near_duplicates(material)
    verdicts = minhash.build(Facts()).judge(rows(texts))
    exact = greedy(all_jaccard(texts, minhash.ngram), minhash.threshold)
    found["minhash"] = agreement([bool(v) for v in verdicts], exact, minhash.threshold)
    start = time.perf_counter()
    minhash.build(Facts()).judge(many)
    found["minhash"]["seconds"] = time.perf_counter() - start

    decontaminate = DecontaminateConfig(max_contamination=1)
    facts = Facts(questions={"synthetic": list(questions)})
    texts = contaminated(material, questions)
    verdicts = decontaminate.build(facts).judge(rows(texts))
    exact = all_covered(texts, questions, decontaminate.ngram)
    found["decontaminate"] = agreement([bool(v) for v in verdicts], exact, decontaminate.threshold)
    start = time.perf_counter()
    decontaminate.build(facts).judge(many)
    found["decontaminate"]["seconds"] = time.perf_counter() - start

    vectors = clustered(ROWS)
    exact = greedy((vectors @ vectors.T).astype(np.float64), 0.9)
    found["semantic"] = agreement([other >= 0 for other in first_of(vectors.copy(), 0.9)], exact, 0.9)
    vectors = clustered(timed)
    start = time.perf_counter()
    first_of(vectors, 0.9)
    found["semantic"]["seconds"] = time.perf_counter() - start
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="times for 20,000 rows instead of 100,000")
    options = parser.parse_args()
    timed = 20_000 if options.quick else 100_000
    questions = strung(posts(300, seed=1), QUESTIONS, seed=6)
    found = measured(posts(3000, seed=0), questions, timed)
    print(f"{'filter':14} {'exact':>6} {'dropped':>8} {'recall':>7} {'precision':>10} {f's/{timed:,}':>10}")
    for name, row in found.items():
        print(
            f"{name:14} {row['exact']:6} {row['dropped']:8} {row['recall']:7.4f} {row['precision']:10.4f}"
            f" {row['seconds']:10.1f}"
        )
    print("\ndropped/rows by exact similarity (minhash, semantic) or covered share (decontaminate)")
    print(f"{'from':14} " + " ".join(f"{band['from']:>10}" for band in found["minhash"]["bands"]))
    for name, row in found.items():
        print(f"{name:14} " + " ".join(f"{band['dropped']:>5}/{band['rows']:<4}" for band in row["bands"]))
    rounded = {n: {k: round(v, 4) if isinstance(v, float) else v for k, v in r.items()} for n, r in found.items()}
    print(json.dumps({"benchmark": "dedup", "rows": ROWS, "timed": timed, **rounded}))


if __name__ == "__main__":
    main()
