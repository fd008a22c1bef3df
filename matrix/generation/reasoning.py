"""MATRIX-Gen-Reason: reasoning tasks from primary school to PhD, with thought and answer (paper v2).

One of the variants over scenarios (`scenarios.py`). The responder is the reasoning model; what it thinks is kept apart
from what it answers, and rows are filtered by how long it thought.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field
from typing import Any

from matrix.generation.base import Calls, Draft, Materials
from matrix.generation.scenarios import SocietyConfig, SocietyWriter
from matrix.prompting import Decoding, Unparsable
from matrix.provenance import derive_seed
from matrix.records import Conversation, Message

LEVELS = [
    "primary school", "lower secondary school", "upper secondary school", "undergraduate", "master's degree", "PhD",
]  # fmt: skip
SUBJECTS = [
    "arithmetic", "algebra", "geometry", "probability and statistics", "logic puzzle", "planning and scheduling",
    "estimation", "physics", "cause and effect",
]  # fmt: skip
LABEL = re.compile(r"\A\W*(?:the )?problem\W*:\**\s*", re.IGNORECASE)
QUESTION = re.compile(r"[?？؟]|\b(?:prove|show|find|determine|compute|calculate|derive)\b", re.IGNORECASE)
SOLVED = re.compile(r"^\W*(?:the )?(?:answer|solution)(?: is)?\W*:", re.IGNORECASE | re.MULTILINE)
THINKING_TOKENS = 1500
"""Behind the plan's estimate: a typical length of thought."""


@dataclass(kw_only=True)
class ReasoningConfig(SocietyConfig):
    """Reasoning tasks with thought and answer."""

    requirement: str = "problems that take several steps of reasoning and have one checkable answer"
    categories: list[str] = field(default_factory=lambda: list(SUBJECTS))
    """Subjects that rows draw from."""
    levels: list[str] = field(default_factory=lambda: list(LEVELS))
    """Levels of difficulty that rows draw from, as `complexity` (paper: primary pupil to PhD)."""
    response: Decoding = field(default_factory=lambda: Decoding(temperature=0.6, max_tokens=6144))
    """Of thought and answer together; temperature as DeepSeek-R1's authors advise (arXiv 2501.12948)."""
    min_think: int = 1
    """Fewest tokens of thought; 0 admits answers without any."""
    max_think: int | None = 4096
    """Most tokens of thought; null: any. The paper filters by length of thought and names no limits; beyond 4096 a row
    would not fit its training length (table 9)."""
    keep_thinking: bool = True
    """Whether the assistant's message holds the thought too, in `<think>` tags; without, training sees the answer
    alone. `Conversation.thinking` has the thought in any case."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.levels:
            raise ValueError("levels must not be empty")
        if self.min_think < 0 or (self.max_think is not None and self.max_think < self.min_think):
            raise ValueError(f"need 0 <= min_think <= max_think, not {self.min_think} and {self.max_think}")

    @property
    def name(self) -> str:
        """See `GeneratorConfig.name`."""
        return "reason"

    def build(self, materials: Materials) -> ReasoningWriter:
        """The writer over the society's scenarios."""
        return ReasoningWriter(self, materials)

    def calls(self) -> list[Calls]:
        """The responder thinks before it answers."""
        instruction, answering = super().calls()
        tokens = min(self.response.max_tokens, answering.tokens_out + THINKING_TOKENS)
        return [instruction, answering._replace(tokens_out=tokens)]


class ReasoningWriter(SocietyWriter[ReasoningConfig]):
    """Tasks at a level; answers with the thought split off."""

    def task(self, draw: random.Random) -> dict[str, Any]:
        """See `SocietyWriter.task`."""
        return {**super().task(draw), "complexity": draw.choice(self.config.levels)}

    def parse(self, text: str, told: dict[str, Any]) -> str:
        """The problem.

        Raises:
            Unparsable: as for every instruction, nothing is asked, or the answer stands there too.
        """
        problem = super().parse(LABEL.sub("", text), told)
        if not QUESTION.search(problem):
            raise Unparsable("the problem asks nothing")
        if SOLVED.search(problem):
            raise Unparsable("the problem brings its answer along")
        return problem

    async def finish(self, draft: Draft) -> Conversation | None:
        """The responder's answer, if its thought is whole and of the right length."""
        c, m = self.config, self.materials
        text = await m.answer(draft, c.response, derive_seed(draft.seed, "response"))
        if not text:
            return None
        try:
            thinking, said = split_thinking(text)
            if len(thinking) > 1:
                m.fail(draft.row, "thinking", text, f"{len(thinking)} blocks of thought were joined")
            thought = "\n\n".join(thinking)
            self._check_length(thought)
        except Unparsable as error:
            m.fail(draft.row, "response", text, str(error))
            return None
        content = f"<think>\n{thought}\n</think>\n\n{said}" if c.keep_thinking and thought else said
        return draft.answered(Message(role="assistant", content=content), thinking=thought)

    def _check_length(self, thought: str) -> None:
        c = self.config
        tokens = self.materials.responder.count_tokens(thought) if thought else 0
        if tokens < c.min_think:
            raise Unparsable(f"{tokens} tokens of thought, min_think={c.min_think}")
        if c.max_think is not None and tokens > c.max_think:
            raise Unparsable(f"{tokens} tokens of thought, max_think={c.max_think}")


def split_thinking(text: str) -> tuple[list[str], str]:
    """The thoughts and the answer after the last of them.

    The first `<think>` may be missing (some chat templates put it into the prompt), and so may all thought.

    Raises:
        Unparsable: a thought does not end, or nothing follows the last.
    """
    before, _, said = text.rpartition("</think>")
    if "<think>" in said:
        raise Unparsable("the thought does not end")
    if not said.strip():
        raise Unparsable("no answer after the thought")
    return [part for part in map(str.strip, re.split(r"</?think>", before)) if part], said.strip()
