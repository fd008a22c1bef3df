"""What `kill -9` costs while data is made and measured: no finished call is repeated, and the results are the same.

The shipped demo up to its filters, with learnability and a reward: killed while it generates, rolls out and rewards,
then run to the end, beside an undisturbed run. Compared are the bytes of every result file that holds rows or figures.

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

from matrix.engines.journal import Entry
from matrix.jsonl import iter_jsonl

COMMAND = [
    sys.executable, "-m", "matrix", "until=filter", "name=crash", "reward=embedded",
    "filter=[length,language,dedup,decontaminate,reward,learnability]",
]  # fmt: skip
QUICK = [
    "simulator.num_agents=6", "simulator.num_scenarios=2", "simulator.grouping.num_groups=2", "generator.num_rows=8",
    "rollouts.samples=2", "rollouts.decoding.max_tokens=32",
]  # fmt: skip
KILLS = {
    "generate": "store/generate/*.partial/journal.jsonl",
    "rollout": "store/rollout/*.partial/journal.jsonl",
    "reward": "store/reward/*-rollouts-*.partial/measured.jsonl",
}
"""Stage -> file that grows with every finished call."""
ROWS = ("*.jsonl", "funnel.json", "overlap.json", "generation.json")
NOT_ROWS = ("journal", "measured")


def lines(pattern: str, root: Path) -> int:
    """Lines of the file that fits the pattern."""
    return sum(file.read_bytes().count(b"\n") for file in root.glob(pattern))


def killed(command: list[str], root: Path, pattern: str, most: int) -> int:
    """Run until the file has some lines, kill -9; how many it has then."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
        while child.poll() is None and not most // 3 <= lines(pattern, root):
            time.sleep(0.05)
        if child.poll() is not None:
            raise SystemExit(f"the run ended before {pattern} had {most // 3} lines")
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
    for measured in (root / "store").glob("*/*/measured.jsonl"):
        names += [f"{measured.parent.name}/{line}" for line in measured.read_text().splitlines()]
    return len(names), len(names) - len(set(names))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a smaller society and 8 rows")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        whole, broken = Path(folder) / "whole", Path(folder) / "broken"
        command = [*COMMAND, *(QUICK if options.quick else [])]
        subprocess.run([*command, f"output_dir={whole}"], check=True, stdout=subprocess.DEVNULL)
        print(f"{'killed in':<10} {'at line':>8} {'of':>6}")
        results = []
        for stage, pattern in KILLS.items():
            most = lines(pattern.replace(".partial", ""), whole)
            at = killed([*command, f"output_dir={broken}"], broken, pattern, most)
            print(f"{stage:<10} {at:>8} {most:>6}", flush=True)
            results.append({"stage": stage, "at": at, "of": most})
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
