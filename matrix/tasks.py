"""Many calls at once, on one event loop: a task group that raises plain errors, and a pool of fixed width."""

from __future__ import annotations

from asyncio import TaskGroup
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

T = TypeVar("T")


@asynccontextmanager
async def together() -> AsyncIterator[TaskGroup]:
    """A TaskGroup that raises what went wrong first, not a group of errors."""
    try:
        async with TaskGroup() as tasks:
            yield tasks
    except ExceptionGroup as group:
        error: Exception = group
        while isinstance(error, ExceptionGroup):
            error = error.exceptions[0]
        raise error from None


async def pooled(total: int, work: Callable[[int], Awaitable[T]], width: int) -> list[T]:
    """`work(0) ... work(total - 1)`, `width` of them at a time and in no other task: a million cost no memory."""
    results: list[T | None] = [None] * total
    numbers = iter(range(total))

    async def worker() -> None:
        for number in numbers:
            results[number] = await work(number)

    async with together() as tasks:
        for _ in range(min(width, total)):
            tasks.create_task(worker())
    return results  # type: ignore[return-value]  # every number was worked on
