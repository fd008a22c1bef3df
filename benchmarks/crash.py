"""What `kill -9` costs while data is made and measured: no finished call is repeated, and the results are the same.

A small society and 8 rows on the embedded models, with learnability and a reward: killed while it generates, rolls out
and rewards, then run to the end, beside an undisturbed run. Compared are the bytes of every result file that holds rows
or figures. With --quick generation alone, on scripted answers that take their time.

    python benchmarks/crash.py --quick
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from matrix.engines.journal import Entry
from matrix.jsonl import iter_jsonl

TESTS = str(Path(__file__).parents[1] / "tests")
SHIPPED = [
    sys.executable, "-m", "matrix", "until=filter", "name=crash", "reward=embedded", "analysis=false",
    "filter=[length,language,dedup,decontaminate,reward,learnability]",
    "simulator.num_agents=6", "simulator.num_scenarios=2", "simulator.grouping.num_groups=2", "generator.num_rows=8",
    "rollouts.samples=2", "rollouts.decoding.max_tokens=32", "reward.scorer.batch_tokens=256",
]  # fmt: skip
SCRIPTED = """
import asyncio, random, sys
from pathlib import Path

root, tests = Path(sys.argv[2].partition("=")[2]), sys.argv[1]
sys.path.append(tests)
from society_fakes import lived_files, script

from matrix.engines.base import EngineName, ModelConfig
from matrix.engines.embedder import EmbedderConfig
from matrix.engines.scripted import ScriptedEngine
from matrix.generation.scenarios import ScenarioConfig
from matrix.generation.stage import Generate

dice, answer = random.Random(), ScriptedEngine.chat

async def chat(self, messages, sampling):
    await asyncio.sleep(dice.expovariate(50))
    return await answer(self, messages, sampling)

ScriptedEngine.chat = chat
work = root / "store" / "generate" / "scripted"
work.mkdir(parents=True, exist_ok=True)
Generate(
    generator=ScenarioConfig(num_rows=150), embedder=EmbedderConfig(model="none"), society=lived_files(root), seed=0,
    llm=ModelConfig(model=str(script(root.parent / "rules.json")), engine=EngineName.scripted, concurrency=4),
).run(work)
"""
ROWS = ("*.jsonl", "funnel.json", "overlap.json", "generation.json")
NOT_ROWS = ("journal", "policy")


class Kill(NamedTuple):
    """When to kill: as soon as a file, which grows with every finished call, has this share of its lines."""

    stage: str
    file: str
    share: float


KILLS = [
    Kill("generate", "store/generate/*/journal.jsonl", 0.4),
    Kill("rollout", "store/rollout/*/journal.jsonl", 0.4),
    Kill("reward", "store/reward/*-rollouts-*/policy.jsonl", 0.4),
]
QUICK = [Kill("generate", "store/generate/*/journal.jsonl", share) for share in (0.2, 0.5, 0.8)]


def lines(pattern: str, root: Path) -> int:
    """Lines of the file that fits the pattern."""
    return sum(file.read_bytes().count(b"\n") for file in root.glob(pattern))


def killed(command: list[str], root: Path, pattern: str, enough: float) -> int:
    """Run until the file has some lines, kill -9; how many it has then."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
        while child.poll() is None and lines(pattern, root) < enough:
            time.sleep(0.02)
        if child.poll() is not None:
            raise SystemExit(f"the run ended before {pattern} had {enough:.0f} lines")
        child.kill()
    time.sleep(1)  # a process of its own that holds a model sees that it is alone
    return lines(pattern, root)


def digests(root: Path) -> dict[str, str]:
    """Result file -> sha256."""
    files = (file for name in ROWS for file in (root / "store").glob(f"*/*/{name}"))
    kept = sorted(file for file in files if not file.name.startswith(NOT_ROWS))
    return {str(file.relative_to(root)): hashlib.sha256(file.read_bytes()).hexdigest() for file in kept}


def calls(root: Path) -> tuple[int, int]:
    """Finished calls and measured batches in all journals, and how many of them are there twice."""
    names: list[str] = []
    for journal in (root / "store").glob("*/*/journal*.jsonl"):
        names += [f"{journal.parent.name}/{entry.key}" for entry in iter_jsonl(journal, Entry)]
    for measured in (root / "store").glob("*/*/policy.jsonl"):
        names += [f"{measured.parent.name}/{line}" for line in measured.read_text().splitlines()]
    return len(names), len(names) - len(set(names))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="generation alone, on scripted answers")
    quick = parser.parse_args().quick
    command = [sys.executable, "-c", SCRIPTED, TESTS] if quick else SHIPPED
    with tempfile.TemporaryDirectory() as folder:
        whole, broken = Path(folder) / "whole", Path(folder) / "broken"
        for root in (whole, broken):
            root.mkdir()
        subprocess.run([*command, f"output_dir={whole}"], check=True, stdout=subprocess.DEVNULL)
        print(f"{'killed in':<10} {'at line':>8} {'of':>6}")
        results = []
        for kill in QUICK if quick else KILLS:
            if not (most := lines(kill.file, whole)):
                raise SystemExit(f"the undisturbed run wrote no {kill.file}")
            at = killed([*command, f"output_dir={broken}"], broken, kill.file, kill.share * most)
            print(f"{kill.stage:<10} {at:>8} {most:>6}", flush=True)
            results.append({"stage": kill.stage, "at": at, "of": most})
        subprocess.run([*command, f"output_dir={broken}"], check=True, stdout=subprocess.DEVNULL)
        one, other = digests(whole), digests(broken)
        different = sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))
        made, repeated = calls(broken)
        print(f"{len(one)} result files, different: {different or 'none'}; {made} finished calls, repeated: {repeated}")
        told = {"kills": results, "files": len(one), "different": different, "calls": made, "repeated": repeated}
    print(json.dumps({"benchmark": "crash", **told}))
    sys.exit(bool(different or repeated))


if __name__ == "__main__":
    main()
