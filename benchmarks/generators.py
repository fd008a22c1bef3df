"""Every generator and every rival makes the same number of rows, on the embedded model, out of one small society.

For each: candidates asked for, rows made, answers that could not be parsed, tokens per row, rows per second (of the
time in which the model worked), and how diverse the instructions are: words, distinct 2-grams, Vendi score, mean cosine
distance to the nearest neighbour, and how near they come to the evaluation questions (mean of the highest cosine).

    python benchmarks/generators.py --quick
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from hydra import compose, initialize_config_dir

from matrix import cli
from matrix.analysis.diversity import describe
from matrix.config import MatrixConfig
from matrix.engines.embedder import Embedder
from matrix.evaluation.questions import EMBEDDED, fetch, read_questions
from matrix.generation.stage import Generate
from matrix.jsonl import read_jsonl
from matrix.prompting import Decoding
from matrix.records import Conversation, Failure
from matrix.rows import instruction
from matrix.simulation.stage import Simulate
from matrix.stage import Result
from matrix.store import Store, StoreConfig

GENERATORS = [
    "simple", "complex", "code", "safe", "multi_turn", "reason", "persona", "magpie", "evol", "self_instruct",
]  # fmt: skip
SOCIETY = [
    "simulator.num_agents=24", "simulator.grouping.num_groups=6", "simulator.num_scenarios=12",
    "simulator.grouping.min_size=3", "simulator.grouping.max_size=5",
]  # fmt: skip
COLUMNS = {
    "asked": "", "made": "", "unparsed": "", "tokens_a_row": ".0f", "rows_per_s": ".2f", "words": ".1f",
    "distinct_2": ".3f", "vendi": ".1f", "nearest": ".3f", "to_eval": ".3f",
}  # fmt: skip
SMALL = {"instruction": 80, "response": 128, "evolution": 96, "user": 64, "answer": 96}
"""Most tokens of an answer, by the name of its knob."""


def configured(generator: str, rows: int) -> MatrixConfig:
    """The shipped option at the size of the embedded model."""
    cli.register()
    with initialize_config_dir(str(cli.ROOT / "conf"), version_base="1.3"):
        config = cli.to_config(compose("config", [f"generator={generator}", f"generator.num_rows={rows}", *SOCIETY]))
    for name, tokens in SMALL.items():
        if isinstance(decoding := getattr(config.generator, name, None), Decoding):
            decoding.max_tokens = tokens
    if generator == "reason":
        config.generator.min_think = 0  # type: ignore[attr-defined]  # the embedded model is no reasoning model
    return config


def made(config: MatrixConfig, society: Result, folder: Path) -> tuple[list[Conversation], dict[str, Any]]:
    """Run the generator; its rows and what they cost."""
    folder.mkdir()
    stage = Generate(
        generator=config.generator, llm=config.llm, embedder=config.embedder,
        society=society if config.generator.needs_society else None, seed=0,
    )  # fmt: skip
    stage.run(folder)
    usage, account = (json.loads((folder / f"{name}.json").read_text()) for name in ("usage", "generation"))
    failures = Counter(failure.purpose for failure in read_jsonl(folder / "failures.jsonl", Failure))
    rows = read_jsonl(folder / "rows.jsonl", Conversation)
    return rows, {
        "asked": account["asked"], "made": len(rows), "lost": account["lost"],
        "failures": dict(sorted(failures.items())), "unparsed": sum(failures.values()),
        "tokens_a_row": (usage["tokens_in"] + usage["tokens_out"]) / max(len(rows), 1),
        "rows_per_s": len(rows) / usage["busy"],
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="8 rows each of simple, persona and magpie")
    parser.add_argument("--only", nargs="+", choices=GENERATORS, help="these generators")
    parser.add_argument("--store", type=Path, help="where the society is kept for the next time")
    options = parser.parse_args()
    rows = 8 if options.quick else 40
    chosen = options.only or (["simple", "persona", "magpie"] if options.quick else GENERATORS)
    results = {}
    with tempfile.TemporaryDirectory() as scratch:
        c = configured("simple", rows)
        if options.quick:
            c.simulator.num_agents, c.simulator.num_scenarios, c.simulator.grouping.num_groups = 8, 2, 2
        store = Store(StoreConfig(root=str(options.store or Path(scratch) / "store")))
        society = store.get(Simulate(simulator=c.simulator, llm=c.llm, embedder=c.embedder, seed=0))
        questions = [question.instruction for question in read_questions(fetch(EMBEDDED, None))]
        print(f"{'generator':<14}", *(f"{name:>12}" for name in COLUMNS), " lost")
        with Embedder(c.embedder) as embedder:
            asked = embedder.embed(questions)
            for name in chosen:
                found, cost = made(configured(name, rows), society, Path(scratch) / name)
                texts = [instruction(row) for row in found]
                vectors = embedder.embed(texts)
                r = cost | describe(texts, vectors) | {"to_eval": float(np.mean((vectors @ asked.T).max(axis=1)))}
                results[name] = r
                cells = (f"{r[column]:>12{form}}" for column, form in COLUMNS.items())
                print(f"{name:<14}", *cells, f" {r['lost']}", flush=True)
    print(json.dumps({"benchmark": "generators", "rows": rows, "results": results}))


if __name__ == "__main__":
    main()
