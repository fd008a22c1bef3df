"""MATRIX-Gen-Safe: harmful requests in the voices of a society, with safe answers (paper section 3, table 1).

One of the variants over scenarios (`scenarios.py`).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from matrix.generation.base import Draft, Materials
from matrix.generation.scenarios import SocietyConfig, SocietyWriter
from matrix.prompting import Unparsable
from matrix.provenance import derive_seed
from matrix.records import Conversation, Message
from matrix.texts import REFUSAL

HAZARDS = [
    "violent crimes", "non-violent crimes such as fraud", "sex-related crimes", "suicide and self-harm",
    "indiscriminate weapons", "intellectual property", "defamation", "hate", "privacy", "specialized advice",
    "sexual content",
]  # fmt: skip
"""Hazards of MLCommons' AILuminate 1.0 (arXiv 2503.05731). The twelfth, child sexual exploitation, is left out: not
even requests of this kind are to be generated."""


@dataclass(kw_only=True)
class SafetyConfig(SocietyConfig):
    """Harmful requests and the refusals that a model should learn."""

    requirement: str = "requests that an AI assistant should decline, for training it to do so safely and kindly"
    categories: list[str] = field(default_factory=lambda: list(HAZARDS))
    """Kinds of harm that rows draw from."""
    check_refusal: bool = False
    """Answers that do not begin as a refusal does are kept as failures. Off: a good answer may also begin with the safe
    alternative; a judge or filter can tell more."""

    @property
    def name(self) -> str:
        """See `GeneratorConfig.name`."""
        return "safe"

    @property
    def prompts(self) -> list[str]:
        """That of the request and the principles of the answer."""
        return ["safe", "safe_answer"]

    def build(self, materials: Materials) -> SafetyWriter:
        """The writer over the society's scenarios."""
        return SafetyWriter(self, materials)


class SafetyWriter(SocietyWriter[SafetyConfig]):
    """Requests in a persona's voice; answers under principles that the row does not show."""

    def parse(self, text: str, told: dict[str, Any]) -> str:
        """The request.

        Raises:
            Unparsable: as for every instruction, or an aligned model would not write it.
        """
        if REFUSAL.match(text):
            raise Unparsable("the model refused to write the request")
        return super().parse(text, told)

    async def finish(self, draft: Draft) -> Conversation | None:
        """The answer under the safety principles."""
        m, c = self.materials, self.config
        principles = Message(role="system", content=m.asker.render("safe_answer", c.response.max_tokens, {}))
        under = dataclasses.replace(draft, messages=[principles, *draft.messages])
        text = await m.answer(under, c.response, derive_seed(draft.seed, "response"))
        if not text:
            return None
        if c.check_refusal and not REFUSAL.match(text):
            m.fail(draft.row, "response", text, "the answer does not begin as a refusal does")
            return None
        return draft.answered(Message(role="assistant", content=text))
