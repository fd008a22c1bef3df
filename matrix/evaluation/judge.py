"""Asks the judge: every call concurrently, refusals kept as answers, failures counted and never taken for verdicts."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from matrix.engines.base import Completion, ContextOverflow, EngineError, LanguageModel, Sampling
from matrix.progress import Progress
from matrix.records import Message

T = TypeVar("T")


@dataclass
class Judge:
    """A language model that judges, and what it refused."""

    model: LanguageModel
    progress: Progress
    failed_calls: int
    """Calls that may fail for good before the next failure is raised."""

    async def ask(self, messages: list[Message], sampling: Sampling) -> Completion:
        """One answer; where the judge could not be asked, an empty one whose `finish_reason` says why.

        Raises:
            EngineError: more calls failed than `failed_calls`.
        """
        try:
            return await self.model.chat(messages, sampling)
        except ContextOverflow as error:
            return refused(f"{type(error).__name__}: {error}")
        except EngineError as error:
            self.failed_calls -= 1
            if self.failed_calls < 0:
                raise
            return refused(f"{type(error).__name__}: {error}")


async def gather(calls: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """The results in order; the first error stops the calls that are still under way and is raised as it is."""
    tasks = [asyncio.ensure_future(call) for call in calls]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def refused(reason: str) -> Completion:
    """Stands for a call that was not answered."""
    return Completion(text="", prompt_tokens=0, completion_tokens=0, finish_reason=reason)
