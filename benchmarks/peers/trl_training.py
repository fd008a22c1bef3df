"""TRL's side of `benchmarks/training_speed.py`: its trainers, with their defaults but for what is compared.

It packs by itself (`bfd`). The reference of DPO is computed beside every step, its default; over one epoch that is as
much work as beforehand.
"""

from __future__ import annotations

from typing import Any

from datasets import Dataset
from training_run import BETA, RATE, Clock, Run, train_all
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer


class Tokenised(DPOTrainer):
    """Rows come as token ids, for which `DPOTrainer` has no switch as `SFTTrainer` has."""

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        return dataset


class Timing(TrainerCallback):
    """Lets the clock run while the trainer trains."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Everything is set up, no batch has been asked for."""
        self.clock.start()

    def on_step_end(self, _: Any, state: Any, *__: Any, **___: Any) -> None:
        """The last optimizer step is over."""
        if state.global_step == state.max_steps:
            self.clock.stop()


def train(run: Run, rows: list[dict[str, list[int]]], clock: Clock) -> list[float]:
    """The loss of each step, as TRL logs it."""
    model = AutoModelForCausalLM.from_pretrained(run.model, dtype="float32")
    options: dict[str, Any] = {
        "output_dir": run.work, "use_cpu": True, "bf16": False, "gradient_checkpointing": False, "num_train_epochs": 1,
        "learning_rate": RATE, "lr_scheduler_type": "constant", "weight_decay": 0.0, "max_grad_norm": 1.0,
        "optim": "adamw_torch_fused", "train_sampling_strategy": "sequential", "max_length": run.length,
        "per_device_train_batch_size": 1 if run.packs else run.batch, "save_strategy": "no", "logging_steps": 1,
        "report_to": "none", "disable_tqdm": True,
    }  # fmt: skip
    shared: dict[str, Any] = {
        "model": model, "processing_class": AutoTokenizer.from_pretrained(run.model), "callbacks": [Timing(clock)]
    }  # fmt: skip
    if run.kind == "sft":
        asked = [
            {"input_ids": r["prompt"] + r["chosen"], "labels": [-100] * len(r["prompt"]) + r["chosen"]} for r in rows
        ]
        recipe = SFTConfig(packing=run.packed, **options)
        trainer: Any = SFTTrainer(args=recipe, train_dataset=Dataset.from_list(asked), **shared)
    else:
        asked = [{f"{part}_ids": ids for part, ids in row.items()} for row in rows]
        recipe = DPOConfig(beta=BETA, **options)
        trainer = Tokenised(args=recipe, train_dataset=Dataset.from_list(asked), **shared)
    trainer.train()
    return [line["loss"] for line in trainer.state.log_history if "loss" in line]


if __name__ == "__main__":
    train_all(train)
