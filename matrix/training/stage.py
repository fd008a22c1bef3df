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
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, ClassVar

from matrix.engines.base import HOW, ModelConfig
from matrix.engines.sources import resolve
from matrix.progress import Progress, show
from matrix.stage import Result, Stage, full_config
from matrix.training.machines import LoggerConfig, StrategyConfig
from matrix.training.recipe import DPOConfig, PreferenceLoss, SFTConfig, TrainConfig, TrainingError

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
class Worked(Stage):
    """A stage that a worker process does: it reads the rows of `data` and the weights of `base`."""

    recipe: SFTConfig | DPOConfig
    strategy: StrategyConfig = field(default_factory=StrategyConfig, metadata=HOW)
    logger: LoggerConfig = field(default_factory=LoggerConfig, metadata=HOW)
    base: Result
    data: Result
    model: ModelConfig
    """What `base` was imported from, for its chat template."""

    def job(self, work: Path) -> dict[str, Any]:
        """What the worker is told (`matrix.training.job.Job`)."""
        return {
            "work": str(work),
            "base": str(self.base.path),
            "rows": str(self.data.path / "rows.jsonl"),
            "chat_template": self.model.chat_template,
            "trust_remote_code": self.model.trust_remote_code,
            "seed": self.seed,
            "strategy": full_config(self.strategy),
            "logger": full_config(self.logger),
            kind(self.recipe): full_config(self.recipe),
        }

    def preview(self) -> str:
        """What the rows hold and how they would be trained, where base and rows are there already."""
        from matrix.training.preview import preview

        if not (self.data.path / "rows.jsonl").exists() or not self.base.path.exists():
            return ""
        return preview(
            self.data.path / "rows.jsonl", self.base.path, self.model.chat_template, self.model.trust_remote_code,
            self.recipe, self.strategy, self.seed,
        )  # fmt: skip


@dataclass(kw_only=True)
class Refer(Worked):
    """What `base` makes of the pairs of `data`, before it is trained on them: the reference of preference training.

    `recipe` holds only what decides it (`reference_recipe`), so that recipes with another loss or rate share it.
    """

    name: ClassVar[str] = "reference"
    recipe: DPOConfig

    def preview(self) -> str:
        """Nothing: the training that follows says it."""
        return ""

    def run(self, work: Path) -> None:
        """Write `reference.jsonl` (`Reference`, in the order of the rows).

        Raises:
            TrainingError: the worker failed.
        """
        run_process(worker_command(self.strategy), self.job(work) | {"refer": True}, work, "reference")


@dataclass(kw_only=True)
class Train(Worked):
    """Fine-tuning of `base` on the rows of `data`: SFT or preferences, as the class of `recipe` says."""

    name: ClassVar[str] = "train"
    version: ClassVar[int] = 2
    reference: Result | None = None
    """What `base` makes of the pairs; preference losses with a reference need it."""

    def run(self, work: Path) -> None:
        """Write `hf/`, `model.gguf` where the recipe asks for it, `metrics.csv`, `summary.json`, `doctor.txt`, `logs/`.

        Raises:
            TrainingError: the worker failed; the end of its log is in the message. Checkpoints stay for the next try.
        """
        reference = {"reference": str(self.reference.path / "reference.jsonl")} if self.reference else {}
        run_process(worker_command(self.strategy), self.job(work) | reference, work, kind(self.recipe))

    def readable(self) -> str:
        """`sft` or `dpo`."""
        return kind(self.recipe)


def kind(recipe: TrainConfig) -> str:
    """`sft` or `dpo`."""
    return "dpo" if isinstance(recipe, DPOConfig) else "sft"


def reference_recipe(recipe: DPOConfig) -> DPOConfig:
    """The fields that decide what the reference says of a pair; all others at their default."""
    return DPOConfig(
        loss=PreferenceLoss.kto if recipe.loss is PreferenceLoss.kto else PreferenceLoss.sigmoid,
        epochs=1,
        **{name: getattr(recipe, name) for name in DECIDE_REFERENCE},
    )


DECIDE_REFERENCE = (
    "max_length", "max_prompt_length", "max_rows", "precision", "packing", "header_in_completion", "append_eos",
    "bos_in_completion", "micro_batch_size",
)  # fmt: skip


def worker_command(strategy: StrategyConfig) -> list[str]:
    """The command that starts the worker on every rank."""
    if strategy.launcher:
        return [*strategy.launcher, sys.executable, "-m", "matrix.training.worker"]
    if strategy.devices == 1:
        return [sys.executable, "-m", "matrix.training.worker"]
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={strategy.devices}"]
    return [sys.executable, *launch, "-m", "matrix.training.worker"]


def run_process(command: list[str], job: dict[str, Any], work: Path, title: str) -> None:
    """Run `command logs/stage.json` to its end; show its progress lines, keep everything else in `logs/worker.log`.

    The process dies with this call. Interrupted, it is asked to end, for which a training writes a checkpoint first;
    interrupted again, it is ended with all its children.

    Raises:
        TrainingError: it failed.
    """
    logs = work / "logs"
    logs.mkdir(exist_ok=True)
    (logs / "stage.json").write_text(json.dumps(job, indent=1))
    environment = {
        "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin while they wait starve each other on shared cores
        "TOKENIZERS_PARALLELISM": "false",
        "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "3600",  # what torchrun waits for checkpoints once it was asked to end
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
            code = _follow(process, written, progress)
        except KeyboardInterrupt:
            log.warning("%s: finishing the step and writing a checkpoint; Ctrl-C again ends it at once", title)
            process.terminate()
            _follow(process, written, progress)
            raise
        finally:
            _end(process)
    if code:
        tail = (logs / "worker.log").read_text(errors="replace").splitlines()[-TAIL:]
        cause = tail[-1] if tail else "no output"
        if code == -signal.SIGKILL:
            cause = "killed from outside, perhaps for memory: lower micro_batch_size or max_length"
        raise TrainingError(
            "\n".join([f"{title} failed (exit code {code}): {cause}", f"{logs / 'worker.log'}:", *tail])
        )


def _follow(process: subprocess.Popen[str], written: IO[str], progress: Progress) -> int:
    """Show what the process says of its progress, keep the rest, and wait for its end; returns the exit code."""
    assert process.stdout is not None
    for line in process.stdout:
        if not line.startswith('{"step"'):
            written.write(line)
            continue
        told = json.loads(line)
        progress.done, progress.total = told.pop("step"), told.pop("total")
        shown = ("loss", "learning_rate", "tokens_per_second")
        progress.note = ", ".join(f"{name} {told[name]:.4g}" for name in shown if name in told)
    return process.wait()


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
