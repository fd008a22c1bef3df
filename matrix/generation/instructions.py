"""Instructions out of scenarios: persona + actions + requirement, asked in the persona's voice (paper section 2)."""

from __future__ import annotations

import asyncio
import random
import re
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from matrix.engines.base import LanguageModel
from matrix.engines.embedder import Embedder
from matrix.generation.retrieval import retrieve
from matrix.progress import Progress
from matrix.prompting import Asker, Decoding, Unparsable, unquoted
from matrix.provenance import derive_seed
from matrix.records import Action, Agent, Conversation, Failure, Message, Scenario, read_jsonl
from matrix.stage import Result


class Kind(StrEnum):
    """Instruction types: `simple` is Type 1 (MATRIX-Gen-SFT), `complex` is Type 2 (paper table 10)."""

    simple = "simple"
    complex = "complex"


@dataclass(kw_only=True)
class GeneratorConfig:
    """How many instructions of which kind are made of a society's scenarios."""

    kind: Kind = Kind.simple
    num_rows: int = 10_000
    """Rows wanted (paper section 4.1: 10K for every data set)."""
    requirement: str = "questions and tasks that people bring to an AI assistant in daily life and work"
    """What the data is for; steers retrieval and the prompt (paper section 2)."""
    num_scenarios: int | None = None
    """Scenarios nearest to the requirement that are used; null: all."""
    categories: list[str] = field(
        default_factory=lambda: [
            "information seeking", "advice seeking", "planning", "creative writing", "editing", "reasoning",
            "brainstorming", "data analysis", "role playing", "coding and debugging", "math",
        ]
    )  # fmt: skip
    """Task categories that rows draw from; the names follow Magpie's tags, with which the paper labels its data."""
    styles: list[str] = field(
        default_factory=lambda: [
            "chatty, with a word about the day", "short and to the point", "polite and careful",
            "a problem told without a question",
        ]
    )  # fmt: skip
    """Questioning styles that rows draw from."""
    instruction: Decoding = field(default_factory=lambda: Decoding(temperature=0.8, max_tokens=512))
    response: Decoding = field(default_factory=lambda: Decoding(temperature=0.7, max_tokens=2048))

    def __post_init__(self) -> None:
        if self.num_rows < 1 or not self.categories or not self.styles:
            raise ValueError("num_rows must be at least 1, and categories and styles must not be empty")


@dataclass
class Generation:
    """One data set in the making; shared by the SFT rows and by the prompts of preference pairs."""

    config: GeneratorConfig
    asker: Asker
    society: Result
    seed: int
    prefix: str
    """Ids are `<prefix>-00000`, in the order of the rows."""
    progress: Progress

    async def conversations(self, embedder: Embedder) -> list[Conversation]:
        """Instructions with the aligned LLM's responses; what could not be used is in the asker's failures."""
        folder: Path = self.society.path
        agents = {a.id: a for a in read_jsonl(folder / "agents.jsonl", Agent)}
        actions = {a.id: a for a in read_jsonl(folder / "actions.jsonl", Action)}
        scenarios = retrieve(
            read_jsonl(folder / "scenarios.jsonl", Scenario),
            self.config.requirement, self.config.num_scenarios, embedder,
        )  # fmt: skip
        places = [(s, agents[a]) for s in scenarios for a in s.agents]
        if not places:
            raise ValueError(f"{folder} holds no scenario with an agent in it; simulate more (simulator.num_scenarios)")
        wanted = self.config.num_rows
        if wanted < len(places):  # spread over all scenarios, late ones too
            places = [places[i * len(places) // wanted] for i in range(wanted)]
        made = await asyncio.gather(*(self._row(i, *places[i % len(places)], actions) for i in range(wanted)))
        return [row for row in made if row is not None]

    async def _row(
        self, number: int, scenario: Scenario, agent: Agent, actions: dict[str, Action]
    ) -> Conversation | None:
        c, row = self.config, f"{self.prefix}-{number:05}"
        seed = derive_seed(self.seed, row)
        draw = random.Random(seed)
        category, style = draw.choice(c.categories), draw.choice(c.styles)
        instruction = await self.asker.ask(
            c.kind.value, row, derive_seed(seed, "instruction"), c.instruction, parse_instruction,
            persona=f"{agent.name}. {agent.description} {agent.personality}", category=category, style=style,
            requirement=c.requirement, actions=[actions[a].text for a in scenario.actions],
        )  # fmt: skip
        prompt = [Message(role="user", content=instruction or "")]
        response = (
            await answer(self.asker.model, prompt, derive_seed(seed, "response"), c.response) if instruction else ""
        )
        self.progress.advance()
        if not response:
            if instruction:
                self.asker.failures.append(Failure(id=row, purpose="response", text="", error="empty response"))
            return None
        origin = self.asker.origin(seed, c.kind.value, society=self.society.name, scenario=scenario.id, agent=agent.id)
        return Conversation(
            id=row, messages=[*prompt, Message(role="assistant", content=response)], kind=c.kind.value,
            requirement=c.requirement, category=category, complexity=c.kind.value, style=style, origin=origin,
        )  # fmt: skip


async def answer(model: LanguageModel, prompt: list[Message], seed: int, decoding: Decoding) -> str:
    """A model's answer to a chat; one that ran into the length limit is cut after its last whole sentence or line."""
    completion = await model.chat(prompt, decoding.sampling(seed))
    text = completion.text.strip()
    if completion.finish_reason == "length":
        # The dot of a list number ends no sentence.
        ends = [m.end() for m in re.finditer(r"^[ \t]*\d+\.|([.!?](?=\s|$)|\n)", text, re.MULTILINE) if m[1]]
        text = text[: ends[-1]].rstrip() if ends else text
    return text


def parse_instruction(text: str) -> str:
    """The message without quotes and a leading label.

    Raises:
        Unparsable: fewer than three words are left.
    """
    text = re.sub(r"^\W*(?:message|user|instruction|question|task)\W*:\**\s*", "", text.strip(), flags=re.IGNORECASE)
    text = unquoted(text)
    if len(text.split()) < 3:
        raise Unparsable("expected a message of at least three words")
    return text
