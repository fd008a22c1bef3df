"""Rows per second of two dependent calls each (instruction, response), beside other synthetic-data libraries.

All contenders make the same rows against the same loopback server (`peers/server.py`), whose latencies are fixed
(50 ms) or log-normal (mean 200 ms, sigma 1) and the same for all by order of request. Everyone gets the prompts that
this project's Generate stage writes for a society made up here. Each contender is a process in an environment of its
own; importing, setting up and a warm-up of a few rows are counted apart.

`bound` is the larger of all waiting over C and the slowest pair of calls, which only a client that knew the latencies
beforehand could reach; `costless` is what a client needs that takes no time itself. CPU and memory are those of the
contender's processes together.

    python benchmarks/throughput.py --quick              # this project and a bare client, no installation
    python benchmarks/throughput.py --peers outputs/peers
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

import psutil

from matrix.engines.journal import Entry
from matrix.jsonl import iter_jsonl, write_jsonl
from matrix.records import Action, Agent, Origin, Scenario

PEERS = Path(__file__).parent / "peers"
OTHERS = {
    "curator": ("bespoke_curator.py", "bespokelabs-curator==0.1.31"),
    "data-designer": ("nemo_data_designer.py", "data-designer==0.9.6"),
}
OURS = {"bare aiohttp": "bare_aiohttp.py", "matrix": "matrix_generate.py"}
LATENCIES = {"50 ms": (0.05, 0.0), "log-normal, mean 200 ms": (0.2, 1.0)}
"""Mean in seconds and sigma."""
CONCURRENCIES = (64, 256)
WORDS = ["the", "baker", "sold", "old", "bread", "to", "a", "tired", "nurse", "near", "that", "cold", "river"]
SEED = 1
SAMPLED = 0.2
"""Seconds between two looks at a contender's memory."""
LONGEST = 600
"""Seconds before a contender is given up."""

QUIET = {
    "TELEMETRY_ENABLED": "false", "NEMO_TELEMETRY_ENABLED": "false", "HF_HUB_OFFLINE": "1", "OPENAI_API_KEY": "none",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True", "CURATOR_DISABLE_CACHE": "1", "CURATOR_DISABLE_RICH_DISPLAY": "1",
}  # fmt: skip
"""Environment of the contenders: nothing leaves this machine, nothing is taken from an earlier run."""
TOKENIZER = "bespokelabs-curator/lib/python*/site-packages/litellm/litellm_core_utils/tokenizers"
"""Where one of the packages has the table of tiktoken along, which the others would download."""


def society(folder: Path) -> None:
    """Rows of a made-up society: 40 groups of 5 agents, 10 scenarios each, texts of the usual lengths."""
    dice, origin = random.Random(SEED), Origin(stage="simulate-benchmark")

    def text(words: int) -> str:
        return " ".join(dice.choices(WORDS, k=words))

    agents = [
        Agent(
            id=f"a{i:04}", name=f"Baker {i}", description=text(40), posts=[], personality=text(30), goal=text(12),
            plan=[], group=i // 5, profile=f"p{i}", origin=origin,
        )
        for i in range(200)
    ]  # fmt: skip
    scenarios, actions = [], []
    for group, index in product(range(40), range(10)):
        name, members = f"g{group:03}-s{index:02}", [agent.id for agent in agents if agent.group == group]
        told = [
            Action(id=f"{name}-t{i}", agent=a, group=group, scenario=name, step=i, text=text(30), origin=origin)
            for i, a in enumerate(members)
        ]
        scenario = Scenario(
            id=name, group=group, index=index, agents=members, actions=[action.id for action in told],
            summary=text(60), origin=origin,
        )  # fmt: skip
        scenarios.append(scenario)
        actions += told
    for file, rows in (("agents", agents), ("actions", actions), ("scenarios", scenarios)):
        write_jsonl(folder / f"{file}.jsonl", rows)


def environment(root: Path, package: str) -> Path:
    """The Python of an environment with exactly this package; made if it is not there."""
    name, version = package.split("==")
    python = root / name / "bin" / "python"
    if not python.exists():
        print(f"installing {package} into {root / name}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", root / name], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", package], check=True)
    found = subprocess.run(
        [python, "-c", f"from importlib.metadata import version; print(version({name!r}))"],
        stdout=subprocess.PIPE, text=True,
    ).stdout.strip()  # fmt: skip
    if found != version:
        sys.exit(f"{root / name} holds {name} {found or '-'}, not {version}. Remove it, or give another --peers folder")
    return python


