"""Instructions out of scenarios: persona + actions + requirement, asked in the persona's voice (paper section 2)."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import Any, Generic, TypeVar

from matrix.generation.base import INSTRUCTION_TOKENS, PROMPT_TOKENS, Calls, Draft, Earlier, GeneratorConfig, Materials
from matrix.generation.retrieval import retrieve, turns
from matrix.jsonl import read_jsonl
from matrix.prompting import Decoding, Unparsable, unquoted
from matrix.provenance import derive_seed
from matrix.records import Action, Agent, Conversation, Message, Scenario
from matrix.texts import ASSISTANT_VOICE, ngrams

CATEGORIES = [
    "information seeking", "advice seeking", "planning", "creative writing", "editing", "reasoning", "brainstorming",
    "data analysis", "role playing", "coding and debugging", "math",
]  # fmt: skip
STYLES = [
    "chatty, with a word about the day",
    "short and to the point",
    "polite and careful",
    "a problem told without a question",
]

NGRAM, MOST_COPIED = 3, 0.5
"""Share of an instruction's word 3-grams that may stand in persona and actions: it asks, it does not retell."""
LABELS = re.compile(
    r"^(?:the (?:person|conversation)|what happened|kind of (?:task|harm)|manner):", re.IGNORECASE | re.MULTILINE
)
"""Lines of this room's prompts."""
SERVING = re.compile(
    r"\bI(?:'m| am|'ll be| will be) (?:(?:\w+ ){1,2}to (?:help|assist|support) you\b|a helpful)", re.IGNORECASE
)


class Kind(StrEnum):
    """Instruction types; each is a prompt of this room."""

    simple = "simple"
    """Type 1: simple and diverse (MATRIX-Gen-SFT; paper table 10)."""
    complex = "complex"
    """Type 2: complex and specialised (MATRIX-Gen-DPO)."""
    persona = "persona"
    """Type 1 without the scenario, from the profile alone: the control that shows what scenarios are worth."""


@dataclass(kw_only=True)
class SocietyConfig(GeneratorConfig):
    """What all variants have in common whose instructions are made of a society's scenarios."""

    requirement: str = "questions and tasks that people bring to an AI assistant in daily life and work"
    """What the data is for; steers retrieval and the prompt (paper section 2)."""
    num_scenarios: int | None = None
    """Scenarios that are used, those that serve the requirement best; null: all."""
    diversity: float = 0.3
    """Of the scenarios retrieved: weight (0..1) of being unlike those already taken against serving the requirement."""
    max_rows_per_agent: int | None = None
    """Candidates at most in the voice of one agent, so that no persona dominates; null: no limit."""
    categories: list[str] = field(default_factory=lambda: list(CATEGORIES))
    """Task categories that rows draw from; the names follow Magpie's tags, with which the paper labels its data."""
    styles: list[str] = field(default_factory=lambda: list(STYLES))
    """Questioning styles that rows draw from."""
    domain: str = ""
    """Field that instructions keep to, e.g. `medicine`; empty: any."""
    language: str = ""
    """Language of the instructions, e.g. `German`; empty: the model's own choice."""
    instruction: Decoding = field(default_factory=lambda: Decoding(temperature=0.8, max_tokens=512))

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.categories or not self.styles:
            raise ValueError("categories and styles must not be empty")
        if not 0 <= self.diversity <= 1:
            raise ValueError(f"diversity must lie in [0, 1], not {self.diversity}")
        if self.num_scenarios is not None and self.num_scenarios < 1:
            raise ValueError(f"num_scenarios must be at least 1, not {self.num_scenarios}; null takes all")
        if self.max_rows_per_agent is not None and self.max_rows_per_agent < 1:
            raise ValueError(f"max_rows_per_agent must be at least 1, not {self.max_rows_per_agent}; null: no limit")

    def calls(self) -> list[Calls]:
        """See `GeneratorConfig.calls`."""
        instruction = min(self.instruction.max_tokens, INSTRUCTION_TOKENS)
        _, answering = super().calls()
        return [Calls(False, self.num_rows, PROMPT_TOKENS, instruction), answering._replace(tokens_in=instruction)]


C = TypeVar("C", bound=SocietyConfig)


