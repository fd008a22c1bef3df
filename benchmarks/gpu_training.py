"""What SFT of an 8B-shaped Llama takes on a GPU: tokens a second, utilisation, memory; and whether it is right.

The weights are random, made on the device; the architecture is Llama 3.1 8B's. Where not all of its 32 layers fit with
their fp32 weights, gradients and AdamW state (16 bytes a weight), fewer are taken, and said so: all of them take more
than a GPU of 141 GB has. Documents are log-normal (mean 590 tokens, two thirds of them trained), packed at 4,096, one
pack a step. Training is this project's own, from `matrix.training.worker.fit` on; each form is a process of its own.
After 10 steps of warm-up the median of 30 counts, each timed to the end of its work on the device, collation included.

`tokens/s` are real tokens, `targets/s` those that are trained. MFU is given as if every token saw its whole document
(PaLM, Megatron, torchtitan, TRL), and with the half above the diagonal left out (Llama 3, NeMo); of the output layer
only what is trained counts. Also: output and gradients of packed attention on the device in bf16 against separate
documents on the CPU in fp32, and the losses of ZeRO-2 (one process) against a single device.

On a machine with a GPU, in a checkout with `pip install -e '.[liger]'`:

    python benchmarks/gpu_training.py                       # as many layers as fit, all forms, about 10 minutes
    python benchmarks/gpu_training.py --layers 8 --quick    # 3 + 8 steps

Without one, the same code runs on the CPU with a tiny model in fp32, which shows that it works and nothing else:

    OMP_NUM_THREADS=1 python benchmarks/gpu_training.py --quick
"""

from __future__ import annotations

import argparse
import json
import math
import random
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from peers.separate_attention import errors, pairs

from matrix.training.budget import documents, flops, memory, peak_flops, shape_of
from matrix.training.chat import Sequence
from matrix.training.data import Example
from matrix.training.machines import LoggerConfig, Strategy, StrategyConfig, Tracker
from matrix.training.module import Source
from matrix.training.plan import make_plan
from matrix.training.recipe import BatchUnit, SFTConfig
from matrix.training.sft import SFT
from matrix.training.worker import fit

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
FORMS: dict[str, dict[str, Any]] = {
    "plain": {},
    "compile": {"compile": True},
    "liger": {"liger": True},
    "compile, liger": {"compile": True, "liger": True},
    "zero2": {"kind": Strategy.zero2},
}
SHAPE: dict[str, Any] = {
    "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32, "num_key_value_heads": 8,
    "vocab_size": 128256, "rope_theta": 500000.0, "max_position_embeddings": 8192, "tie_word_embeddings": False,
}  # fmt: skip
"""Llama 3.1 8B but for its layers."""
TINY = SHAPE | {
    "hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 512
}  # fmt: skip
"""What a CPU takes instead."""
LAYERS = 32 if GPU else 2
MEAN, SIGMA, TRAINED = 590, 0.8, 2 / 3
"""Tokens of a document, and the share of them that is trained."""
ROOM = 0.9
"""Share of the device's memory that may be planned for: the rest is the driver's and lost between blocks."""
PATIENCE = 1800
"""Seconds before a form is given up."""


def config(layers: int) -> Any:
    """The model's Hugging Face config."""
    from transformers import LlamaConfig

    return LlamaConfig(**(SHAPE if GPU else TINY), num_hidden_layers=layers, pad_token_id=0)


def recipe(length: int) -> SFTConfig:
    """A pack an optimizer step."""
    return SFTConfig(
        epochs=1, batch_size=1, batch_unit=BatchUnit.packs, max_length=length, learning_rate=1e-5, checkpoint_every=0
    )


def draw(tokens: int, length: int, vocabulary: int) -> list[Example]:
    """Documents of at least `tokens` together."""
    dice, found = random.Random(1), list[Example]()
    while tokens > 0:
        size = max(16, min(round(dice.lognormvariate(math.log(MEAN * length / 4096) - SIGMA**2 / 2, SIGMA)), length))
        prompt = round(size * (1 - TRAINED))
        ids = [dice.randrange(1, vocabulary) for _ in range(size)]
        found.append(Example(str(len(found)), (Sequence(ids, [False] * prompt + [True] * (size - prompt)),)))
        tokens -= size
    return found


