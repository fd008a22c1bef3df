"""Generate and Prefer: the stages that write instruction-response rows and preference pairs."""

from __future__ import annotations

import asyncio
import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from matrix.engines.base import ModelConfig
from matrix.engines.embedder import Embedder, EmbedderConfig
from matrix.engines.opening import open_model
from matrix.generation.instructions import Generation, GeneratorConfig, Kind, answer
from matrix.progress import Progress, show
from matrix.prompting import Asker, Decoding, expected
from matrix.provenance import derive_seed
from matrix.records import Conversation, Failure, PreferencePair, write_jsonl, write_parquet
from matrix.stage import Estimate, Result, Stage

PROMPT_TOKENS, INSTRUCTION_TOKENS, RESPONSE_TOKENS = 400, 80, 450
"""Behind the plan's estimates: persona, three actions and the template of a prompt; a typical instruction and response.
None is longer than its `max_tokens`."""


def _expected(llm: ModelConfig, config: GeneratorConfig) -> list[tuple[ModelConfig, int, float, float]]:
    """Calls for the rows of a generator: one for every instruction, one for every response."""
    instruction = min(config.instruction.max_tokens, INSTRUCTION_TOKENS)
    return [
        (llm, config.num_rows, PROMPT_TOKENS, instruction),
        (llm, config.num_rows, instruction, min(config.response.max_tokens, RESPONSE_TOKENS)),
    ]


@dataclass(kw_only=True)
class Generate(Stage):
    """MATRIX-Gen-SFT: writes rows.jsonl (Conversation), rows.parquet and failures.jsonl."""

    name: ClassVar[str] = "generate"
    prompts: ClassVar[str | None] = "matrix.generation"

    generator: GeneratorConfig
    llm: ModelConfig
    embedder: EmbedderConfig
    society: Result

    def readable(self) -> str:
        """Kind and number of rows."""
        return f"{self.generator.kind}-{self.generator.num_rows}"

    def estimate(self) -> Estimate:
        """Two calls a row."""
        return expected(*_expected(self.llm, self.generator))

    def run(self, work: Path) -> None:
        """Ask for every instruction and its response; finished calls are in `work/journal.jsonl`."""
        asyncio.run(self._run(work))

    async def _run(self, work: Path) -> None:
        with show("generate", self.generator.num_rows, work) as progress, Embedder(self.embedder) as embedder:
            async with open_model(self.llm, work / "journal.jsonl", progress) as model:
                asker = Asker("matrix.generation", model, f"{self.name}-{self.key()[:12]}")
                seed = derive_seed(self.seed, self.name)
                generation = Generation(self.generator, asker, self.society, seed, "sft", progress)
                rows = await generation.conversations(embedder)
        write_jsonl(work / "rows.jsonl", rows)
        write_parquet(work / "rows.parquet", rows)
        write_jsonl(work / "failures.jsonl", asker.sorted_failures())


@dataclass(kw_only=True)
class PreferenceConfig:
    """Preference pairs: chosen by the aligned LLM, rejected by the SFT model just trained (paper section 4.1)."""

    generator: GeneratorConfig = field(default_factory=lambda: GeneratorConfig(kind=Kind.complex))
    """Where the prompts come from; `generator.response` samples the chosen answer."""
    rejected: Decoding = field(default_factory=lambda: Decoding(temperature=0.7, max_tokens=2048))
    """Sampling of the SFT model (paper: not stated)."""


@dataclass(kw_only=True)
class Prefer(Stage):
    """MATRIX-Gen-DPO: writes rows.jsonl (PreferencePair), rows.parquet and failures.jsonl."""

    name: ClassVar[str] = "prefer"
    prompts: ClassVar[str | None] = "matrix.generation"

    preference: PreferenceConfig
    llm: ModelConfig
    model: ModelConfig
    """How the SFT model is served."""
    embedder: EmbedderConfig
    society: Result
    sft: Result

    def readable(self) -> str:
        """Kind and number of pairs."""
        return f"{self.preference.generator.kind}-{self.preference.generator.num_rows}"

    def estimate(self) -> Estimate:
        """Three calls a pair, the third to the SFT model."""
        c = self.preference
        calls = _expected(self.llm, c.generator)
        _, number, prompt, _ = calls[-1]
        rejected = (self.model, number, prompt, min(c.rejected.max_tokens, RESPONSE_TOKENS))
        return expected(*calls, rejected)

    def run(self, work: Path) -> None:
        """First all calls of the aligned LLM, then all calls of the SFT model, so that one accelerator serves both."""
        asyncio.run(self._run(work))

    async def _run(self, work: Path) -> None:
        generator = self.preference.generator
        seed = derive_seed(self.seed, self.name)
        stage = f"{self.name}-{self.key()[:12]}"
        with show("prefer", 2 * generator.num_rows, work) as progress, Embedder(self.embedder) as embedder:
            async with open_model(self.llm, work / "journal.jsonl", progress) as model:
                asker = Asker("matrix.generation", model, stage)
                generation = Generation(generator, asker, self.society, seed, "pair", progress)
                rows = await generation.conversations(embedder)
            rejected = await self._rejected(rows, seed, work, progress)
        failures = asker.sorted_failures()
        pairs = []
        for row, text in zip(rows, rejected, strict=True):
            if not text or text == row.messages[-1].content:
                error = "the SFT model's answer is the chosen one" if text else "empty answer of the SFT model"
                failures.append(Failure(id=row.id, purpose="rejected", text=text, error=error))
                continue
            pairs.append(
                PreferencePair(
                    id=row.id, prompt=row.messages[:-1], chosen=row.messages[-1].content, rejected=text, kind=row.kind,
                    requirement=row.requirement, category=row.category, complexity=row.complexity, style=row.style,
                    origin=row.origin, rejected_model=self.sft.name,
                )
            )  # fmt: skip
        write_jsonl(work / "rows.jsonl", pairs)
        write_parquet(work / "rows.parquet", pairs)
        write_jsonl(work / "failures.jsonl", failures)

    async def _rejected(self, rows: list[Conversation], seed: int, work: Path, progress: Progress) -> list[str]:
        served = dataclasses.replace(self.model, model=str(self.sft.path), revision=None)
        journal = work / "journal-rejected.jsonl"
        async with open_model(served, journal, progress, name=self.sft.name) as model:

            async def one(row: Conversation) -> str:
                decoding = self.preference.rejected
                text = await answer(model, row.messages[:-1], derive_seed(seed, row.id, "rejected"), decoding)
                progress.advance()
                return text

            return list(await asyncio.gather(*(one(row) for row in rows)))
