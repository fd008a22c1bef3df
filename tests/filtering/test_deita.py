"""DEITA selection: best first, nothing like what is kept, up to a budget."""

import numpy as np
import pytest
from rows_and_rewards import conversation

import matrix.filtering.deita
from matrix.filtering.base import Facts, Need
from matrix.filtering.dedup import Part
from matrix.filtering.deita import DeitaConfig
from matrix.records import Tags
from matrix.rows import instruction


class Angles:
    """Embeds `Is it <degrees>?` as the unit vector at that angle; keeps what it was asked."""

    def __init__(self):
        self.asked = []

    def embed(self, texts):
        self.asked += texts
        angles = np.radians([float(text.split("?")[0].split()[-1]) for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def judged(rows, **config):
    """`rows`: (angle, complexity, response quality); ids are the angles."""
    embedder = Angles()
    tags = {str(a): Tags(id=str(a), complexity=c, response_quality=q) for a, c, q in rows}
    built = DeitaConfig(**config).build(Facts(tags=tags, embedder=embedder))
    return built.judge([conversation(str(a)) for a, _, _ in rows]), embedder


def test_the_best_row_stays_and_what_is_like_it_goes():
    verdicts, _ = judged([(0, 2.0, 3.0), (10, 3.0, 3.0), (90, 1.0, 1.0), (20, 1.0, 2.0)])  # cos 10 = .985, cos 30 = .87
    assert verdicts == [("similar to a better row", "10"), None, None, ("similar to a better row", "10")]


def test_a_row_is_compared_with_kept_rows_only():
    assert judged([(0, 5.0, 5.0), (20, 4.0, 4.0), (40, 3.0, 3.0)])[0] == [None, ("similar to a better row", "0"), None]


def test_the_nearest_kept_row_is_named():
    verdicts, _ = judged([(0, 5.0, 5.0), (30, 4.0, 4.0), (20, 3.0, 3.0)])
    assert verdicts == [None, None, ("similar to a better row", "30")]


def test_beyond_the_budget_nothing_is_kept():
    verdicts, _ = judged([(0, 1.0, 1.5), (45, 2.0, 2.0), (90, 3.0, 3.0), (91, 2.0, 4.0)], num_rows=2)
    assert verdicts == [("beyond the budget", "1.5"), None, None, ("similar to a better row", "90")]


def test_equal_scores_go_in_row_order():
    assert judged([(0, 2.0, 3.0), (5, 3.0, 2.0)])[0] == [None, ("similar to a better row", "0")]


def test_rows_without_both_scores_are_dropped():
    verdicts, _ = judged([(0, 2.0, None), (45, None, None), (90, 1.0, 1.0)])
    assert verdicts == [("no score", ""), ("no score", ""), None]
    assert DeitaConfig().build(Facts(embedder=Angles())).judge([conversation("0")]) == [("no score", "")]


def test_only_what_is_reached_is_embedded(monkeypatch):
    monkeypatch.setattr(matrix.filtering.deita, "CHUNK", 2)
    rows = [(number * 45, 6.0 - number, 1.0) for number in range(5)]
    verdicts, embedder = judged(rows, num_rows=2, part=Part.instruction)
    assert [v is None for v in verdicts] == [True, True, False, False, False]
    assert embedder.asked == [instruction(conversation(str(angle))) for angle, _, _ in rows[:2]]


def test_the_size_of_chunks_changes_nothing(monkeypatch):
    dice = np.random.default_rng(0)
    rows = [(n, *map(float, dice.uniform(1, 6, 2))) for n in dice.permutation(90).tolist()]
    whole, _ = judged(rows, num_rows=3)
    monkeypatch.setattr(matrix.filtering.deita, "CHUNK", 7)
    assert judged(rows, num_rows=3)[0] == whole
    assert whole.count(None) == 3


def test_no_rows():
    assert judged([])[0] == []


def test_what_it_needs():
    assert DeitaConfig.needs == {Need.tags, Need.embeddings}
    with pytest.raises(ValueError, match="needs an embedder"):
        DeitaConfig().build(Facts())
    with pytest.raises(ValueError, match="num_rows must be at least 1"):
        DeitaConfig(num_rows=0)
    with pytest.raises(ValueError, match=r"threshold must lie in \(0, 1\]"):
        DeitaConfig(threshold=1.1)
