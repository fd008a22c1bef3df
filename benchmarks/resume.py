"""Three optimizer steps, `kill -9`, three more: the bits of six steps in one go, in the middle of an epoch.

A Llama of random weights in fp32 on the CPU, trained by the worker processes that `matrix.training.stage` starts. All
of them are killed at once when the fourth step is done, of which nothing is kept; the same command then goes on from
the checkpoint after the third. Compared are the exported fp32 weights, which depend on the optimizer's moments and
the order of rows, and all of `metrics.csv` that is not measured with a clock.

    python benchmarks/resume.py --quick
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
from training_invariance import write_material  # which also hides GPUs from all that is started here

from matrix.engines.base import ModelConfig
from matrix.stage import Result
from matrix.training.machines import LoggerConfig, Strategy, StrategyConfig, Tracker
from matrix.training.recipe import DPOConfig, ExportType, LoraConfig, Precision, SFTConfig
from matrix.training.stage import Refer, Train, reference_recipe, worker_command

SHARED: dict[str, Any] = {
    "batch_size": 5, "micro_batch_size": 1, "epochs": 1, "learning_rate": 1e-3, "max_length": 160,
    "precision": Precision.fp32, "export_type": ExportType.float32,
}  # fmt: skip
"""Of 28 rows six steps an epoch."""
SFT = SFTConfig(**SHARED)
CASES = {
    "sft single": (SFT, Strategy.single, 1),
    "sft single, LoRA with dropout": (replace(SFT, lora=LoraConfig(rank=4, dropout=0.1)), Strategy.single, 1),
    "sft zero2": (SFT, Strategy.zero2, 2),
    "sft zero3": (SFT, Strategy.zero3, 2),
    "sft fsdp2": (SFT, Strategy.fsdp2, 2),
    "dpo single": (DPOConfig(**SHARED), Strategy.single, 1),
}
QUICK = 2


def published(folder: Path) -> Result:
    """A folder as the result of a stage."""
    (folder / "manifest.json").write_text(json.dumps({"outputs": {}}))
    return Result(stage="benchmark", key="0" * 64, path=folder)


def stage_of(folder: Path, recipe: SFTConfig | DPOConfig, strategy: Strategy, devices: int) -> Train:
    """A training on the rows of `folder`; the reference of pairs is made first."""
    kind = "dpo" if isinstance(recipe, DPOConfig) else "sft"
    rows = folder / kind
    rows.mkdir(exist_ok=True)
    (rows / "rows.jsonl").write_bytes((folder / f"{kind}.jsonl").read_bytes())
    shared: dict[str, Any] = {
        "strategy": StrategyConfig(kind=strategy, devices=devices, threads=1),
        "logger": LoggerConfig(tracker=Tracker.none), "base": published(folder), "data": published(rows),
        "model": ModelConfig(model="tiny"), "seed": 1,
    }  # fmt: skip
    if kind == "sft":
        return Train(recipe=recipe, **shared)
    (folder / "reference").mkdir()
    Refer(recipe=reference_recipe(recipe), **shared).run(folder / "reference")
    return Train(recipe=recipe, reference=published(folder / "reference"), **shared)


def train(stage: Train, work: Path, last: int | None = None) -> list[int]:
    """Start the workers, and kill them all at once when step `last` is done; the steps that they told of."""
    (work / "logs").mkdir(parents=True, exist_ok=True)
    job = work / "logs" / "stage.json"
    reference = {"reference": str(stage.reference.path / "reference.jsonl")} if stage.reference else {}
    job.write_text(json.dumps(stage.job(work) | reference))
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false"}
    steps = []
    with (
        (work / "logs" / "worker.log").open("a") as log,
        subprocess.Popen(
            [*worker_command(stage.strategy), str(job)], stdout=subprocess.PIPE, stderr=log, text=True, env=environment
        ) as launcher,
    ):
        assert launcher.stdout
        for line in launcher.stdout:
            if not line.startswith('{"step"'):
                continue
            steps.append(json.loads(line)["step"])
            if steps[-1] == last:
                processes = [psutil.Process(launcher.pid), *psutil.Process(launcher.pid).children(recursive=True)]
                for process in processes:  # ranks are in sessions of their own, which killing a group would spare
                    process.kill()
                break
    if launcher.returncode != (0 if last is None else -signal.SIGKILL):
        sys.exit(f"{work.name}: exit code {launcher.returncode}\n{(work / 'logs' / 'worker.log').read_text()[-4000:]}")
    return steps


def timeless(metrics: Path) -> list[dict[str, str]]:
    """Lines of `metrics.csv` without what is measured with a clock."""
    with metrics.open() as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if not k.endswith("_per_second") and "mfu" not in k} for row in rows]


def digest(work: Path) -> str:
    """sha256 of the exported weights."""
    return hashlib.sha256((work / "hf" / "model.safetensors").read_bytes()).hexdigest()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one process, SFT: all weights and adapters")
    quick = parser.parse_args().quick
    results = []
    titles = ("processes", "killed after", "kept", "again from")
    print(f"{'case':30} " + " ".join(titles) + f" {'weights':>7} {'metrics':>7} {'seconds':>7}", flush=True)
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor() as pool:
        write_material(Path(name), layers=4, width=192)
        for case, (recipe, strategy, devices) in list(CASES.items())[: QUICK if quick else None]:
            began = time.monotonic()
            straight, broken = (Path(name) / f"{case}, {how}" for how in ("straight", "broken"))
            stage = stage_of(Path(name), replace(recipe, checkpoint_every=3), strategy, devices)
            whole = pool.submit(train, replace(stage, recipe=replace(recipe, checkpoint_every=0)), straight)
            done = train(stage, broken, last=4)
            (kept,) = (file.name for file in (broken / "checkpoints").glob("step-????????"))
            again = train(stage, broken)
            assert whole.result()[-1] == again[-1] == 6
            row: dict[str, Any] = {
                "case": case, "processes": devices, "killed_after": done[-1], "kept": int(kept.removeprefix("step-")),
                "again_from": again[0], "weights": digest(straight) == digest(broken),
                "metrics": timeless(straight / "metrics.csv") == timeless(broken / "metrics.csv"),
            }  # fmt: skip
            results.append(row)
            numbers = (row[title.replace(" ", "_")] for title in titles)
            same = ("equal" if row[what] else "DIFFER" for what in ("weights", "metrics"))
            print(
                f"{case:30} "
                + " ".join(f"{number:{len(title)}}" for number, title in zip(numbers, titles, strict=True))
                + "".join(f" {word:>7}" for word in same)
                + f" {time.monotonic() - began:7.0f}",
                flush=True,
            )
    equal = all(row["weights"] and row["metrics"] and row["kept"] == row["again_from"] == 3 for row in results)
    print(json.dumps({"benchmark": "resume", "equal": equal, "results": results}))
    return int(not equal)


if __name__ == "__main__":
    sys.exit(main())
