"""CPU time of SFT and DPO beside TRL, on the same tokenised rows and optimizer steps, with equal losses asserted first.

The model is a Llama of 8.9M random weights (6 layers of 256, vocabulary 8,192), in fp32, with fused AdamW, a constant
rate and gradients clipped at 1, on one thread. Rows have a prompt of 100 and an answer of 200 tokens on average, both
log-normal (sigma 0.8), so that two thirds of an SFT row are trained and a third of a pair's sequences is prompt. No row
exceeds 1,024 tokens, TRL's default `max_length`; TRL's packs have that length, at which it is faster than at 2,048.

Where rows or pairs make the optimizer steps, 8 each, ours packed is compared with TRL padded: packing changes no loss.
Where TRL's packs make them, one each, it is compared with TRL packed, on the same packs. Every run is a process of its
own; the order turns. CPU seconds are those of the training process: collation and DPO's reference pass are on the
clock, loading, tokenising and packing are not.

The figures are for a CPU: there TRL's head computes the logits of prompts too, twice, and its attention a mask over the
whole pack. On a GPU, where it does neither, the gap is far smaller.

    OMP_NUM_THREADS=1 python benchmarks/training_speed.py --quick    # needs pip install 'matrix-gen[parity]'
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PEERS = Path(__file__).parent / "peers"
SCRIPTS = {"TRL": "trl_training.py", "matrix": "matrix_training.py"}
VOCABULARY = 8192
PROMPT, ANSWER, SIGMA, LONGEST = 100, 200, 0.8, 512
"""Mean tokens of a prompt and of an answer, and the most that either may have."""
LENGTH = 1024
TOLERANCE = 1e-3
"""Between the losses of two sides at the same step, in nats."""
PATIENCE = 1800
"""Seconds before a run is given up."""
QUIET = {"OMP_NUM_THREADS": "1", "CI": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
"""Environment of the runs; `CI` switches TRL's telemetry off."""


@dataclass(frozen=True)
class Contender:
    """A library, and how it is used."""

    library: str
    kind: str
    packs: bool
    """Steps are TRL's packs, not equally many rows."""
    form: str
    """How rows share a forward pass."""

    @property
    def steps(self) -> tuple[str, bool]:
        """Those with the same steps have the same losses."""
        return self.kind, self.packs

    @property
    def name(self) -> str:
        """For the table."""
        return f"{self.library} {self.form}"


CONTENDERS = [
    Contender("TRL", "sft", False, "padded"),
    Contender("matrix", "sft", False, "padded"),
    Contender("matrix", "sft", False, "packed"),
    Contender("TRL", "sft", True, "packed"),
    Contender("matrix", "sft", True, "packed"),
    Contender("TRL", "dpo", False, "padded"),
    Contender("matrix", "dpo", False, "padded"),
    Contender("matrix", "dpo", False, "shared prefix"),
]
GOALS = {("sft", False): 2.0, ("sft", True): 1.4, ("dpo", False): 2.5}
"""Times fewer CPU seconds than TRL on the same steps, of the last contender of each."""
TITLES = {
    ("sft", False): "SFT, steps of rows", ("sft", True): "SFT, steps of one pack", ("dpo", False): "DPO, steps of pairs"
}  # fmt: skip


def draw_rows(count: int, seed: int = 1) -> list[dict[str, list[int]]]:
    """Token ids of prompts and of two answers each."""
    dice = random.Random(seed)

    def ids(mean: int) -> list[int]:
        length = round(dice.lognormvariate(math.log(mean) - SIGMA**2 / 2, SIGMA))
        return [dice.randrange(4, VOCABULARY) for _ in range(max(8, min(length, LONGEST)))]

    return [{"prompt": ids(PROMPT), "chosen": ids(ANSWER), "rejected": ids(ANSWER)} for _ in range(count)]


def save_model(folder: Path, layers: int) -> int:
    """A model of random weights with a tokenizer that nothing is tokenised with; returns the number of weights."""
    import torch
    from tokenizers import Tokenizer, models
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=256, intermediate_size=688, num_hidden_layers=layers,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=4096, bos_token_id=1, eos_token_id=2,
            pad_token_id=3, tie_word_embeddings=False,
        )
    )  # fmt: skip
    model.save_pretrained(folder)
    words = Tokenizer(models.WordLevel({f"w{i}": i for i in range(VOCABULARY)}, unk_token="w0"))
    special = {"bos_token": "w1", "eos_token": "w2", "pad_token": "w3"}
    PreTrainedTokenizerFast(tokenizer_object=words, **special).save_pretrained(folder)
    return sum(p.numel() for p in model.parameters())


def packs(rows: list[dict[str, list[int]]]) -> list[list[int]]:
    """The rows of every pack that TRL makes."""
    from datasets import Dataset, disable_progress_bars
    from trl import pack_dataset

    disable_progress_bars()
    lengths = [len(row["prompt"]) + len(row["chosen"]) for row in rows]
    columns = {"input_ids": [[0] * n for n in lengths], "row": [[i] * n for i, n in enumerate(lengths)]}
    return [list(dict.fromkeys(ids)) for ids in pack_dataset(Dataset.from_dict(columns), LENGTH, "bfd")["row"]]


