"""Measures of diversity, against values known by hand and by brute force."""

from __future__ import annotations

import math

import numpy as np
import pytest

from matrix.analysis import diversity
from matrix.analysis.diversity import describe, distinct, gini, nearest, plane, sample, vendi


def unit(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def test_distinct_counts_within_texts_only():
    assert distinct([["a", "b", "a", "b"], ["b", "a"]]) == [round(2 / 6, 4), round(2 / 4, 4), 1.0]
    assert distinct([["a"], ["b"]]) == [1.0, None, None]
    assert distinct([]) == [None, None, None]


def test_distinct_is_the_set_of_n_grams():
    rng = np.random.default_rng(0)
    words = [[str(w) for w in rng.integers(0, 9, rng.integers(0, 12))] for _ in range(60)]
    for size, share in enumerate(distinct(words), 1):
        grams = [tuple(text[i : i + size]) for text in words for i in range(len(text) - size + 1)]
        assert share == round(len(set(grams)) / len(grams), 4)


@pytest.mark.parametrize("rows", [5, 40])
def test_vendi_is_the_entropy_of_the_kernel(rows: int):
    x = unit(rows, 12)
    values = np.linalg.eigvalsh((x @ x.T).astype(np.float64) / rows).clip(1e-15)
    assert vendi(x) == pytest.approx(math.exp(-(values * np.log(values)).sum()), rel=1e-3)


def test_vendi_counts_unlike_texts():
    assert vendi(np.eye(6, dtype=np.float32)) == 6.0
    assert vendi(np.repeat(np.eye(6, dtype=np.float32)[:2], 10, axis=0)) == 2.0
    assert vendi(np.empty((0, 3), np.float32)) is None


def test_nearest_is_brute_force_across_blocks(monkeypatch):
    monkeypatch.setattr(diversity, "BLOCK", 7)
    monkeypatch.setattr(diversity, "STEP", 11)
    x = unit(50, 8)
    similar = x @ x.T
    np.fill_diagonal(similar, -1)
    which = np.array([0, 3, 7, 20, 21, 49])
    assert np.allclose(nearest(x, which), 1 - similar.max(axis=1)[which], atol=1e-6)


def test_describe_says_what_it_compared(monkeypatch):
    x = np.vstack([np.eye(4, dtype=np.float32)] * 2)
    texts = ["How do I bake bread?", "Name a river.", "Sort a list.", "Plan a trip."] * 2
    found = describe(texts, x)
    assert found["rows"] == 8
    assert (found["vendi"], found["nearest"], found["near_duplicates"], found["compared"]) == (4.0, 0.0, 1.0, 8)
    assert found["distinct_1"] == round(12 / 28, 4)
    monkeypatch.setattr(diversity, "COMPARED", 3)
    assert describe(texts, x)["compared"] == 3
    assert describe(texts, x) == describe(texts, x)


def test_what_cannot_be_had_is_none():
    assert describe([])["words"] is None
    alone = describe(["one"], np.ones((1, 1), np.float32))
    assert (alone["vendi"], alone["nearest"], alone["near_duplicates"]) == (1.0, None, None)
    nothing = describe([], np.empty((0, 3), np.float32))
    assert (nothing["vendi"], nothing["nearest"], nothing["compared"]) == (None, None, 0)


def test_a_sample_is_the_same_each_time_and_sorted():
    assert sample(5, 9, 0).tolist() == [0, 1, 2, 3, 4]
    chosen = sample(1000, 10, 3).tolist()
    assert chosen == sorted(set(chosen)) == sample(1000, 10, 3).tolist()
    assert chosen != sample(1000, 10, 4).tolist()


def test_the_plane_keeps_what_varies_most():
    x = np.zeros((20, 5), np.float32)
    x[:, 2], x[:, 4] = np.linspace(-3, 3, 20), np.tile([1, -1], 10)
    points, shares = plane(x)
    assert abs(np.corrcoef(points[:, 0], x[:, 2])[0, 1]) > 0.99
    assert shares[0] > 0.7
    assert sum(shares) == pytest.approx(1.0, abs=1e-3)
    assert np.array_equal(points, plane(x)[0])
    assert plane(np.empty((0, 4), np.float32))[0].shape == (0, 2)


def test_gini_of_equal_and_unequal_counts():
    assert gini([3, 3, 3]) == 0.0
    assert gini([0, 0, 0, 8]) == 0.75
    assert gini([1]) == 0.0
    assert gini([]) is None
