"""How much of the prompts a prefix cache could serve: measured on what is sent, for engines that do not tell.

Like the caches of vLLM and OpenVINO it looks at whole blocks from the start of a prompt, and forgets the oldest.
"""

from __future__ import annotations

from matrix.records import Message

BLOCK = 128
"""Characters of a block; OpenVINO's have 32 tokens, about as much text, vLLM's 16."""
KEPT = 2**17
"""Blocks that are remembered at least: prompts of 17 million characters."""


class PrefixMeter:
    """Remembers prompts by their blocks."""

    def __init__(self) -> None:
        self._new: set[int] = set()
        self._old: set[int] = set()

    def share(self, messages: list[Message]) -> float:
        """The share of a prompt that begins like an earlier one, 0..1; the prompt counts as sent from here on."""
        text = "\n".join(message.content for message in messages)
        found = chain = 0
        for start in range(0, len(text) - BLOCK + 1, BLOCK):
            chain = hash((chain, text[start : start + BLOCK]))
            if chain in self._new or chain in self._old:
                found += BLOCK
            self._new.add(chain)
        if len(self._new) > KEPT:
            self._old, self._new = self._new, set()
        return found / max(len(text), 1)
