"""How much of the prompts a prefix cache could serve: measured on what is sent, for engines that do not tell.

Like the caches of vLLM and OpenVINO it looks at whole blocks from the start of a prompt, and forgets the oldest.
"""

from __future__ import annotations

from matrix.records import Message

BLOCK = 128
"""Characters of a block; OpenVINO's have 32 tokens, about as much text, vLLM's 16."""
KEPT = 2**24
"""Characters of prompts that are remembered at least."""


class PrefixMeter:
    """Remembers prompts as chains of blocks.

    Most prompts are like earlier ones at first and like no other from some block on. What follows that block is kept as
    it is, and taken apart block by block only as far as later prompts come along.
    """

    def __init__(self) -> None:
        self._new: dict[int, str | None] = {}
        """Hash of a chain of blocks -> the prompt that goes on from there, as far as it was not taken apart."""
        self._old: dict[int, str | None] = {}
        self._size = 0

    def share(self, messages: list[Message]) -> float:
        """The share of a prompt that begins like an earlier one, 0..1; the prompt counts as sent from here on."""
        text = "\n".join([message.content for message in messages])
        new, old = self._new, self._old
        found = chain = 0
        for end in range(BLOCK, len(text) + 1, BLOCK):
            chain = hash((chain, text[end - BLOCK : end]))
            if chain in new:
                went_on = new[chain]
            elif chain in old:
                went_on = old[chain]
                self._size += BLOCK
            else:
                new[chain] = text
                self._size += len(text) - end + BLOCK
                break
            found = end
            new[chain] = None
            if went_on and len(went_on) >= end + BLOCK:
                new[hash((chain, went_on[end : end + BLOCK]))] = went_on
        if self._size > KEPT:
            self._old, self._new, self._size = new, {}, 0
        return found / max(len(text), 1)