def measured(contenders: Sequence[Contender], shared: dict[str, Any], steps: Any, folder: Path) -> list[dict[str, Any]]:
    """One run of each, all of one library, in one process."""
    works = [folder / str(n) for n in range(len(contenders))]
    runs = [
        shared
        | {"kind": c.kind, "packed": c.form != "padded", "packs": c.packs, "steps": steps[c.steps], "work": str(work)}
        for c, work in zip(contenders, works, strict=True)
    ]
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, PEERS / SCRIPTS[contenders[0].library], json.dumps(runs)],
        env=os.environ | QUIET, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=PATIENCE,
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"{contenders[0].name} ended with exit code {done.returncode}. It said:\n{done.stdout[-3000:]}")
    results: list[dict[str, Any]] = [json.loads((work / "result.json").read_text()) for work in works]
    return results


def equal(found: dict[Contender, list[dict[str, Any]]], group: tuple[str, bool]) -> float:
    """The largest difference between any loss of a run and TRL's first at the same step; ends the benchmark above
    `TOLERANCE`."""
    runs = [(c, run["losses"]) for c, results in found.items() if c.steps == group for run in results]
    expected, most = runs[0][1], 0.0
    for contender, losses in runs:
        apart = max(abs(a - b) for a, b in zip(expected, losses, strict=True))
        if not apart < TOLERANCE:
            sys.exit(f"{contender.name} ({TITLES[group]}) has other losses than TRL, by {apart}: {losses}, {expected}")
        most = max(most, apart)
    return most


def report(found: dict[Contender, list[dict[str, Any]]], tokens: dict[str, int]) -> list[dict[str, Any]]:
    """Print a table for each kind of steps."""
    summary = []
    for group, goal in GOALS.items():
        apart = equal(found, group)
        members = [c for c in found if c.steps == group]
        steps = len(found[members[0]][0]["losses"])
        print(f"\n{TITLES[group]}: {steps} steps, {tokens[group[0]]} tokens; largest difference of losses {apart:.1e}")
        print(
            f"{'':22}{'CPU s':>8}{'from':>8}{'to':>8}{'wall s':>8}{'tokens/CPU-s':>14}{'peak MB':>9}{'times TRL':>11}"
        )
        medians = {c: statistics.median(run["cpu"] for run in found[c]) for c in members}
        for c in members:
            cpus, wall = [run["cpu"] for run in found[c]], statistics.median(run["wall"] for run in found[c])
            peak, times = statistics.median(run["peak"] for run in found[c]), medians[members[0]] / medians[c]
            aim = f"{f'(goal {goal})':>13}" if c is members[-1] else ""
            print(
                f"{c.name:22}{medians[c]:8.2f}{min(cpus):8.2f}{max(cpus):8.2f}{wall:8.2f}"
                f"{tokens[c.kind] / medians[c]:14.0f}{peak:9.0f}{times:11.2f}{aim}"
            )
            summary.append(
                {
                    "steps": TITLES[group], "contender": c.name, "cpu_s": round(medians[c], 3),
                    "wall_s": round(wall, 3), "peak_mb": round(peak), "times_trl": round(times, 3),
                    "goal": goal if aim else None, "loss_difference": apart,
                }
            )  # fmt: skip
    return summary


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="2 layers, 2 steps of 4 rows, one round, one process a library"
    )
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5, help="the median counts; the order turns")
    options = parser.parse_args()
    if not find_spec("trl"):
        sys.exit("TRL is not installed. Type: pip install 'matrix-gen[parity]'")
    layers, count, batch, rounds = (2, 8, 4, 1) if options.quick else (6, options.rows, 8, options.rounds)
    if count % batch:
        sys.exit(f"--rows must be a multiple of {batch}, not {count}")
    rows = draw_rows(count)
    by_rows = [list(range(at, at + batch)) for at in range(0, count, batch)]
    steps = {("sft", False): by_rows, ("sft", True): packs(rows), ("dpo", False): by_rows}
    answers = {"sft": ("chosen",), "dpo": ("chosen", "rejected")}
    tokens = {k: sum(len(row["prompt"]) + len(row[b]) for row in rows for b in of) for k, of in answers.items()}
    found: dict[Contender, list[dict[str, Any]]] = {c: [] for c in CONTENDERS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        weights = save_model(folder / "model", layers)
        (folder / "rows.json").write_text(json.dumps(rows))
        shared = {
            "model": str(folder / "model"), "rows": str(folder / "rows.json"), "batch": batch, "length": LENGTH
        }  # fmt: skip
        together = [[c for c in CONTENDERS if c.library == library] for library in SCRIPTS]
        for turn in range(rounds):
            alone = [[c] for c in CONTENDERS[turn:] + CONTENDERS[:turn]]
            for number, members in enumerate(together if options.quick else alone):
                results = measured(members, shared, steps, folder / f"{turn}-{number}")
                for contender, result in zip(members, results, strict=True):
                    found[contender].append(result)
                    note = f"{turn + 1}/{rounds} {contender.kind} {contender.name}: {result['cpu']:.2f} CPU-s"
                    print(f"{note}, {result['wall']:.2f} s, load {os.getloadavg()[0]:.1f}", file=sys.stderr)
    print(f"{layers} layers, {weights / 1e6:.1f}M weights, {count} rows, {batch} a step; median of {rounds}")
    if options.quick:
        print(
            "Small model, few rows, one process a library: it shows that it works; memory is that of all runs so far."
        )
    print(
        json.dumps(
            {"benchmark": "training_speed", "weights": weights, "rounds": rounds, "results": report(found, tokens)}
        )
    )


if __name__ == "__main__":
    main()
