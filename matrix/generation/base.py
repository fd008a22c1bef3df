"""The contract of a generator: numbered candidates, each drafted (who asks what) and then finished (what is answered).

A generator is one file here: a `GeneratorConfig` with its knobs and the `Writer` that it builds. `stream.py` asks the
writer for candidates until enough rows are made; `stage.py` opens what a writer works with.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple, Protocol

from matrix.engines.base import LanguageModel, Priority
from matrix.engines.embedder import Embedder
from matrix.prompting import Asker, Decoding, whole_sentences
from matrix.records import Conversation, Failure, Message, Origin
from matrix.stage import Result

PROMPT_TOKENS, INSTRUCTION_TOKENS, RESPONSE_TOKENS = 400, 80, 450
"""Behind the plan's estimates: persona, three actions and the template of a prompt; a typical instruction and response.
None is longer than its `max_tokens`."""


class Calls(NamedTuple):
    """Model calls to be expected of one purpose."""

    responder: bool
    """Made by the model that answers, not by the one that writes instructions."""
    number: float
    tokens_in: float
    """Of one call."""
    tokens_out: float


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A candidate that asks for an answer."""

    number: int
    row: str
    """Id of the row to be."""
    seed: int
    messages: list[Message]
    """Ends with the user; with the assistant where the source brings answers along."""
    kind: str
    category: str = ""
    complexity: str = ""
    style: str = ""
    requirement: str = ""
    origin: Origin

    @property
    def text(self) -> str:
        """What is asked: all user turns."""
        return "\n\n".join(message.content for message in self.messages if message.role == "user")

    @property
    def priority(self) -> Priority:
        """Behind all drafts, which have the longer way to go; among answers first come, first served."""
        return (1, self.number)

    def answered(self, *turns: Message, thinking: str = "") -> Conversation:
        """The row, with these turns after the draft's."""
        return Conversation(
            id=self.row, messages=[*self.messages, *turns], kind=self.kind, requirement=self.requirement,
            category=self.category, complexity=self.complexity, style=self.style, thinking=thinking, origin=self.origin,
        )  # fmt: skip


Earlier = Callable[[], Awaitable[Sequence[Draft]]]
"""Waits for the drafts of all candidates with a lower number; those that repeat another one are left out."""


class Writer(Protocol):
    """Makes candidates. Everything of a candidate depends on its number and, through `Earlier`, on lower numbers."""

    limit: int | None
    """How many candidates there are; None: as many as one likes."""

    async def draft(self, number: int, earlier: Earlier) -> Draft | None:
        """The candidate's instruction, or None if it could not be had (a `Failure` says why)."""
        ...

    async def finish(self, draft: Draft) -> Conversation | None:
        """The row, or None if no answer could be had (a `Failure` says why)."""
        ...


@dataclass(kw_only=True)
class Materials:
    """What a writer works with."""

    asker: Asker
    """The aligned LLM, with the prompts of this room."""
    responder: LanguageModel
    """The model that answers: the aligned LLM, if no other is named."""
    embedder: Embedder
    society: Result | None
    """The simulation, for generators that need one."""
    seed: int
    prefix: str
    """Ids are `<prefix>-00000`, in the order of the candidates."""

    def row(self, number: int) -> str:
        """Id of a candidate's row."""
        return f"{self.prefix}-{number:05}"

    def fail(self, row: str, purpose: str, text: str, error: str) -> None:
        """Keep what could not be used."""
        self.asker.failures.append(Failure(id=row, purpose=purpose, text=text, error=error))

    async def answer(self, draft: Draft, decoding: Decoding, seed: int) -> str:
        """The responder's answer to a draft; empty (and kept as a failure) if there is none."""
        text = await answer(self.responder, draft.messages, seed, decoding, draft.priority)
        if not text:
            self.fail(draft.row, "response", "", "empty response")
        return text


@dataclass(kw_only=True)
class GeneratorConfig(ABC):
    """Base of the variants in this package: how many rows, how they are answered, and when a row is new."""

    needs_society: ClassVar[bool] = True
    """Whether the pipeline simulates for this generator."""

    num_rows: int = 10_000
    """Rows wanted (paper section 4.1: 10K for every data set)."""
    max_tries: float = 3.0
    """Candidates at most for every wanted row, before a shortfall is accepted and explained."""
    near_duplicate: float = 0.7
    """Jaccard similarity (0..1) of word 3-grams from which on an instruction repeats an earlier one and another
    candidate takes its place; 1: only the same text. Self-Instruct (arXiv 2212.10560) takes ROUGE-L 0.7."""
    response: Decoding = field(default_factory=lambda: Decoding(temperature=0.7, max_tokens=2048))

    def __post_init__(self) -> None:
        if self.num_rows < 1 or self.max_tries < 1 or not 0 < self.near_duplicate <= 1:
            raise ValueError(
                "num_rows must be at least 1, max_tries at least 1 and near_duplicate in (0, 1], "
                f"not {self.num_rows}, {self.max_tries} and {self.near_duplicate}"
            )

    @property
    def most(self) -> int:
        """Candidates at most."""
        return max(self.num_rows, round(self.num_rows * self.max_tries))

    @property
    @abstractmethod
    def name(self) -> str:
        """A word for the kind of rows: `Conversation.kind` and the folder's name."""

    @property
    def prompts(self) -> list[str]:
        """Prompts of this room that it uses, without `.jinja`; they are part of the result's key."""
        return [self.name]

    @abstractmethod
    def build(self, materials: Materials) -> Writer:
        """The writer with these knobs; reads what it needs."""

    def calls(self) -> list[Calls]:
        """Model calls for `num_rows` rows, if no candidate fails: one for the instruction, one for the response."""
        answer_tokens = min(self.response.max_tokens, RESPONSE_TOKENS)
        return [
            Calls(False, self.num_rows, PROMPT_TOKENS, INSTRUCTION_TOKENS),
            Calls(True, self.num_rows, INSTRUCTION_TOKENS, answer_tokens),
        ]


async def answer(
    model: LanguageModel, prompt: list[Message], seed: int, decoding: Decoding, priority: Priority = ()
) -> str:
    """A model's answer to a chat; one that ran into the length limit is cut after its last whole sentence or line."""
    completion = await model.chat(prompt, decoding.sampling(seed), priority)
    text = completion.text.strip()
    return whole_sentences(text) if completion.finish_reason == "length" else text
