"""Plots of data: one element each, deterministic, safe with any label and any amount."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from matrix.analysis.distributions import histogram
from matrix.report import figures

LABELS = ["plain", "_hidden", "<b>&\"'", "$\\frac{$", "日本 😀", "x" * 200, ""]


def drawn(svg: str) -> ElementTree.Element:
    assert svg.startswith("<svg ")
    return ElementTree.fromstring(svg)


@pytest.mark.parametrize("label", LABELS)
def test_any_label_can_be_drawn(label: str):
    drawn(figures.shares("s", label, [(label, 0.5, None), ("b", 0.5, 0.1)]))
    drawn(figures.requests("r", "Asked", [{"verb": label, "rows": 3, "objects": [[label, 2]]}]))
    drawn(figures.points("p", "Map", [0.0, 1.0], [1.0, 0.0], [label, "kept"], faint="kept"))
    drawn(figures.histogram("h", label, label, histogram({"kept": [1, 2, 3], "before": [1, 2, 3, 4]}, log=True)))


@pytest.mark.parametrize("values", [[0.0], [5.0], [0, 0, 12_000], [-1.5, 2.5], []])
@pytest.mark.parametrize("log", [True, False])
def test_any_values_can_be_drawn(values: list[float], log: bool):
    drawn(figures.histogram("h", "Words", "words", histogram({"kept": values, "before": [1.0, 2.0]}, log)))


def test_nothing_can_be_drawn():
    drawn(figures.shares("s", "None", []))
    drawn(figures.shares("s", "None", [("a", 0.0, 0.0)]))
    drawn(figures.requests("r", "None", []))
    drawn(figures.points("p", "None", [], [], [], faint=""))


def test_every_point_is_drawn_and_the_rest_of_the_labels_share_a_colour():
    labels = [f"label {i % 15}" for i in range(300)]
    svg = figures.points("p", "Map", [i / 300 for i in range(300)], [i % 7 for i in range(300)], labels, faint="kept")
    places = {part for part in svg.split('d="') if "stroke-linecap: round" in part}
    assert sum(part.split('"')[0].count("M ") for part in places) >= 300
    assert "further labels (100)" in svg
    assert svg == figures.points(
        "p", "Map", [i / 300 for i in range(300)], [i % 7 for i in range(300)], labels, faint="kept"
    )
    assert len(svg) < 60_000
