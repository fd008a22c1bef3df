"""Curves of training: read from its tables, drawn whatever they hold, and images of several beside each other."""

from __future__ import annotations

import math
from pathlib import Path
from xml.etree import ElementTree

import pytest

from matrix.report import curves
from matrix.report.course import Course, CurveError, read_course

PAIRS = ("rewards_chosen", "rewards_rejected", "accuracy", "margin", "logps_chosen", "logps_rejected",
         "drift_chosen", "length_chosen", "length_rejected")  # fmt: skip
RATES = ("learning_rate", "gradient_norm")


def course(losses: list[float], **columns: list[float]) -> Course:
    table = {"step": [float(i) for i in range(1, len(losses) + 1)], "loss": losses, **columns}
    return Course(table | {name: losses for name in (*PAIRS, *RATES) if name not in columns})


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def test_tables_are_read(tmp_path: Path):
    (tmp_path / "metrics.csv").write_text("step,loss,skipped\n1,2.5,0\n2,nan,1\n3,1.5,1\n4,x,1\n")
    (tmp_path / "held_out.csv").write_text("step,loss\n2,2.25\n4,1.75\n")
    read = read_course(tmp_path / "metrics.csv", tmp_path / "held_out.csv")
    assert read.steps == [1, 2, 3, 4]
    assert [value for value in read.train["loss"] if math.isfinite(value)] == [2.5, 1.5]
    assert read.lowest() == (4, 1.75)
    assert read.skipped == [2]


def test_a_resumed_process_counts_what_it_skips_from_zero():
    assert course([1.0] * 6, skipped=[0, 1, 1, 0, 1, 2]).skipped == [2, 5, 6]
    assert course([1.0] * 3).skipped == []


def test_a_table_without_losses_is_refused(tmp_path: Path):
    (tmp_path / "metrics.csv").write_text("step,margin\n1,2\n")
    with pytest.raises(CurveError, match=r"has no columns step and loss; it has: step, margin"):
        read_course(tmp_path / "metrics.csv")
    (tmp_path / "metrics.csv").write_text("")
    with pytest.raises(CurveError, match="it has: none"):
        read_course(tmp_path / "metrics.csv")


@pytest.mark.parametrize(
    "values",
    [[], [1.0], [math.nan], [2.0, math.nan, 1.0], [0.0] * 40, [5.0 - i / 20 for i in range(60)], [1e-9, 1e9] * 30],
)
def test_any_values_can_be_drawn(values: list[float]):
    run = course(values)
    for svg in (curves.course("c", run, math.log(2)), curves.preferences("p", run), curves.likelihoods("l", run)):
        ElementTree.fromstring(svg)
    ElementTree.fromstring(curves.losses("l", "Loss", {"a": run, "b": run}))


@pytest.mark.parametrize("label", ["_hidden", "<b>&\"'", "$\\frac{$", "日本 😀", "x" * 200, ""])
def test_any_label_can_be_drawn(label: str):
    ElementTree.fromstring(curves.losses("l", "Loss", {label: course([2.0, 1.0]), label + "2": course([1.0])}))


def test_a_spike_is_named_and_does_not_press_the_curve_flat():
    told = texts(curves.course("c", course([*[2.0 - i / 100 for i in range(100)], 50.0, 1.0])))
    assert "up to 50 at step 101" in told
    assert {"1.2", "1.6", "2.0"} <= set(told)
    assert not [
        text for text in texts(curves.course("c", course([2.0 - i / 100 for i in range(100)]))) if "up to" in text
    ]


def test_steps_that_were_left_out_are_marked():
    assert "left out (1)" in texts(curves.course("c", course([1.0] * 3, skipped=[0, 1, 1])))
    assert not [text for text in texts(curves.course("c", course([1.0] * 3))) if "left out" in text]


def test_without_a_reference_the_log_probabilities_are_shown():
    run = course([2.0, 1.0])
    assert "Drift of chosen answers, nats" in texts(curves.likelihoods("l", run))
    del run.train["drift_chosen"]
    assert "Log-probability, nats" in texts(curves.likelihoods("l", run))


def test_a_long_training_stays_small_and_the_same():
    run = course([2 + math.sin(i) for i in range(30_000)])
    svg = curves.course("c", run)
    assert len(svg) < 100_000
    assert svg == curves.course("c", run)


def test_an_image_of_several_trainings(tmp_path: Path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.csv").write_text("step,loss\n1,2.5\n2,1.5\n")
    (tmp_path / "a" / "held_out.csv").write_text("step,loss\n2,1.75\n")
    folders = {"with held-out rows": tmp_path / "a", "_without": tmp_path / "b"}
    out = curves.training_curves(folders, tmp_path / "made" / "curves.png")
    assert out.read_bytes().startswith(b"\x89PNG")
    told = texts(curves.training_curves(folders, tmp_path / "curves.svg").read_text())
    assert {"with held-out rows", "without", "held out", "loss", "optimizer step"} <= set(told)


def test_an_image_of_nothing_says_what_to_name(tmp_path: Path):
    with pytest.raises(CurveError, match="has no metrics.csv. Name a training result"):
        curves.training_curves({"a": tmp_path}, tmp_path / "curves.png")
