"""What a training recipe is made of: the fields of paper Table 9 and those that it leaves open.

Read by `matrix.training.stage`; light to import, so that configs compose without torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from matrix.engines.base import HOW


class TrainingError(RuntimeError):
    """Training cannot start or go on; says why and what to do."""


class Schedule(StrEnum):
    """Course of the learning rate after the warm-up."""

    cosine = "cosine"
    linear = "linear"
    constant = "constant"


class Precision(StrEnum):
    """Arithmetic of training; master weights and optimizer state are fp32 in all of them.

    `auto` takes bf16 where the device computes in it and fp32 elsewhere: a CPU without such units is three times slower
    in bf16 than in fp32. The summary of a run says what was taken.
    """

    auto = "auto"
    bf16 = "bf16"
    fp32 = "fp32"


class Strategy(StrEnum):
    """How processes share the work; `auto` is `single` on one device and `ddp` on several."""

    auto = "auto"
    single = "single"
    ddp = "ddp"
    zero1 = "zero1"
    zero2 = "zero2"
    zero3 = "zero3"

    @property
    def zero_stage(self) -> int:
        """DeepSpeed ZeRO stage, 0 for the strategies without DeepSpeed."""
        return int(self.value[-1]) if self.value.startswith("zero") else 0


class ExportType(StrEnum):
    """Type of the weights in the exported `hf/` folder; fp32 keeps small updates that bf16 would round away."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


@dataclass(kw_only=True)
class TrainConfig:
    """What SFT and DPO share. Defaults are paper Table 9 where it speaks."""

    epochs: int = 2
    """Passes over the rows (paper Table 9)."""
    learning_rate: float = 2e-5
    """Peak learning rate (paper Table 9)."""
    schedule: Schedule = Schedule.cosine
    """Course after the warm-up (paper Table 9)."""
    warmup_ratio: float = 0.03
    """Share of the optimizer steps with a linearly rising rate. The paper is silent; its predecessor's
    published recipe has 0.03."""
    batch_size: int = 8
    """Rows an optimizer step, over all devices. Table 9 has 1 x 8 accumulation a device and does not say how many."""
    max_length: int = 4096
    """Tokens; what is longer is cut at the end and counted (paper Table 9)."""
    weight_decay: float = 0.0
    """AdamW weight decay (paper Table 9)."""
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    """AdamW betas; the paper is silent, these are PyTorch's and FastChat's."""
    gradient_clip: float = 1.0
    """Largest gradient norm; 0 does not clip. The paper is silent, 1.0 is FastChat's default."""
    precision: Precision = Precision.auto
    """The paper is silent; its predecessor trained in bf16."""
    max_rows: int | None = None
    """Train on at most this many rows, drawn with the stage's seed; null takes all."""
    export_type: ExportType = ExportType.bfloat16
    """Type of the exported weights."""
    export_gguf: bool = False
    """Also write `model.gguf` (F16), which engines without a GPU serve."""

    strategy: Strategy = field(default=Strategy.auto, metadata=HOW)
    """Table 9 trained with DeepSpeed ZeRO stage 2 (`zero2`)."""
    micro_batch_size: int = field(default=1, metadata=HOW)
    """Rows that a device computes at once (paper Table 9: 1); gradients accumulate up to `batch_size`."""
    devices: int = field(default=1, metadata=HOW)
    """Processes a node, each with its own GPU where there are GPUs."""
    num_nodes: int = field(default=1, metadata=HOW)
    """Machines; more than one needs a `launcher`."""
    launcher: list[str] = field(default_factory=list, metadata=HOW)
    """Command that starts the worker on every rank, e.g. `[srun]`; empty: torchrun where `devices` exceeds 1."""
    gradient_checkpointing: bool = field(default=False, metadata=HOW)
    """Compute activations again in the backward pass: less memory, about 20 % slower."""
    checkpoint_every: int = field(default=100, metadata=HOW)
    """Optimizer steps between two checkpoints to resume from; 0 writes none."""
    threads: int = field(default=0, metadata=HOW)
    """CPU threads a process; 0: all cores that it may use, shared among the devices. Equal bits need equal threads."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "micro_batch_size", "max_length", "devices", "num_nodes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate must be above 0, not {self.learning_rate}")
        if not 0 <= self.warmup_ratio < 1:
            raise ValueError(f"warmup_ratio is a share of the steps, 0 <= ratio < 1, not {self.warmup_ratio}")
        if self.gradient_clip < 0 or self.checkpoint_every < 0 or self.threads < 0:
            raise ValueError("gradient_clip, checkpoint_every and threads must not be negative; 0 switches each off")
        if len(self.betas) != 2:
            raise ValueError(f"betas are two numbers, e.g. [0.9, 0.999], not {self.betas}")
        if self.max_rows is not None and self.max_rows < 1:
            raise ValueError(f"max_rows must be at least 1 or null, not {self.max_rows}")
        if self.strategy is Strategy.single and self.devices * self.num_nodes > 1:
            raise ValueError("strategy=single uses one device; set devices=1 or strategy=ddp, zero1, zero2 or zero3")
        if self.num_nodes > 1 and not self.launcher:
            raise ValueError("num_nodes > 1 needs a launcher that starts every rank, e.g. launcher=[srun]")


@dataclass(kw_only=True)
class SFTConfig(TrainConfig):
    """Supervised fine-tuning: cross entropy of the assistant's tokens."""


@dataclass(kw_only=True)
class DPOConfig(TrainConfig):
    """Direct preference optimisation (Rafailov et al. 2023, sigmoid loss) against the model that training starts from.

    Table 9 gives one learning rate for all training; 2e-5 is high for DPO of all parameters, whose usual rate is 5e-7.
    """

    beta: float = 0.1
    """Weight of the implicit KL constraint (paper Table 9)."""
    label_smoothing: float = 0.0
    """Probability that a preference is the wrong way round (conservative DPO); 0 is plain DPO."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta <= 0:
            raise ValueError(f"beta must be above 0, not {self.beta}")
        if not 0 <= self.label_smoothing < 0.5:
            raise ValueError(f"label_smoothing must be in [0, 0.5), not {self.label_smoothing}")


@dataclass(kw_only=True)
class RecipeConfig:
    """The two training steps of an experiment; null leaves one out."""

    name: str = "paper"
    """For the reader; not part of any result."""
    sft: SFTConfig | None = field(default_factory=SFTConfig)
    dpo: DPOConfig | None = field(default_factory=DPOConfig)