class SocietyWriter(Generic[C]):
    """Candidates in the voices of the agents of the scenarios that serve the requirement.

    Raises:
        ValueError: the society has no scenario with an agent in it.
    """

    def __init__(self, config: C, materials: Materials) -> None:
        assert materials.society
        self.society = materials.society
        folder = self.society.path
        self.config, self.materials = config, materials
        self._grams = lru_cache(4096)(ngrams)  # an action is told to several agents, and they come one after another
        self.agents = {a.id: a for a in read_jsonl(folder / "agents.jsonl", Agent)}
        self.actions = {a.id: a.text for a in read_jsonl(folder / "actions.jsonl", Action)}
        scenarios = retrieve(
            read_jsonl(folder / "scenarios.jsonl", Scenario),
            config.requirement, config.num_scenarios, materials.embedder, config.diversity,
        )  # fmt: skip
        self._turns = turns(scenarios, config.num_rows, config.most, config.max_rows_per_agent)
        if not self._turns:
            raise ValueError(f"{folder} holds no scenario with an agent in it; simulate more (simulator.num_scenarios)")
        self.limit: int | None = len(self._turns)

    async def draft(self, number: int, earlier: Earlier) -> Draft | None:
        """The instruction of one agent out of one scenario."""
        c, row = self.config, self.materials.row(number)
        scenario, agent = self._turns[number]
        seed = derive_seed(self.materials.seed, row)
        told = self.told(number, seed)
        instruction = await self.materials.asker.ask(
            c.name, row, derive_seed(seed, "instruction"), c.instruction, lambda text: self.parse(text, told),
            priority=(0, number), whole=True, **told,
        )  # fmt: skip
        if instruction is None:
            return None
        origin = self.materials.asker.origin(
            seed, *c.prompts, society=self.society.name, scenario=scenario.id, agent=agent
        )  # fmt: skip
        return Draft(
            number=number, row=row, seed=seed, messages=[Message(role="user", content=instruction)], kind=c.name,
            category=told["category"], complexity=told["complexity"], style=told["style"],
            requirement=c.requirement, origin=origin,
        )  # fmt: skip

    def told(self, number: int, seed: int) -> dict[str, Any]:
        """What the prompt is told: of the person, of what happened, and the task that is drawn for this candidate."""
        c = self.config
        scenario, name = self._turns[number]
        agent = self.agents[name]
        return {
            "name": agent.name, "persona": f"{agent.name}. {agent.description} {agent.personality}",
            "actions": [self.actions[action] for action in scenario.actions],
            "requirement": c.requirement, "domain": c.domain, "language": c.language,
            **self.task(random.Random(seed)),
        }  # fmt: skip

    def task(self, draw: random.Random) -> dict[str, Any]:
        """Category, style and complexity of a candidate, and what else its prompt needs."""
        return {
            "category": draw.choice(self.config.categories), "style": draw.choice(self.config.styles), "complexity": "",
        }  # fmt: skip

    def parse(self, text: str, told: dict[str, Any]) -> str:
        """The instruction in the model's answer to a prompt that was told so much; see `parse_instruction`.

        Raises:
            Unparsable: too little is left, the assistant speaks, or the prompt is repeated.
        """
        instruction = parse_instruction(text)
        if ASSISTANT_VOICE.search(instruction) or SERVING.search(instruction):
            raise Unparsable("the assistant speaks instead of the person")
        if LABELS.search(instruction):
            raise Unparsable("lines of the prompt are repeated")
        grams = ngrams(instruction, NGRAM)
        copied = frozenset().union(*(grams & self._grams(text, NGRAM) for text in (told["persona"], *told["actions"])))
        if len(copied) > MOST_COPIED * len(grams):
            raise Unparsable("persona or actions are copied")
        return instruction

    async def finish(self, draft: Draft) -> Conversation | None:
        """The responder's answer to the instruction alone."""
        text = await self.materials.answer(draft, self.config.response, derive_seed(draft.seed, "response"))
        return draft.answered(Message(role="assistant", content=text)) if text else None


@dataclass(kw_only=True)
class ScenarioConfig(SocietyConfig):
    """MATRIX-Gen-SFT and MATRIX-Gen-DPO: general instructions at three levels of complexity."""

    kind: Kind = Kind.simple

    @property
    def name(self) -> str:
        """The kind."""
        return self.kind.value

    def build(self, materials: Materials) -> ScenarioWriter:
        """The writer over the society's scenarios."""
        return ScenarioWriter(self, materials)


class ScenarioWriter(SocietyWriter[ScenarioConfig]):
    """Instructions whose complexity is their kind."""

    def task(self, draw: random.Random) -> dict[str, Any]:
        """See `SocietyWriter.task`."""
        return {**super().task(draw), "complexity": self.config.kind.value}


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
