"""Self-Instruct (arXiv 2212.10560): new tasks by example, six written by people and two made before.

The paper's first step, the writing of instructions; what its second step makes (inputs and outputs) is the responder's
answer. What repeats an earlier task is found by `stream.py`, for every generator.
"""

from __future__ import annotations

import asyncio
import random
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from matrix.engines.sources import source_identity
from matrix.generation.base import Draft, Earlier, GeneratorConfig, Materials
from matrix.generation.copies import no_echo, shared
from matrix.generation.scenarios import parse_instruction
from matrix.generation.seeds import read_seeds
from matrix.prompting import Decoding, Unparsable
from matrix.provenance import derive_seed
from matrix.records import Conversation, Message

LONGEST = 150
"""Words (the paper's script)."""
UNFIT = re.compile(r"\b(?:images?|graphs?|pictures?|videos?|audio|music|flowcharts?|diagrams?|draw|plot)\b", re.I)
"""What a language model cannot work on (the paper's script and Alpaca's, but for `file` and `map`, which code has)."""


@dataclass(kw_only=True)
class SelfInstructConfig(GeneratorConfig):
    """Instructions by example."""

    needs_society: ClassVar[bool] = False

    seeds: str | None = field(default=None, metadata={"identity": source_identity})
    """File of tasks written by people (see `seeds.read_seeds`); null: those shipped with this package."""
    examples: int = 8
    """Tasks shown (paper: 8)."""
    made: int = 2
    """How many of them are made before, as soon as there are so many (paper: 2)."""
    wave: int = 64
    """Candidates that are written at once: those of a wave see what was made before it. A smaller wave shows newer
    tasks, a larger one keeps more of the model busy."""
    instruction: Decoding = field(default_factory=lambda: Decoding(temperature=0.7, top_p=0.5, max_tokens=256))
    """The paper's temperature and top_p (appendix A)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.wave < 1 or not 0 <= self.made <= self.examples or self.examples < 1:
            raise ValueError(
                "wave and examples must be at least 1 and made between 0 and examples, "
                f"not {self.wave}, {self.examples} and {self.made}"
            )

    @property
    def name(self) -> str:
        """`self_instruct`."""
        return "self_instruct"

    def build(self, materials: Materials) -> SelfInstructWriter:
        """The writer over the seeds.

        Raises:
            SourceError: the seeds cannot be read.
            ValueError: there are fewer of them than examples.
        """
        return SelfInstructWriter(self, materials)


class SelfInstructWriter:
    """Candidates by example; those of a wave wait for the drafts of all waves before it."""

    limit: int | None = None

    def __init__(self, config: SelfInstructConfig, materials: Materials) -> None:
        self.config, self.materials = config, materials
        self._seeds = [seed.instruction for seed in read_seeds(config.seeds)]
        if len(self._seeds) < config.examples:
            raise ValueError(f"examples={config.examples} needs as many seeds; {config.seeds} has {len(self._seeds)}")
        self._check = no_echo(materials.asker.render("self_instruct", 0, {"examples": []}))
        self._pools: defaultdict[int, asyncio.Future[Sequence[str]]] = defaultdict(
            lambda: asyncio.get_running_loop().create_future()
        )

    async def draft(self, number: int, earlier: Earlier) -> Draft | None:
        """A task that is unlike the examples shown."""
        c, m, row = self.config, self.materials, self.materials.row(number)
        wave, place = divmod(number, c.wave)
        if not place:
            self._pools[wave].set_result([draft.text for draft in await earlier()])
        pool = await self._pools[wave]
        seed = derive_seed(m.seed, row)
        draw = random.Random(seed)
        made = draw.sample(pool, min(c.made, len(pool)))
        shown = [*made, *draw.sample(self._seeds, c.examples - len(made))]
        draw.shuffle(shown)
        text = await m.asker.ask(
            "self_instruct", row, derive_seed(seed, "instruction"), c.instruction, self._parser(shown),
            priority=(0, number), whole=True, examples=shown,
        )  # fmt: skip
        if text is None:
            return None
        return Draft(
            number=number, row=row, seed=seed, messages=[Message(role="user", content=text)], kind=c.name,
            origin=m.asker.origin(seed, "self_instruct"),
        )  # fmt: skip

    def _parser(self, shown: list[str]) -> Callable[[str], str]:
        def parse(text: str) -> str:
            task = parse_task(text)
            likeness = (max(shared(task, example), shared(example, task)) for example in shown)
            if max(likeness) >= self.config.near_duplicate:  # a part of it, or it with something added
                raise Unparsable("copies an example")
            self._check(task)
            return task

        return parse

    async def finish(self, draft: Draft) -> Conversation | None:
        """The responder's answer to the task alone."""
        text = await self.materials.answer(draft, self.config.response, derive_seed(draft.seed, "response"))
        return draft.answered(Message(role="assistant", content=text)) if text else None


def parse_task(text: str) -> str:
    """The first task of an answer, without number and label.

    Raises:
        Unparsable: it has fewer than 3 or more than 150 words, or a language model cannot do it.
    """
    text = re.sub(r"^\W*(?:task|instruction)?\s*\d+\s*[:.)]\s*", "", text.strip(), flags=re.I)
    task = parse_instruction(re.split(r"\n+\W*(?:task\s*)?\d+\s*[:.)]", text, maxsplit=1, flags=re.I)[0])
    if len(task.split()) > LONGEST:
        raise Unparsable(f"more than {LONGEST} words")
    if found := UNFIT.search(task):
        raise Unparsable(f"a language model cannot do this: {found[0]}")
    if not task[0].isalnum() and task[0] not in "\"'“‘¿¡(":
        raise Unparsable("begins with a punctuation mark")
    return task
