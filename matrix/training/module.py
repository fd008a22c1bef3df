"""What SFT and DPO share as Lightning modules: loading, optimizer, schedule, and a loss that accumulates exactly."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from matrix.training.data import Example
from matrix.training.plan import MicroBatches, Plan
from matrix.training.recipe import Schedule, TrainConfig, TrainingError


def rate(step: int, total: int, config: TrainConfig) -> float:
    """Share of the peak rate at optimizer step `step` (from 0) of `total`: linear warm-up, then the schedule."""
    warmup = math.ceil(total * config.warmup_ratio)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = (step - warmup) / max(total - warmup, 1)
    if config.schedule is Schedule.cosine:
        return 0.5 * (1 + math.cos(math.pi * done))
    return 1 - done if config.schedule is Schedule.linear else 1.0


class Trained(LightningModule):
    """A causal language model in training. Subclasses say what the loss of a micro-batch is.

    Args:
        source: path or hub id of the model, and its revision.
        trust_remote_code: let a hub repository run its own Python.
        config: the recipe.
        plan: the optimizer steps.
        examples: what the plan's indices mean.
    """

    columns: ClassVar[list[str]] = ["loss"]
    """Names of the numbers that `sums` returns."""

    def __init__(
        self,
        source: tuple[str, str | None],
        trust_remote_code: bool,
        config: TrainConfig,
        plan: Plan,
        examples: list[Example],
    ) -> None:
        super().__init__()
        self.source, self.trust_remote_code = source, trust_remote_code
        self.config, self.plan, self.examples = config, plan, examples
        self.model: Any = None
        self.totals = torch.zeros(len(self.columns))
        self.gradient_norm = 0.0

    @abstractmethod
    def sums(self, batch: dict[str, Any]) -> Tensor:
        """(len(columns),) sums over a micro-batch; the first is the loss and carries the gradient."""

    def configure_model(self) -> None:
        """Load the weights; under ZeRO stage 3 every process keeps its part only."""
        if self.model is not None:
            return
        from transformers import AutoModelForCausalLM

        name, revision = self.source
        with _partitioned_loading(self.trainer.strategy):
            self.model = AutoModelForCausalLM.from_pretrained(
                name, revision=revision, dtype=torch.float32, trust_remote_code=self.trust_remote_code
            )
        odd = [
            k for k in ("final_logit_softcapping", "logit_scale", "logits_scaling") if getattr(self.model.config, k, 0)
        ]
        if odd:
            raise TrainingError(f"{name} changes its logits after the output layer ({', '.join(odd)}): not supported")
        if self.config.gradient_checkpointing:
            self.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        self.model.train()

    def configure_optimizers(self) -> Any:
        """AdamW and the schedule. The number of steps is the plan's: Lightning's estimate would drop loader state."""
        c, total = self.config, len(self.plan.steps)
        optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=c.learning_rate,
            betas=(c.betas[0], c.betas[1]),
            weight_decay=c.weight_decay,
            fused=c.strategy.zero_stage == 0,
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, total, c))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def train_dataloader(self) -> Any:
        """This process's micro-batches from the first optimizer step that is not done."""
        trainer = self.trainer
        batches = MicroBatches(self.examples, self.plan, trainer.global_rank, trainer.world_size, trainer.global_step)
        return torch.utils.data.DataLoader(batches, batch_size=None)

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """The micro-batch's share of the loss of its optimizer step.

        Dividing by the step's own normaliser makes the loss independent of how the step was cut. Accumulation and data
        parallelism both average, by `accumulation` and `world_size`, which is taken back here. Under DeepSpeed both
        Lightning and the engine divide by the accumulation steps; AdamW would hide that, clipping does not.
        """
        sums = self.sums(batch) / batch["normaliser"]
        self.totals = self.totals.to(sums.device) + sums.detach()
        divisions = 2 if self.config.strategy.zero_stage else 1
        loss: Tensor = sums[0] * (self.plan.accumulation**divisions * self.trainer.world_size)
        return loss

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Clip to the recipe's norm, and keep the norm for the metrics; DeepSpeed does both itself."""
        if self.config.strategy.zero_stage == 0:
            bound = self.config.gradient_clip or math.inf
            self.gradient_norm = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), bound))


@contextmanager
def _partitioned_loading(strategy: Any) -> Iterator[None]:
    """Tell transformers about ZeRO stage 3 while weights are loaded, and only then.

    transformers keeps a weak reference: while the object lives, every model loaded in this process is partitioned.
    """
    if not getattr(strategy, "zero_stage_3", False):
        yield
        return
    from transformers.integrations.deepspeed import HfDeepSpeedConfig

    told = HfDeepSpeedConfig(strategy.config)  # type: ignore[no-untyped-call]
    yield
    del told
