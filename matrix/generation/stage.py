"""Generate and Prefer: the stages that write instruction-response rows and preference pairs."""

from __future__ import annotations

import asyncio
import json
from abc import ABC
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from matrix.engines.base import ModelConfig
from matrix.engines.embedder import Embedder, EmbedderConfig
from matrix.engines.opening import open_model
from matrix.generation.base import RESPONSE_TOKENS, GeneratorConfig, Materials, answer
from matrix.generation.preference import PolicyPairsConfig, pair_of
from matrix.generation.stream import Stream
from matrix.jsonl import write_jsonl, write_parquet
from matrix.progress import Progress, show
from matrix.prompting import Asker, expected
from matrix.provenance import derive_seed
from matrix.records import Conversation, Failure
from matrix.stage import Estimate, Result, Stage


@dataclass(kw_only=True)
class GenerationStage(Stage, ABC):
    """What both stages open and ask for."""

    prompts: ClassVar[str | None] = "matrix.generation"
    version: ClassVar[int] = 2

    llm: ModelConfig
    responder: ModelConfig | None = None
    """The model that answers; default: `llm`."""
    embedder: EmbedderConfig
    society: Result | None
    """None for a generator that needs none."""

    def _calls(self, config: GeneratorConfig) -> list[tuple[ModelConfig, int, float, float]]:
        models = {False: self.llm, True: self.responder or self.llm}
        return [(models[c.responder], round(c.number), c.tokens_in, c.tokens_out) for c in config.calls()]

    async def _conversations(
        self, config: GeneratorConfig, prefix: str, work: Path, progress: Progress
    ) -> tuple[list[Conversation], list[Failure]]:
        """The rows of a generator and what could not be used; finished calls are in `work/journal*.jsonl`."""
        async with AsyncExitStack() as stack:
            embedder = stack.enter_context(Embedder(self.embedder))
            llm = await stack.enter_async_context(open_model(self.llm, work / "journal.jsonl", progress))
            responder = llm
            if self.responder:
                journal = work / "journal-responder.jsonl"
                responder = await stack.enter_async_context(open_model(self.responder, journal, progress))
            asker = Asker("matrix.generation", llm, f"{self.name}-{self.key()[:12]}")
            materials = Materials(
                asker=asker, responder=responder, embedder=embedder, society=self.society,
                seed=derive_seed(self.seed, self.name), prefix=prefix,
            )  # fmt: skip
            window = 2 * max(self.llm.concurrency, self.responder.concurrency if self.responder else 0)
            stream = Stream(config, materials, config.build(materials), progress, window)
            rows = await stream.rows()
        (work / "generation.json").write_text(json.dumps(stream.account(), indent=1))
        return rows, asker.sorted_failures()


@dataclass(kw_only=True)
class Generate(GenerationStage):
    """MATRIX-Gen-SFT: writes rows.jsonl (Conversation), rows.parquet, failures.jsonl and generation.json.

    `generation.json` says how many rows were wanted, made and asked for, and why candidates were lost.
    """

    name: ClassVar[str] = "generate"

    generator: GeneratorConfig
    prefix: str = "sft"
    """Ids are `<prefix>-00000`; another prefix draws other instructions."""

    def prompt_names(self) -> list[str]:
        """Those of the generator."""
        return self.generator.prompts

    def readable(self) -> str:
        """Kind and number of rows."""
        return f"{self.generator.name}-{self.generator.num_rows}"

    def estimate(self) -> Estimate:
        """As if no candidate failed."""
        return expected(*self._calls(self.generator))

    def run(self, work: Path) -> None:
        """Ask for every instruction and its response."""
        with show("generate", 2 * self.generator.num_rows, work) as progress:
            rows, failures = asyncio.run(self._conversations(self.generator, self.prefix, work, progress))
        write_jsonl(work / "rows.jsonl", rows)
        write_parquet(work / "rows.parquet", rows)
        write_jsonl(work / "failures.jsonl", failures)


@dataclass(kw_only=True)
class Prefer(GenerationStage):
    """MATRIX-Gen-DPO: writes rows.jsonl (PreferencePair), rows.parquet, failures.jsonl and generation.json."""

    name: ClassVar[str] = "prefer"

    preference: PolicyPairsConfig
    model: ModelConfig
    """How the SFT model is served."""
    sft: Result

    def prompt_names(self) -> list[str]:
        """Those of the generator."""
        return self.preference.generator.prompts

    def readable(self) -> str:
        """Kind and number of pairs."""
        return f"{self.preference.generator.name}-{self.preference.generator.num_rows}"

    def estimate(self) -> Estimate:
        """The generator's calls, and one to the SFT model for every pair."""
        c = self.preference
        calls = self._calls(c.generator)
        _, _, prompt, _ = calls[-1]
        rejected = (self.model, c.generator.num_rows, prompt, min(c.rejected.max_tokens, RESPONSE_TOKENS))
        return expected(*calls, rejected)

    def run(self, work: Path) -> None:
        """First all calls of the aligned LLM, then all calls of the SFT model, so that one accelerator serves both."""
        asyncio.run(self._run(work))

    async def _run(self, work: Path) -> None:
        generator = self.preference.generator
        with show("prefer", 3 * generator.num_rows, work) as progress:
            rows, failures = await self._conversations(generator, "pair", work, progress)
            rejected = await self._rejected(rows, work, progress)
        pairs = []
        for row, text in zip(rows, rejected, strict=True):
            if not text or text == row.messages[-1].content:
                error = "the SFT model's answer is the chosen one" if text else "empty answer of the SFT model"
                failures.append(Failure(id=row.id, purpose="rejected", text=text, error=error))
                continue
            pairs.append(pair_of(row, row.messages[-1].content, text, self.sft.name))
        write_jsonl(work / "rows.jsonl", pairs)
        write_parquet(work / "rows.parquet", pairs)
        write_jsonl(work / "failures.jsonl", failures)

    async def _rejected(self, rows: list[Conversation], work: Path, progress: Progress) -> list[str]:
        served = self.model.serving(self.sft.path)
        journal, seed = work / "journal-rejected.jsonl", derive_seed(self.seed, self.name)
        async with open_model(served, journal, progress, name=self.sft.name) as model:

            async def one(row: Conversation) -> str:
                decoding = self.preference.rejected
                text = await answer(model, row.messages[:-1], derive_seed(seed, row.id, "rejected"), decoding)
                progress.advance()
                return text

            return list(await asyncio.gather(*(one(row) for row in rows)))
