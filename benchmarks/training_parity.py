"""Losses and training trajectories beside TRL's: the same rows, the same weights, each with its own templates,
tokenisation, masks, batches and loop.

The table takes all rows as one batch: here packed, with the log-probabilities, masks and losses of `matrix.training`;
there TRL's trainers with their own collation. Of ORPO the likelihood term is left out on both sides: TRL takes the
prompts into it. kto is given TRL's estimate of the divergence. The trajectories are whole trainings of a Llama of
random weights in fp32 (AdamW, constant rate, clipped to 1): here a worker with packed micro-batches, there `train()` on
padded batches, with the rows in the order of our plan. Needs `pip install 'trl==1.16.*'`.

    OMP_NUM_THREADS=1 python benchmarks/training_parity.py --quick
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import logging
import os
import random
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

# CI: TRL reports nothing to its makers.
os.environ |= {
    "CI": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TRL_EXPERIMENTAL_SILENCE": "1",
}

import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

from matrix.jsonl import write_jsonl
from matrix.provenance import derive_seed
from matrix.records import Conversation, Message, Origin, PreferencePair
from matrix.simulation.synthetic import synthetic_profile
from matrix.training import worker
from matrix.training.attention import PACKED
from matrix.training.batch import Batch, collate
from matrix.training.chat import Renderer
from matrix.training.data import Example, read_examples
from matrix.training.logprobs import TokenLogps, sequence_sums
from matrix.training.losses import preference_terms
from matrix.training.machines import LoggerConfig, StrategyConfig, Tracker
from matrix.training.plan import make_plan
from matrix.training.recipe import DPOConfig, Precision, PreferenceLoss, Schedule, SFTConfig

if find_spec("trl"):
    from peers.trl_parity import Trainers, first_loss, optimizer

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from tiny_tokenizer import tiny_tokenizer

SEED = 1
SMALL = 2, 128
"""Layers and width of the model in the table."""
SHARED: dict[str, Any] = {
    "batch_size": 8, "max_length": 512, "epochs": 1, "schedule": Schedule.constant, "warmup_ratio": 0.0,
    "precision": Precision.fp32,
}  # fmt: skip
ORIGIN = Origin(stage="benchmark")


def material() -> list[str]:
    """What twenty synthetic people post."""
    return [post for index in range(20) for post in synthetic_profile(0, index).posts]


def conversations(count: int) -> list[Conversation]:
    """Chats of one to three turns."""
    draw, posts = random.Random(2), material()
    rows = []
    for number in range(count):
        turns = []
        for _ in range(draw.randint(1, 3)):
            turns.append(Message(role="user", content=draw.choice(posts)))
            turns.append(Message(role="assistant", content=" ".join(draw.sample(posts, draw.randint(1, 2)))))
        rows.append(Conversation(id=f"c{number}", messages=turns, origin=ORIGIN))
    return rows


def pairs(count: int) -> list[PreferencePair]:
    """Prompts with two answers of different lengths."""
    draw, posts = random.Random(3), material()
    return [
        PreferencePair(
            id=f"p{number}",
            prompt=[Message(role="user", content=draw.choice(posts))],
            chosen=" ".join(draw.sample(posts, draw.randint(1, 3))),
            rejected=" ".join(draw.sample(posts, draw.randint(1, 3))),
            origin=ORIGIN,
        )
        for number in range(count)
    ]


class Bench:
    """A model and its tokenizer in a folder, and what both sides make of rows."""

    def __init__(self, folder: Path, layers: int, width: int) -> None:
        self.folder = folder
        folder.mkdir()
        text = folder / "text"
        text.write_text("\n".join(material()))
        self.tokenizer = tiny_tokenizer(text)
        shape = LlamaConfig(
            vocab_size=512, hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=True,
            bos_token_id=0, eos_token_id=1,
        )  # fmt: skip
        torch.manual_seed(0)
        model = LlamaForCausalLM(shape)
        self.weights = sum(weight.numel() for weight in model.parameters())
        model.save_pretrained(folder / "hf")
        self.tokenizer.save_pretrained(folder / "hf")
        self.trl = Trainers(folder / "trl", self.tokenizer, SHARED["max_length"])

    def model(self, moved: float = 0.0) -> Any:
        """The weights, with noise of standard deviation `moved`."""
        model = LlamaForCausalLM.from_pretrained(self.folder / "hf", attn_implementation="sdpa")
        torch.manual_seed(1)
        with torch.no_grad():
            for weight in model.parameters():
                weight += moved * torch.randn_like(weight)
        return model

    def examples(
        self, rows: Sequence[Conversation] | Sequence[PreferencePair], recipe: SFTConfig | DPOConfig
    ) -> list[Example]:
        """Our rendering of the rows, which are left in `rows.jsonl`."""
        write_jsonl(self.folder / "rows.jsonl", rows)
        seed = derive_seed(SEED, "rows")
        return read_examples(self.folder / "rows.jsonl", recipe, Renderer(self.tokenizer, recipe), seed).examples

    def table(self, count: int) -> dict[str, tuple[float, float]]:
        """Every loss on `count` rows as one batch: ours and TRL's."""
        policy, reference = self.model(), self.model(moved=0.02)  # this way round kto's divergence is above 0
        everything = list(range(count))
        chats = conversations(count)
        batch = collate(self.examples(chats, SFTConfig(**SHARED)), everything, packed=True)
        theirs = first_loss(self.trl.sft(policy, chats, per_device_train_batch_size=count))
        found = {"sft": (-float(logps(policy, batch).mean()), theirs)}
        rows = pairs(count)
        for name, config, theirs, kl in self.trl.losses(rows, policy, reference, SHARED):
            batch = collate(self.examples(rows, config), everything, packed=True)
            sums = [sequence_sums(logps(m, batch), batch["owner"], 2 * count).view(-1, 2) for m in (policy, reference)]
            lengths = torch.bincount(batch["owner"]).view(-1, 2)
            targets = int(lengths[:, 0].sum())
            ours = preference_terms(config, sums[0], sums[1], lengths, count, targets, kl)["loss"].mean()
            if config.loss is PreferenceLoss.orpo:
                ours += sums[0][:, 0].sum() / targets
            found[name] = (float(ours), theirs)
        return found

    def sft(self, steps: int) -> list[tuple[float, float]]:
        """Our loss and TRL's at every step of SFT."""
        recipe = SFTConfig(**SHARED, learning_rate=1e-3)
        rows = conversations(steps * recipe.batch_size)
        trainer = self.trl.sft(self.model(), [rows[i] for i in self.order(rows, recipe)], **optimizer(recipe))
        return self.both(trainer, self.job("sft", recipe))

    def dpo(self, steps: int) -> list[tuple[float, float]]:
        """Our loss and TRL's at every step of DPO."""
        recipe = DPOConfig(**SHARED, learning_rate=1e-4)
        rows = pairs(steps * recipe.batch_size)
        ordered = [rows[i] for i in self.order(rows, recipe)]
        trainer = self.trl.dpo(self.model(), self.model(), ordered, **optimizer(recipe))
        reference = self.work("reference", self.job("dpo", recipe) | {"refer": True}) / "reference.jsonl"
        return self.both(trainer, self.job("dpo", recipe) | {"reference": str(reference)})

    def order(
        self, rows: Sequence[Conversation] | Sequence[PreferencePair], recipe: SFTConfig | DPOConfig
    ) -> list[int]:
        """The rows of every optimizer step of our plan, one step after the other."""
        plan = make_plan(self.examples(rows, recipe), recipe, 1, SEED)
        return [i for step in plan.steps for batch in step.micro_batches for i in batch]

    def job(self, kind: str, recipe: SFTConfig | DPOConfig) -> dict[str, Any]:
        """What a worker needs for the rows that were read last."""
        return {
            "base": str(self.folder), "rows": str(self.folder / "rows.jsonl"), "chat_template": None,
            "trust_remote_code": False, "seed": SEED, "strategy": asdict(StrategyConfig(threads=1)),
            "logger": asdict(LoggerConfig(tracker=Tracker.none)), kind: asdict(recipe),
        }  # fmt: skip

    def work(self, name: str, job: dict[str, Any]) -> Path:
        """Let a worker do a job, its progress lines unseen; returns its folder."""
        work = self.folder / name
        work.mkdir()
        (work / "job.json").write_text(json.dumps(job | {"work": str(work)}))
        with contextlib.redirect_stdout(io.StringIO()):
            worker.main(work / "job.json")
        return work

    def both(self, trainer: Any, job: dict[str, Any]) -> list[tuple[float, float]]:
        """Train here and there."""
        work = self.work("dpo" if "dpo" in job else "sft", job)
        with contextlib.redirect_stdout(io.StringIO()):
            trainer.train()
        with (work / "metrics.csv").open() as file:
            return list(zip((float(row["loss"]) for row in csv.DictReader(file)), trainer.losses, strict=True))