class Watch(threading.Thread):
    """CPU seconds and peak memory of a process with all its children."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._root = psutil.Process(pid)
        self._over = threading.Event()
        self.peak = 0

    def _each(self) -> list[psutil.Process]:
        return [self._root, *self._root.children(recursive=True)]

    def cpu(self) -> float:
        """Seconds so far, those of children that have ended included."""
        return sum(sum(process.cpu_times()[:4]) for process in self._each())

    def run(self) -> None:
        """Look at the memory now and then."""
        while not self._over.wait(SAMPLED):
            try:
                self.peak = max(self.peak, sum(process.memory_info().rss for process in self._each()))
            except psutil.NoSuchProcess:  # a child ended between the two looks
                continue

    def stop(self) -> None:
        """End the thread."""
        self._over.set()
        self.join()


@contextmanager
def spawned(command: Sequence[str | Path], core: int | None, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A process, on one core if told so, that ends with the block or after `LONGEST` seconds."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **options)
    if core is not None:
        os.sched_setaffinity(process.pid, {core})
    limit = threading.Timer(LONGEST, process.kill)
    limit.start()
    try:
        yield process
    finally:
        limit.cancel()
        process.kill()
        process.communicate()


def says(process: subprocess.Popen[str], log: Path | None = None) -> str:
    """The next line of a process; its log is shown if it ends instead."""
    assert process.stdout
    if line := process.stdout.readline().strip():
        return line
    told = log.read_text()[-3000:] if log else ""
    sys.exit(f"a contender ended by itself or took more than {LONGEST} s. Its log ends:\n{told}")


def ask(url: str) -> bytes:
    """What the server says."""
    with urllib.request.urlopen(url, data=b"") as reply:
        return bytes(reply.read())


def measured(
    python: Path, script: str, task: dict[str, Any], latency: tuple[float, float], cores: Sequence[int | None]
) -> dict[str, Any]:
    """One run of one contender against a server of its own."""
    drawn = json.dumps({"mean": latency[0], "sigma": latency[1], "seed": SEED})
    folder = Path(task["folder"])
    folder.mkdir()
    log = folder / "log"
    quiet = os.environ | QUIET | {"HOME": str(folder)}
    with spawned([sys.executable, PEERS / "server.py", drawn], cores[0]) as server, log.open("w") as errors:
        url = f"http://127.0.0.1:{says(server)}"
        handed = json.dumps(task | {"url": f"{url}/v1"})
        start = time.perf_counter()
        with spawned([python, PEERS / script, handed], cores[1], stderr=errors, env=quiet, cwd=folder) as contender:
            says(contender, log)
            watch = Watch(contender.pid)
            setup_wall, setup_cpu = time.perf_counter() - start, watch.cpu()
            ask(f"{url}/begin")
            watch.start()
            start = time.perf_counter()
            print(file=contender.stdin, flush=True)  # go on
            rows = int(says(contender, log))
            wall, cpu = time.perf_counter() - start, watch.cpu() - setup_cpu
            watch.stop()
            stats = json.loads(ask(f"{url}/stats"))
    if (rows, stats["second_steps"]) != (task["rows"], task["rows"]):
        sys.exit(f"{script} made {rows} of {task['rows']} rows, {stats['second_steps']} of them from an instruction")
    requests, least = stats["requests"], costless(stats["seconds"], rows, task["concurrency"])
    return {
        "wall": wall, "rows_per_s": rows / wall,
        "bound": max(sum(stats["seconds"]) / task["concurrency"], stats["chain"]), "costless": least,
        "ratio": wall / least, "cpu_ms": cpu * 1e3 / requests, "rss_mb": watch.peak / 1e6, "requests": requests,
        "in_flight": stats["most_in_flight"], "setup_wall": setup_wall, "setup_cpu": setup_cpu,
        "server_cpu_ms": stats["cpu"] * 1e3 / requests,
    }  # fmt: skip


def costless(seconds: list[float], rows: int, concurrency: int) -> float:
    """Wall time of a client that takes none itself: all rows at once, their calls sent first come, first served."""
    latency, now = iter(seconds), 0.0
    ready, running = deque([2] * rows), list[tuple[float, int]]()  # calls that a row still needs
    while ready or running:
        while ready and len(running) < concurrency:
            heapq.heappush(running, (now + next(latency), ready.popleft()))
        now, needed = heapq.heappop(running)
        if needed > 1:
            ready.append(needed - 1)
    return now


def written_prompts(task: dict[str, Any]) -> list[str]:
    """The prompts that this project writes for instructions, from the journal of a run that hardly waits."""
    measured(Path(sys.executable), "matrix_generate.py", task, (0.001, 0.0), (None, None))
    entries = iter_jsonl(Path(task["folder"]) / f"rows{task['rows']}" / "journal.jsonl", Entry)
    asked = [(entry.messages[-1].content, entry.completion.text) for entry in entries]
    instructions = {answer for _, answer in asked}  # they are the prompts of the second calls
    return [prompt for prompt, _ in asked if prompt not in instructions]


COLUMNS = {
    "wall": ("wall s", ".2f"), "rows_per_s": ("rows/s", ".0f"), "bound": ("bound s", ".2f"),
    "costless": ("costless s", ".2f"), "ratio": ("ratio", ".2f"), "cpu_ms": ("CPU-ms/call", ".3f"),
    "rss_mb": ("RSS MB", ".0f"), "requests": ("requests", ".0f"), "in_flight": ("in flight", ".0f"),
    "setup_wall": ("set-up s", ".1f"), "setup_cpu": ("its CPU-s", ".1f"), "server_cpu_ms": ("server CPU-ms", ".3f"),
}  # fmt: skip


def report(results: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, float]]:
    """Print the medians of one latency and concurrency, by contender."""
    medians = {
        name: {column: round(statistics.median(run[column] for run in runs), 4) for column in COLUMNS}
        for name, runs in results.items()
    }
    print(f"{'':14}" + "".join(f"{title:>{len(title) + 2}}" for title, _ in COLUMNS.values()))
    for name, of in medians.items():
        print(f"{name:14}" + "".join(f"{of[c]:{len(title) + 2}{form}}" for c, (title, form) in COLUMNS.items()))
    if others := [of["rows_per_s"] for name, of in medians.items() if name in OTHERS]:
        print(f"matrix makes {medians['matrix']['rows_per_s'] / max(others):.1f} times the rows of the faster library")
    return medians


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="500 rows, one round, no other libraries")
    parser.add_argument("--peers", type=Path, default=Path("outputs/peers"), help="where their environments are put")
    parser.add_argument("--rows", type=int, default=2000, help="the more, the nearer comes costless to its bound")
    parser.add_argument("--rounds", type=int, default=3, help="the median counts; the order turns")
    parser.add_argument("--pin", action="store_true", help="server on the first core, contenders on the second")
    options = parser.parse_args()
    rows, rounds = (500, 1) if options.quick else (options.rows, options.rounds)
    cores = sorted(os.sched_getaffinity(0))[:2] if options.pin else [None, None]
    contenders = {name: (Path(sys.executable), script) for name, script in OURS.items()}
    if not options.quick:
        peers = options.peers.resolve()
        contenders |= {name: (environment(peers, package), script) for name, (script, package) in OTHERS.items()}
        os.environ["TIKTOKEN_CACHE_DIR"] = str(next(peers.glob(TOKENIZER)))
    found: dict[tuple[str, int], dict[str, list[dict[str, Any]]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        society(Path(folder))
        task = {"rows": rows, "society": folder, "prompts": "", "concurrency": 256, "folder": f"{folder}/prompts"}
        (Path(folder) / "prompts.json").write_text(json.dumps(written_prompts(task)))
        task["prompts"] = f"{folder}/prompts.json"
        runs = list(product(range(rounds), LATENCIES, CONCURRENCIES, range(len(contenders))))
        for number, (turn, latency, concurrency, place) in enumerate(runs):
            name = list(contenders)[(turn + place) % len(contenders)]
            handed = task | {"concurrency": concurrency, "folder": f"{folder}/{number}"}
            result = measured(*contenders[name], handed, LATENCIES[latency], cores)
            found.setdefault((latency, concurrency), {}).setdefault(name, []).append(result)
            note = f"{number + 1}/{len(runs)} {name}, {latency}, {concurrency}: {result['rows_per_s']:.0f} rows/s"
            print(f"{note}, {result['cpu_ms']:.3f} CPU-ms, load {os.getloadavg()[0]:.1f}", file=sys.stderr)

    summary = []
    for (latency, concurrency), results in found.items():
        print(f"\n{rows} rows, latency {latency}, at most {concurrency} calls in flight, median of {rounds}")
        summary.append({"latency": latency, "concurrency": concurrency, "contenders": report(results)})
    print(json.dumps({"benchmark": "throughput", "rows": rows, "rounds": rounds, "results": summary}))


if __name__ == "__main__":
    main()
