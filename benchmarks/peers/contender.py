"""What every contender of `benchmarks/throughput.py` does the same way; standard library alone, for any environment.

A contender is a script beside this file. Its `prepare(task)` imports and sets up everything and returns
`work(prompts)`, which makes one instruction from each prompt and one response from each instruction, keeps what its
library keeps, and returns the number of whole rows. A few rows are made before the clock starts, so that nothing is
imported while it runs.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

WARM_UP = 16
"""Rows made before the clock starts."""
INSTRUCTION_TOKENS, RESPONSE_TOKENS = 512, 2048
"""`max_tokens` of the two steps."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What the benchmark hands to a contender."""

    url: str
    """`http://host:port/v1`."""
    prompts: str
    """JSON file: a list of prompts, one a row; empty for the contender that makes its own."""
    rows: int
    society: str
    """Folder of a society's rows, for the contender that makes its own prompts."""
    concurrency: int
    """Most requests in flight."""
    folder: str
    """Where to keep files."""


def compete(prepare: Callable[[Task], Callable[[list[str]], int]]) -> None:
    """Set up, say so, wait for a line on standard input, work, and say how many rows there are."""
    says = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print
    task = Task(**json.loads(sys.argv[1]))
    prompts: list[str] = json.loads(Path(task.prompts).read_text()) if task.prompts else [""] * task.rows
    work = prepare(task)
    if work(prompts[:WARM_UP]) != min(WARM_UP, len(prompts)):
        sys.exit("not all rows of the warm-up came back")
    print("ready", file=says, flush=True)
    sys.stdin.readline()
    rows = work(prompts)
    print(rows, file=says, flush=True)
    sys.stdin.readline()  # the benchmark takes its figures while the process is still there
