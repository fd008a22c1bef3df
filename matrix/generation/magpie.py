"""Magpie (arXiv 2406.08464): an aligned model, given nothing but the opening of a user's turn, writes what users ask.

The model then answers its own question, or another model does. No society, no seeds, no prompt of ours.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field
from typing import ClassVar

import msgspec

from matrix.generation.base import INSTRUCTION_TOKENS, Calls, Draft, Earlier, GeneratorConfig, Materials
from matrix.generation.scenarios import parse_instruction
from matrix.prompting import Decoding, Unparsable
from matrix.provenance import derive_seed
from matrix.records import Conversation, Message

NEXT_TURN = re.compile(r"<\|[^|<>]*\|>|\[/?INST\]|</?s>|^\W*(?:assistant|user|human|system)\b\W*$", re.I | re.M)
"""What a model writes that goes on past the end of the user's turn."""
OPENING_TOKENS = 20
"""Of a chat template up to the user's text."""


@dataclass(kw_only=True)
class MagpieConfig(GeneratorConfig):
    """Instructions by self-synthesis."""

    needs_society: ClassVar[bool] = False

    systems: dict[str, str] = field(default_factory=dict)
    """Category -> system message under which the user's turn is written, drawn for every row, to steer what is asked;
    it is no part of the row. Empty: the chat template's own."""
    one_line: bool = True
    """End an instruction at its first line break, as Magpie's scripts do unless told otherwise."""
    instruction: Decoding = field(default_factory=lambda: Decoding(temperature=1.0, top_p=1.0, max_tokens=512))
    """Magpie's values; an instruction that does not end within `max_tokens` is no row."""

    @property
    def name(self) -> str:
        """`magpie`."""
        return "magpie"

    @property
    def prompts(self) -> list[str]:
        """None."""
        return []

    def build(self, materials: Materials) -> MagpieWriter:
        """See `GeneratorConfig.build`."""
        return MagpieWriter(self, materials)

    def calls(self) -> list[Calls]:
        """See `GeneratorConfig.calls`."""
        writing, answering = super().calls()
        tokens = min(self.instruction.max_tokens, INSTRUCTION_TOKENS)
        return [writing._replace(tokens_in=OPENING_TOKENS, tokens_out=tokens), answering._replace(tokens_in=tokens)]


class MagpieWriter:
    """Candidates that differ by their seed, and by their system message if there are some."""

    limit: int | None = None

    def __init__(self, config: MagpieConfig, materials: Materials) -> None:
        self.config, self.materials = config, materials

    async def draft(self, number: int, earlier: Earlier) -> Draft | None:
        """What the model says in the user's place."""
        c, m, row = self.config, self.materials, self.materials.row(number)
        seed = derive_seed(m.seed, row)
        category = random.Random(seed).choice(list(c.systems)) if c.systems else ""
        opening = [Message(role="system", content=c.systems[category])] if category else []
        sampling = c.instruction.sampling(derive_seed(seed, "instruction"))
        if c.one_line:
            sampling = msgspec.structs.replace(sampling, stop=("\n",))
        completion = await m.asker.model.chat([*opening, Message(role="user", content="")], sampling, (0, number))
        try:
            if completion.finish_reason == "length":
                raise Unparsable(f"no end within {c.instruction.max_tokens} tokens")
            text = first_turn(completion.text)
        except Unparsable as error:
            m.fail(row, "magpie", completion.text, str(error))
            return None
        return Draft(
            number=number, row=row, seed=seed, messages=[Message(role="user", content=text)], kind=c.name,
            category=category, origin=m.asker.origin(seed),
        )  # fmt: skip

    async def finish(self, draft: Draft) -> Conversation | None:
        """The responder's answer to the instruction alone."""
        text = await self.materials.answer(draft, self.config.response, derive_seed(draft.seed, "response"))
        return draft.answered(Message(role="assistant", content=text)) if text else None


def first_turn(text: str) -> str:
    """The user's turn without a label in front and without the turns that a model wrote behind it.

    Raises:
        Unparsable: fewer than three words are left, or none with a letter in it.
    """
    turn = parse_instruction(NEXT_TURN.split(text.strip(), maxsplit=1)[0])
    if not re.search(r"[^\W\d_]{2}", turn):
        raise Unparsable("no words in the user's turn")
    return turn
