"""The stages `import` and `train`: checkpoints as results, made in a process of their own.

A separate process gives accelerator and memory back, and keeps ranks that Lightning starts from running a sweep again.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from matrix.engines.base import ModelConfig
from matrix.engines.sources import resolve
from matrix.progress import show
from matrix.stage import Result, Stage, full_config
from matrix.training.recipe import DPOConfig, TrainConfig, TrainingError

log = logging.getLogger(__name__)

TAIL = 25
"""Lines of a failed worker's log that the error repeats."""


@dataclass(kw_only=True)
class Import(Stage):
    """A model from anywhere as a checkpoint result: GGUF files are converted, everything else is pointed to."""

    name: ClassVar[str] = "import"
    model: ModelConfig

    def run(self, work: Path) -> None:
        """Write `hf/` and `model.gguf` for a GGUF file, `reference.json` for a folder or hub id.

        Raises:
            TrainingError: the file cannot be converted.
        """
        source = resolve(self.model.model, self.model.revision)
        if isinstance(source, Path) and source.suffix == ".gguf":
            job = {"work": str(work), "source": str(source), "chat_template": self.model.chat_template}
            run_process([sys.executable, "-m", "matrix.training.convert"], job, work, "import")
        else:
            pointed = {"model": str(source), "revision": self.model.revision}
            (work / "reference.json").write_text(json.dumps(pointed, indent=1))

    def readable(self) -> str:
        """Last part of the model's name."""
        return Path(self.model.model).stem


@dataclass(kw_only=True)
class Train(Stage):
    """Fine-tuning of `base` on the rows of `data`: SFT or DPO, as the class of `recipe` says."""

    name: ClassVar[str] = "train"
    recipe: TrainConfig
    base: Result
    data: Result
    model: ModelConfig
    """What `base` was imported from, for its chat template."""

    def run(self, work: Path) -> None:
        """Write `hf/`, `model.gguf` where the recipe asks for it, `metrics.csv`, `summary.json` and `logs/`.

        Raises:
            TrainingError: the worker failed; the end of its log is in the message. Checkpoints stay for the next try.
        """
        job = {
            "work": str(work),
            "base": str(self.base.path),
            "rows": str(self.data.path / "rows.jsonl"),
            "chat_template": self.model.chat_template,
            "trust_remote_code": self.model.trust_remote_code,
            "seed": self.seed,
            self.readable(): full_config(self.recipe),
        }
        run_process(worker_command(self.recipe), job, work, self.readable())

    def readable(self) -> str:
        """`sft` or `dpo`."""
        return "dpo" if isinstance(self.recipe, DPOConfig) else "sft"


def worker_command(recipe: TrainConfig) -> list[str]:
    """The command that starts the worker on every rank."""
    if recipe.launcher:
        return [*recipe.launcher, sys.executable, "-m", "matrix.training.worker"]
    if recipe.devices == 1:
        return [sys.executable, "-m", "matrix.training.worker"]
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={recipe.devices}"]
    return [sys.executable, *launch, "-m", "matrix.training.worker"]


def run_process(command: list[str], job: dict[str, Any], work: Path, title: str) -> None:
    """Run `command logs/stage.json` to its end; show its progress lines, keep everything else in `logs/worker.log`.

    The process dies with this call: interrupted here, it is ended with all its children.

    Raises:
        TrainingError: it failed.
    """
    logs = work / "logs"
    logs.mkdir(exist_ok=True)
    (logs / "stage.json").write_text(json.dumps(job, indent=1))
    environment = {
        "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin while they wait starve each other on shared cores
        "TOKENIZERS_PARALLELISM": "false",
        **os.environ,
    }
    with (
        (logs / "worker.log").open("a", buffering=1) as written,
        show(title, 0, work) as progress,
        subprocess.Popen(
            [*command, str(logs / "stage.json")],
            stdout=subprocess.PIPE, stderr=written, text=True, env=environment, start_new_session=True,
        ) as process,
    ):  # fmt: skip
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if not line.startswith('{"step"'):
                    written.write(line)
                    continue
                told = json.loads(line)
                progress.done, progress.total = told.pop("step"), told.pop("total")
                shown = ("loss", "learning_rate", "tokens_per_second")
                progress.note = ", ".join(f"{name} {told[name]:.4g}" for name in shown if name in told)
            code = process.wait()
        finally:
            _end(process)
    if code:
        tail = (logs / "worker.log").read_text(errors="replace").splitlines()[-TAIL:]
        cause = tail[-1] if tail else "no output"
        raise TrainingError(
            "\n".join([f"{title} failed (exit code {code}): {cause}", f"{logs / 'worker.log'}:", *tail])
        )


def _end(process: subprocess.Popen[str]) -> None:
    """End a process group that still runs: ask, wait ten seconds, insist."""
    if process.poll() is not None:
        return
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
