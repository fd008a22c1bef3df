"""Opens the engine that a config names, wrapped in journal, accounting and limits.

This is the only place that knows all adapters; each is imported when it is needed and not before. The engine itself is
loaded at the first call that the journal cannot answer: a full replay loads no model.
"""

from __future__ import annotations

import asyncio
import importlib.util
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

from matrix.engines.base import (
    BudgetReached,
    Completion,
    EngineError,
    EngineName,
    LanguageModel,
    ModelConfig,
    Priority,
    Sampling,
)
from matrix.engines.journal import Journal, canonical_call, key_of
from matrix.engines.limits import Slots, estimate_tokens
from matrix.engines.prefix import PrefixMeter
from matrix.progress import Progress, Usage
from matrix.records import Message


class Engine(Protocol):
    """What an adapter gives; `chat` is as in `LanguageModel`."""

    async def chat(self, messages: list[Message], sampling: Sampling) -> Completion:
        """Complete a chat."""
        ...

    async def close(self) -> None:
        """Free everything."""
        ...


@asynccontextmanager
async def open_model(
    config: ModelConfig, journal: Path, progress: Progress, name: str | None = None, forked: Sequence[Path] = ()
) -> AsyncIterator[LanguageModel]:
    """A ready model, closed (its memory freed) when the block ends.

    Args:
        config: what to serve and how.
        journal: append-only file of finished calls; calls in it are answered from it.
        progress: its `usage` and `in_flight` are kept up to date.
        name: what the journal and rows call the model, where `config.model` is a path inside the store.
        forked: journals of other stages from which equal calls are taken.
    """
    with Journal(journal, forked) as kept:
        model = JournaledModel(config, kept, progress, name or config.name)
        try:
            yield model
        finally:
            await model.close()


def choose_engine(config: ModelConfig) -> EngineName:
    """The adapter for `config`; `auto` is vLLM where it is installed and CUDA is there, OpenVINO otherwise.

    A GGUF file always goes to OpenVINO, which is the only engine here that reads one.
    """
    if config.engine is not EngineName.auto:
        return config.engine
    if not config.model.endswith(".gguf") and importlib.util.find_spec("vllm") is not None:
        import torch

        if torch.cuda.is_available():
            return EngineName.vllm
    return EngineName.openvino


class JournaledModel:
    """A `LanguageModel` that asks the journal first, then the engine, and accounts for both."""

    def __init__(self, config: ModelConfig, journal: Journal, progress: Progress, name: str) -> None:
        self.name = name
        self.max_context = config.max_context
        self._config = config
        self._journal = journal
        self._progress = progress
        self._slots = Slots(config.concurrency)
        self._prefixes = PrefixMeter()
        self._quiet = asyncio.Event()
        """Set while no call is in flight."""
        self._quiet.set()
        self._sent: dict[str, asyncio.Future[None]] = {}
        self._engine: Engine | None = None
        self._opening = asyncio.Lock()
        self._opened = self._busy_since = 0.0
        self._count: Callable[[str], int] | None = None

    async def chat(self, messages: list[Message], sampling: Sampling, priority: Priority = ()) -> Completion:
        """Complete a chat; see `LanguageModel.chat`. Equal calls, even at the same time, reach the engine once."""
        call = canonical_call(self.name, messages, sampling)
        key = key_of(call)
        while True:
            if (kept := self._journal.get(key)) is not None:
                self._progress.usage.replayed += 1
                return kept
            if (other := self._sent.get(key)) is None:
                break
            await asyncio.wait([other])  # an equal call that failed or was cancelled leaves this one to try itself
        done = self._sent[key] = asyncio.get_running_loop().create_future()
        try:
            completion = await self._send(messages, sampling, priority)
            self._journal.add(key, call, completion)
        finally:
            del self._sent[key]
            done.set_result(None)
        return completion

    async def _send(self, messages: list[Message], sampling: Sampling, priority: Priority) -> Completion:
        usage = self._progress.usage
        await self._slots.acquire(priority)
        try:
            engine = self._engine or await self._open()
            if spent := self._spent():
                await self._quiet.wait()  # what was sent is paid for: it must reach the journal
                raise BudgetReached(f"{self.name}: {spent}. Everything finished is kept: raise it to go on from here")
            if not self._progress.in_flight:
                self._quiet.clear()
                self._busy_since = time.monotonic()
            self._progress.in_flight += 1
            try:
                completion = await engine.chat(messages, sampling)
            except EngineError:
                usage.failures += 1
                raise
            finally:
                self._progress.in_flight -= 1
                if not self._progress.in_flight:
                    self._quiet.set()
                    usage.busy += time.monotonic() - self._busy_since
        finally:
            self._slots.release()
        usage.calls += 1
        usage.tokens_in += completion.prompt_tokens
        usage.tokens_out += completion.completion_tokens
        usage.tokens_cached += completion.cached_tokens
        usage.tokens_shared += round(completion.prompt_tokens * self._prefixes.share(messages))
        priced = (
            completion.prompt_tokens * self._config.price_in + completion.completion_tokens * self._config.price_out
        )
        usage.money += priced / 1e6
        return completion

    def _spent(self) -> str:
        """Which budget is used up, if one is."""
        c, usage = self._config, self._progress.usage
        if c.budget_tokens and usage.tokens_in + usage.tokens_out >= c.budget_tokens:
            return f"budget_tokens={c.budget_tokens} is spent"
        if c.budget_money and usage.money >= c.budget_money:
            return f"budget_money={c.budget_money} is spent"
        if c.budget_hours and time.monotonic() - self._progress.started >= 3600 * c.budget_hours:
            return f"budget_hours={c.budget_hours} is over"
        return ""

    async def _open(self) -> Engine:
        async with self._opening:
            if self._engine is None:
                self._opened = time.monotonic()
                self._engine = await _start(self._config, self._progress.usage)
        return self._engine

    def count_tokens(self, text: str) -> int:
        """Tokens of `text`, by the tokenizer alone: the count is the same whether an engine is loaded or not."""
        if self._count is None:
            self._count = _token_counter(self._config)
        return self._count(text)

    async def close(self) -> None:
        """Close the engine, if one was opened."""
        if self._engine is not None:
            engine, self._engine = self._engine, None
            self._progress.usage.seconds += time.monotonic() - self._opened
            await engine.close()


async def _start(config: ModelConfig, usage: Usage) -> Engine:
    match choose_engine(config):
        case EngineName.vllm:
            from matrix.engines.vllm import VllmEngine

            return await VllmEngine.start(config)
        case EngineName.openai:
            from matrix.engines.openai import OpenAIEngine

            return OpenAIEngine(config, usage)
        case EngineName.scripted:
            from matrix.engines.scripted import ScriptedEngine

            return ScriptedEngine(config)
        case _:
            from matrix.engines.openvino import OpenVinoEngine

            return await OpenVinoEngine.start(config)


def _token_counter(config: ModelConfig) -> Callable[[str], int]:
    """Exact for engines that run here; endpoints keep their tokenizer to themselves, so there it is an estimate."""
    match choose_engine(config):
        case EngineName.vllm:
            from matrix.engines.vllm import token_counter

            return token_counter(config)
        case EngineName.openvino:
            from matrix.engines.openvino import OpenVinoTokenizer

            return OpenVinoTokenizer(config).count
        case _:
            return estimate_tokens
