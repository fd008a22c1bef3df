"""Same seed, same rows: sha256 of a society's rows over concurrency, order of answers, lag, and `kill -9`.

A society on the scripted engine, whose answers take random times. Every run is a process of its own; some are killed,
without a chance to tidy up, when their journal has reached a random length, and started again. Calls that are made
twice are counted.

    python benchmarks/determinism.py --quick
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RULES = [
    ("Rewrite", '{"role": "Baker", "description": "Bakes bread in a small town by the sea."}'),
    ("A plan leads", "\n".join(f"{i}. Do the next thing that leads to the goal." for i in range(1, 9))),
    ("Action of ", '{"indices": [0, 1], "reason": "They work there."}'),
    ("Groups list", '{"indices": [0, 2], "reason": "They buy bread."}'),
]
ROWS = ("agents.jsonl", "actions.jsonl", "scenarios.jsonl", "failures.jsonl", "grouping.json")
CHILD = """
import asyncio, json, random, sys
from pathlib import Path
from matrix.engines.base import EngineName, ModelConfig
from matrix.engines.embedder import Embedder, EmbedderConfig
from matrix.engines.scripted import ScriptedEngine
from matrix.simulation.config import SimulatorConfig
from matrix.simulation.grouping import GroupingConfig
from matrix.simulation.stage import Simulate
sys.path.append(sys.argv[7])
import matrix.simulation.stage
from society_fakes import HashedWords
matrix.simulation.stage.Embedder = HashedWords

rules, work, concurrency, order, agents, lag = sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:7])
dice, answer = random.Random(order), ScriptedEngine.chat

async def chat(self, messages, sampling):
    await asyncio.sleep(dice.expovariate(1000))
    return await answer(self, messages, sampling)

ScriptedEngine.chat = chat
groups = agents // 5
Simulate(
    simulator=SimulatorConfig(
        num_agents=agents, num_scenarios=4 * groups, exchange_lag=lag,
        grouping=GroupingConfig(num_groups=groups, min_size=1, max_size=10),
    ),
    llm=ModelConfig(model=rules, engine=EngineName.scripted, concurrency=concurrency),
    embedder=EmbedderConfig(model="hashed-words"), seed=0,
).run(work)
"""


def lines(work: Path) -> list[str]:
    """Keys of the calls that are finished and kept."""
    file = work / "journal.jsonl"
    text = file.read_text().splitlines(keepends=True) if file.exists() else []
    return [line[:90] for line in text if line.endswith("\n")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="30 agents instead of 200")
    agents = 30 if parser.parse_args().quick else 200
    dice = random.Random(1)
    results = []
    print(f"{agents} agents, {agents // 5} groups, {4 * (agents // 5)} scenarios")
    print(f"{'lag':>3} {'concurrency':>11} {'order':>5} {'kills':>5} {'calls':>6} {'repeated':>8}  sha256 of the rows")
    with tempfile.TemporaryDirectory() as folder:
        rules = Path(folder) / "rules.json"
        rules.write_text(json.dumps([{"match": match, "reply": reply} for match, reply in RULES]))
        for lag in (1, 2):
            whole = 0
            for concurrency, order, kills in ((1, 0, 0), (8, 1, 0), (512, 1, 0), (512, 2, 0), (64, 3, 3)):
                work = Path(folder) / f"{lag}-{concurrency}-{order}"
                work.mkdir()
                tests = str(Path(__file__).parents[1] / "tests")
                command = [sys.executable, "-c", CHILD, rules, work, concurrency, order, agents, lag, tests]
                for length in sorted(dice.sample(range(10, max(whole - 10, 11)), kills) if kills else []):
                    with subprocess.Popen([str(word) for word in command], stderr=subprocess.DEVNULL) as child:
                        while len(lines(work)) < length and child.poll() is None:
                            time.sleep(0.02)
                        child.kill()
                subprocess.run([str(word) for word in command], check=True, stderr=subprocess.DEVNULL)
                kept = lines(work)
                whole = len(kept)
                digest = hashlib.sha256(b"".join((work / name).read_bytes() for name in ROWS)).hexdigest()
                repeated = whole - len(set(kept))
                print(
                    f"{lag:>3} {concurrency:>11} {order:>5} {kills:>5} {whole:>6} {repeated:>8}  {digest[:32]}",
                    flush=True,
                )
                results.append(
                    {"lag": lag, "concurrency": concurrency, "order": order, "kills": kills, "calls": whole,
                     "repeated": repeated, "sha256": digest}
                )  # fmt: skip
    equal = all(len({r["sha256"] for r in results if r["lag"] == lag}) == 1 for lag in (1, 2))
    print(f"rows of every lag {'equal' if equal else 'DIFFER'}")
    print(json.dumps({"benchmark": "determinism", "agents": agents, "equal": equal, "results": results}))
    sys.exit(not equal)


if __name__ == "__main__":
    main()
