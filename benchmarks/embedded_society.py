"""A real society on the embedded language model: how busy it keeps the engine, and what communication does to it.

24 agents in 6 groups live through 2 scenarios each. First the stage's tokens per second against the bare engine's,
which gets the same prompts as one batch, and as many at a time as there are agents; loading the model is left out of
both. Then the same society with structured, random and no communication (births are taken from the first journal):
messages, distinct n-grams of the scenario summaries, and their diversity as embeddings (mean pairwise cosine distance;
Vendi score, Friedman and Dieng 2023).

    python benchmarks/embedded_society.py --quick
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import yaml

from matrix.engines.base import ModelConfig
from matrix.engines.embedder import Embedder, EmbedderConfig
from matrix.engines.journal import Entry
from matrix.engines.openvino import OpenVinoEngine
from matrix.jsonl import read_jsonl
from matrix.prompting import Decoding
from matrix.records import Failure, Scenario
from matrix.simulation.config import SimulatorConfig, Turns
from matrix.simulation.grouping import GroupingConfig
from matrix.simulation.memory import MemoryConfig
from matrix.simulation.modulator import Communication
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


async def bare(config: ModelConfig, entries: list[Entry], most: int) -> float:
    """Seconds for the engine to answer all prompts, at most so many at a time."""
    engine = await OpenVinoEngine.start(config)
    try:
        await engine.chat(entries[0].messages, msgspec.structs.replace(entries[0].sampling, max_tokens=1))
        start = time.perf_counter()
        slots = asyncio.Semaphore(most)

        async def one(entry: Entry) -> None:
            async with slots:
                await engine.chat(entry.messages, entry.sampling)

        await asyncio.gather(*(one(entry) for entry in entries))
        return time.perf_counter() - start
    finally:
        await engine.close()


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
        first, usage = lived(stage(agents, "structured", turns=options.turns, lag=options.lag), store)
        entries = [entry for entry in read_jsonl(first / "journal.jsonl", Entry)]
        llm = stage(agents, "structured").llm
        out = sum(entry.completion.completion_tokens for entry in entries)
        batch, paced = (out / asyncio.run(bare(llm, entries, most)) for most in (llm.concurrency, agents))
        rate = usage["tokens_out"] / usage["busy"]
        failures = Counter(failure.purpose for failure in read_jsonl(first / "failures.jsonl", Failure))
        print(f"{agents} agents, {usage['calls']} calls, {usage['tokens_in']} tokens in, {usage['tokens_out']} out")
        print(f"stage {rate:.0f} tokens/s, bare engine with all prompts in one batch {batch:.0f}: {rate / batch:.1%}")
        print(f"bare engine with {agents} prompts at a time, one an agent, {paced:.0f}: {rate / paced:.1%}")
        print(f"no call in flight for {usage['seconds'] - usage['busy']:.1f} s: model loading, clustering")
        print(f"prompt tokens in shared prefixes: {usage['tokens_shared'] / usage['tokens_in']:.1%}")
        print(f"answers that could not be parsed: {dict(failures)}\n")
        result: dict[str, Any] = {
            "benchmark": "embedded_society", "agents": agents, "calls": usage["calls"], "stage": round(rate, 1),
            "bare": round(batch, 1), "paced": round(paced, 1), "shared": round(usage["tokens_shared"] /
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
