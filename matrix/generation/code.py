"""MATRIX-Gen-Code: programming tasks in the three forms of paper table 21, answered with code that parses.

One of the variants over scenarios (`scenarios.py`).
"""

from __future__ import annotations

import ast
import random
import re
import textwrap
import warnings
from dataclasses import dataclass, field
from typing import Any

from matrix.generation.base import Draft, Materials
from matrix.generation.scenarios import SocietyConfig, SocietyWriter
from matrix.prompting import Unparsable
from matrix.records import Conversation

FUNCTION, STRUCTURE, STUB = "function specification", "data structure", "stub with docstring and tests"
LABEL = re.compile(r"\A\W*the task\W*:\**\s*", re.IGNORECASE)
PYTHON = ("python", "py", "python3")
BLOCK = re.compile(r"^[ \t]*```[ \t]*([\w+#-]*)[^\n]*\n(.*?)^[ \t]*```", re.DOTALL | re.MULTILINE)


@dataclass(kw_only=True)
class CodeConfig(SocietyConfig):
    """Programming tasks out of scenarios."""

    requirement: str = "programming tasks that come up in people's work and hobbies"
    categories: list[str] = field(default_factory=lambda: [FUNCTION, STRUCTURE, STUB])
    """Forms that rows draw from (paper table 21); the prompt takes other names as they are."""
    programming_language: str = "Python"
    """Language of the code that is asked for (the paper tests on HumanEval and MBPP)."""
    check_code: bool = True
    """Answers must hold a closed code block, whose longest one parses if the language is Python; the others are kept
    as failures."""

    @property
    def name(self) -> str:
        """See `GeneratorConfig.name`."""
        return "code"

    def build(self, materials: Materials) -> CodeWriter:
        """The writer over the society's scenarios."""
        return CodeWriter(self, materials)


class CodeWriter(SocietyWriter[CodeConfig]):
    """Programming tasks and checked answers."""

    def task(self, draw: random.Random) -> dict[str, Any]:
        """See `SocietyWriter.task`."""
        return {**super().task(draw), "programming_language": self.config.programming_language}

    def parse(self, text: str, told: dict[str, Any]) -> str:
        """The task.

        Raises:
            Unparsable: it does not say in which language, has an open code block, or is a stub without code.
        """
        task = super().parse(LABEL.sub("", text), told)
        if "```" not in task and told["programming_language"].lower() not in task.lower():
            raise Unparsable(f"the task does not name {told['programming_language']}")
        if task.count("```") % 2:
            raise Unparsable("a code block is not closed")
        if told["category"] == STUB and not BLOCK.search(task):
            raise Unparsable("a stub is a code block")
        return task

    async def finish(self, draft: Draft) -> Conversation | None:
        """The responder's answer, if its code passes the check."""
        row = await super().finish(draft)
        if row and self.config.check_code:
            text = row.messages[-1].content
            if fault := code_fault(text, self.config.programming_language):
                self.materials.fail(draft.row, "response", text, fault)
                return None
        return row


def code_fault(text: str, language: str) -> str:
    """What is wrong with the code in an answer; empty if nothing is.

    The solution is taken to be the longest fenced block that is labelled with the language, or, where none is, the
    longest of all. Python is parsed, never run.
    """
    blocks = [(label.lower(), body) for label, body in BLOCK.findall(text) if body.strip()]
    if not blocks:
        return "no code block"
    if text.count("```") % 2:
        return "a code block is not closed"
    if language.lower() != "python":
        return ""
    code = max([body for label, body in blocks if label in PYTHON] or [body for _, body in blocks], key=len)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an unknown escape in a string is theirs to fix
            ast.parse(textwrap.dedent(code))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return f"the code does not parse: {error}"
    return ""
