"""The modulator: one LLM-driven server per group that decides who gets to know what (paper section 3.2, table 17)."""

from __future__ import annotations

import asyncio
import random
import re
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import Any

import numpy as np

from matrix.engines.base import Priority
from matrix.engines.embedder import Vectors
from matrix.prompting import Asker, Decoding, Unparsable, fields_schema
from matrix.provenance import derive_seed
from matrix.simulation.agent import Life

CIRCLE = 20
"""Most members that a prompt names where it only says who belongs together."""
COSINES = 2**24
"""Similarities of groups that are held at once."""


class Communication(StrEnum):
    """Who is told of an action (paper table 8).

    `structured`: whom the modulator names. `random`: as many agents, drawn from the whole society, so that an ablation
    compares structure and not volume. `none`: nobody, and the modulator is not asked.
    """

    structured = "structured"
    random = "random"
    none = "none"


@dataclass(slots=True)
class Modulator:
    """Knows its group's members and remembers its scenarios."""

    group: int
    members: list[Life]
    reach: Sequence[int]
    """Groups that it knows of, in order: those that it may tell of an action."""
    profiles: Vectors | None = None
    """Profile embeddings of the members, shape (members, dimension), of a group too large for one list."""
    scenarios: int = 0
    """Scenarios that the group has had."""
    memory: dict[int, str] = field(default_factory=dict)
    """Round -> summary of the group's last scenario then, for the rounds that other groups still ask about."""
    summed: asyncio.Task[str] | None = None
    """Becomes the summary of the last scenario; the next one waits for it before it is remembered."""
    people: str = field(init=False)
    """The members by name, as far as a prompt needs them; many prompts name the group."""

    def __post_init__(self) -> None:
        self.people = ", ".join(member.name for member in self.members[:CIRCLE])

    @property
    def circle(self) -> str:
        """The members by name where there are others to know of."""
        return "; ".join(member.name for member in self.members[:CIRCLE]) if len(self.members) > 1 else ""

    def description(self, round_: int) -> str:
        """The group as other modulators see it: its people and its last scenario up to `round_`."""
        summary = self.memory.get(round_)
        return f"{self.people}. {summary}" if summary else self.people

    async def route(
        self, asker: Asker, action_id: str, actor: Life, text: str, members: list[Life], seed: int, decoding: Decoding,
        priority: Priority = (),
    ) -> tuple[list[Life], str, bool]:  # fmt: skip
        """Those of `members` that can be aware of an action, the reason, and whether the answer could be parsed.

        The actor is listed too, so that all prompts of a group begin alike. Fallback when two answers cannot be parsed:
        all other members, who share the group because they are alike.
        """
        if len(members) == 1:
            return [], "", True
        answer = await asker.ask(
            "route", action_id, derive_seed(seed, "route"), decoding, lambda t: parse_indices(t, len(members)),
            indices_schema(len(members)), priority,
            members=[f"{member.name}. {member.description}" for member in members], actor=actor.name, action=text,
        )  # fmt: skip
        indices, reason = answer or (range(len(members)), "")
        return [m for i in indices if (m := members[i]) is not actor], reason, answer is not None

    def nearest(self, vector: Vectors, limit: int) -> list[Life]:
        """The `limit` members whose profiles are most similar to an action, in order of number."""
        assert self.profiles is not None
        return [self.members[i] for i in _nearest(self.profiles, vector, limit)]

    async def share(
        self, asker: Asker, action_id: str, text: str, others: list[Modulator], round_: int, seed: int,
        decoding: Decoding, priority: Priority = (),
    ) -> tuple[list[int], str, bool]:  # fmt: skip
        """Groups among `others` that should hear of an action by what they had done up to `round_`, reason, parsed.

        Fallback when two answers cannot be parsed: none.
        """
        answer = await asker.ask(
            "share", action_id, derive_seed(seed, "share"), decoding, lambda t: parse_indices(t, len(others)),
            indices_schema(len(others)), priority, groups=[other.description(round_) for other in others], action=text,
        )  # fmt: skip
        indices, reason = answer or ([], "")
        return [others[i].group for i in indices], reason, answer is not None


