"""What training leaves behind as it goes: metrics, progress lines for the waiting stage, checkpoints to resume from."""

from __future__ import annotations

import json
import logging
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy

from matrix.training.module import Trained, rate

log = logging.getLogger(__name__)


def last_checkpoint(work: Path) -> Path | None:
    """The newest complete checkpoint in `work/checkpoints`; unfinished ones are still called `.partial`."""
    return max((work / "checkpoints").glob("step-????????"), default=None)


class Recorder(Callback):
    """Writes one line of `metrics.csv` and one of progress an optimizer step, and a checkpoint every `every` steps.

    Args:
        work: the stage's folder.
        every: optimizer steps between checkpoints, 0 for none.
    """

    def __init__(self, work: Path, every: int) -> None:
        self.file, self.checkpoints, self.every = work / "metrics.csv", work / "checkpoints", every
        self.started = 0.0

    def on_train_start(self, trainer: Trainer, module: Any) -> None:
        """Start `metrics.csv`, or forget its lines after the checkpoint that training goes on from."""
        if trainer.is_global_zero:
            header = ["step", *module.columns, "learning_rate", "gradient_norm", "tokens_per_second"]
            kept = self.file.read_text().splitlines()[1 : trainer.global_step + 1] if trainer.global_step else []
            self.file.write_text("\n".join([",".join(header), *kept]) + "\n")
            _tell(trainer.global_step, len(module.plan.steps), {})
        self.started = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, module: Any, outputs: Any, batch: dict[str, Any], batch_idx: int
    ) -> None:
        """After the last micro-batch of an optimizer step: write its metrics, and a checkpoint when one is due."""
        if (batch_idx + 1) % module.plan.accumulation:
            return
        step, total = trainer.global_step, len(module.plan.steps)
        totals = trainer.strategy.reduce(module.totals.to(module.device), reduce_op="sum").tolist()
        module.totals.zero_()
        now = time.monotonic()
        metrics = dict(zip(module.columns, totals, strict=True))
        metrics["learning_rate"] = module.config.learning_rate * rate(step - 1, total, module.config)
        metrics["gradient_norm"] = _gradient_norm(trainer, module)
        metrics["tokens_per_second"] = module.plan.steps[step - 1].tokens / (now - self.started)
        self.started = now
        if trainer.is_global_zero:
            with self.file.open("a") as file:
                file.write(",".join([str(step), *(f"{value:.8g}" for value in metrics.values())]) + "\n")
            trainer.loggers[0].log_metrics(metrics, step)
            _tell(step, total, metrics)
        if self.every and step % self.every == 0 and step < total:
            self._save(trainer, step)
            self.started = time.monotonic()

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


def _gradient_norm(trainer: Trainer, module: Trained) -> float:
    if isinstance(trainer.strategy, DeepSpeedStrategy):
        return float(trainer.strategy.deepspeed_engine.get_global_grad_norm() or 0.0)
    return module.gradient_norm


def _tell(step: int, total: int, metrics: dict[str, float]) -> None:
    """One line of JSON for the parent; when that is gone, the write fails and ends this process, as it should."""
    sys.stdout.write(json.dumps({"step": step, "total": total, **metrics}) + "\n")
    sys.stdout.flush()
