"""MATRIX-Gen-MT: dialogues between a user in character and the assistant (the paper does not say how, section 3).

One of the variants over scenarios (`scenarios.py`). The user knows persona, scenario and the dialogue so far; the
assistant sees the dialogue alone.
"""

from __future__ import annotations

import dataclasses
import random
import re
from dataclasses import dataclass
from typing import Any

from matrix.engines.base import ContextOverflow
from matrix.generation.base import INSTRUCTION_TOKENS, PROMPT_TOKENS, RESPONSE_TOKENS, Calls, Draft, Materials
from matrix.generation.scenarios import NGRAM, SocietyConfig, SocietyWriter
from matrix.prompting import Unparsable
from matrix.provenance import derive_seed
from matrix.records import Conversation, Message
from matrix.texts import jaccard, ngrams

END = "[END]"
"""What the user writes who has all that he came for."""
LABEL = re.compile(r"\A\W*(?:the )?(?:person|reply|(?:next )?(?:message|question))\W*:\**\s*", re.IGNORECASE)
SPEAKER = re.compile(r"^\W*(?:ai |the )?(?:assistant|person)\W*:", re.IGNORECASE | re.MULTILINE)
"""Where a model that was asked for one message goes on with the dialogue."""
SPEAKERS = {"user": "Person", "assistant": "Assistant"}


@dataclass(kw_only=True)
class DialogueConfig(SocietyConfig):
    """Dialogues of several turns. A turn is a message of the user and the assistant's answer."""

    requirement: str = "conversations in which people work something out with an AI assistant"
    min_turns: int = 2
    """Turns that make a dialogue; a shorter one is kept as a failure."""
    max_turns: int = 6
    """The number of turns of a row is drawn between these two. A dialogue may end earlier: when the user has what he
    wanted, repeats himself, or when the next turn would not fit the model's context."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.min_turns <= self.max_turns:
            raise ValueError(f"need 1 <= min_turns <= max_turns, not {self.min_turns} and {self.max_turns}")

    @property
    def name(self) -> str:
        """See `GeneratorConfig.name`."""
        return "multi_turn"

    def build(self, materials: Materials) -> DialogueWriter:
        """The writer over the society's scenarios."""
        return DialogueWriter(self, materials)

    def calls(self) -> list[Calls]:
        """As if every dialogue had the mean number of turns."""
        turns = (self.min_turns + self.max_turns) / 2
        said = min(self.instruction.max_tokens, INSTRUCTION_TOKENS)
        answered = min(self.response.max_tokens, RESPONSE_TOKENS)
        before = (turns - 1) / 2 * (said + answered)
        return [
            Calls(False, self.num_rows * turns, PROMPT_TOKENS + before, said),
            Calls(True, self.num_rows * turns, before + said, answered),
        ]


class DialogueWriter(SocietyWriter[DialogueConfig]):
    """Opens a dialogue as a draft; goes on with it when it is finished."""

    def task(self, draw: random.Random) -> dict[str, Any]:
        """See `SocietyWriter.task`; nothing has been said yet."""
        return {**super().task(draw), "dialogue": [], "end": ""}

    async def finish(self, draft: Draft) -> Conversation | None:
        """The dialogue from the user's first message on."""
        c, m = self.config, self.materials
        wanted = random.Random(derive_seed(draft.seed, "turns")).randint(c.min_turns, c.max_turns)
        done: list[Message] = []
        why = "no answer"
        for turn in range(wanted):
            said = await self._user(draft, done) if done else draft.messages[0].content
            if not said:
                why = "the user had nothing new to say"
                break
            asked = [*done, Message(role="user", content=said)]
            seed = derive_seed(draft.seed, "response", turn)
            try:
                text = await m.answer(dataclasses.replace(draft, messages=asked), c.response, seed)
            except ContextOverflow as error:
                why = str(error)
                break
            if not text:
                break
            done = [*asked, Message(role="assistant", content=text)]
        if len(done) < 2 * c.min_turns:
            spoken = "\n\n".join(f"{message.role}: {message.content}" for message in done)
            m.fail(draft.row, c.name, spoken, f"{len(done) // 2} turns, min_turns={c.min_turns}: {why}")
            return None
        return dataclasses.replace(draft, messages=done[:-1]).answered(done[-1])

    async def _user(self, draft: Draft, done: list[Message]) -> str | None:
        """The user's next message; empty if he has ended, None if it could not be had."""
        c, turn = self.config, len(done) // 2
        told = self.told(draft.number, draft.seed) | {
            "dialogue": [{"speaker": SPEAKERS[message.role], "text": message.content} for message in done],
            "end": END if turn >= c.min_turns else "",
        }
        return await self.materials.asker.ask(
            c.name, draft.row, derive_seed(draft.seed, "user", turn), c.instruction,
            lambda text: self.parse(text, told), priority=draft.priority, whole=True, **told,
        )  # fmt: skip

    def parse(self, text: str, told: dict[str, Any]) -> str:
        """The user's message alone; empty if he ended the dialogue and was free to.

        Raises:
            Unparsable: as for every instruction, or nothing new is said.
        """
        text, ended, _ = text.partition(END)
        if ended and told["end"]:
            return ""
        said = super().parse(SPEAKER.split(LABEL.sub("", text), maxsplit=1)[0], told)
        grams = ngrams(said, NGRAM)
        if any(jaccard(grams, ngrams(d["text"], NGRAM)) >= self.config.near_duplicate for d in told["dialogue"]):
            raise Unparsable("the user repeats what was said before")
        return said