class Memories:
    """What all groups have been doing, as one unit vector a group and round: what an action is compared with."""

    def __init__(self, centres: Vectors) -> None:
        """`centres`: mean profile embedding of every group, shape (groups, dimension); its memory before round 0."""
        self._rounds = {-1: _unit(centres)}
        self._shape = centres.shape

    def remember(self, group: int, round_: int, summary: Vectors | None) -> None:
        """Blend a closed scenario's embedding with what was before; without one the group remembers what it did."""
        before = self._rounds[round_ - 1][group]
        if round_ not in self._rounds:
            self._rounds[round_] = np.empty(self._shape, np.float32)
        self._rounds[round_][group] = before if summary is None else _unit(before + summary)

    def nearest(self, groups: Sequence[int], round_: int, vector: Vectors, limit: int) -> list[int]:
        """The `limit` of `groups` whose memories up to `round_` are most similar to an action, in order of number.

        All of them would not fit a context.
        """
        if len(groups) > limit:
            groups = [groups[i] for i in _nearest(self._rounds[max(round_, -1)][groups], vector, limit)]
        return list(groups)

    def forget(self, round_: int) -> None:
        """Nobody asks about `round_` any more."""
        self._rounds.pop(round_, None)


def reach(centres: Vectors, limit: int) -> list[Sequence[int]]:
    """For every group the `limit` others with the most similar people, in order of number; 0: all others."""
    total = len(centres)
    if not limit or limit >= total - 1:
        return [[*range(group), *range(group + 1, total)] for group in range(total)]
    centres, near = _unit(centres), list[Sequence[int]]()
    chunk = max(1, min(1024, COSINES // total))
    for start in range(0, total, chunk):
        cosines = (centres[start : start + chunk] @ centres.T).round(4)
        for row, group in enumerate(range(start, min(start + chunk, total))):
            cosines[row, group] = -2
            near.append(array("i", sorted(np.argpartition(-cosines[row], limit)[:limit])))
    return near


def _nearest(vectors: Vectors, vector: Vectors, limit: int) -> list[int]:
    """Rows with the highest cosines, in order of number; rounded, so that the last digits decide nothing."""
    order = (-(vectors @ vector).round(4)).argsort(kind="stable")
    return sorted(order[:limit].tolist())


def drawn(seed: int, population: Sequence[int], most: int) -> list[int]:
    """`most` different members of the population in random order; fewer where it is smaller."""
    return random.Random(seed).sample(population, min(most, len(population)))


def _unit(vectors: Vectors) -> Vectors:
    unit: Vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
    return unit


BRACKETS = re.compile(r"\[([^\[\]]*)(?:\]|$)")
"""The length limit may have cut the second off."""
STRANGE = re.compile(r"[^\d\s,;.and\"']|\d{5}")
NUMBER = re.compile(r"\d+")
LABEL = re.compile(r"^\W*(?:reason)?\W*", re.IGNORECASE)


@lru_cache
def indices_schema(count: int) -> dict[str, Any]:
    """JSON schema of a modulator's answer: which of `count` entries, and why (paper table 17)."""
    indices = {"type": "array", "items": {"type": "integer", "enum": list(range(count))}, "maxItems": count}
    return fields_schema(indices=indices, reason={"type": "string"})


def parse_indices(text: str, count: int) -> tuple[list[int], str]:
    """Indices and reason, from JSON or from the paper's own form `[0, 1, 2], reason: xxx`; others are not taken.

    Raises:
        Unparsable: there is no bracketed list, or it names only entries that do not exist.
    """
    found = BRACKETS.search(text)
    if not found or STRANGE.search(found[1]):
        raise Unparsable("expected a list of numbers in square brackets")
    named = [int(number) for number in NUMBER.findall(found[1])]
    indices = sorted({i for i in named if i < count})
    if named and not indices:
        raise Unparsable(f"expected numbers below {count}, got {named}")
    reason = LABEL.sub("", text[found.end() :], count=1)
    return indices, reason.strip("\n }").split("\n")[0].strip(' "}')
