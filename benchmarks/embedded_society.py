"""A real society on the embedded language model: how busy it keeps the engine, and what communication does to it.

24 agents in 6 groups live through 2 scenarios each. First the stage's tokens per second against the bare engine's,
which gets the same prompts as one batch, and as many at a time as there are agents; loading the model is left out of
both. No schedule gets from the first to the second where calls wait for one another, so the bound is told as well: an
engine pays for every step, however few calls are in it, and no society has fewer steps than its longest chain of calls
has tokens. The price comes from the bare engine with different numbers of calls in flight, the chain from the same
society on an engine without limits that gives the journal's answers again, a step of virtual time for a token.

Then the same society with structured, random and no communication (births are taken from the first journal): messages,
distinct n-grams of the scenario summaries, and their diversity as embeddings (mean pairwise cosine distance; Vendi
score, Friedman and Dieng 2023).

    python benchmarks/embedded_society.py --quick
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
from collections import Counter
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import yaml
from scheduler import VirtualLoop

from matrix.engines.base import Completion, ModelConfig, Priority, Sampling
from matrix.engines.embedder import Embedder, EmbedderConfig
from matrix.engines.journal import Entry, canonical_call, key_of
from matrix.engines.openvino import OpenVinoEngine, OpenVinoTokenizer
from matrix.jsonl import iter_jsonl, read_jsonl
from matrix.progress import Progress
from matrix.prompting import Asker, Decoding
from matrix.provenance import derive_seed
from matrix.records import Failure, Message, Profile, Scenario
from matrix.simulation.config import SimulatorConfig, Turns
from matrix.simulation.grouping import GroupingConfig
from matrix.simulation.memory import MemoryConfig
from matrix.simulation.modulator import Communication
from matrix.simulation.society import Society
from matrix.simulation.stage import Simulate

CONF = Path(__file__).parents[1] / "conf"


def stage(
    agents: int, communication: str, fork_from: str | None = None, turns: str = "in_turn", lag: int = 1
) -> Simulate:
    """A society of so many agents, sampled as the demo's is."""
    toy = yaml.safe_load((CONF / "simulator/toy.yaml").read_text())
    groups = agents // 4
    simulator = SimulatorConfig(
        num_agents=agents, num_scenarios=2 * groups, communication=Communication(communication), fork_from=fork_from,
        turns=Turns(turns), exchange_lag=lag,
        grouping=GroupingConfig(num_groups=groups, min_size=3, max_size=5), memory=MemoryConfig(**toy["memory"]),
        max_observations=toy["max_observations"], max_posts=toy["max_posts"], share_candidates=3, plan_steps=3,
        **{name: Decoding(**toy[name]) for name in ("birth", "acting", "routing")},
    )  # fmt: skip
    llm = ModelConfig(**yaml.safe_load((CONF / "llm/embedded.yaml").read_text()))
    embedder = EmbedderConfig(**yaml.safe_load((CONF / "embedder/minilm.yaml").read_text()))
    return Simulate(simulator=simulator, llm=llm, embedder=embedder, seed=0)


def lived(made: Simulate, store: Path) -> tuple[Path, dict[str, Any]]:
    """Run the stage; where its files are and what its calls cost."""
    communication = made.simulator.communication
    work = store / f"{communication}-{made.key()[:12]}"
    work.mkdir()
    made.run(work)
    return work, json.loads((work / "usage.json").read_text())


class Replayed:
    """Gives the answers of a journal again; each takes a step for the prompt and one for every token."""

    def __init__(self, config: ModelConfig, entries: list[Entry]) -> None:
        self.name, self.max_context = config.name, config.max_context
        self.count_tokens = OpenVinoTokenizer(config).count
        self._answers = {entry.key: entry.completion for entry in entries}

    async def chat(self, messages: list[Message], sampling: Sampling, priority: Priority = ()) -> Completion:
        """The answer of the journal."""
        answer = self._answers[key_of(canonical_call(self.name, messages, sampling))]
        await asyncio.sleep(steps(answer))
        return answer

    async def close(self) -> None:
        """Nothing is held."""


def steps(answer: Completion) -> int:
    """Steps of a batching engine for a call: one for the prompt and one for every token."""
    return 1 + answer.completion_tokens


async def answered(engine: Any, entries: list[Entry], most: int) -> float:
    """Seconds for an engine to answer all prompts, at most so many at a time."""
    now, slots = asyncio.get_running_loop().time, asyncio.Semaphore(most)
    start = now()

    async def one(entry: Entry) -> None:
        async with slots:
            await engine.chat(entry.messages, entry.sampling)

    await asyncio.gather(*(one(entry) for entry in entries))
    return now() - start


async def bare(config: ModelConfig, entries: list[Entry], most: int) -> float:
    """The same for the real engine, loading left out."""
    engine = await OpenVinoEngine.start(config)
    try:
        await engine.chat(entries[0].messages, msgspec.structs.replace(entries[0].sampling, max_tokens=1))
        return await answered(engine, entries, most)
    finally:
        await engine.close()


