"""Instructions out of scenarios: persona + actions + requirement, asked in the persona's voice (paper section 2)."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from matrix.generation.base import INSTRUCTION_TOKENS, PROMPT_TOKENS, Calls, Draft, Earlier, GeneratorConfig, Materials
from matrix.generation.retrieval import retrieve, turns
from matrix.prompting import Decoding, Unparsable, unquoted
from matrix.provenance import derive_seed
from matrix.records import Action, Agent, Conversation, Message, Scenario, read_jsonl

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


class Kind(StrEnum):
    """Instruction types; each is a prompt of this room."""

    simple = "simple"
    """Type 1: simple and diverse (MATRIX-Gen-SFT; paper table 10)."""
    complex = "complex"
    """Type 2: complex and specialised (MATRIX-Gen-DPO)."""
    persona = "persona"
    """Type 1 without the scenario, from the profile alone: the control that shows what scenarios are worth."""


@dataclass(kw_only=True)
class ScenarioConfig(GeneratorConfig):
    """How instructions are made of a society's scenarios."""

    kind: Kind = Kind.simple
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

    @property
    def name(self) -> str:
        """The kind."""
        return self.kind.value

    def build(self, materials: Materials) -> ScenarioWriter:
        """The writer over the society's scenarios.

        Raises:
            ValueError: the society has no scenario with an agent in it.
        """
        return ScenarioWriter(self, materials)

    def calls(self) -> list[Calls]:
        """See `GeneratorConfig.calls`."""
        instruction = min(self.instruction.max_tokens, INSTRUCTION_TOKENS)
        _, answering = super().calls()
        return [Calls(False, self.num_rows, PROMPT_TOKENS, instruction), answering._replace(tokens_in=instruction)]


class ScenarioWriter:
    """Candidates in the voices of the agents of the scenarios that serve the requirement."""

    def __init__(self, config: ScenarioConfig, materials: Materials) -> None:
        assert materials.society
        self.society = materials.society
        folder = self.society.path
        self.config, self.materials = config, materials
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
        draw = random.Random(seed)
        category, style = draw.choice(c.categories), draw.choice(c.styles)
        instruction = await self.materials.asker.ask(
            c.kind.value, row, derive_seed(seed, "instruction"), c.instruction, parse_instruction, priority=(number,),
            category=category, style=style, **self.told(scenario, self.agents[agent]),
        )  # fmt: skip
        if instruction is None:
            return None
        origin = self.materials.asker.origin(
            seed, c.kind.value, society=self.society.name, scenario=scenario.id, agent=agent
        )  # fmt: skip
        return Draft(
            number=number, row=row, seed=seed, messages=[Message(role="user", content=instruction)], kind=c.name,
            category=category, complexity=c.kind.value, style=style, requirement=c.requirement, origin=origin,
        )  # fmt: skip

    def told(self, scenario: Scenario, agent: Agent) -> dict[str, Any]:
        """What every prompt of this room is told of the person, of what happened and of what is wanted."""
        c = self.config
        return {
            "persona": f"{agent.name}. {agent.description} {agent.personality}",
            "actions": [self.actions[action] for action in scenario.actions],
            "requirement": c.requirement, "domain": c.domain, "language": c.language,
        }  # fmt: skip

    async def finish(self, draft: Draft) -> Conversation | None:
        """The responder's answer to the instruction alone."""
        text = await self.materials.answer(draft, self.config.response, derive_seed(draft.seed, "response"))
        return draft.answered(Message(role="assistant", content=text)) if text else None


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
