"""Micro-batch, accumulation, packing, strategy and world size change no trajectory: every form beside plain torch.

SFT and DPO of a Llama of random weights in fp32 on the CPU. Plain torch (`peers/plain_torch.py`) is written out: one
padded forward pass a row, Hugging Face's own logits with `eager` attention, log_softmax, autograd, AdamW, in float64
but for what transformers always computes in fp32 (norms, rotation). Compared are the loss and every number of the
gradient of the first optimizer step, as it enters AdamW, and the losses of the steps after it, the last of which has
half as many rows. DPO has its reference from a pass on the same machines, so that its first loss should be ln 2. The
line `plain torch in fp32` is the same code in fp32: what rounding alone makes of the numbers. AdamW divides by the
size of the gradient, so that much is made of the rounding of small ones and later losses part further.

    OMP_NUM_THREADS=1 python benchmarks/training_invariance.py --quick
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import logging
import math
import os
import random
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

os.environ |= {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}  # two processes would need two GPUs

import torch
import transformers
from lightning.pytorch.strategies import DeepSpeedStrategy
from peers.plain_torch import plain
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from matrix.jsonl import write_jsonl
from matrix.records import Conversation, Message, Origin, PreferencePair
from matrix.training.chat import Renderer
from matrix.training.data import read_examples
from matrix.training.dpo import DPO, Referring
from matrix.training.export import load_tokenizer
from matrix.training.machines import LoggerConfig, Strategy, StrategyConfig, Tracker
from matrix.training.module import Source, Trained
from matrix.training.plan import make_plan
from matrix.training.recipe import DPOConfig, Packing, Precision, Schedule, SFTConfig
from matrix.training.sft import SFT
from matrix.training.worker import fit

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from tiny_tokenizer import tiny_tokenizer

TEXT = Path(__file__).parents[1] / "LICENSE"
SEED = 1
GOAL = 1e-6
HELD = ("loss", "gradient", "ln_2")
"""What the goal is for. Where it is missed, that is said; the exit code is 1 where it is missed by more than rounding,
twice what plain torch in fp32 is off by."""
COLUMNS = {
    "loss": "|d loss|", "gradient": "|d grad|", "relative": "/ largest", "later": "later", "ln_2": "ln 2",
}  # fmt: skip
LN_2 = math.log(2)
SHARED: dict[str, Any] = {
    "batch_size": 8, "epochs": 1, "learning_rate": 2e-4, "schedule": Schedule.constant, "warmup_ratio": 0.0,
    "gradient_clip": 0.0, "precision": Precision.fp32, "max_length": 160, "checkpoint_every": 0,
}  # fmt: skip
RECIPES: dict[str, SFTConfig | DPOConfig] = {"sft": SFTConfig(**SHARED), "dpo": DPOConfig(**SHARED)}
ROWS = 28
"""Three steps of eight and one of four. All are above two thirds of `max_length`, so that a pack of n lengths holds n
rows, and packs accumulate as often as padded rows do."""
Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Case:
    """A recipe and the machines that it is trained on."""

    kind: str
    micro: int
    accumulation: int
    world: int
    packing: Packing
    strategy: Strategy

    @property
    def name(self) -> str:
        """For the table."""
        shape = f"{self.micro} x {self.accumulation} x {self.world}"
        return f"{self.kind} {shape} {self.packing:8} {self.strategy}"


def cases(quick: bool) -> list[Case]:
    """All of them, or those that differ most."""
    found = []
    for kind, strategy, packing in product(RECIPES, Strategy, (Packing.padded, Packing.isolated)):
        if strategy is Strategy.auto:
            continue
        shapes = [(8, 1, 1), (1, 8, 1), (2, 2, 2)]
        if strategy is Strategy.single:
            shapes.pop()
        elif quick:
            chosen = packing is Packing.isolated and strategy in (Strategy.zero2, Strategy.zero3, Strategy.fsdp2)
            shapes = shapes[2:] if chosen else []
        found += [Case(kind, *shape, packing, strategy) for shape in shapes]
    return found


def write_material(folder: Path, layers: int = 3, width: int = 96) -> None:
    """`sft.jsonl`, `dpo.jsonl`, and in `hf/` a model with a tokenizer of 512 tokens."""
    draw, text = random.Random(0), TEXT.read_text()
    tokenizer = tiny_tokenizer(TEXT)

    def some(low: int, high: int) -> str:
        """A message of that many tokens."""
        start = draw.randrange(len(text) // 2)
        ids = tokenizer(text[start:], add_special_tokens=False)["input_ids"]
        return str(tokenizer.decode(ids[: draw.randint(low, high)])).strip() + "."

    chats = []
    for i in range(ROWS):
        turns = [("user", some(15, 20)), ("assistant", some(20, 30)), ("user", some(1, 8)), ("assistant", some(30, 50))]
        messages = [Message(role=role, content=content) for role, content in turns]
        chats.append(Conversation(id=f"c{i}", messages=messages, origin=Origin(stage="benchmark")))
    pairs = [
        PreferencePair(
            id=f"p{i}", prompt=[Message(role="user", content=some(10, 30))], chosen=some(90, 105),
            rejected=some(85, 105), origin=Origin(stage="benchmark"),
        )
        for i in range(ROWS)
    ]  # fmt: skip
    write_jsonl(folder / "sft.jsonl", chats)
    write_jsonl(folder / "dpo.jsonl", pairs)
    shape = LlamaConfig(
        vocab_size=512, hidden_size=width, intermediate_size=3 * width, num_hidden_layers=layers, num_attention_heads=6,
        num_key_value_heads=2, max_position_embeddings=256, tie_word_embeddings=True, bos_token_id=0, eos_token_id=1,
        initializer_range=0.1,
    )  # fmt: skip
    torch.manual_seed(0)
    LlamaForCausalLM(shape).save_pretrained(folder / "hf")
    tokenizer.save_pretrained(folder / "hf")


class Room:
    """What a training needs of rows and folder, made once a process."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.source = folder, Source(name=str(folder / "hf"))
        tokenizer = load_tokenizer((self.source.name, None), None, False)
        self.examples = {
            kind: read_examples(folder / f"{kind}.jsonl", recipe, Renderer(tokenizer, recipe), SEED).examples
            for kind, recipe in RECIPES.items()
        }

    def train(self, case: Case) -> tuple[list[float], Weights]:
        """Losses of all steps and the first gradient; every process of a case must call it."""
        work, quiet = self.folder / case.name.replace(" ", "_"), LoggerConfig(tracker=Tracker.none)
        work.mkdir(exist_ok=True)
        recipe = replace(RECIPES[case.kind], micro_batch_size=case.micro, packing=case.packing)
        machines = StrategyConfig(kind=case.strategy, devices=case.world, threads=1)
        examples = self.examples[case.kind]
        plan = make_plan(examples, recipe, case.world, SEED)
        assert plan.accumulation == case.accumulation, f"{case.name}: accumulation {plan.accumulation}"
        shared = (self.source, recipe, machines, plan, examples, SEED)
        module: Any
        if case.kind == "sft":
            module = WatchedSFT(*shared)
        else:
            trainer, _ = fit(Referring(work / "reference.jsonl", *shared), work, quiet, SEED)
            trainer.strategy.barrier()
            module = WatchedDPO(work / "reference.jsonl", *shared)
        trainer, _ = fit(module, work, quiet, SEED)
        trainer.strategy.barrier()
        with (work / "metrics.csv").open() as file:
            return [float(row["loss"]) for row in csv.DictReader(file)], module.first


