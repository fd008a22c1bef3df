"""Trainings of the tiny model on two processes under every strategy, in one launch, for tests of what comes out.

`python sharded.py BASE ROWS OUT` under torchrun is one of the processes.
"""

import functools
import json
import os
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

from matrix.training.machines import Strategy, StrategyConfig
from matrix.training.recipe import LoraConfig, Precision, SFTConfig

RECIPE = SFTConfig(
    precision=Precision.fp32, batch_size=4, epochs=1, learning_rate=1e-3, max_length=256, checkpoint_every=2,
    gradient_clip=0.5,
)  # fmt: skip
"""Of eleven rows three steps, whose gradients are all clipped; a checkpoint after the second."""
ADAPTED = replace(RECIPE, lora=LoraConfig(rank=4), gradient_checkpointing=True)
SEED = 3
MACHINES = {
    **{kind.value: StrategyConfig(kind=kind, devices=2) for kind in Strategy if kind not in ("auto", "single")},
    "zero2_offload": StrategyConfig(kind=Strategy.zero2, offload=True, devices=2),
    "zero3_offload": StrategyConfig(kind=Strategy.zero3, offload=True, devices=2),
}
CASES = {
    **{name: (machines, RECIPE) for name, machines in MACHINES.items()},
    **{f"{name}_lora": (MACHINES[name], ADAPTED) for name in ("ddp", "zero2", "zero3", "fsdp2")},
}


@functools.cache
def sharded(base: Path, rows: Path) -> Path:
    """Folder of all cases: `metrics.csv`, `weights.pt` and a checkpoint each; `again.pt` after going on from it."""
    out = base.parent / "sharded"
    out.mkdir()
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", __file__]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run([*launch, base, rows, out], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-4000:]
    return out


def main(base: Path, rows: Path, out: Path) -> None:
    import torch
    from lightning.pytorch import Trainer

    from matrix.training.chat import Renderer
    from matrix.training.data import read_examples
    from matrix.training.export import load_tokenizer
    from matrix.training.machines import LoggerConfig, Tracker
    from matrix.training.module import Source
    from matrix.training.plan import make_plan
    from matrix.training.sft import SFT
    from matrix.training.strategy import gather
    from matrix.training.worker import fit

    tokenizer = load_tokenizer((str(base / "hf"), None), None, False)
    logger = LoggerConfig(tracker=Tracker.none)

    def train(work: Path, machines: StrategyConfig, recipe: SFTConfig, result: str) -> Trainer:
        examples = read_examples(rows / "rows.jsonl", recipe, Renderer(tokenizer, recipe), 0).examples
        plan = make_plan(examples, recipe, machines.world, SEED)
        module = SFT(Source(name=str(base / "hf")), recipe, machines, plan, examples, SEED)
        trainer, _ = fit(module, work, logger, SEED)
        weights = gather(module, trainer)
        if trainer.is_global_zero:
            torch.save(weights, work / result)
        trainer.strategy.barrier()
        return trainer

    for name, (machines, recipe) in CASES.items():
        work = out / name
        for folder in (work / "checkpoints", work / "logs"):
            folder.mkdir(parents=True, exist_ok=True)
        train(work, machines, recipe, "weights.pt")
        if train(work, machines, recipe, "again.pt").is_global_zero:
            job = {
                "work": str(work), "base": str(base), "rows": str(rows / "rows.jsonl"), "chat_template": None,
                "trust_remote_code": False, "seed": SEED, "strategy": asdict(machines), "sft": asdict(recipe),
            }  # fmt: skip
            (work / "logs" / "stage.json").write_text(json.dumps(job))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
    sys.stdout.flush()
    os._exit(0)  # threads of gloo that outlive the interpreter abort the process now and then
