"""What training leaves behind as it goes: metrics, progress lines for the waiting stage, checkpoints to resume from.

A checkpoint holds all that decides what comes after it, so that a training which was killed ends with the same files
(but for timings) as one which was not.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
import signal
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy
from safetensors.torch import save_file

from matrix.training.averaging import averaged, exchange
from matrix.training.budget import documents, flops, peak_flops, shape_of
from matrix.training.module import Trained
from matrix.training.plan import rate
from matrix.training.recipe import Keep, TrainingError
from matrix.training.samples import Sampler
from matrix.training.strategy import gather

log = logging.getLogger(__name__)

UNUSABLE = 5
"""Steps in a row without a finite gradient after which training gives up."""
RATES = ["learning_rate", "gradient_norm", "skipped", "tokens_per_second", "targets_per_second", "mfu", "mfu_causal"]
"""Columns of `metrics.csv` after the module's own. The last two are model FLOPs utilisation under the two conventions
of `matrix.training.budget.Flops`; they are empty where the peak of the device is not known, as on every CPU."""

Metrics = dict[str, float | None]


def last_checkpoint(work: Path) -> Path | None:
    """The newest complete checkpoint in `work/checkpoints`; unfinished ones are still called `.partial`."""
    return max((work / "checkpoints").glob("step-????????"), default=None)


class Recorder(Callback):
    """Writes one line of `metrics.csv` and one of progress an optimizer step, evaluates, and keeps checkpoints.

    Asked to end (SIGTERM), it writes a checkpoint after the step that is under way, and `interrupted` says so.

    Args:
        work: the stage's folder.
        sampler: answers prompts at every evaluation; None where the recipe wants no samples.
    """

    def __init__(self, work: Path, sampler: Sampler | None = None) -> None:
        self.metrics, self.evaluations = work / "metrics.csv", work / "held_out.csv"
        self.checkpoints = work / "checkpoints"
        self.best = self.checkpoints / "best.safetensors"
        self.sampler = sampler
        self.asked = False
        """This process was asked to end."""
        self.interrupted = False
        """Training ended before it was done, because one of its processes was asked to; all of them know."""
        self.started = 0.0
        self.losses: list[float] = []
        """Held-out losses so far."""
        self.skipped = 0
        """Optimizer steps that were left out because their gradient was not finite."""
        self.unusable = 0
        """Those of them in a row up to the last step."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"losses": self.losses, "skipped": self.skipped, "unusable": self.unusable}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.losses, self.skipped, self.unusable = list(state["losses"]), state["skipped"], state["unusable"]

    def on_train_start(self, trainer: Trainer, module: Any) -> None:
        """Start the tables, or forget their lines after the checkpoint that training goes on from."""
        # Lightning's own handler would break off in the middle of a step and exit with 0.
        signal.signal(signal.SIGTERM, lambda *_: setattr(self, "asked", True))
        if trainer.is_global_zero:
            _start(self.metrics, ["step", *module.columns, *RATES], trainer.global_step)
            if module.plan.held_out:
                _start(self.evaluations, ["step", *module.columns], trainer.global_step)
            if self.sampler:
                self.sampler.start(trainer.global_step)
            _tell(trainer.global_step, len(module.plan.steps), {})
        self.utilisation = Utilisation(trainer, module)
        self.started = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, module: Any, outputs: Any, batch: dict[str, Any], batch_idx: int
    ) -> None:
        """After the last micro-batch of an optimizer step: write its metrics, evaluate and save where that is due."""
        if (batch_idx + 1) % module.plan.accumulation:
            return
        step, total = trainer.global_step, len(module.plan.steps)
        asked = torch.tensor([float(self.asked)], device=module.device)
        *totals, ends = trainer.strategy.reduce(torch.cat([module.totals, asked]), reduce_op="sum").tolist()
        module.totals = torch.zeros(0)
        self._record(trainer, module, dict(zip(module.columns, totals, strict=True)), step)
        if step in module.plan.evaluations:
            self._evaluate(trainer, module, step)
        # None where training ends: resuming there would go on.
        if step < total and not trainer.should_stop:
            every = module.config.checkpoint_every
            if ends or (every and step % every == 0):
                self._save(trainer, step)
            self.interrupted = trainer.should_stop = ends > 0
        self.started = time.monotonic()

    def on_train_end(self, trainer: Trainer, module: Any) -> None:
        """From here on the averages are the weights, where there are averages."""
        if module.config.ema and not self.interrupted:
            exchange(module)

    def _record(self, trainer: Trainer, module: Trained, metrics: Metrics, step: int) -> None:
        seconds, plan = time.monotonic() - self.started, module.plan
        norm = _gradient_norm(trainer, module)
        self.unusable = 0 if math.isfinite(norm) else self.unusable + 1
        self.skipped += self.unusable > 0
        metrics["learning_rate"] = module.config.learning_rate * rate(step - 1, plan, module.config)
        metrics["gradient_norm"], metrics["skipped"] = norm, self.skipped
        metrics["tokens_per_second"] = plan.steps[step - 1].tokens / seconds
        metrics["targets_per_second"] = plan.steps[step - 1].targets / seconds
        metrics["mfu"], metrics["mfu_causal"] = self.utilisation.of(step, seconds)
        if trainer.is_global_zero:
            _append(self.metrics, step, metrics)
            for logger in trainer.loggers:
                logger.log_metrics({name: value for name, value in metrics.items() if value is not None}, step)
            _tell(step, len(plan.steps), metrics)
        if self.unusable:
            log.warning("step %d has loss %s and gradient norm %s: it is left out", step, metrics["loss"], norm)
        if self.unusable == UNUSABLE:
            raise TrainingError(
                f"steps {step - UNUSABLE + 1} to {step} have no finite gradient: the weights no longer move. Lower "
                "learning_rate, or set precision=fp32; the last checkpoint is kept"
            )

    def _evaluate(self, trainer: Trainer, module: Trained, step: int) -> None:
        """Write held-out metrics and samples; keep the best weights, and end early where the recipe says so."""
        with averaged(module) if module.config.ema else nullcontext():
            if module.plan.held_out:
                self._hold_out(trainer, module, step)
            if self.sampler and trainer.is_global_zero:
                self.sampler.write(module, step)
            trainer.strategy.barrier()

    def _hold_out(self, trainer: Trainer, module: Trained, step: int) -> None:
        metrics = module.evaluate()
        if trainer.is_global_zero:
            _append(self.evaluations, step, metrics)
            for logger in trainer.loggers:
                logger.log_metrics({f"held_out/{name}": value for name, value in metrics.items()}, step)
        self.losses.append(metrics["loss"] if math.isfinite(metrics["loss"]) else math.inf)
        lowest = min(self.losses)
        log.info("held-out loss after step %d: %.4f (lowest %.4f)", step, metrics["loss"], lowest)
        since = len(self.losses) - 1 - self.losses.index(lowest)
        if module.config.keep is Keep.best and not since:
            weights = gather(module, trainer)
            if trainer.is_global_zero:
                unfinished = self.best.with_suffix(".partial")
                save_file({name: tensor.contiguous() for name, tensor in weights.items()}, unfinished)
                unfinished.replace(self.best)
        if module.config.patience and since >= module.config.patience:
            log.info("ending early: %d evaluations without a lower held-out loss", since)
            trainer.should_stop = True

    def _save(self, trainer: Trainer, step: int) -> None:
        started = time.monotonic()
        complete = self.checkpoints / f"step-{step:08}"
        unfinished = complete.with_suffix(".partial")
        trainer.save_checkpoint(unfinished)
        if trainer.is_global_zero:
            unfinished.replace(complete)
            for old in self.checkpoints.glob("step-*"):
                if old != complete:
                    shutil.rmtree(old) if old.is_dir() else old.unlink()
            log.info("checkpoint after step %d in %.1f s", step, time.monotonic() - started)
        trainer.strategy.barrier()


