"""One scenario from the profiles of its people to what grew out of it: every action, its cause, and where it was heard.

The scenario is chosen by rule: among those that training rows grew out of (among all, where none did), the one whose
agents both received and caused most messages.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from matrix.records import Action, Agent, Scenario
from matrix.report.exchange import Exchange


@dataclass(kw_only=True)
class News:
    """What an agent reacted to."""

    text: str
    source: Action | None
    """The action that it tells of; None where no earlier action has this text."""


@dataclass(kw_only=True)
class Traced:
    """One action of the traced scenario."""

    actor: Agent | None
    action: Action
    cause: str
    """The plan step that it worked on; empty for a reaction."""
    told: list[str]
    """Names of the agents of the group that came to know of it."""
    news: list[News] = field(default_factory=list)
    echoes: list[Action] = field(default_factory=list)
    """Later actions that reacted to it."""


@dataclass(kw_only=True)
class Trace:
    """A scenario and everything around it."""

    scenario: Scenario
    people: list[Agent]
    steps: list[Traced]
    names: dict[str, str]
    """Agent -> name."""
    received: int
    passed_on: int


def choose(scenarios: Collection[Scenario], exchange: Exchange, fertile: Collection[str]) -> Scenario | None:
    """The scenario with the most exchange: the lesser of messages received and caused decides, then their sum.

    Args:
        scenarios: of one society; None is returned where there are none.
        exchange: the counted messages.
        fertile: ids of scenarios that training rows grew out of; only these are considered, where there are any.
    """
    candidates = [s for s in scenarios if s.id in fertile] or scenarios

    def rank(scenario: Scenario) -> tuple[int, int, int, int]:
        received, caused = exchange.received[scenario.id], exchange.passed_on[scenario.id]
        return -min(received, caused), -(received + caused), scenario.index, scenario.group

    return min(candidates, key=rank, default=None)


def follow(
    scenario: Scenario,
    agents: Mapping[str, Agent],
    own: Iterable[Action],
    actions: Iterable[Action],
    exchange: Exchange,
) -> Trace:
    """Trace a scenario.

    Args:
        scenario: to be traced.
        agents: all agents of the society, by id.
        own: the scenario's actions.
        actions: all actions in the order in which they were closed; read once.
        exchange: the counted messages.
    """
    names = {name: agent.name for name, agent in agents.items()}
    steps = []
    for action in sorted(own, key=lambda a: a.step):
        actor = agents.get(action.agent)
        plan = actor.plan if actor else []
        cause = plan[action.plan_step] if 0 <= action.plan_step < len(plan) else ""
        told = [names.get(other, other) for other in action.aware]
        steps.append(Traced(actor=actor, action=action, cause=cause, told=told))
    _connect(steps, names, actions)
    return Trace(
        scenario=scenario,
        people=[agents[name] for name in scenario.agents if name in agents],
        steps=steps,
        names=names,
        received=exchange.received[scenario.id],
        passed_on=exchange.passed_on[scenario.id],
    )


def _connect(steps: list[Traced], names: Mapping[str, str], actions: Iterable[Action]) -> None:
    """Find the actions that the news of `steps` tell of, and those that reacted to `steps`.

    News has no id: it is `<name>: <text of the action>`, and the latest earlier action with that text is taken.
    """
    by_id = {step.action.id: step for step in steps}
    wanted = {text for step in steps for text in step.action.observations}
    latest: dict[str, Action] = {}
    said: dict[str, Traced] = {}
    for action in actions:
        for text in action.observations:
            if text in said:
                said[text].echoes.append(action)
        as_news = f"{names.get(action.agent, action.agent)}: {action.text}"
        if step := by_id.get(action.id):
            step.news = [News(text=text, source=latest.get(text)) for text in action.observations]
            said[as_news] = step
        if as_news in wanted:
            latest[as_news] = action
