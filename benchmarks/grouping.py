"""What homophily groups cost in time and memory, and how alike their members are, by society and block size.

Every row is a process of its own, whose largest resident set is reported. The vectors are synthetic: people of trades
of uneven sizes, trades of fields, under a spectrum that falls off like that of text embeddings. `random` has the sizes
of `homophily` and shuffled members. Groups have 1 to 10 members, 5 on average. With --split, the society is cut into
blocks that nobody clusters: with hundreds of thousands of agents that is what must fit into memory.

    python benchmarks/grouping.py --quick
    python benchmarks/grouping.py --split 1000000
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import time
from concurrent.futures import ProcessPoolExecutor

import numpy as np

from matrix.engines.embedder import Vectors
from matrix.simulation.grouping import GroupingConfig, assign_groups, blocks, cohesion

DIMENSION = 384
QUICK = [(100, 2000), (300, 2000), (1000, 2000), (1000, 500), (1000, 250), (2000, 2000), (2000, 1000), (2000, 500)]
"""Agents and block size."""
FULL = [*QUICK, *((5000, size) for size in (5000, 2000, 1000, 500, 250)), (10000, 2000), (10000, 1000)]


def society(agents: int, seed: int = 0) -> Vectors:
    """Unit vectors, shape (agents, DIMENSION)."""
    rng = np.random.default_rng(seed)
    spectrum = np.arange(1, DIMENSION + 1, dtype=np.float32) ** -0.5
    spectrum /= np.linalg.norm(spectrum)

    def draw(count: int) -> Vectors:
        return rng.standard_normal((count, DIMENSION), dtype=np.float32) * spectrum

    fields, trades = max(agents // 200, 4), max(agents // 12, 8)
    field = np.minimum(rng.pareto(1.5, trades) * fields / 4, fields - 1).astype(int)
    centres = 0.4 * draw(1) + 0.6 * draw(fields)[field] + 0.5 * draw(trades)
    share = np.arange(1, trades + 1) ** -0.5
    trade = rng.choice(trades, agents, p=share / share.sum())
    vectors = np.empty((agents, DIMENSION), dtype=np.float32)
    for start in range(0, agents, 8192):
        part = trade[start : start + 8192]
        people = centres[part] + 0.6 * draw(len(part))
        vectors[start : start + 8192] = people / np.linalg.norm(people, axis=1, keepdims=True)
    return vectors


def peak() -> float:
    """Largest resident set of this process so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def grouped(agents: int, block_size: int) -> dict[str, float]:
    """One row of the table."""
    vectors = society(agents)
    config = GroupingConfig(num_groups=agents // 5, block_size=block_size)
    start, cpu = time.perf_counter(), time.process_time()
    groups = assign_groups(vectors, config, seed=0)
    row = {"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu, "mib": peak()}
    shuffled = np.random.default_rng(0).permutation(groups).tolist()
    alike = cohesion(vectors, groups)
    row |= {"within": alike["within"], "across": alike["across"], "random": cohesion(vectors, shuffled)["within"]}
    return row


def split(agents: int) -> dict[str, float]:
    """Blocks only."""
    vectors = society(agents)
    before, start, size = peak(), time.perf_counter(), GroupingConfig().block_size
    sizes = [len(rows) for rows, _ in blocks(vectors, np.arange(agents), agents // 5, size)]
    seconds = time.perf_counter() - start
    return {"seconds": seconds, "before_mib": before, "mib": peak(), "blocks": len(sizes), "smallest": min(sizes)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="less than a minute")
    parser.add_argument("--split", type=int, metavar="AGENTS", help="only cut that many agents into blocks")
    args = parser.parse_args()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as processes:
        if args.split:
            found = processes.submit(split, args.split).result()
            print(", ".join(f"{name} {value:.0f}" for name, value in found.items()))
            print(json.dumps({"benchmark": "grouping", "agents": args.split, "split": found}))
            return
        print(f"{'agents':>7} {'groups':>7} {'block':>6} {'seconds':>8} {'CPU-s':>7} {'MiB':>6}", end=" ")
        print(f"{'within':>7} {'across':>7} {'random':>7}")
        rows = []
        for agents, size in QUICK if args.quick else FULL:
            row = processes.submit(grouped, agents, size).result()
            print(
                f"{agents:7} {agents // 5:7} {size:6} {row['seconds']:8.1f} {row['cpu']:7.1f} {row['mib']:6.0f}",
                end=" ",
            )
            print(f"{row['within']:7.4f} {row['across']:7.4f} {row['random']:7.4f}", flush=True)
            rows.append({"agents": agents, "block_size": size, **{k: round(v, 4) for k, v in row.items()}})
    print(json.dumps({"benchmark": "grouping", "dimension": DIMENSION, "rows": rows}))


if __name__ == "__main__":
    main()
