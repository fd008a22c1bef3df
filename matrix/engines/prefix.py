"""How much of the prompts a prefix cache could serve: measured on what is sent, for engines that do not tell.

Like the caches of vLLM and OpenVINO it looks at whole blocks from the start of a prompt, and forgets the oldest.
"""

from __future__ import annotations

from matrix.records import Message

BLOCK = 64
"""Characters of a block; the engines' blocks have 16 tokens, about as much text."""
KEPT = 2**18
"""Blocks that are remembered: prompts of 17 million characters."""


class PrefixMeter:
    """Remembers prompts by their blocks."""

    def __init__(self) -> None:
        self._seen: dict[int, None] = {}

    def share(self, messages: list[Message]) -> float:
        """The share of a prompt that begins like an earlier one, 0..1; the prompt counts as sent from here on."""
        text = "\n".join(message.content for message in messages)
        found = chain = 0
        for start in range(0, len(text) - BLOCK + 1, BLOCK):
            chain = hash((chain, text[start : start + BLOCK]))
            if chain in self._seen:
                found += BLOCK
            else:
                self._seen[chain] = None
        while len(self._seen) > KEPT:
            del self._seen[next(iter(self._seen))]
        return found / max(len(text), 1)