def layers_that_fit(length: int) -> int:
    """At most those of the 8B model, in every form."""
    room = torch.cuda.get_device_properties(0).total_memory * ROOM / 2**30
    for layers in range(LAYERS, 0, -1):
        shape = shape_of(config(layers))
        kinds = [StrategyConfig(**form) for form in FORMS.values()]
        if max(memory(shape, recipe(length), kind, bf16=True).device for kind in kinds) < room:
            return layers
    sys.exit(f"not even one layer of the 8B shape can be trained in {room:.0f} GiB; lower --length")


class Stamped(SFT):
    """SFT that notes when each step is over on the device."""

    stamps: list[float]

    def on_train_batch_end(self, *_: Any) -> None:
        """Wait for the device; the step's metrics are written by now."""
        if GPU:
            torch.cuda.synchronize()
        self.stamps.append(time.perf_counter())
        if GPU and len(self.stamps) == 2:  # kernels are loaded, the optimizer's state is there
            torch.cuda.reset_peak_memory_stats()


def random_weights() -> Any:
    """While it lasts, weights are drawn on the device where they would be read, so that no 32 GB lie on a disk."""
    from transformers import AutoConfig, AutoModelForCausalLM

    def drawn(name: str, *, dtype: torch.dtype, attn_implementation: str, **_: Any) -> Any:
        torch.manual_seed(0)
        with DEVICE:
            told = AutoConfig.from_pretrained(name)
            return AutoModelForCausalLM.from_config(told, dtype=dtype, attn_implementation=attn_implementation)

    return patch.object(AutoModelForCausalLM, "from_pretrained", drawn)


def train(form: str, layers: int, length: int, warm_up: int, steps: int, work: Path) -> dict[str, Any]:
    """Medians of one form."""
    told = config(layers)
    told.save_pretrained(work / "model")
    shape, asked = shape_of(told), recipe(length)
    examples = draw(int((warm_up + steps) * length * 1.1), length, told.vocab_size)
    plan = make_plan(examples, asked, 1, seed=0)
    plan = replace(plan, steps=plan.steps[: warm_up + steps])
    module = Stamped(Source(name=str(work / "model")), asked, StrategyConfig(**FORMS[form]), plan, examples, 0)
    module.stamps = []
    with random_weights():
        trainer, _ = fit(module, work, LoggerConfig(tracker=Tracker.none), seed=0)
    seconds = [after - before for before, after in zip(module.stamps, module.stamps[1:], strict=False)]
    timed = list(zip(plan.steps[1:], seconds, strict=True))[warm_up - 1 :]
    done = [
        flops(shape, documents([examples[i] for rows in step.micro_batches for i in rows], True), step.targets)
        for step, _ in timed
    ]
    peak = peak_flops(torch.cuda.get_device_name()) if GPU else None
    lines = (work / "metrics.csv").read_text().splitlines()[1:]
    utilised = [(f.full / s / peak, f.causal / s / peak) for f, (_, s) in zip(done, timed, strict=True)] if peak else []
    allocated = torch.cuda.max_memory_allocated() if GPU else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {
        "form": form,
        "precision": trainer.precision,
        "tokens_per_s": statistics.median(step.tokens / s for step, s in timed),
        "targets_per_s": statistics.median(step.targets / s for step, s in timed),
        "step_ms": 1e3 * statistics.median(s for _, s in timed),
        "slowest_ms": 1e3 * max(s for _, s in timed),
        "mfu": statistics.median(full for full, _ in utilised) if utilised else None,
        "mfu_causal": statistics.median(causal for _, causal in utilised) if utilised else None,
        "peak_gib": allocated / 2**30,
        "losses": [float(line.split(",")[1]) for line in lines],
    }


def attention_errors(length: int) -> dict[str, dict[str, float]]:
    """Largest differences of packed attention on the device from separate documents on the CPU in fp32.

    Returns:
        For rows and for pairs that share their prompt, of the output and of each gradient, over its largest value.
    """
    told = config(1)
    return {
        "rows": errors(draw(int(length * 0.7), length, told.vocab_size), told, DEVICE),
        "pairs": errors(pairs(length, told.vocab_size), told, DEVICE),
    }


def impossible(form: str) -> str | None:
    """Why a form cannot be measured here."""
    if FORMS[form].get("liger"):
        if not GPU:
            return "Liger's kernels need a GPU"
        if not find_spec("liger_kernel"):
            return "needs pip install 'matrix-gen[liger]'"
    if FORMS[form].get("compile") and not shutil.which("g++"):
        return "torch.compile needs g++"
    return None


