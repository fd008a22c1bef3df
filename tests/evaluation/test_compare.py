"""Two evaluations compared question by question."""

import json

import numpy as np
import pytest

from matrix.evaluation.compare import CompareError, compare
from matrix.jsonl import write_jsonl
from matrix.records import Judgement


def result(path, model, preferences, judge="judge"):
    path.mkdir()
    rows = [
        Judgement(
            id=str(i),
            benchmark="alpaca_eval2",
            question=str(i),
            verdict="m",
            preference=None if p is None else float(p),
        )
        for i, p in enumerate(preferences)
    ]
    write_jsonl(path / "judgements.jsonl", rows)
    head = {"benchmark": "alpaca_eval2", "model": model, "reference": "base", "judge": judge}
    (path / "scores.json").write_text(json.dumps({"benchmarks": [head]}))
    return path


def test_small_steady_difference_is_found_by_pairing(tmp_path):
    """Both models vary far more between questions than they differ; only the pairing shows the difference."""
    base = np.random.default_rng(0).uniform(0.1, 0.9, 200)
    a, b = result(tmp_path / "a", "A", base + 0.02), result(tmp_path / "b", "B", base)
    found = compare(a, b, "alpaca_eval2", rounds=2000)
    assert found.difference == pytest.approx(2.0)
    assert found.interval == [pytest.approx(2.0), pytest.approx(2.0)]
    assert (found.p_value, found.wins, found.losses, found.questions) == (1 / 2000, 200, 0, 200)


def test_no_difference_is_not_found(tmp_path):
    rng = np.random.default_rng(1)
    a, b = (result(tmp_path / name, name, rng.random(100)) for name in "ab")
    found = compare(a, b, "alpaca_eval2", rounds=2000)
    assert found.interval[0] < 0 < found.interval[1]
    assert found.p_value > 0.05
    assert compare(a, b, "alpaca_eval2", rounds=2000) == found


def test_only_questions_judged_in_both_count(tmp_path):
    a = result(tmp_path / "a", "A", [1.0, None, 1.0])
    b = result(tmp_path / "b", "B", [0.0, 1.0, None])
    found = compare(a, b, "alpaca_eval2", rounds=50)
    assert (found.questions, found.left_out, found.difference) == (1, 2, 100.0)


def test_what_cannot_be_compared_is_refused(tmp_path):
    a = result(tmp_path / "a", "A", [1.0])
    with pytest.raises(CompareError, match="different judges"):
        compare(a, result(tmp_path / "b", "B", [1.0], judge="other"), "alpaca_eval2")
    with pytest.raises(CompareError, match="different questions"):
        compare(a, result(tmp_path / "c", "C", [1.0, 0.0]), "alpaca_eval2")
    with pytest.raises(CompareError, match=r"holds no arena_hard_v0.1, only alpaca_eval2"):
        compare(a, a, "arena_hard_v0.1")
    unjudged = result(tmp_path / "d", "D", [None])
    with pytest.raises(CompareError, match="no question"):
        compare(a, unjudged, "alpaca_eval2")