def logps(model: Any, batch: Batch) -> torch.Tensor:
    """(targets,) log-probabilities of a packed batch."""
    model.set_attn_implementation(PACKED)
    with torch.no_grad():
        found: torch.Tensor = TokenLogps(model)(batch)
    model.set_attn_implementation("sdpa")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="16 rows; 5 steps of the small model, not 20 of 6M weights"
    )
    options = parser.parse_args()
    if not find_spec("trl"):
        sys.exit("TRL is missing: pip install 'matrix-gen[parity]'")
    torch.set_num_threads(1)
    count, steps, shape = (16, 5, SMALL) if options.quick else (64, 20, (6, 256))
    with tempfile.TemporaryDirectory() as folder:
        logging.disable(logging.WARNING)
        transformers.utils.logging.disable_progress_bar()
        table = Bench(Path(folder) / "table", *SMALL).table(count)
        bench = Bench(Path(folder) / "courses", *shape)
        courses = {"sft": bench.sft(steps), "dpo": bench.dpo(steps)}

    print(f"{'loss':14} {'here':>12} {'TRL ' + version('trl'):>12} {'|d|':>8}")
    for name, (ours, theirs) in table.items():
        print(f"{name:14} {ours:12.7f} {theirs:12.7f} {abs(ours - theirs):8.1e}")
    print(f"\n{'step':4}" + "".join(f" {name:>12} {'TRL':>12} {'|d|':>8}" for name in courses))
    for step, numbers in enumerate(zip(*courses.values(), strict=True), start=1):
        print(f"{step:4}" + "".join(f" {a:12.7f} {b:12.7f} {abs(a - b):8.1e}" for a, b in numbers))
    greatest = {name: max(abs(a - b) for a, b in course) for name, course in courses.items()}
    print(f"{bench.weights:,} weights; greatest |d|: " + ", ".join(f"{name} {d:.1e}" for name, d in greatest.items()))
    differences = {name: abs(a - b) for name, (a, b) in table.items()}
    found = {
        "benchmark": "training_parity", "trl": version("trl"), "rows": count, "steps": steps, "weights": bench.weights,
        "losses": {name: float(f"{d:.2g}") for name, d in differences.items()},
        "trajectories": {name: float(f"{d:.2g}") for name, d in greatest.items()},
    }  # fmt: skip
    print(json.dumps(found))


if __name__ == "__main__":
    main()
