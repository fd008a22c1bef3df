"""Scores chats with a torch model: rewards and the rows' likelihoods are made of these numbers.

The model runs in a process of its own (`matrix.filtering.scoring`), so that accelerator memory comes back with its end.
It is started by the first chat that has no score yet. Every finished batch is one line of an append-only file: a killed
stage goes on after the last one.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import msgspec

from matrix.engines.base import EngineError, ModelConfig
from matrix.engines.limits import estimate_tokens
from matrix.engines.sources import hub_source, resolve
from matrix.progress import Progress
from matrix.records import Message, Row

TURN_TOKENS = 8
"""What a chat template puts around a turn, roughly."""


class Head(StrEnum):
    """What is read off a model."""

    reward = "reward"
    """The output of a sequence classifier for the whole chat."""
    language = "language"
    """Summed natural log-probability of the last answer's tokens and its end of turn, given what stands before."""


@dataclass(kw_only=True)
class ScorerConfig:
    """How a torch model is run. Batches move scores by rounding errors only."""

    device: str = "auto"
    """`auto` is the first GPU where there is one; otherwise as torch names it: `cpu`, `cuda:1`."""
    batch_tokens: int = 8192
    """Most tokens of a batch, padding included, estimated at one for three bytes; a longer chat goes alone."""

    def __post_init__(self) -> None:
        if self.batch_tokens < 1:
            raise ValueError(f"scorer.batch_tokens must be at least 1, not {self.batch_tokens}")


class Measured(Row, frozen=True, kw_only=True):
    """What a model says of one chat."""

    value: float
    """Reward, or summed log-probability."""
    tokens: int
    """Of the last answer with its end of turn (`Head.language`), of the whole chat (`Head.reward`)."""
    cut: int = 0
    """Tokens that did not fit `max_context`. They are taken behind the first token, so that the answer's end stays."""


class Batch(Row, frozen=True, kw_only=True):
    """One line of the file of finished batches."""

    measured: dict[str, Measured]


class Job(Row, frozen=True, kw_only=True):
    """What the process is told at its start."""

    head: Head
    source: str
    """Folder or hub id."""
    revision: str | None
    gguf: str | None
    """File in the folder to read instead of safetensors."""
    chat_template: str | None
    trust_remote_code: bool
    dtype: str
    device: str
    threads: int
    max_context: int


class Scorer:
    """Scores chats that end with an answer; use as `async with`.

    Args:
        model: what to load; `engine` and its knobs are not looked at. `dtype=auto` is float32 on the CPU and the
            checkpoint's own type on a GPU.
        config: how it is run.
        head: what is read off.
        file: finished batches; one file a model and head.
        progress: advances by one a chat.
    """

    def __init__(self, model: ModelConfig, config: ScorerConfig, head: Head, file: Path, progress: Progress) -> None:
        self._model = model
        self._config = config
        self._head = head
        self._progress = progress
        self._process: asyncio.subprocess.Process | None = None
        self._log: IO[bytes] | None = None
        self._measured = _finished(file)
        self._file = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    async def measure(self, chats: Sequence[list[Message]]) -> list[Measured]:
        """One measurement a chat, in their order; equal chats are scored once.

        Raises:
            EngineError: the model cannot be loaded or run; what was finished is kept.
            SourceError: there is no such model.
        """
        keys = [chat_key(chat) for chat in chats]
        self._progress.total += len(chats)
        for batch in _batches(dict(zip(keys, chats, strict=True)), self._config.batch_tokens):
            missing = {key: chat for key, chat in batch.items() if key not in self._measured}
            if missing:
                done = dict(zip(missing, await self._ask(list(missing.values())), strict=True))
                self._keep(done)
            self._progress.advance(len(batch))
        self._progress.advance(len(keys) - len(set(keys)))
        return [self._measured[key] for key in keys]

    def _keep(self, measured: dict[str, Measured]) -> None:
        line = msgspec.json.encode(Batch(measured=measured)) + b"\n"
        if os.write(self._file, line) != len(line):
            raise OSError(f"no space left to write finished scores of {self._model.name}")
        self._measured |= measured

    async def _ask(self, chats: list[list[Message]]) -> list[Measured]:
        process = self._process = self._process or await self._start()
        assert process.stdin and process.stdout
        try:
            process.stdin.write(msgspec.json.encode(chats) + b"\n")
            await process.stdin.drain()
            answer = await process.stdout.readline()
        except (BrokenPipeError, ConnectionResetError):
            answer = b""
        if not answer:
            raise EngineError(
                f"the process that holds {self._model.name} {await self._end()}. Finished scores are kept: mend it and "
                "type the same command again (short of memory: lower scorer.batch_tokens)"
            )
        return msgspec.json.decode(answer, type=list[Measured])

    async def _start(self) -> asyncio.subprocess.Process:
        m = self._model
        path = resolve(m.model, m.revision)
        gguf = path.name if isinstance(path, Path) and path.suffix == ".gguf" else None
        source, revision = (str(Path(path).parent), None) if gguf else hub_source(m.model, m.revision)
        job = Job(
            head=self._head, source=source, revision=revision, gguf=gguf, chat_template=m.chat_template, dtype=m.dtype,
            trust_remote_code=m.trust_remote_code, threads=m.threads or len(os.sched_getaffinity(0)),
            max_context=m.max_context, device=self._config.device,
        )  # fmt: skip
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  # open as long as the process lives
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "matrix.filtering.scoring", msgspec.json.encode(job).decode(),
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=self._log, limit=2**26,
            env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE"},  # spinning threads would starve each other on shared cores
        )  # fmt: skip

    async def _end(self) -> str:
        """How the process ended."""
        assert self._process and self._log
        code = await self._process.wait()
        if code < 0:
            return f"was killed by signal {-code}"
        self._log.seek(0)
        words = self._log.read().decode(errors="replace").strip().rpartition("\n")[2]
        return f"ended: {words}"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        """End the process, in the middle of a batch if need be; it holds nothing that is not kept."""
        os.close(self._file)
        if self._process:
            if self._process.returncode is None:
                self._process.kill()
            await self._process.communicate()
        if self._log:
            self._log.close()


def chat_key(chat: list[Message]) -> str:
    """sha256 of a chat, as 64 hex digits."""
    return hashlib.sha256(json.dumps([[message.role, message.content] for message in chat]).encode()).hexdigest()


def _batches(chats: dict[str, list[Message]], most: int) -> Iterator[dict[str, list[Message]]]:
    """Chats of similar length together, the longest first: what does not fit the memory is known at once.

    All chats are laid out, finished ones included, so that a resumed run has the batches of one that never stopped.
    """
    size = {key: sum(estimate_tokens(m.content) + TURN_TOKENS for m in chat) for key, chat in chats.items()}
    batch: dict[str, list[Message]] = {}
    longest = 0
    for key in sorted(chats, key=lambda key: -size[key]):
        if batch and (len(batch) + 1) * longest > most:
            yield batch
            batch = {}
        longest = longest if batch else size[key]
        batch[key] = chats[key]
    if batch:
        yield batch


def _finished(file: Path) -> dict[str, Measured]:
    """What the file holds; a last line that a crash cut short is taken off."""
    found: dict[str, Measured] = {}
    if not file.exists():
        return found
    end = 0
    with file.open("rb") as lines:
        for line in lines:
            if not line.endswith(b"\n"):
                break
            found |= msgspec.json.decode(line, type=Batch).measured
            end += len(line)
    os.truncate(file, end)
    return found
