"""What one agent remembers: append-only, seeded with the past posts, read out under a hard token budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Memory:
    """Entries of one agent, oldest first."""

    entries: list[str] = field(default_factory=list)

    def add(self, entry: str) -> None:
        """Remember one more thing."""
        self.entries.append(entry)

    def recall(self, limit: int, budget: int, count_tokens: Callable[[str], int]) -> list[str]:
        """The newest entries, oldest first: at most `limit`, and never more than `budget` tokens in all."""
        recalled: list[str] = []
        for entry in reversed(self.entries[-limit:] if limit else []):
            budget -= count_tokens(entry)
            if budget < 0:
                break
            recalled.append(entry)
        return recalled[::-1]
