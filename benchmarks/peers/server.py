"""The server of `benchmarks/throughput.py`: chat completions on a loopback port, after latencies drawn from a seed.

The n-th request after `/begin` gets the n-th latency, whoever asks, so every contender has the same amount of waiting.
Until then it answers at once. A chat that quotes no case number gets a new one with its answer (the instruction), a
chat that quotes one gets a response to it: so `/stats` tells whether second steps were made from the first ones'
answers, and how long the slowest pair of them took. Prints its port when it listens.

    python server.py '{"mean": 0.2, "sigma": 1.0, "seed": 1}'
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import sys
import time
from typing import Any

from aiohttp import web

CASE = re.compile(rb"case number (\d+)")
WORDS = [
    "garden", "invoice", "river", "letter", "engine", "winter", "kitchen", "harvest", "teacher", "bridge", "market",
    "window", "ladder", "summer", "doctor", "paper", "bottle", "forest", "ticket", "bakery", "sailor", "meadow",
]  # fmt: skip
SENTENCES = 256
"""Answers are put together from so many sentences of ten words: no two instructions are alike."""


class Server:
    """Counts requests and answers them; `sigma` 0 is a fixed latency of `mean` seconds."""

    def __init__(self, mean: float, sigma: float, seed: int) -> None:
        self._mean, self._sigma, self._seed = mean, sigma, seed
        dice = random.Random(seed)
        self._sentences = [" ".join(dice.choices(WORDS, k=10)) + "." for _ in range(SENTENCES)]
        self._text = dice
        self._number = 0
        self._begun = False
        self._clear()

    def _clear(self) -> None:
        self._latency = random.Random(self._seed)
        self._seconds: list[float] = []
        self._first: dict[int, float] = {}
        self._answered: set[int] = set()
        self._chain = 0.0
        self._in_flight = self._most = 0
        self._cpu = time.process_time()

    async def handle(self, request: web.BaseRequest) -> web.Response:
        """Any POST is a chat."""
        if request.path == "/begin":
            self._clear()
            self._begun = True
            return web.Response()
        if request.path == "/stats":
            return web.json_response(self._stats())
        body = await request.read()
        seconds = 0.0
        if self._begun:
            seconds = self._mean
            if self._sigma:
                seconds *= self._latency.lognormvariate(-(self._sigma**2) / 2, self._sigma)
        self._seconds.append(seconds)
        self._in_flight += 1
        self._most = max(self._most, self._in_flight)
        if quoted := CASE.search(body):
            case, length = int(quoted[1]), 30
            self._answered.add(case)
            self._chain = max(self._chain, self._first.get(case, 0.0) + seconds)
            opening = "This is what I would do."
        else:
            self._number += 1
            length = 6
            self._first[self._number] = seconds
            opening = f"Please help me with case number {self._number} of this week."
        text = " ".join([opening, *self._text.choices(self._sentences, k=length)])
        if seconds:
            await asyncio.sleep(seconds)
        self._in_flight -= 1
        return web.Response(body=_completion(text, length * 15), content_type="application/json")

    def _stats(self) -> dict[str, Any]:
        return {
            "requests": len(self._seconds), "most_in_flight": self._most, "second_steps": len(self._answered),
            "chain": self._chain, "seconds": self._seconds, "cpu": time.process_time() - self._cpu,
        }  # fmt: skip


def _completion(text: str, tokens: int) -> bytes:
    return (
        '{"id":"chatcmpl-1","object":"chat.completion","created":1700000000,"model":"model","choices":[{"index":0,'
        f'"message":{{"role":"assistant","content":"{text}"}},"finish_reason":"stop"}}],'
        f'"usage":{{"prompt_tokens":400,"completion_tokens":{tokens},"total_tokens":{400 + tokens}}}}}'
    ).encode()


async def serve() -> None:
    """Serve until killed."""
    runner = web.ServerRunner(web.Server(Server(**json.loads(sys.argv[1])).handle, access_log=None))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve())