class Watched(Trained):
    """Keeps the gradient of the first step as it enters AdamW."""

    first: Weights | None = None

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Before AdamW, after DeepSpeed has added up what the processes have."""
        super().on_before_optimizer_step(optimizer)
        engine = self.trainer.model if isinstance(self.trainer.strategy, DeepSpeedStrategy) else None
        # Under DeepSpeed this is called after every micro-batch.
        if self.first is None and (engine is None or engine.is_gradient_accumulation_boundary()):
            self.first = dict(self._gradients(engine is not None))

    def _gradients(self, deepspeed: bool) -> Iterator[tuple[str, Tensor]]:
        from deepspeed.utils import safe_get_full_grad

        for name, weight in self.model.named_parameters():
            gradient = safe_get_full_grad(weight) if deepspeed else weight.grad
            whole = gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient
            yield name, whole.detach().clone().view(getattr(weight, "ds_shape", weight.shape))


class WatchedSFT(Watched, SFT):
    """SFT, watched."""


class WatchedDPO(Watched, DPO):
    """DPO, watched."""


def compare(ours: tuple[list[float], Weights], theirs: tuple[list[float], Weights]) -> dict[str, float]:
    """Greatest differences of losses and gradients."""
    (losses, gradient), (known, expected) = ours, theirs
    assert gradient.keys() == expected.keys()
    apart = max(float((gradient[name] - expected[name]).abs().max()) for name in expected)
    found = {
        "loss": abs(losses[0] - known[0]),
        "gradient": apart,
        "relative": apart / max(float(g.abs().max()) for g in expected.values()),
        "later": max(abs(a - b) for a, b in zip(losses[1:], known[1:], strict=True)),
    }
    starts = math.isclose(known[0], LN_2)
    return found | ({"ln_2": abs(losses[0] - LN_2)} if starts else {})


def work(folder: Path, world: int, quick: bool) -> None:
    """One of the processes of all cases of a world size: differences go to `found.jsonl`."""
    room, expected = Room(folder), torch.load(folder / "plain.pt")
    for case in cases(quick):
        if case.world == world:
            differences = compare(room.train(case), expected[case.kind])
            if os.environ.get("RANK", "0") == "0":
                with (folder / "found.jsonl").open("a") as file:
                    file.write(json.dumps({"case": case.name, **differences}) + "\n")


def alone(folder: Path, quick: bool) -> None:
    """The cases of one process, in this one."""
    with contextlib.redirect_stdout(io.StringIO()):
        work(folder, 1, quick)


def together(folder: Path, quick: bool) -> None:
    """The cases of two processes, in one launch."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(
        [*command, __file__, "--work", str(folder), *["--quick"] * quick], capture_output=True, text=True,
        env=environment,
    )  # fmt: skip
    if done.returncode:
        sys.exit(done.stderr[:4000] + done.stderr[-4000:])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="strategy single on one process, and three on two")
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    transformers.utils.logging.disable_progress_bar()
    if options.work:
        work(options.work, 2, options.quick)
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_material(folder)
        room = Room(folder)
        exact, rounded = (
            {
                kind: plain(room.source.name, room.examples[kind], recipe, SEED, dtype)
                for kind, recipe in RECIPES.items()
            }
            for dtype in (torch.float64, torch.float32)
        )
        torch.save(exact, folder / "plain.pt")
        found: list[dict[str, Any]] = [
            {"case": f"{kind} plain torch in fp32", **compare(rounded[kind], exact[kind])} for kind in RECIPES
        ]
        together(folder, options.quick)
        alone(folder, options.quick)
        found += list(map(json.loads, (folder / "found.jsonl").read_text().splitlines()))
    for kind, (losses, gradient) in exact.items():
        largest = max(float(g.abs().max()) for g in gradient.values())
        print(f"{kind}: losses {', '.join(f'{loss:.7f}' for loss in losses)}; largest gradient {largest:.3g}")
    print(f"\n{'micro x accumulation x world':34}" + "".join(f" {title:>9}" for title in COLUMNS.values()))
    for row in sorted(found, key=lambda row: row["case"].partition(" ")[0], reverse=True):
        print(f"{row['case']:34}" + "".join(f" {row[name]:9.1e}" for name in COLUMNS if name in row))
    rounding, ours = found[: len(RECIPES)], found[len(RECIPES) :]
    greatest, floor = (
        {name: max(row[name] for row in rows if name in row) for name in COLUMNS} for rows in (ours, rounding)
    )
    for name in HELD:
        verdict = "met" if greatest[name] <= GOAL else f"missed; plain torch in fp32 is off by {floor[name]:.1e}"
        print(f"{COLUMNS[name]}: at most {greatest[name]:.1e}, goal {GOAL:g}: {verdict}")
    beyond = [name for name in HELD if greatest[name] > max(GOAL, 2 * floor[name])]
    print(
        json.dumps(
            {"benchmark": "training_invariance", "cases": len(ours), "greatest": greatest, "rounding": floor,
             "beyond_rounding": beyond}
        )
    )  # fmt: skip
    return int(bool(beyond))


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # threads of gloo that outlive the interpreter abort the process now and then
