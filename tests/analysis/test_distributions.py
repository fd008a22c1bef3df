"""Histograms, labels and balance over lines."""

from __future__ import annotations

import pytest

from matrix.analysis.distributions import balance, histogram, histograms, labels
from matrix.analysis.table import Line


def line(number: int, **fields) -> Line:
    known = {"instruction": "Ask.", "response": "Say.", "input_length": 4, "output_length": 4, "turns": 1}
    known |= {"instruction_words": 1 + number, "response_words": 10 * number}
    return Line(id=f"r{number}", **{**known, **fields})


def test_both_sets_share_their_bins():
    lines = [line(n, instruct_reward=float(n)) for n in range(50)]
    found = histograms({"kept": lines[10:20], "before": lines})
    assert set(found) == {"instruction_words", "response_words", "instruct_reward"}
    for column in found.values():
        assert sum(column["kept"]["counts"]) == 10
        assert sum(column["before"]["counts"]) == 50
        assert len(column["edges"]) == len(column["kept"]["counts"]) + 1
        assert column["edges"] == sorted(set(column["edges"]))
    assert found["instruction_words"]["kept"]["median"] == 15.5


@pytest.mark.parametrize(("values", "log"), [([5.0], False), ([5.0], True), ([0.0, 0.0], True), ([0, 1, 9000], True)])
def test_no_value_is_lost(values, log):
    assert sum(histogram({"kept": values}, log)["kept"]["counts"]) == len(values)


def test_an_empty_set_has_no_mean():
    found = histograms({"kept": [], "before": [line(3)]})
    assert found["instruction_words"]["kept"] == {
        "counts": [0] * (len(found["instruction_words"]["edges"]) - 1), "rows": 0, "mean": None, "median": None,
        "p95": None,
    }  # fmt: skip
    assert histograms({"kept": []}) == {}


def test_labels_are_counted_where_any_was_had():
    lines = [line(0, difficulty="easy"), line(1), line(2, difficulty="hard"), line(3, difficulty="hard")]
    found = labels({"kept": lines})
    assert found["difficulty"] == {"kept": {"hard": 2, "": 1, "easy": 1}}
    assert found["turns"] == {"kept": {"1": 4}}
    assert "safety" not in found


def test_one_agent_that_dominates_is_seen():
    lines = [line(n, agent="a1" if n < 9 else f"a{n}") for n in range(12)] + [line(99)]
    found = balance(lines, "agent")
    assert (found["number"], found["without"], found["top"][0]) == (4, 1, ["a1", 9])
    assert found["largest"] == 0.75
    assert found["gini"] == 0.5
    assert balance([], "agent") == {"number": 0, "gini": None, "largest": None, "top": [], "without": 0}
