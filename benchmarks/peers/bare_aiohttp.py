"""The least that the task needs: an aiohttp client and a semaphore. Nothing is written, checked or tried again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import aiohttp
from contender import INSTRUCTION_TOKENS, RESPONSE_TOKENS, Task, compete


def prepare(task: Task) -> Callable[[list[str]], int]:
    """A client for the task's server."""
    url = f"{task.url}/chat/completions"

    async def rows(prompts: list[str]) -> int:
        slots = asyncio.Semaphore(task.concurrency)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=task.concurrency)) as session:

            async def chat(text: str, max_tokens: int) -> str:
                body = {"model": "model", "messages": [{"role": "user", "content": text}], "max_tokens": max_tokens}
                async with slots, session.post(url, json=body) as reply:
                    return str((await reply.json())["choices"][0]["message"]["content"])

            async def row(prompt: str) -> str:
                return await chat(await chat(prompt, INSTRUCTION_TOKENS), RESPONSE_TOKENS)

            return sum(map(bool, await asyncio.gather(*map(row, prompts))))

    return lambda prompts: asyncio.run(rows(prompts))


if __name__ == "__main__":
    compete(prepare)
