"""An agent: an anonymised profile with personality, goal, plan and memory, that acts or reacts (paper section 3.1)."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import count

from matrix.prompting import Asker, Decoding, Unparsable, fields_schema, first_paragraph, json_fields
from matrix.provenance import derive_seed
from matrix.records import Origin, Profile
from matrix.simulation.memory import Memory

MAX_WORDS = 45
"""Most words of a description, personality or goal: every prompt about the agent carries them."""


@dataclass
class Life:
    """The changing state of one agent; `matrix.records.Agent` is its written form."""

    id: str
    name: str
    description: str
    posts: list[str]
    personality: str
    goal: str
    plan: list[str]
    profile: str
    origin: Origin
    group: int = 0
    position: list[float] = field(default_factory=list)
    next_step: int = 0
    """Index of the plan step that it works on."""
    inbox: list[str] = field(default_factory=list)
    """What it was told since it last acted."""
    memory: Memory = field(default_factory=Memory)

    @property
    def persona(self) -> str:
        """The agent as prompts show it."""
        return f"{self.name}. {self.description} {self.personality}"

    @property
    def done(self) -> bool:
        """The plan is finished, so the life goal counts as reached, and nobody told it anything new."""
        return self.next_step >= len(self.plan) and not self.inbox


async def bring_to_life(
    asker: Asker, number: int, profile: Profile, seed: int, steps: int, max_posts: int, decoding: Decoding
) -> Life:
    """An agent made of a profile: anonymised, then personality, life goal and plan (paper tables 15 and 16)."""
    agent = f"a{number:04}"
    seed = derive_seed(seed, agent)
    posts = [masked(post, profile.name) for post in profile.posts]
    shown = posts[:max_posts]

    anonymous = await asker.ask(
        "anonymise", agent, derive_seed(seed, "anonymise"), decoding,
        lambda text: parse_role(text, profile.name), ROLE_SCHEMA,
        name=profile.name, description=profile.description, posts=profile.posts[:max_posts],
    )  # fmt: skip
    name, description = anonymous or fallback_role(profile)
    persona = f"{name}. {description}"
    # Where even the second answer has no text, the description stands in: an agent is never left without a goal.
    personality = await asker.ask(
        "personality", agent, derive_seed(seed, "personality"), decoding, brief, persona=persona, posts=shown
    )
    goal = await asker.ask("goal", agent, derive_seed(seed, "goal"), decoding, brief, persona=persona)
    goal = goal or f"To do well what the description says: {description}"
    plan = await asker.ask(
        "plan", agent, derive_seed(seed, "plan"), decoding, lambda text: parse_plan(text, steps),
        persona=persona, goal=goal, steps=steps,
    )  # fmt: skip
    return Life(
        id=agent, name=name, description=description, posts=posts, personality=personality or "", goal=goal,
        plan=plan or [goal], profile=profile.id, memory=Memory(list(posts)),
        origin=asker.origin(seed, "anonymise", "personality", "goal", "plan"),
    )  # fmt: skip


def brief(text: str) -> str:
    """The first paragraph, held to `MAX_WORDS`."""
    return first_paragraph(text, MAX_WORDS)


LETTER = r"[^\W\d_]"


def masked(text: str, name: str) -> str:
    """`text` without any word of `name` (three letters or more), also where it is part of a handle like `@ann_lee7`."""
    words = re.findall(rf"{LETTER}{{3,}}", name)
    return re.sub(rf"(?<!{LETTER})(?:{'|'.join(words)})(?!{LETTER})", "someone", text, flags=re.I) if words else text


ROLE_SCHEMA = fields_schema(role={"type": "string"}, description={"type": "string"})


def parse_role(text: str, name: str) -> tuple[str, str]:
    """Role name and description, the original name masked."""
    fields = json_fields(text)
    role, description = (str(fields.get(key) or "") for key in ("role", "description"))
    words = masked(role, name).strip(" *\"'.<>").split()
    if not 1 <= len(words) <= 8 or "someone" in " ".join(words):
        raise Unparsable(f"expected a role of one to eight words without the name, got {role!r}")
    return " ".join(words), first_paragraph(masked(description, name), MAX_WORDS)


def fallback_role(profile: Profile) -> tuple[str, str]:
    """Role and description from the profile's own description, for a model that twice gave no usable answer."""
    description = masked(profile.description, profile.name)
    sentence = re.split(r"[.,;!?]", description)[0].split()
    while sentence and sentence[0].lower() in {"a", "an", "the", "someone", "is"}:
        sentence = sentence[1:]
    role = " ".join(sentence[:6])
    return role[:1].upper() + role[1:] or "Person", description


def parse_plan(text: str, steps: int) -> list[str]:
    """Numbered lines of the answer, at most `steps` of them."""
    lines = re.findall(r"^\W*(?:step\s*)?\d+\s*[.):-]+\s*(\S.*)$", text, re.MULTILINE | re.IGNORECASE)
    plan = [re.sub(r"\*+", "", line).strip() for line in lines]
    plan = [line for line in plan if len(re.findall(r"[^\W\d]+", line)) > 1]
    if len(plan) < min(2, steps):
        raise Unparsable(f"expected {steps} numbered steps, found {len(plan)}")
    return plan[:steps]


def unique_names(lives: list[Life]) -> None:
    """Number role names that occur more than once, in agent order, so that every name means one agent."""
    taken: set[str] = set()
    for life in lives:
        role, number = life.name, count(2)
        while life.name.lower() in taken:
            life.name = f"{role} ({next(number)})"
        taken.add(life.name.lower())
