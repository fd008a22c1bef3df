"""What a model call costs this process beyond the HTTP request itself.

A loopback server in a process of its own answers after a fixed latency. The same requests are made by a bare aiohttp
client, by the `openai` engine, and by the engine behind its journal; the order turns from round to round. Reported is
CPU time of this process per call, its median over the rounds, and the ratio to the bare client.

    python benchmarks/engine_overhead.py --quick
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from multiprocessing.connection import Connection
from pathlib import Path

import aiohttp
from aiohttp import web

from matrix.engines.base import EngineName, ModelConfig, Sampling
from matrix.engines.openai import OpenAIEngine
from matrix.engines.opening import open_model
from matrix.progress import Progress, Usage
from matrix.records import Message

PROMPT = "Write two sentences about a garden in spring. " * 40
ANSWER = {
    "choices": [{"message": {"role": "assistant", "content": "word " * 100}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 400, "completion_tokens": 100},
}
LATENCY = 0.02
"""Seconds."""


def serve(port: Connection) -> None:
    """Answer every request with the same completion."""
    answer = json.dumps(ANSWER).encode()

    async def handle(request: web.Request) -> web.Response:
        await request.read()
        await asyncio.sleep(LATENCY)
        return web.Response(body=answer, content_type="application/json")

    async def main() -> None:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", handle)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        port.send(runner.addresses[0][1])
        await asyncio.Event().wait()

    asyncio.run(main())


async def measured(calls: int, one: Callable[[int], Awaitable[object]]) -> tuple[float, float]:
    """CPU-ms a call and calls a second."""
    cpu, wall = time.process_time(), time.perf_counter()
    await asyncio.gather(*(one(i) for i in range(calls)))
    return (time.process_time() - cpu) * 1e3 / calls, calls / (time.perf_counter() - wall)


async def bare(url: str, calls: int, concurrency: int) -> tuple[float, float]:
    """An aiohttp client and a semaphore; the answer is parsed, nothing else."""
    slots = asyncio.Semaphore(concurrency)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=concurrency)) as session:

        async def one(i: int) -> object:
            body = {"model": "m", "messages": [{"role": "user", "content": PROMPT + str(i)}], "seed": i}
            async with slots, session.post(f"{url}/chat/completions", json=body) as reply:
                return await reply.json()

        return await measured(calls, one)


async def engine(url: str, calls: int, concurrency: int) -> tuple[float, float]:
    """The engine alone: retries, adaptive limit, typed decoding."""
    client = OpenAIEngine(config(url, concurrency), Usage())
    try:
        return await measured(calls, lambda i: client.chat(*call(i)))
    finally:
        await client.close()


async def journaled(url: str, calls: int, concurrency: int) -> tuple[float, float]:
    """As a stage uses it: journal on disk and accounting too."""
    with tempfile.TemporaryDirectory() as folder:
        progress = Progress("benchmark", calls)
        async with open_model(config(url, concurrency), Path(folder) / "journal.jsonl", progress) as model:
            return await measured(calls, lambda i: model.chat(*call(i)))


async def replayed(url: str, calls: int, concurrency: int) -> tuple[float, float]:
    """The same calls again, answered from the journal."""
    with tempfile.TemporaryDirectory() as folder:
        journal = Path(folder) / "journal.jsonl"
        async with open_model(config(url, concurrency), journal, Progress("benchmark", calls)) as model:
            await measured(calls, lambda i: model.chat(*call(i)))
        async with open_model(config(url, concurrency), journal, Progress("benchmark", calls)) as again:
            return await measured(calls, lambda i: again.chat(*call(i)))


def config(url: str, concurrency: int) -> ModelConfig:
    """The endpoint as a model."""
    return ModelConfig(model="m", engine=EngineName.openai, endpoints=[url], concurrency=concurrency)


def call(i: int) -> tuple[list[Message], Sampling]:
    """Messages and sampling of call `i`."""
    return [Message(role="user", content=PROMPT + str(i))], Sampling(seed=i)


CLIENTS = {"aiohttp": bare, "engine": engine, "engine + journal": journaled, "replay": replayed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="less than a minute")
    quick = parser.parse_args().quick
    calls, rounds, concurrency = (1000, 3, 64) if quick else (4000, 7, 64)

    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    server = context.Process(target=serve, args=(there,), daemon=True)
    server.start()
    url = f"http://127.0.0.1:{here.recv()}/v1"
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in CLIENTS}
    for turn in range(rounds):
        names = list(CLIENTS)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            found[name].append(asyncio.run(CLIENTS[name](url, calls, concurrency)))
    server.terminate()

    cpu = {name: statistics.median(c for c, _ in results) for name, results in found.items()}
    rate = {name: statistics.median(r for _, r in results) for name, results in found.items()}
    print(f"{calls} calls, {concurrency} in flight, {LATENCY * 1e3:.0f} ms latency, median of {rounds} rounds\n")
    print(f"{'client':18} {'CPU-ms/call':>12} {'ratio':>7} {'calls/s':>9}")
    for name in CLIENTS:
        print(f"{name:18} {cpu[name]:12.3f} {cpu[name] / cpu['aiohttp']:7.2f} {rate[name]:9.0f}")
    summary = {name: {"cpu_ms": round(cpu[name], 4), "ratio": round(cpu[name] / cpu["aiohttp"], 3)} for name in CLIENTS}
    print(json.dumps({"benchmark": "engine_overhead", "calls": calls, "rounds": rounds, "clients": summary}))


if __name__ == "__main__":
    main()
