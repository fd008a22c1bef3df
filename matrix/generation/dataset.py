"""Rows of a public or local data set, as they are or answered anew: the baselines that the paper trains beside its own.

ShareGPT, WildChat, Evol-Instruct, UltraChat, OpenHermes, Tulu V2 and Magpie (paper tables 2 and 4) are presets of it.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar

from matrix.engines.base import ContextOverflow
from matrix.generation.base import Calls, Draft, Earlier, GeneratorConfig, Materials
from matrix.generation.sources import ColumnsConfig, SourceConfig, UnusableRow, chat, sample
from matrix.provenance import derive_seed
from matrix.records import Conversation, Message, Origin


class Responses(StrEnum):
    """Whose answers the rows hold."""

    dataset = "dataset"
    """Those of the data set."""
    llm = "llm"
    """The responder's: every turn of the user is answered anew, after the new answers before it."""


@dataclass(kw_only=True)
class DatasetConfig(GeneratorConfig):
    """A data set, sampled."""

    needs_society: ClassVar[bool] = False

    label: str = "dataset"
    """What rows and folders call it, e.g. `sharegpt`."""
    source: SourceConfig
    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    """Where a row holds its chat; empty: found out, see `sources.LAYOUTS`."""
    responses: Responses = Responses.dataset
    turns: int = 0
    """User turns that are kept of a conversation, the first ones; 0: all."""
    near_duplicate: float = 1.0
    """A data set is taken with its repetitions, but for those that are the same word for word."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.turns < 0:
            raise ValueError(f"turns must be 0 (all) or more, not {self.turns}")

    @property
    def name(self) -> str:
        """The label."""
        return self.label

    @property
    def prompts(self) -> list[str]:
        """None."""
        return []

    def build(self, materials: Materials) -> DatasetWriter:
        """The writer over rows drawn by seed.

        Raises:
            SourceError: the data set cannot be read.
        """
        return DatasetWriter(self, materials)

    def calls(self) -> list[Calls]:
        """One call a row if answers are made, none otherwise."""
        _, answering = super().calls()
        return [answering if self.responses is Responses.llm else answering._replace(number=0)]


class DatasetWriter:
    """One candidate for every row drawn."""

    def __init__(self, config: DatasetConfig, materials: Materials) -> None:
        self.config, self.materials = config, materials
        self._rows = sample(config.source, config.most, derive_seed(materials.seed, "sample"))
        self.limit: int | None = len(self._rows)

    async def draft(self, number: int, earlier: Earlier) -> Draft | None:
        """The row's chat."""
        c, m, row = self.config, self.materials, self.materials.row(number)
        place, columns = self._rows[number]
        try:
            messages = self._kept(chat(columns, c.columns))
        except UnusableRow as error:
            m.fail(row, c.name, json.dumps(columns, ensure_ascii=False, default=str)[:2000], str(error))
            return None
        seed = derive_seed(m.seed, row)
        model = m.responder.name if c.responses is Responses.llm else ""
        origin = Origin(stage=m.asker.stage, model=model, seed=seed, instruction=f"{c.source.name}:{place}")
        return Draft(number=number, row=row, seed=seed, messages=messages, kind=c.name, origin=origin)

    def _kept(self, messages: list[Message]) -> list[Message]:
        """As many turns as are wanted; answers of the data set are needed for the last of them too."""
        asked = [at for at, message in enumerate(messages) if message.role == "user"]
        if 0 < self.config.turns < len(asked):
            messages = messages[: asked[self.config.turns]]
        if self.config.responses is Responses.dataset and messages[-1].role == "user":
            messages = messages[:-1]
            if not any(message.role == "assistant" for message in messages):
                raise UnusableRow("no answer; responses=llm would have one made")
        return messages

    async def finish(self, draft: Draft) -> Conversation | None:
        """The chat with its answers, or with the responder's."""
        if self.config.responses is Responses.dataset:
            return draft.answered()
        messages: list[Message] = []
        for message in draft.messages:
            if message.role == "assistant":
                continue
            messages.append(message)
            if message.role == "user":
                seed = derive_seed(draft.seed, "response", len(messages))
                so_far = dataclasses.replace(draft, messages=messages)
                try:
                    text = await self.materials.answer(so_far, self.config.response, seed)
                except ContextOverflow as error:
                    self.materials.fail(draft.row, "response", "", str(error))
                    return None
                if not text:
                    return None
                messages.append(Message(role="assistant", content=text))
        return dataclasses.replace(draft, messages=messages).answered()
