"""How close the society's scheduler comes to the best possible: wall time against an oracle and a global barrier.

A society whose model calls take log-normal times (long tail) and are served at most C at once. Time is virtual: the
event loop's clock jumps to the next answer, so that the figures are those of the schedule alone and repeat exactly;
`--real` waits for real and adds what the program itself needs.

The oracle is the larger of two lower bounds: the critical path (the same society on a server without limit) and the
total work over C. The barrier is the usual loop of simulators: nobody starts a round before everybody ended the last.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import selectors
from collections.abc import Callable
from typing import Any

import numpy as np

from matrix.engines.base import Completion, Priority, Sampling
from matrix.engines.limits import Slots
from matrix.progress import Progress
from matrix.prompting import Asker
from matrix.provenance import derive_seed
from matrix.records import Action, Message, Profile, Scenario
from matrix.simulation.config import SimulatorConfig
from matrix.simulation.grouping import GroupingConfig
from matrix.simulation.modulator import Modulator
from matrix.simulation.scenario import Play
from matrix.simulation.society import Society

SIGMA = 1.0
"""Of the logarithm of a latency: its 99th percentile is six times its mean."""


class Jumping(selectors.DefaultSelector):
    """A selector that never waits: it says how long it would have."""

    jumped = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        """Look, without waiting, at what is ready."""
        if timeout:
            self.jumped += timeout
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock stands still while it works and jumps while it would wait."""

    def __init__(self) -> None:
        self._jumping = Jumping()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Virtual seconds."""
        return self._jumping.jumped

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:
        """Do at once, and in no time, what a thread would do."""
        done = self.create_future()
        done.set_result(func(*args))
        return done


class Served:
    """A model that answers by purpose after a time drawn for the call, `most` calls at once, the most urgent first."""

    name = "served"
    max_context = 10**6

    def __init__(self, most: int, mean: float) -> None:
        self._slots, self._mean = Slots(most), mean
        self.work, self.calls = 0.0, 0

    async def chat(self, messages: list[Message], sampling: Sampling, priority: Priority = ()) -> Completion:
        """Answer after the time drawn for the call."""
        prompt = messages[0].content
        dice = random.Random(derive_seed(prompt, sampling.seed))
        seconds = self._mean * dice.lognormvariate(-(SIGMA**2) / 2, SIGMA)
        await self._slots.acquire(priority)
        try:
            await asyncio.sleep(seconds)
        finally:
            self._slots.release()
        self.work += seconds
        self.calls += 1
        return Completion(text=reply(prompt, dice), prompt_tokens=1, completion_tokens=1, finish_reason="stop")

    def count_tokens(self, text: str) -> int:
        """Roughly."""
        return len(text) // 4

    async def close(self) -> None:
        """Nothing is held."""


def reply(prompt: str, dice: random.Random) -> str:
    """What a model could say, by the kind of the prompt."""
    if prompt.startswith("Decide which"):
        entries = range(len(re.findall(r"^\d+: ", prompt, re.MULTILINE)))
        told = sorted(dice.sample(entries, min(len(entries), dice.choice((0, 1, 1, 2)))))
        return json.dumps({"indices": told, "reason": "They meet."})
    if prompt.startswith("Rewrite"):
        return '{"role": "Baker", "description": "Bakes bread in a small town."}'
    if prompt.startswith("A plan"):
        return "\n".join(f"{i}. Do the task number {dice.randint(1, 10**6)}." for i in range(1, 61))
    return f"They worked {dice.randint(1, 10**9)} minutes on it and told nobody."


class RandomVectors:
    """An embedder that gives every text a direction of its own."""

    async def each(self, texts: list[str]) -> list[np.ndarray]:
        """The direction of each text."""
        return [await self.one(text) for text in texts]

    async def one(self, text: str) -> np.ndarray:
        """The direction of a text."""
        vector = np.random.default_rng(derive_seed(text)).standard_normal(32, dtype=np.float32)
        return vector / np.linalg.norm(vector)

    def embed(self, texts: list[str]) -> np.ndarray:
        """Directions by place."""
        vectors = np.random.default_rng(7).standard_normal((len(texts), 32), dtype=np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class Barrier(Society):
    """The loop of other simulators: every round waits for all of the last one, passing on and summing up included."""

    async def _group(self, modulator: Modulator) -> None:
        self._ends = getattr(self, "_ends", {})
        for round_ in range(self.config.num_scenarios // len(self.modulators)):
            if round_:
                await self._ends.setdefault(round_ - 1, asyncio.Event()).wait()
            await self.admission.enter(round_, modulator.group, active=True)
            await Play(self, modulator, round_).run()

    def finished(self, group: int, round_: int, rows: tuple[list[Action], Scenario] | None) -> None:
        """The last group of a round lets all into the next."""
        super().finished(group, round_, rows)
        if self._next == (round_ + 1, 0):  # it was the last
            self._ends.setdefault(round_, asyncio.Event()).set()


def config(size: tuple[int, int, int], lag: int, reach: int) -> SimulatorConfig:
    """A society whose plans are longer than its life: in every round every group has something to do."""
    agents, groups, rounds = size
    return SimulatorConfig(
        num_agents=agents, grouping=GroupingConfig(num_groups=groups, min_size=1, max_size=10),
        num_scenarios=groups * rounds, exchange_lag=lag, plan_steps=3 * rounds, share_reach=reach,
    )  # fmt: skip


def run(kind: type[Society], made: SimulatorConfig, most: int, mean: float, real: bool) -> tuple[float, float, int]:
    """Seconds, seconds of work and calls of a society's scenarios, births left out: they are the same for all."""

    async def lived() -> tuple[float, float, int]:
        model = Served(most, mean)
        asker = Asker("matrix.simulation", model, "simulate-benchmark")
        society = kind(made, asker, RandomVectors(), 1, Progress("", 1), lambda *_: None, most)
        people = [Profile(id=str(i), name="", description=f"Person {i}") for i in range(made.num_agents)]
        await society.populate(people)
        now = asyncio.get_running_loop().time
        start, work, calls = now(), model.work, model.calls
        await society.live()
        return now() - start, model.work - work, model.calls - calls

    with asyncio.Runner(loop_factory=None if real else VirtualLoop) as runner:
        return runner.run(lived())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smaller society, less than a minute")
    parser.add_argument("--real", action="store_true", help="wait for real, 0.2 s a call")
    parser.add_argument("--mean", type=float, default=0.2, help="mean seconds of a call")
    options = parser.parse_args()
    size = (200, 40, 5) if options.quick else (1000, 200, 10)
    servers = (16, 64, 256) if options.quick else (64, 256, 1024)
    results: list[dict[str, Any]] = []
    print(f"{size[0]} agents, {size[1]} groups, {size[2]} scenarios each; mean {options.mean} s a call")
    names = ("C", "lag", "reach", "calls", "oracle s", "ours s", "of oracle", "barrier s", "x")
    print("{:>5} {:>4} {:>6} {:>7} {:>9} {:>8} {:>10} {:>10} {:>5}".format(*names))
    barriers = {most: run(Barrier, config(size, 1, 0), most, options.mean, options.real)[0] for most in servers}
    for lag, reach in ((1, 0), (1, 16), (2, 0)):
        made = config(size, lag, reach)
        path, _, _ = run(Society, made, 10**9, options.mean, False)
        for most in servers:
            wall, work, calls = run(Society, made, most, options.mean, options.real)
            oracle = max(path, work / most)
            print(
                f"{most:>5} {lag:>4} {reach or 'all':>6} {calls:>7} {oracle:>9.1f} {wall:>8.1f} {oracle / wall:>10.1%} "
                f"{barriers[most]:>10.1f} {barriers[most] / wall:>5.2f}", flush=True,
            )  # fmt: skip
            results.append(
                {"concurrency": most, "lag": lag, "reach": reach, "calls": calls, "critical_path": round(path, 2),
                 "work": round(work, 1), "oracle": round(oracle, 2), "wall": round(wall, 2),
                 "of_oracle": round(oracle / wall, 4), "barrier": round(barriers[most], 2)}
            )  # fmt: skip
    print(json.dumps({"benchmark": "scheduler", "real": options.real, "results": results}))


if __name__ == "__main__":
    main()
