"""What SFT and preference training share as Lightning modules: loading, optimizer, and a loss that adds up exactly."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from matrix.provenance import derive_seed
from matrix.training.attention import PACKED
from matrix.training.averaging import follow
from matrix.training.batch import Batch, MicroBatches, collate
from matrix.training.data import Example
from matrix.training.logprobs import TokenLogps, check_logps
from matrix.training.lora import add_adapters
from matrix.training.machines import Strategy, StrategyConfig
from matrix.training.plan import Plan, Step, rate
from matrix.training.recipe import TrainConfig, TrainingError
from matrix.training.strategy import decoder_layers, partitioned_loading, shard


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where the weights come from."""

    name: str
    """Folder or hub id."""
    revision: str | None = None
    trust_remote_code: bool = False


class Trained(LightningModule):
    """A causal language model in training. Subclasses say what the loss of a micro-batch is.

    Args:
        source: the model to start from.
        config: the recipe.
        strategy: how processes share the work.
        plan: the optimizer steps.
        examples: what the plan's indices mean.
        seed: of new weights (adapters).
    """

    divisor: ClassVar[str] = "step_targets"
    """Which count of the whole optimizer step the sums are divided by."""

    def __init__(
        self,
        source: Source,
        config: TrainConfig,
        strategy: StrategyConfig,
        plan: Plan,
        examples: list[Example],
        seed: int,
    ) -> None:
        super().__init__()
        self.source, self.config, self.strategy = source, config, strategy
        self.plan, self.examples, self.seed = plan, examples, seed
        self.logps: Any = None
        """`TokenLogps` around the model; calling it is the only way from a batch to numbers."""
        self.totals = torch.zeros(0)
        """Sums over the optimizer step so far, on this process."""
        self.gradient_norm = 0.0
        self.strict_loading = not config.lora

    @property
    def model(self) -> Any:
        """The Hugging Face model."""
        return self.logps.model

    @property
    def columns(self) -> list[str]:
        """Names of the numbers that `sums` returns."""
        return ["loss"]

    @abstractmethod
    def sums(self, batch: Batch) -> Tensor:
        """(len(columns),) sums over a micro-batch; the first is the loss and carries the gradient."""

    def configure_model(self) -> None:
        """Load the weights; under ZeRO stage 3 every process keeps its part only."""
        if self.logps is not None:
            return
        c, bf16 = self.config, self.trainer.precision.startswith("bf16")
        # Frozen weights need no precision beyond that of the arithmetic.
        model = self._load(torch.bfloat16 if c.lora and bf16 else torch.float32)
        if c.lora:
            add_adapters(model, c.lora, self.seed)
        if c.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if self.strategy.liger:
            _use_liger(model)
        if self.strategy.compile:
            for layer in decoder_layers(model):
                layer.compile(dynamic=True)
        model.train()
        self.logps = TokenLogps(model)
        if self.strategy.kind is Strategy.fsdp2:
            check_logps(self.logps)
            shard(self.logps, self.device_mesh, bf16)

    def _load(self, dtype: torch.dtype) -> Any:
        from transformers import AutoModelForCausalLM

        source, packed = self.source, self.plan.packed
        try:
            with partitioned_loading(self.trainer.strategy):
                return AutoModelForCausalLM.from_pretrained(
                    source.name, revision=source.revision, trust_remote_code=source.trust_remote_code, dtype=dtype,
                    attn_implementation=PACKED if packed else "sdpa",
                )  # fmt: skip
        except (KeyError, ValueError) as error:  # older architectures look attention up in a table of their own
            if packed and PACKED in str(error):
                raise TrainingError(f"{source.name} cannot be trained on packed rows; set packing=padded") from error
            raise

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Of a model with adapters keep only those; the frozen weights are the base's, and `strict_loading` is off."""
        if self.config.lora:
            weights = checkpoint["state_dict"].items()
            checkpoint["state_dict"] = {name: tensor for name, tensor in weights if ".lora_" in name}

    def configure_optimizers(self) -> Any:
        """AdamW and the schedule. The number of steps is the plan's: Lightning's estimate would drop loader state."""
        c = self.config
        trained = [p for p in self.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": c.weight_decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},  # norms and biases do not decay
        ]
        optimizer = torch.optim.AdamW(
            [group for group in groups if group["params"]] if c.weight_decay else trained,
            lr=c.learning_rate,
            betas=(c.betas[0], c.betas[1]),
            weight_decay=c.weight_decay,
            fused=self.strategy.kind.zero_stage == 0,
        )
        if c.ema:
            follow(optimizer, c.ema)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, self.plan, c))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def train_dataloader(self) -> Any:
        """This process's micro-batches from the first optimizer step that is not done."""
        batches = MicroBatches(self.examples, self.plan, self.trainer.global_rank, self.trainer.global_step)
        return torch.utils.data.DataLoader(batches, batch_size=None)

    def on_train_start(self) -> None:
        """See to it that what is computed is what the model says."""
        if self.strategy.kind is not Strategy.fsdp2 and self.trainer.global_step == 0:
            with self.measuring():
                check_logps(self.logps)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The micro-batch's share of the loss of its optimizer step.

        Dividing by the step's own count makes the loss independent of how the step was cut. Accumulation and data
        parallelism both average, by `accumulation` and `world_size`, which is taken back here. Under DeepSpeed both
        Lightning and the engine divide by the accumulation steps; AdamW would hide that, clipping does not.
        """
        # What adapters drop follows from the place in the plan, so that a training which goes on drops the same.
        place = self.trainer.global_step, batch_idx % self.plan.accumulation, self.trainer.global_rank
        torch.manual_seed(derive_seed(self.seed, "dropout", *place))
        sums = self.sums(batch) / batch[self.divisor]
        self.totals = sums.detach() + (self.totals if len(self.totals) else 0)
        divisions = 2 if self.strategy.kind.zero_stage else 1
        loss: Tensor = sums[0] * (self.plan.accumulation**divisions * self.trainer.world_size)
        return loss

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Clip to the recipe's norm, and leave a step out whose gradient is not finite; DeepSpeed does both itself."""
        if self.strategy.kind.zero_stage:
            return
        bound = self.config.gradient_clip or math.inf
        norm: Any = torch.nn.utils.clip_grad_norm_([p for p in self.parameters() if p.requires_grad], bound)
        self.gradient_norm = float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
        if not math.isfinite(self.gradient_norm):
            optimizer.zero_grad(set_to_none=True)  # AdamW leaves weights without a gradient as they are

    def each(self, step: Step) -> Iterator[Batch]:
        """This process's micro-batches of a step, for passes without gradient; every process has equally many."""
        for rows in step.micro_batches[self.trainer.global_rank :: self.plan.world]:
            counts = {"step_rows": step.rows, "step_targets": step.targets}
            yield self.trainer.strategy.batch_to_device(collate(self.examples, rows, self.plan.packed) | counts)

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """No gradient, no dropout, the arithmetic of training."""
        self.model.eval()
        with torch.no_grad(), self.trainer.precision_plugin.forward_context():
            yield
        self.model.train()

    def evaluate(self) -> dict[str, float]:
        """The columns on the held-out examples, as they would be were all of them one optimizer step."""
        assert self.plan.held_out
        total = torch.zeros(len(self.columns), device=self.device)
        with self.measuring():
            for batch in self.each(self.plan.held_out):
                total += self.sums(batch) / batch[self.divisor]
        total = self.trainer.strategy.reduce(total, reduce_op="sum")
        return dict(zip(self.columns, total.tolist(), strict=True))


def _use_liger(model: Any) -> None:
    if not torch.cuda.is_available():
        raise TrainingError("recipe.strategy.liger=true needs a GPU: Liger's kernels are written for one")
    try:
        from liger_kernel.transformers import _apply_liger_kernel_to_instance
    except ImportError:
        raise TrainingError("recipe.strategy.liger=true needs: pip install 'matrix-gen[liger]'") from None
    _apply_liger_kernel_to_instance(model, cross_entropy=False, fused_linear_cross_entropy=False)
