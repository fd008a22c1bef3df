"""What passes between the agents of a society, counted in one pass over its actions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from matrix.records import Action


@dataclass
class Exchange:
    """Counted actions and messages."""

    actions: int = 0
    reactions: int = 0
    told: int = 0
    """Messages to members of the own group."""
    shared: int = 0
    """Messages to other groups."""
    within: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Two agents -> messages, whoever spoke."""
    between: Counter[tuple[int, int]] = field(default_factory=Counter)
    """(Group that an action was passed on from, group that it was passed on to) -> messages."""
    received: Counter[str] = field(default_factory=Counter)
    """Scenario -> messages that its agents reacted to."""
    passed_on: Counter[str] = field(default_factory=Counter)
    """Scenario -> messages that its actions caused."""


def count(actions: Iterable[Action]) -> Exchange:
    """Count the messages that `actions`, read once, received and caused."""
    c = Exchange()
    for action in actions:
        c.actions += 1
        c.reactions += bool(action.observations)
        c.told += len(action.aware)
        c.shared += len(action.shared)
        c.received[action.scenario] += len(action.observations)
        c.passed_on[action.scenario] += len(action.aware) + len(action.shared)
        for other in action.aware:
            if other != action.agent:
                c.within[min(action.agent, other), max(action.agent, other)] += 1
        for group in action.shared:
            c.between[action.group, group] += 1
    return c
