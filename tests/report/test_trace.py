"""Tracing a scenario: the rule that chooses it, causes, echoes."""

from __future__ import annotations

from matrix.records import Action, Agent, Origin, Scenario
from matrix.report import exchange, trace

ORIGIN = Origin(stage="simulate-0")
AGENTS = {
    name: Agent(
        id=name, name=role, description="", posts=[], personality="", goal="", plan=["Read.", "Bake."], group=group,
        profile=f"p-{name}", origin=ORIGIN,
    )
    for name, role, group in [("a", "Baker", 0), ("b", "Nurse", 0), ("c", "Coach", 1)]
}  # fmt: skip


def action(scenario: str, step: int, agent: str, text: str, **more: object) -> Action:
    group = AGENTS[agent].group if agent in AGENTS else 9
    return Action(
        id=f"{scenario}-t{step}", agent=agent, group=group, scenario=scenario, step=step, text=text,
        origin=ORIGIN, **more,
    )  # fmt: skip


ACTIONS = [
    action("g0-s0", 0, "a", "bakes.", plan_step=1, aware=["b"], shared=[1]),
    action("g1-s0", 0, "c", "runs.", plan_step=0, shared=[0]),
    action("g0-s1", 0, "b", "tastes bread.", observations=["Baker: bakes."], aware=["a"]),
    action("g0-s1", 1, "a", "is glad.", observations=["Nurse: tastes bread.", "Coach: runs.", "Ghost: ?"], shared=[1]),
    action("g1-s1", 0, "c", "eats.", observations=["Baker: bakes.", "Baker: is glad."]),
    action("g0-s2", 0, "a", "bakes.", plan_step=9),
]


def scenarios() -> list[Scenario]:
    ids = dict.fromkeys(a.scenario for a in ACTIONS)
    people = {name: sorted({a.agent for a in ACTIONS if a.scenario == name}) for name in ids}
    return [
        Scenario(
            id=name, group=int(name[1]), index=int(name[-1]), agents=people[name],
            actions=[a.id for a in ACTIONS if a.scenario == name], summary="s", origin=ORIGIN,
        )
        for name in ids
    ]  # fmt: skip


def traced(scenario: str) -> trace.Trace:
    chosen = next(s for s in scenarios() if s.id == scenario)
    own = [a for a in ACTIONS if a.scenario == scenario]
    return trace.follow(chosen, AGENTS, own, iter(ACTIONS), exchange.count(ACTIONS))


def chosen(fertile: set[str]) -> str:
    scenario = trace.choose(scenarios(), exchange.count(ACTIONS), fertile)
    assert scenario
    return scenario.id


def test_the_scenario_with_most_exchange_is_chosen_among_those_with_rows():
    assert chosen(set()) == "g0-s1"
    assert chosen({"g0-s0", "g1-s0"}) == "g0-s0"
    assert chosen({"elsewhere"}) == "g0-s1"
    assert trace.choose([], exchange.count([]), set()) is None


def test_actions_have_the_plan_step_or_the_news_that_caused_them():
    first, second = traced("g0-s1").steps
    assert [item.source.id for item in first.news if item.source] == ["g0-s0-t0"]
    assert [item.source.id if item.source else None for item in second.news] == ["g0-s1-t0", "g1-s0-t0", None]
    assert first.told == ["Baker"]
    assert traced("g0-s0").steps[0].cause == "Bake."
    assert traced("g0-s2").steps[0].cause == ""


def test_later_actions_that_heard_of_one_are_its_echoes():
    assert [echo.id for echo in traced("g0-s0").steps[0].echoes] == ["g0-s1-t0", "g1-s1-t0"]
    assert [echo.id for echo in traced("g0-s1").steps[1].echoes] == ["g1-s1-t0"]
    assert traced("g0-s2").steps[0].echoes == []


def test_what_came_in_and_what_went_out_is_counted():
    found = traced("g0-s1")
    assert (found.received, found.passed_on) == (4, 2)
    assert [agent.name for agent in found.people] == ["Baker", "Nurse"]
