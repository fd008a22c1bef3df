"""The training process: `python -m matrix.training.worker stage.json`, one per device. It never sees Hydra.

Reads the job that `matrix.training.stage` wrote, trains, exports. Killed at any moment, the same command goes on from
the last complete checkpoint and ends with the same weights.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import torch
from filelock import FileLock
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.utilities.exceptions import SIGTERMException
from safetensors.torch import load_file
from transformers import AutoConfig

from matrix.provenance import derive_seed
from matrix.training.budget import shape_of
from matrix.training.data import Examples
from matrix.training.doctor import check, examine
from matrix.training.export import export
from matrix.training.findings import printable
from matrix.training.gguf import check_gguf
from matrix.training.job import Job, Prepared, prepare
from matrix.training.machines import LoggerConfig, StrategyConfig, Tracker
from matrix.training.module import Trained
from matrix.training.plan import Plan
from matrix.training.recipe import Keep, TrainConfig, TrainingError
from matrix.training.recorder import Recorder, last_checkpoint
from matrix.training.samples import Sampler
from matrix.training.strategy import computes_bf16, gather, trainer_strategy
from matrix.training.trackers import trackers

log = logging.getLogger(__name__)

INTERRUPTED = 143
"""Exit code of a worker that was asked to end and has written its checkpoint (128 + SIGTERM)."""


class DirectIO(TorchCheckpointIO):
    """Writes a checkpoint straight to its file; Lightning's own first builds a copy of it in memory."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write and flush to disk; the caller renames."""
        with open(path, "wb") as file:  # noqa: PTH123 (Lightning hands over a string)
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())