async def lived_again(made: Simulate, work: Path, model: Replayed) -> float:
    """Seconds of the society of a finished stage with another model behind it, which is as fast for any number."""
    seed, width = derive_seed(made.seed, made.name), 10**6
    with Embedder(made.embedder) as embedder:
        asker = Asker("matrix.simulation", model, made.name)
        society = Society(made.simulator, asker, embedder, seed, Progress("", 1), lambda *_: None, width)
        await society.run(iter_jsonl(work / "profiles.jsonl", Profile))
    return asyncio.get_running_loop().time()


def virtually(run: Coroutine[Any, Any, float]) -> float:
    """What `run` returns where waiting takes no time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(run)


def diversity(work: Path, embedder: Embedder) -> dict[str, float]:
    """Messages and variety of a society's scenarios."""
    scenarios = read_jsonl(work / "scenarios.jsonl", Scenario)
    figures = json.loads((work / "grouping.json").read_text())
    texts = [scenario.summary for scenario in scenarios]
    found: dict[str, float] = {
        "scenarios": len(texts),
        "messages_within": figures["messages_within"],
        "messages_across": figures["messages_across"],
    }
    for n in (1, 2, 3):
        grams = [tuple(words[i : i + n]) for words in map(str.split, texts) for i in range(len(words) - n + 1)]
        found[f"distinct_{n}"] = len(set(grams)) / max(len(grams), 1)
    similar = (vectors := embedder.embed(texts).astype(np.float64)) @ vectors.T
    found["distance"] = float(1 - similar[np.triu_indices(len(texts), 1)].mean())
    values = np.linalg.eigvalsh(similar / len(texts))
    values = values[values > 1e-12]
    found["vendi"] = float(np.exp(-(values * np.log(values)).sum()))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="8 agents, structured alone")
    parser.add_argument("--agents", type=int, help="another size, structured alone")
    parser.add_argument("--turns", default="in_turn", choices=list(Turns))
    parser.add_argument("--lag", type=int, default=1, help="scenarios until messages between groups arrive")
    options = parser.parse_args()
    agents = options.agents or (8 if options.quick else 24)
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder)
        made = stage(agents, "structured", turns=options.turns, lag=options.lag)
        llm = made.llm
        first, usage = lived(made, store)
        entries = read_jsonl(first / "journal.jsonl", Entry)
        replayed = Replayed(llm, entries)
        chain = virtually(lived_again(made, first, replayed))
        widths = [llm.concurrency, agents] if options.quick else [llm.concurrency, agents, max(agents // 3, 1)]
        seconds = [asyncio.run(bare(llm, entries, most)) for most in widths]
        step, rest = np.polyfit([virtually(answered(replayed, entries, most)) for most in widths], seconds, 1)
        out = sum(entry.completion.completion_tokens for entry in entries)
        fewest = max(chain, sum(steps(entry.completion) for entry in entries) / llm.concurrency)
        bound = out / (step * fewest + rest)
        batch, paced = out / seconds[0], out / seconds[1]
        rate = usage["tokens_out"] / usage["busy"]
        failures = Counter(failure.purpose for failure in read_jsonl(first / "failures.jsonl", Failure))
        print(f"{agents} agents, {usage['calls']} calls, {usage['tokens_in']} tokens in, {usage['tokens_out']} out")
        print(f"stage {rate:.0f} tokens/s, bare engine with all prompts in one batch {batch:.0f}: {rate / batch:.1%}")
        print(f"bare engine with {agents} prompts at a time, one an agent, {paced:.0f}: {rate / paced:.1%}")
        print(
            f"a step costs the engine {1000 * step:.0f} ms however few calls are in it, and the longest chain of calls "
            f"has {chain:.0f} of them: no schedule makes more than {bound:.0f}, {bound / batch:.1%} of one batch"
        )
        print(f"stage / bound: {rate / bound:.1%}")
        print(f"no call in flight for {usage['seconds'] - usage['busy']:.1f} s: model loading, clustering")
        print(f"prompt tokens in shared prefixes: {usage['tokens_shared'] / usage['tokens_in']:.1%}")
        print(f"answers that could not be parsed: {dict(failures)}\n")
        result: dict[str, Any] = {
            "benchmark": "embedded_society", "agents": agents, "calls": usage["calls"], "stage": round(rate, 1),
            "bare": round(batch, 1), "paced": round(paced, 1), "step_ms": round(1000 * step, 1), "chain": round(chain),
            "bound": round(bound, 1), "of_bound": round(rate / bound, 4), "shared": round(usage["tokens_shared"] /
            usage["tokens_in"], 4), "unparsed": dict(failures),
        }  # fmt: skip
        runs = {"structured": first}
        if not (options.quick or options.agents):
            for communication in ("random", "none"):
                runs[communication], _ = lived(
                    stage(agents, communication, first.name, options.turns, options.lag), store
                )
        names = ("within", "across", "distinct-1", "distinct-2", "distinct-3", "distance", "Vendi")
        print(f"{'':>11} " + " ".join(f"{name:>10}" for name in names))
        for communication, work in runs.items():
            with Embedder(stage(agents, "none").embedder) as embedder:
                found = diversity(work, embedder)
            shown = list(found.values())[1:]
            print(f"{communication:>11} " + " ".join(f"{v:>10.3f}" if v % 1 else f"{v:>10.0f}" for v in shown))
            result[communication] = {name: round(value, 4) for name, value in found.items()}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
