"""Plots: one element each, deterministic, safe with any label and any amount."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from matrix.report import plots
from matrix.report.leaderboard import COLUMNS, Entry

LABELS = ["plain", "<b>&\"'", "$\\frac{$", "日本 😀", "x" * 200, ""]


def drawn(svg: str) -> ElementTree.Element:
    assert svg.startswith("<svg ")
    return ElementTree.fromstring(svg)


@pytest.mark.parametrize("label", LABELS)
def test_any_label_can_be_drawn(label: str):
    entry = Entry(52.0, low=45.0, high=60.0)
    drawn(plots.scores(COLUMNS[0], [(label, entry, [])], (label, 50.0)))
    drawn(plots.funnel("f", "Rows", [(label, 10, 8, {label: 2})]))


def test_same_values_same_bytes():
    steps = [("length", 10, 8, {"too_short": 2})]
    assert plots.funnel("f", "Rows", steps) == plots.funnel("f", "Rows", steps)


def test_a_funnel_without_filters_or_rows_can_be_drawn():
    drawn(plots.funnel("f", "Rows", []))
    drawn(plots.funnel("f", "Rows", [("length", 0, 0, {})]))


def test_similarity_can_be_drawn_for_one_agent_and_for_many():
    for groups in ([7], [0, 0, 3], [i // 4 for i in range(100)]):
        matrix = [
            [1.0 if i == j else 0.8 if a == b else 0.1 for j, b in enumerate(groups)] for i, a in enumerate(groups)
        ]
        svg = plots.similarity("s", groups, matrix)
        drawn(svg)
        assert f"{len(groups)} agents in {len(set(groups))} groups" in svg
        assert len(svg) < 60_000
        assert svg == plots.similarity("s", groups, matrix)


def test_agents_of_one_group_are_boxed_where_there_are_several():
    one = plots.similarity("s", [0, 1, 2], [[1, 0.2, 0.1], [0.2, 1, 0.3], [0.1, 0.3, 1]])
    two = plots.similarity("s", [0, 0, 2], [[1, 0.2, 0.1], [0.2, 1, 0.3], [0.1, 0.3, 1]])
    assert plots.PALETTE[1] in two
    assert plots.PALETTE[1] not in one