def main(job_file: Path) -> int:
    """Do as the job says; returns the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    start = time.monotonic()
    job = msgspec.json.decode(job_file.read_bytes(), type=Job)
    work, recipe = Path(job.work), job.recipe
    rank = os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))
    torch.set_num_threads(job.strategy.threads or max(1, len(os.sched_getaffinity(0)) // job.strategy.devices))
    checkpoints = work / "checkpoints"
    checkpoints.mkdir(exist_ok=True)
    with FileLock(checkpoints / f"{rank}.lock", timeout=120):  # the worker of a killed run may still be dying
        ready = prepare(job)
        module, tokenizer = ready.module, ready.renderer.tokenizer
        if job.refer:
            trainer, recorder = fit(module, work, LoggerConfig(tracker=Tracker.none), job.seed)
        else:
            if rank == "0":
                diagnose(job, ready)
            sampler = Sampler(work, Path(job.rows), recipe, module.plan, module.examples, tokenizer)
            trainer, recorder = fit(module, work, job.logger, job.seed, sampler if recipe.samples else None)
        if recorder.interrupted:
            return INTERRUPTED
        if not job.refer:
            log.info("trained %d steps, exporting", trainer.global_step)
            weights = gather(module, trainer)
            if trainer.is_global_zero:
                if recipe.keep is Keep.best:
                    weights = load_file(recorder.best)
                export(work, module.model, weights, tokenizer, recipe.export_type, recipe.export_gguf, vocabulary(job))
                summarise(work, ready.found, module.plan, trainer, time.monotonic() - start)
        trainer.strategy.barrier()
    if trainer.is_global_zero:
        shutil.rmtree(checkpoints)
        if job.refer:
            (work / "metrics.csv").unlink()  # no step was taken
    return 0


def vocabulary(job: Job) -> Path | None:
    """The GGUF file whose tokenizer is copied, if the base has one."""
    file = Path(job.base) / "model.gguf"
    return file if file.exists() else None


def diagnose(job: Job, ready: Prepared) -> None:
    """Look at rows and plan before the first step: `doctor.json` and, for the reader, `doctor.txt`.

    Raises:
        TrainingError: a row is longer than the model, or the model has no form in GGUF and `export_gguf` asks for one.
    """
    source, plan, work = ready.module.source, ready.module.plan, Path(job.work)
    config = AutoConfig.from_pretrained(
        source.name, revision=source.revision, trust_remote_code=source.trust_remote_code
    )
    shape = shape_of(config, source.trust_remote_code)
    check(ready.found, shape)
    if job.recipe.export_gguf:
        check_gguf(config, ready.renderer.tokenizer, vocabulary(job))
    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory
    else:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // job.strategy.devices
    found = examine(
        ready.found, plan, job.recipe, job.strategy, ready.renderer, shape, bf16=computes_bf16(job.recipe.precision),
        device_gib=memory / 2**30,
    )  # fmt: skip
    for warning in found.warnings:
        log.warning("%s", warning)
    (work / "doctor.json").write_bytes(msgspec.json.format(msgspec.json.encode(found)))
    (work / "doctor.txt").write_text(printable(found, ready.found.examples, ready.renderer.tokenizer, colour=False))


def fit(
    module: Trained, work: Path, logger: LoggerConfig, seed: int, sampler: Sampler | None = None
) -> tuple[Trainer, Recorder]:
    """Train to the end of the plan, from the last checkpoint if there is one.

    Raises:
        TrainingError: the loss is not finite for good, or memory is short.
    """
    config, strategy = module.config, module.strategy
    seed_everything(derive_seed(seed, "training"), verbose=False)
    bf16 = computes_bf16(config.precision)
    recorder = Recorder(work, sampler)
    trainer = Trainer(
        accelerator="auto",
        devices=strategy.devices,
        num_nodes=strategy.num_nodes,
        strategy=trainer_strategy(config, strategy, bf16),
        precision="bf16-mixed" if bf16 else "32-true",
        max_steps=len(module.plan.steps),
        max_epochs=-1,
        accumulate_grad_batches=module.plan.accumulation,
        use_distributed_sampler=False,
        logger=trackers(logger, work),
        callbacks=[recorder],
        plugins=[] if strategy.kind.zero_stage else [DirectIO()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    try:
        trainer.fit(module, ckpt_path=last_checkpoint(work), weights_only=strategy.kind.zero_stage == 0)
    except SIGTERMException:  # it came before the recorder listened for it
        recorder.interrupted = True
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
            step = trainer.global_step + 1
            raise TrainingError(f"out of memory at step {step}. {_relief(config, strategy)}") from error
        raise
    return trainer, recorder


def _relief(config: TrainConfig, strategy: StrategyConfig) -> str:
    """What to try next, the cheapest first."""
    ways = [
        (config.micro_batch_size > 1, "micro_batch_size=1"),
        (not config.gradient_checkpointing, "gradient_checkpointing=true"),
        (not strategy.kind.shards_weights and strategy.world > 1, "recipe/strategy=zero3"),
        (not strategy.offload, "recipe/strategy=zero3_offload"),
        (not config.lora, "LoRA (recipe=lora_24gb)"),
        (True, f"max_length below {config.max_length}"),
    ]
    return "Try, the cheapest first: " + ", ".join(way for helps, way in ways if helps)


def summarise(work: Path, found: Examples, plan: Plan, trainer: Trainer, seconds: float) -> None:
    """Write `summary.json`: what was trained on, how long it took and where the loss began and ended."""
    lines = (work / "metrics.csv").read_text().splitlines()[1:]
    done = plan.steps[: trainer.global_step]
    summary = {
        "rows": found.rows,
        "used": len(found.examples),
        "truncated": found.truncated,
        "dropped": found.dropped,
        "held_out": plan.held_out.rows if plan.held_out else 0,
        "steps": len(done),
        "tokens": sum(step.tokens for step in done),
        "target_tokens": sum(step.targets for step in done),
        "packing_efficiency": round(plan.efficiency, 4),
        "first_loss": float(lines[0].split(",")[1]),
        "last_loss": float(lines[-1].split(",")[1]),
        "precision": trainer.precision,
        "processes": trainer.world_size,
        "threads": torch.get_num_threads(),
        "peak_memory_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
        "peak_gpu_memory_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2) if torch.cuda.is_available() else 0,
        "seconds": round(seconds, 1),
    }
    (work / "summary.json").write_text(json.dumps(summary, indent=1))


if __name__ == "__main__":
    code = main(Path(sys.argv[1]))
    if torch.distributed.is_initialized():
        # All work is done and written. Threads of gloo that outlive the interpreter abort the process now and then.
        logging.shutdown()
        sys.stdout.flush()
        os._exit(code)
    sys.exit(code)
