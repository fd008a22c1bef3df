"""Likely: the stage that measures how likely a model finds the answers of rows, with their prompt and without it.

Feeds the filters that ask what the model to be trained makes of a row before it learns from it.
"""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from matrix.engines.base import HOW, ModelConfig
from matrix.filtering.reward_models import alone
from matrix.filtering.scorer import Head, Scorer, ScorerConfig
from matrix.jsonl import write_jsonl
from matrix.progress import show
from matrix.records import Likelihood, Message
from matrix.rows import answers, prompt, read_rows
from matrix.stage import Result, Stage

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Likely(Stage):
    """Log-probabilities of every answer of every row.

    Writes likelihoods.jsonl (`Likelihood`, in the order of the rows) and counts.json. Prompts are rendered with the
    model's chat template and answers tokenised as in training; the answer's tokens and its end of turn are summed.
    `logp_alone` is the same answer after one empty user turn, without history or system message.
    """

    name: ClassVar[str] = "likelihood"

    model: ModelConfig
    """The model, or, with a `checkpoint`, how that one is loaded. `engine` and its knobs are not looked at."""
    checkpoint: Result | None = None
    """A result that holds the weights (`import`, `train`), in place of `model.model`."""
    rows: Result
    """A result with `rows.jsonl` of `Conversation` or `PreferencePair`."""
    scorer: ScorerConfig = field(default_factory=ScorerConfig, metadata=HOW)

    def readable(self) -> str:
        """Whose opinion it is."""
        return self.checkpoint.name if self.checkpoint else Path(self.model.model).stem

    def run(self, work: Path) -> None:
        """Measure every distinct answer; finished batches are in `measured.jsonl`.

        Raises:
            EngineError: the model cannot be loaded or run; what was finished is kept.
            SourceError: there is no such model.
        """
        asyncio.run(self._run(work))

    async def _run(self, work: Path) -> None:
        rows = read_rows(self.rows.path / "rows.jsonl")
        places = [(row, part, text) for row in rows for part, text in answers(row).items()]
        chats = [[*prompt(row), Message(role="assistant", content=text)] for row, _, text in places]
        model = self.model
        if self.checkpoint:
            model = model.serving(self.checkpoint.path)
        with show("likelihood", 0, work) as progress:
            async with Scorer(model, self.scorer, Head.language, work / "measured.jsonl", progress) as scorer:
                measured = await scorer.measure([*chats, *map(alone, chats)])
        given, bare = measured[: len(chats)], measured[len(chats) :]
        cut = sum(found.cut > 0 for found in given)
        if cut:
            log.warning("%d of %d chats were cut to max_context=%d", cut, len(chats), model.max_context)
        write_jsonl(
            work / "likelihoods.jsonl",
            [
                Likelihood(row=row.id, part=part, tokens=own.tokens, logp=own.value, logp_alone=other.value)
                for (row, part, _), own, other in zip(places, given, bare, strict=True)
            ],
        )
        (work / "counts.json").write_text(json.dumps({"answers": len(chats), "cut": cut}, indent=1))
