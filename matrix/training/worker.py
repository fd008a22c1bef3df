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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch
from filelock import FileLock
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from lightning.pytorch.strategies import DeepSpeedStrategy

from matrix.engines.sources import hub_source
from matrix.provenance import derive_seed
from matrix.training.data import Examples, Renderer, read_examples
from matrix.training.dpo import DPO
from matrix.training.export import export, load_tokenizer
from matrix.training.module import Trained
from matrix.training.plan import Plan, make_plan
from matrix.training.recipe import DPOConfig, SFTConfig
from matrix.training.recorder import Recorder, last_checkpoint
from matrix.training.sft import SFT
from matrix.training.strategy import computes_bf16, trainer_strategy

log = logging.getLogger(__name__)


@dataclass(kw_only=True)
class Job:
    """What a worker is to do; `sft` or `dpo` is set."""

    work: str
    base: str
    """Folder of the checkpoint result to start from."""
    rows: str
    chat_template: str | None
    trust_remote_code: bool
    seed: int
    sft: SFTConfig | None = None
    dpo: DPOConfig | None = None


class DirectIO(TorchCheckpointIO):
    """Writes a checkpoint straight to its file; Lightning's own first builds a copy of it in memory."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write and flush to disk; the caller renames."""
        with open(path, "wb") as file:  # noqa: PTH123 (Lightning hands over a string)
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())


def main(job_file: Path) -> None:
    """Train and export as the job says."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    start = time.monotonic()
    job = msgspec.json.decode(job_file.read_bytes(), type=Job)
    config = job.dpo or job.sft
    assert config is not None
    work, base = Path(job.work), Path(job.base)
    rank = os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))
    torch.set_num_threads(config.threads or max(1, len(os.sched_getaffinity(0)) // config.devices))
    checkpoints = work / "checkpoints"
    checkpoints.mkdir(exist_ok=True)
    with FileLock(checkpoints / f"{rank}.lock", timeout=120):  # the worker of a killed run may still be dying
        source = hub_source(str(base))
        tokenizer = load_tokenizer(source, job.chat_template, job.trust_remote_code)
        found = read_examples(
            Path(job.rows), job.dpo is not None, Renderer(tokenizer), config.max_length, config.max_rows,
            derive_seed(job.seed, "rows"),
        )  # fmt: skip
        world = config.devices * config.num_nodes
        plan = make_plan(found.examples, config.epochs, config.batch_size, config.micro_batch_size, world, job.seed)
        shared = (source, job.trust_remote_code, config, plan, found.examples)
        module = DPO(checkpoints / "reference.pt", *shared) if job.dpo else SFT(*shared)
        trainer = fit(module, work, job.seed)
        log.info("trained %d steps, exporting", len(plan.steps))
        exported = gather(module, trainer)
        if trainer.is_global_zero:
            gguf = base / "model.gguf"
            export(
                work, module.model, exported, tokenizer, config.export_type, config.export_gguf,
                gguf if gguf.exists() else None,
            )  # fmt: skip
            summarise(work, found, plan, trainer, time.monotonic() - start)
        trainer.strategy.barrier()
    if trainer.is_global_zero:
        shutil.rmtree(checkpoints)


def fit(module: Trained, work: Path, seed: int) -> Trainer:
    """Train to the end of the plan, from the last checkpoint if there is one."""
    config = module.config
    seed_everything(derive_seed(seed, "training"), verbose=False)
    bf16 = computes_bf16(config.precision)
    trainer = Trainer(
        accelerator="auto",
        devices=config.devices,
        num_nodes=config.num_nodes,
        strategy=trainer_strategy(config, bf16),
        precision="bf16-mixed" if bf16 else "32-true",
        max_steps=len(module.plan.steps),
        max_epochs=-1,
        accumulate_grad_batches=module.plan.accumulation,
        use_distributed_sampler=False,
        logger=TensorBoardLogger(work / "logs", name=None, version="tensorboard"),
        callbacks=[Recorder(work, config.checkpoint_every)],
        plugins=[] if config.strategy.zero_stage else [DirectIO()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, ckpt_path=last_checkpoint(work), weights_only=config.strategy.zero_stage == 0)
    return trainer


def gather(module: Trained, trainer: Trainer) -> dict[str, torch.Tensor]:
    """The trained weights by Hugging Face name, on the CPU; a collective under ZeRO stage 3."""
    if isinstance(trainer.strategy, DeepSpeedStrategy) and trainer.strategy.zero_stage_3:
        gathered = trainer.strategy.deepspeed_engine._zero3_consolidated_16bit_state_dict() or {}
        found = {name.removeprefix("model."): tensor for name, tensor in gathered.items()}
    else:
        found = module.model.state_dict()
    return {name: tensor.detach().cpu() for name, tensor in found.items()}


def summarise(work: Path, found: Examples, plan: Plan, trainer: Trainer, seconds: float) -> None:
    """Write `summary.json`: what was trained on, how long it took and where the loss began and ended."""
    lines = (work / "metrics.csv").read_text().splitlines()[1:]
    summary = {
        "rows": found.rows,
        "used": len(found.examples),
        "truncated": found.truncated,
        "dropped": found.dropped,
        "steps": len(plan.steps),
        "tokens": sum(step.tokens for step in plan.steps),
        "target_tokens_an_epoch": sum(example.targets for example in found.examples),
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
    main(Path(sys.argv[1]))
    if torch.distributed.is_initialized():
        # All work is done and written. Threads of gloo that outlive the interpreter abort the process now and then.
        logging.shutdown()
        sys.stdout.flush()
        os._exit(0)
