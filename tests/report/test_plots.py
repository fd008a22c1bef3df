"""Plots: one element each, deterministic, safe with any label and any amount."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from matrix.records import Action, Agent, Origin
from matrix.report import plots
from matrix.report.leaderboard import COLUMNS, Entry

ORIGIN = Origin(stage="simulate-0")
LABELS = ["plain", "<b>&\"'", "$\\frac{$", "日本 😀", "x" * 200, ""]


def agent(name: str, group: int, position: list[float]) -> Agent:
    return Agent(
        id=name, name=name, description="", posts=[], personality="", goal="", plan=[], group=group, profile="",
        position=position, origin=ORIGIN,
    )  # fmt: skip


def action(actor: str, group: int, aware: list[str], shared: list[int]) -> Action:
    return Action(
        id=f"{actor}-t", agent=actor, group=group, scenario="s", step=0, text="", aware=aware, shared=shared,
        origin=ORIGIN,
    )  # fmt: skip


def drawn(svg: str) -> ElementTree.Element:
    assert svg.startswith("<svg ")
    return ElementTree.fromstring(svg)


@pytest.mark.parametrize("label", LABELS)
def test_any_label_can_be_drawn(label: str):
    entry = Entry(52.0, low=45.0, high=60.0)
    drawn(plots.scores(COLUMNS[0], [(label, entry, [])], (label, 50.0)))
    drawn(plots.losses("l", "Loss", {label: ([(0, 2.0), (1, 1.0)], [(1, 1.5)]), label + "2": ([(0, 1.0)], [])}, 0.69))
    drawn(plots.funnel("f", "Rows", [(label, 10, 8, {label: 2})]))


def test_same_values_same_bytes():
    steps = [("length", 10, 8, {"too_short": 2})]
    assert plots.funnel("f", "Rows", steps) == plots.funnel("f", "Rows", steps)


def test_a_funnel_without_filters_or_rows_can_be_drawn():
    drawn(plots.funnel("f", "Rows", []))
    drawn(plots.funnel("f", "Rows", [("length", 0, 0, {})]))


def test_a_society_draws_agents_with_a_position_and_both_kinds_of_messages():
    agents = [agent("a", 0, [0, 0]), agent("b", 0, [1, 0]), agent("c", 1, [5, 5]), agent("nowhere", 1, [])]
    svg = plots.society("s", agents, [action("a", 0, ["b", "nowhere", "ghost"], [1, 7])])
    drawn(svg)
    assert "3 agents in 2 groups" in svg
    assert svg.count("stroke-dasharray") >= 1
    drawn(plots.society("s", [], []))


def test_lines_of_a_large_society_are_capped():
    names = [f"a{i:03}" for i in range(80)]
    agents = [agent(name, 0, [i % 9, i // 9]) for i, name in enumerate(names)]
    svg = plots.society("s", agents, [action(name, 0, names, []) for name in names])
    assert svg.count("<path") < plots.MOST_LINES + 400