def apart(form: str, task: dict[str, Any], folder: Path) -> dict[str, Any]:
    """One form, or the check of attention, in a process of its own."""
    work = folder / form.replace(", ", "-")
    work.mkdir()
    told = json.dumps(task | {"form": form, "work": str(work)})
    done = subprocess.run(
        [sys.executable, __file__, "--one", told],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=PATIENCE,
    )  # fmt: skip
    result = work / "result.json"
    if not result.exists():
        return {"form": form, "failed": done.stdout.strip().splitlines()[-1], "log": done.stdout[-3000:]}
    found: dict[str, Any] = json.loads(result.read_text())
    return found


def one(told: str) -> None:
    """What the process does."""
    task = json.loads(told)
    work, form = Path(task.pop("work")), task.pop("form")
    result = attention_errors(task["length"]) if form == "attention" else train(form, work=work, **task)
    (work / "result.json").write_text(json.dumps(result))


def report(results: list[dict[str, Any]]) -> None:
    """Print what the forms took."""
    titles = ("tokens/s", "targets/s", "step ms", "slowest", "MFU %", "causal %", "peak GiB")
    print(f"{'':16}{'precision':>12}" + "".join(f"{title:>11}" for title in titles))
    for r in results:
        if "failed" in r:
            print(f"{r['form']:16} failed: {r['failed']}")
            continue
        used = [f"{100 * r[name]:11.1f}" if r[name] else f"{'-':>11}" for name in ("mfu", "mfu_causal")]
        rates = f"{r['tokens_per_s']:11.0f}{r['targets_per_s']:11.0f}{r['step_ms']:11.1f}{r['slowest_ms']:11.1f}"
        print(f"{r['form']:16}{r['precision']:>12}{rates}{''.join(used)}{r['peak_gib']:11.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="3 + 8 steps, plain and zero2 only")
    parser.add_argument("--layers", type=int, help="of the 8B model's 32; as many as fit where it is not given")
    parser.add_argument("--length", type=int, default=4096 if GPU else 256, help="tokens a pack")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        one(options.one)
        return
    layers = options.layers or (layers_that_fit(options.length) if GPU else LAYERS)
    warm_up, steps = (3, 8) if options.quick else (10, 30)
    task = {"layers": layers, "length": options.length, "warm_up": warm_up, "steps": steps}
    shape = shape_of(config(layers))
    device = torch.cuda.get_device_name() if GPU else "no GPU: a tiny model on the CPU, figures without meaning"
    print(f"{device}; torch {torch.__version__}")
    of = f"{layers} of the 8B model's 32 layers" if GPU else f"{layers} layers"
    print(
        f"{of}, {shape.parameters / 1e6:,.1f}M weights, packs of {options.length}, "
        f"median of {steps} steps after {warm_up}"
    )
    forms = ["plain", "zero2"] if options.quick else list(FORMS)
    reasons = {form: impossible(form) for form in forms}
    with tempfile.TemporaryDirectory() as folder:
        results = [apart(form, task, Path(folder)) for form in forms if not reasons[form]]
        attention = apart("attention", task, Path(folder))
    if "failed" in attention:
        results, attention = [*results, attention], {}
    for form, reason in reasons.items():
        if reason:
            print(f"{form} left out: {reason}")
    report(results)
    for kind, of_each in attention.items():
        told = ", ".join(f"{name} {value:.1e}" for name, value in of_each.items())
        print(f"packed attention in bf16, {kind}, largest difference over largest value: {told}")
    losses = {r["form"]: r["losses"] for r in results if "losses" in r}
    summary: dict[str, Any] = {"benchmark": "gpu_training", "device": device, **task, "weights": shape.parameters}
    if {"plain", "zero2"} <= losses.keys():
        most = max(abs(a - b) for a, b in zip(losses["plain"], losses["zero2"], strict=True))
        print(f"zero2 and a single device: losses of {len(losses['plain'])} steps differ by at most {most:.1e}")
        summary["zero2_difference"] = most
    kept = [{name: value for name, value in r.items() if name not in ("losses", "log")} for r in results]
    print(json.dumps(summary | {"results": kept, "attention": attention}))
    if failed := [r for r in results if "failed" in r]:
        sys.exit("\n".join(f"{r['form']} failed. It said:\n{r['log']}" for r in failed))


if __name__ == "__main__":
    main()
