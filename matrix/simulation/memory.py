"""What one agent remembers: append-only, seeded with the past posts, read out by score under a token budget.

Retrieval follows Generative Agents (Park et al. 2023, section 4.1): recency, relevance and importance, each in 0..1,
weighted and added. The paper names memory as what agents react from and leaves the rest open.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Self

import numpy as np

from matrix.engines.embedder import Vectors


class Kind(StrEnum):
    """What an entry is."""

    post = "post"
    deed = "deed"
    news = "news"
    digest = "digest"
    """A summary of older entries."""


POST = (Kind.post, -1)
"""What a past post is: one for a million agents."""


@dataclass(kw_only=True)
class MemoryConfig:
    """How much is recalled for a prompt, by what order, and when old entries are summed up."""

    entries: int = 6
    """Most memories in a prompt (paper: not stated)."""
    tokens: int = 400
    """Most tokens of memories in a prompt (paper: not stated)."""
    recency: float = 1.0
    """Weight of decay ** (rounds since the entry was made)."""
    relevance: float = 1.0
    """Weight of the cosine with what the agent is about to do or to answer; 0: memories are not embedded."""
    importance: float = 1.0
    """Weight of the importance of the entry's kind."""
    decay: float = 0.9
    """Recency that is left after a round."""
    kinds: dict[str, float] = field(default_factory=lambda: {"post": 0.2, "deed": 0.5, "news": 0.5, "digest": 1.0})
    """Importance by kind of entry, 0..1. A rating by the LLM would cost a call for every entry."""
    digest_after: int = 60
    """Live entries beyond which the older half of them is summed up by one call (0: never)."""

    def __post_init__(self) -> None:
        weights = (self.recency, self.relevance, self.importance)
        if min(self.entries, self.tokens, self.digest_after, *weights) < 0 or not 0 < self.decay <= 1:
            raise ValueError(
                f"memory: entries, tokens, digest_after and weights must not be negative and 0 < decay <= 1, not {self}"
            )
        if wrong := set(self.kinds) ^ set(Kind):
            raise ValueError(f"memory.kinds: {', '.join(sorted(wrong))}; needed are exactly {', '.join(Kind)}")
        if wrong_values := {kind: value for kind, value in self.kinds.items() if not 0 <= value <= 1}:
            raise ValueError(f"memory.kinds: importance is 0 to 1, not {wrong_values}")
        if self.digest_after == 1:
            raise ValueError("memory.digest_after=1 leaves nothing to sum up; take 0 (never) or at least 2")


@dataclass(slots=True)
class Memory:
    """Entries of one agent, oldest first; those before `digested` live on in a digest and are recalled no more."""

    entries: list[str] = field(default_factory=list)
    made: list[tuple[Kind, int]] = field(default_factory=list)
    """What each entry is, and the round in which it was made; -1 before the first."""
    digested: int = 0

    @classmethod
    def of(cls, posts: list[str]) -> Self:
        """A memory of past posts alone."""
        return cls(list(posts), [POST] * len(posts))

    def of_kind(self, wanted: Kind) -> list[str]:
        """The entries of one kind."""
        return [entry for entry, (kind, _) in zip(self.entries, self.made, strict=True) if kind is wanted]

    def add(self, entry: str, kind: Kind, round_: int) -> None:
        """Remember one more thing."""
        self.entries.append(entry)
        self.made.append((kind, round_))

    def live(self) -> list[str]:
        """The entries that can be recalled."""
        return self.entries[self.digested :]

    def recall(
        self,
        config: MemoryConfig,
        round_: int,
        count_tokens: Callable[[str], int],
        query: Vectors | None = None,
        vectors: Sequence[Vectors] = (),
    ) -> list[str]:
        """The entries with the highest scores, oldest first: at most `entries`, never more than `tokens` in all.

        Args:
            config: weights and limits.
            round_: now.
            count_tokens: length of a text.
            query: unit vector of what the agent is about to do, shape (dimension,); None: relevance counts nothing.
            vectors: unit vectors of the `live` entries, in their order.
        """
        live = range(self.digested, len(self.entries))
        made = self.made[self.digested :]
        worth = {
            (kind, then): config.recency * config.decay ** (round_ - then) + config.importance * config.kinds[kind]
            for kind, then in set(made)
        }
        scores = [worth[kind_and_round] for kind_and_round in made]
        if query is not None and live:
            # Rounded, so that the last digit of a dot product decides no order.
            relevance = (np.asarray(vectors) @ query).round(4).tolist()
            scores = [score + config.relevance * r for score, r in zip(scores, relevance, strict=True)]
        chosen: list[int] = []
        budget = config.tokens
        for _, i in sorted(zip(scores, live, strict=True), reverse=True)[: config.entries]:
            cost = count_tokens(self.entries[i])
            if cost <= budget:
                budget -= cost
                chosen.append(i)
        return [self.entries[i] for i in sorted(chosen)]

    def to_digest(self, after: int) -> list[str]:
        """The older half of the live entries, once there are more than `after`; else nothing."""
        live = self.live()
        return live[: len(live) // 2] if after and len(live) > after else []

    def digest(self, summary: str, count: int, round_: int) -> None:
        """Keep `summary` in the place of the `count` oldest live entries."""
        self.digested += count
        self.add(summary, Kind.digest, round_)