class Utilisation:
    """Which share of what the devices could compute at most a training uses.

    Only what the loss needs is counted; of kto not the passes that estimate its divergence.
    """

    def __init__(self, trainer: Trainer, module: Trained) -> None:
        self.module = module
        bf16 = torch.cuda.is_available() and trainer.precision.startswith("bf16")  # the peaks are those of bf16
        one = peak_flops(torch.cuda.get_device_name()) if bf16 else None
        self.peak = one and one * trainer.world_size
        self.shape = shape_of(module.model.config, module.source.trust_remote_code) if one else None

    def of(self, step: int, seconds: float) -> tuple[float | None, float | None]:
        """As if every token saw its whole document, and as it is; None where the peak is not known."""
        if not self.peak or not self.shape:
            return None, None
        plan = self.module.plan
        examples = [self.module.examples[i] for rows in plan.steps[step - 1].micro_batches for i in rows]
        targets = sum(example.targets for example in examples)
        work = flops(self.shape, documents(examples, plan.packed), targets, lora=bool(self.module.config.lora))
        return work.full / seconds / self.peak, work.causal / seconds / self.peak


def _gradient_norm(trainer: Trainer, module: Trained) -> float:
    """Before clipping; not finite where the step was left out."""
    if isinstance(trainer.strategy, DeepSpeedStrategy):
        return float(trainer.strategy.deepspeed_engine.get_global_grad_norm() or 0.0)
    return module.gradient_norm


def _start(table: Path, header: list[str], step: int) -> None:
    """A table with its lines up to `step`; without a checkpoint to go on from, without any."""
    lines = table.read_text().splitlines()[1:] if step and table.exists() else []
    kept = [line for line in lines if int(line.partition(",")[0]) <= step]
    table.write_text("\n".join([",".join(header), *kept]) + "\n")


def _append(table: Path, step: int, metrics: Metrics | dict[str, float]) -> None:
    cells = ["" if value is None else f"{value:.8g}" for value in metrics.values()]
    with table.open("a") as file:
        file.write(",".join([str(step), *cells]) + "\n")


def _tell(step: int, total: int, metrics: Metrics) -> None:
    """One line of JSON for the parent; when that is gone, the write fails and ends this process, as it should."""
    sys.stdout.write(json.dumps({"step": step, "total": total, **metrics}) + "\n")
    sys.stdout.flush()
