"""The modulator: one LLM-driven server per group that decides who gets to know what (paper section 3.2, table 17)."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np

from matrix.engines.embedder import Embedder, Vectors
from matrix.prompting import Asker, Decoding, Unparsable, fields_schema
from matrix.provenance import derive_seed
from matrix.simulation.agent import Life


class Communication(StrEnum):
    """Who is told of an action (paper table 8).

    `structured`: whom the modulator names. `random`: as many, drawn at random, so that an ablation compares structure
    and not volume. `none`: nobody, and the modulator is not asked.
    """

    structured = "structured"
    random = "random"
    none = "none"


@dataclass
class Modulator:
    """Knows its group's members and remembers its scenarios."""

    group: int
    members: list[Life]
    centre: Vectors
    """Mean profile embedding of the group, shape (dimension,)."""
    memory: list[str] = field(default_factory=list)
    """Scenario summaries, oldest first."""
    memory_vectors: list[Vectors] = field(default_factory=list)

    def description(self) -> str:
        """The group as other modulators see it: its people and its last scenario."""
        people = ", ".join(member.name for member in self.members)
        return f"{people}. {self.memory[-1]}" if self.memory else people

    def remember(self, summary: str, embedder: Embedder) -> None:
        """Keep a closed scenario."""
        self.memory.append(summary)
        self.memory_vectors.append(embedder.embed([summary])[0])

    def similarity(self, vector: Vectors) -> float:
        """Cosine of `vector` with the most similar memory of the group, or with its people before there is one."""
        return max(float(vector @ known) for known in (self.memory_vectors or [self.centre]))

    async def route(
        self, asker: Asker, action_id: str, actor: Life, text: str, seed: int, decoding: Decoding
    ) -> tuple[list[Life], str, bool]:
        """Members that can be aware of an action, the reason, and whether the answer could be parsed.

        Fallback when two answers cannot be parsed: all other members, who share the group because they are alike.
        """
        others = [member for member in self.members if member is not actor]
        if not others:
            return [], "", True
        answer = await asker.ask(
            "route", action_id, derive_seed(seed, "route"), decoding, lambda t: parse_indices(t, len(others)),
            indices_schema(len(others)),
            members=[f"{member.name}. {member.description}" for member in others], action=text,
        )  # fmt: skip
        if answer is None:
            return others, "", False
        indices, reason = answer
        return [others[i] for i in indices], reason, True

    async def share(
        self, asker: Asker, action_id: str, text: str, others: list[Modulator], seed: int, decoding: Decoding
    ) -> tuple[list[Modulator], bool]:
        """Groups among `others` that should hear of an action; none when two answers cannot be parsed."""
        if not others:
            return [], True
        answer = await asker.ask(
            "share", action_id, derive_seed(seed, "share"), decoding, lambda t: parse_indices(t, len(others)),
            indices_schema(len(others)),
            groups=[other.description() for other in others], action=text,
        )  # fmt: skip
        return ([], False) if answer is None else ([others[i] for i in answer[0]], True)


def shortlist(modulators: list[Modulator], own: int, vector: Vectors, limit: int) -> list[Modulator]:
    """The `limit` other groups whose memories are most similar to an action: all of them would not fit a context."""
    others = [m for m in modulators if m.group != own]
    order = np.argsort([-m.similarity(vector) for m in others], kind="stable")
    return [others[i] for i in order[:limit]]


def at_random(chosen: int, population: list[int], seed: int) -> list[int]:
    """As many members of the population as were chosen, drawn at random."""
    return sorted(random.Random(seed).sample(population, min(chosen, len(population))))


def indices_schema(count: int) -> dict[str, Any]:
    """JSON schema of a modulator's answer: which of `count` entries, and why (paper table 17)."""
    indices = {"type": "array", "items": {"type": "integer", "enum": list(range(count))}, "maxItems": count}
    return fields_schema(indices=indices, reason={"type": "string"})


def parse_indices(text: str, count: int) -> tuple[list[int], str]:
    """Indices and reason, from JSON or from the paper's own form `[0, 1, 2], reason: xxx`; others are not taken.

    Raises:
        Unparsable: there is no bracketed list, or it names only entries that do not exist.
    """
    found = re.search(r"\[([^\[\]]*)(?:\]|$)", text)  # the length limit may have cut the bracket off
    if not found or re.search(r"[^\d\s,;.and\"']|\d{5}", found[1]):
        raise Unparsable("expected a list of numbers in square brackets")
    named = [int(number) for number in re.findall(r"\d+", found[1])]
    indices = sorted({i for i in named if i < count})
    if named and not indices:
        raise Unparsable(f"expected numbers below {count}, got {named}")
    reason = re.sub(r"^\W*(?:reason)?\W*", "", text[found.end() :], flags=re.IGNORECASE)
    return indices, reason.strip("\n }").split("\n")[0].strip(' "}')
