"""The picture of a society: what is drawn, what is counted instead, and that it stays small."""

from __future__ import annotations

import math
import random
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import jinja2
import pytest

from matrix.records import Action, Agent, Origin
from matrix.report import exchange, society
from matrix.report.labels import telling, terms

ORIGIN = Origin(stage="simulate-0")
ROLES = ["Night Nurse", "Chess Coach", "Tax Adviser", "Ferry Captain", "Urban Gardener", "Sound Engineer"]


def agent(name: str, group: int, position: list[float], role: str = "Pharmacist") -> Agent:
    return Agent(
        id=name, name=role, description="", posts=[], personality="", goal="", plan=[], group=group, profile="",
        position=position, origin=ORIGIN,
    )  # fmt: skip


def action(actor: str, group: int, aware: list[str], shared: list[int], **more: object) -> Action:
    return Action(
        id=f"{actor}-t", agent=actor, group=group, scenario="s", step=0, text="", aware=aware, shared=shared,
        origin=ORIGIN, **more,
    )  # fmt: skip


def crowd(num_agents: int, num_groups: int) -> tuple[list[Agent], list[Action]]:
    """Agents around their groups' middles, and actions that are passed on to other groups."""
    rng = random.Random(3)
    middles = [(rng.gauss(0, 1), rng.gauss(0, 1)) for _ in range(num_groups)]
    agents = [
        agent(f"a{i}", g, [middles[g][0] + rng.gauss(0, 0.1), middles[g][1] + rng.gauss(0, 0.1)], ROLES[g % 6])
        for i in range(num_agents)
        for g in [i % num_groups]
    ]
    actions = [
        action(a.id, a.group, [], sorted({rng.randrange(num_groups) for _ in range(3)} - {a.group})) for a in agents
    ]
    return agents, actions


def svg_of(drawing: society.Drawing) -> str:
    loader = jinja2.FileSystemLoader(Path(society.__file__).parent)
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    svg = environment.get_template("society.svg.jinja").render(d=drawing)
    ElementTree.fromstring(svg)
    return svg


def test_agents_with_a_position_and_both_kinds_of_messages_are_drawn():
    agents = [agent("a", 0, [0, 0]), agent("b", 0, [1, 0]), agent("c", 1, [5, 5]), agent("nowhere", 1, [])]
    counted = exchange.count([action("a", 0, ["b", "nowhere", "ghost"], [1, 7])])
    drawing = society.draw(agents, counted, traced=0)
    assert drawing.title == "3 agents in 2 groups"
    assert (len(drawing.people), len(drawing.groups), len(drawing.told), len(drawing.flows)) == (3, 2, 1, 1)
    assert "group 0 to group 1: 1 message<" in svg_of(drawing)
    assert drawing.ring is not None
    svg_of(society.draw([], exchange.count([])))


@pytest.mark.parametrize(("num_agents", "num_groups"), [(1000, 200), (10_000, 2000), (15_000, 12)])
def test_a_large_society_stays_small_and_says_what_is_left_out(num_agents: int, num_groups: int):
    agents, actions = crowd(num_agents, num_groups)
    drawing = society.draw(agents, exchange.count(actions), traced=3)
    assert len(svg_of(drawing)) < 400_000
    assert len(drawing.flows) <= society.MOST_FLOWS + society.MOST_OWN_FLOWS
    said = " ".join(drawing.notes)
    assert ("3,000 agents" in said) == (num_agents == 15_000)
    assert ("1,750 groups with fewer messages" in said) == (num_groups == 2000)
    assert f"{len(drawing.flows)} of " in said


def test_same_society_same_picture():
    agents, actions = crowd(300, 60)
    assert svg_of(society.draw(agents, exchange.count(actions))) == svg_of(
        society.draw(agents, exchange.count(actions))
    )


def test_the_strongest_flows_are_drawn_and_those_of_the_traced_group():
    agents = [agent(f"a{g}", g, [math.cos(g), math.sin(g)]) for g in range(200)]
    busy = [action(f"a{g}", g, [], [(g + 1) % 150]) for g in range(150)] * 2
    drawing = society.draw(agents, exchange.count([*busy, action("a199", 199, [], [0])]), traced=199)
    assert "group 199 to group 0: 1 message" in {flow.said for flow in drawing.flows}
    assert len(drawing.flows) == society.MOST_FLOWS + 1


def test_labels_do_not_lie_over_each_other():
    agents, actions = crowd(1000, 200)
    labels = society.draw(agents, exchange.count(actions), traced=3).labels
    assert len(labels) == society.NEIGHBOURHOODS + 1
    assert not any(one.touches(other.x, other.y, other.half) for one, other in combinations(labels, 2))


def test_agents_in_one_spot_can_be_drawn():
    svg_of(society.draw([agent(f"a{i}", i, [0.5, 0.5]) for i in range(90)], exchange.count([])))


def test_names_are_escaped():
    drawing = society.draw([agent("a", 0, [0, 0], "<b>&Baker"), agent("b", 0, [1, 1])], exchange.count([]))
    assert "&lt;b&gt;&amp;Baker" in svg_of(drawing)


def test_words_that_set_a_neighbourhood_apart():
    names = {0: ["Night Nurse", "Senior Nurse 2", "Head of Sales"], 1: ["Head of Sales", "Head Cook"]}
    counts = {hood: exchange.Counter(t for name in found for t in terms(name)) for hood, found in names.items()}
    assert terms("Senior Night Nurse 2") == {"night", "nurse", "night nurse"}
    assert telling(counts[0], counts[0] + counts[1])[0] == "nurse,"
    assert telling(exchange.Counter(), counts[0]) == []


def test_messages_are_counted():
    news = action("a", 0, ["b"], [2, 1], observations=["x", "y"])
    counted = exchange.count([news, action("b", 0, ["a", "b"], [2])])
    assert (counted.actions, counted.reactions, counted.told, counted.shared) == (2, 1, 3, 3)
    assert counted.within == {("a", "b"): 2}
    assert counted.between == {(0, 1): 1, (0, 2): 2}
    assert (counted.received["s"], counted.passed_on["s"]) == (2, 6)
