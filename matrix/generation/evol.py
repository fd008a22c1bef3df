"""Evol-Instruct (arXiv 2304.12244): tasks are rewritten to be harder, or into new ones, again and again.

Every seed task starts a chain of `rounds` evolutions, and every evolution is a candidate. A chain goes on from its last
good task where an evolution was eliminated, as in the paper.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar, NamedTuple

from matrix.engines.sources import source_identity
from matrix.generation.base import Draft, Earlier, GeneratorConfig, Materials
from matrix.generation.copies import no_echo, shared
from matrix.generation.scenarios import parse_instruction
from matrix.generation.seeds import read_seeds
from matrix.prompting import Decoding, Unparsable
from matrix.provenance import derive_seed
from matrix.records import Conversation, Message

COPIED = re.compile(r"\b(?:given|original|rewritten|harder|other) (?:task|prompt|instruction|version)\b", re.I)
"""A task with these words speaks of the rewriting."""
LABEL = re.compile(r"^\W*(?:harder version|(?:other|rewritten|new) task)\W*:\W*", re.I)
REFUSED = re.compile(r"^\W*(?:i'?m sorry|i am sorry|sorry,|i (?:cannot|can't|am unable)|as an ai\b)", re.I)
APOLOGY_WORDS = 80
"""A response with `sorry` in it that is shorter does not answer (paper: elimination evolving)."""
FUNCTION_WORDS = re.compile(
    r"(?:a|an|and|are|as|at|be|but|by|do|for|from|have|he|i|if|in|is|it|me|my|no|not|of|on|or|she|so|that|the|they|this"
    r"|to|was|we|what|with|yes|you|your|\W|_)*",
    re.I,
)


class Operation(StrEnum):
    """Ways of evolving a task."""

    constraints = "constraints"
    """Depth: one more requirement."""
    deepen = "deepen"
    """Depth: what is asked about, more deeply and widely."""
    concretise = "concretise"
    """Depth: particular notions in place of general ones."""
    reasoning = "reasoning"
    """Depth: an answer that takes more steps."""
    breadth = "breadth"
    """A new task of the same field, rarer."""


@dataclass(kw_only=True)
class EvolConfig(GeneratorConfig):
    """Instructions by evolution."""

    needs_society: ClassVar[bool] = False

    seeds: str | None = field(default=None, metadata={"identity": source_identity})
    """File of tasks to start from (see `seeds.read_seeds`); null: those shipped with this package."""
    rounds: int = 4
    """Evolutions of a seed, one after another (paper: 4)."""
    near_duplicate: float = 0.9
    """Higher than for other generators: a task that was only made longer shares most words with the one before."""
    operations: list[Operation] = field(default_factory=lambda: list(Operation))
    """Drawn from for every evolution, with equal probability."""
    instruction: Decoding = field(default_factory=lambda: Decoding(temperature=1.0, top_p=0.9, max_tokens=512))
    """The paper's temperature and top_p; it allows 2048 tokens."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rounds < 1 or not self.operations:
            raise ValueError(
                f"rounds must be at least 1 and operations not empty, not {self.rounds} and {self.operations}"
            )

    @property
    def name(self) -> str:
        """`evol`."""
        return "evol"

    @property
    def prompts(self) -> list[str]:
        """One for depth, one for breadth."""
        return ["evol_depth", "evol_breadth"]

    def build(self, materials: Materials) -> EvolWriter:
        """The writer over the seeds.

        Raises:
            SourceError: the seeds cannot be read.
        """
        return EvolWriter(self, materials)


class Evolved(NamedTuple):
    """Where a chain stands."""

    text: str
    operations: tuple[str, ...] = ()


class EvolWriter:
    """Candidate n is evolution n % rounds of chain n // rounds; chains take the seeds in turn, in a shuffled order."""

    limit: int | None = None

    def __init__(self, config: EvolConfig, materials: Materials) -> None:
        self.config, self.materials = config, materials
        self._seeds = read_seeds(config.seeds)
        random.Random(derive_seed(materials.seed, "seeds")).shuffle(self._seeds)
        self._states: defaultdict[int, asyncio.Future[Evolved]] = defaultdict(
            lambda: asyncio.get_running_loop().create_future()
        )

    async def draft(self, number: int, earlier: Earlier) -> Draft | None:
        """The next evolution of a chain, once the one before it is there."""
        c, m, row = self.config, self.materials, self.materials.row(number)
        chain, level = divmod(number, c.rounds)
        origin = self._seeds[chain % len(self._seeds)]
        parent = await self._states[number - 1] if level else Evolved(origin.instruction)
        seed = derive_seed(m.seed, row)
        operation = random.Random(seed).choice(c.operations)
        prompt = "evol_breadth" if operation is Operation.breadth else "evol_depth"
        text = await m.asker.ask(
            prompt, row, derive_seed(seed, "instruction"), c.instruction, self._parser(prompt, operation, parent.text),
            priority=(0, number), whole=True, operation=operation.value, instruction=parent.text,
        )  # fmt: skip
        if text is None:
            self._states[number].set_result(parent)
            return None
        evolved = Evolved(text, (*parent.operations, operation.value))
        self._states[number].set_result(evolved)
        return Draft(
            number=number, row=row, seed=seed, messages=[Message(role="user", content=text)], kind=c.name,
            category=origin.category, style=" > ".join(evolved.operations),
            origin=m.asker.origin(seed, prompt, instruction=origin.id),
        )  # fmt: skip

    def _parser(self, prompt: str, operation: Operation, parent: str) -> Callable[[str], str]:
        """The paper's elimination of failed evolutions."""
        told = self.materials.asker.render(prompt, 0, {"operation": operation.value, "instruction": ""})
        check = no_echo(told)

        def parse(text: str) -> str:
            task = parse_instruction(LABEL.sub("", text.strip()))
            if COPIED.search(task):
                raise Unparsable("speaks of the rewriting")
            if REFUSED.search(task):
                raise Unparsable("a refusal")
            if shared(task, parent) >= self.config.near_duplicate:
                raise Unparsable("no different from the task before")
            check(task)
            return task

        return parse

    async def finish(self, draft: Draft) -> Conversation | None:
        """The responder's answer; a task that it cannot answer is eliminated."""
        text = await self.materials.answer(draft, self.config.response, derive_seed(draft.seed, "response"))
        if not text:
            return None
        if re.search(r"\bsorry\b", text, re.I) and len(text.split()) < APOLOGY_WORDS:
            self.materials.fail(draft.row, "response", text, "an apology in place of an answer")
            return None
        if FUNCTION_WORDS.fullmatch(text):
            self.materials.fail(draft.row, "response", text, "nothing but function words")
            return None
        return draft.answered(Message(role="assistant", content=text))
