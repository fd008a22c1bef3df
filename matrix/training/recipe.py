"""What a training recipe is made of: the fields of paper Table 9 and those that it leaves open.

`recipe.sft` and `recipe.dpo` say what is trained and decide its result; `recipe.strategy` says on what machines. Read
by `matrix.training.stage`; light to import, so that configs compose without torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from matrix.engines.base import HOW
from matrix.training.machines import StrategyConfig


class TrainingError(RuntimeError):
    """Training cannot start or go on; says why and what to do."""


class Schedule(StrEnum):
    """Course of the learning rate after the warm-up, from 1 down to `min_rate` of the peak."""

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


class BatchUnit(StrEnum):
    """What `batch_size` counts: rows, or packs of `max_length` tokens that rows were packed into."""

    rows = "rows"
    packs = "packs"


class Packing(StrEnum):
    """How rows share a forward pass.

    `isolated`: several rows in one sequence, none of which sees another; of a pair, prompt once and both answers after
    it. `padded`: one row or answer a line. Both give the same losses. `wrapped`: rows are joined into one stream that
    is cut every `max_length` tokens, and what stands in a block sees all before it (legacy: alignment-handbook's
    `packing=True` in TRL 0.9); SFT only.
    """

    isolated = "isolated"
    padded = "padded"
    wrapped = "wrapped"


class Keep(StrEnum):
    """Which weights a training leaves behind: the last, or those with the lowest held-out loss."""

    last = "last"
    best = "best"


class ExportType(StrEnum):
    """Type of the weights in the exported `hf/` folder; fp32 keeps small updates that bf16 would round away."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


class PreferenceLoss(StrEnum):
    """What is made of a pair; the formulas and papers are in `matrix.training.losses`."""

    sigmoid = "sigmoid"
    cdpo = "cdpo"
    robust = "robust"
    hinge = "hinge"
    ipo = "ipo"
    dpo_norm = "dpo_norm"
    simpo = "simpo"
    orpo = "orpo"
    kto = "kto"
    apo_zero = "apo_zero"
    nca = "nca"

    @property
    def needs_reference(self) -> bool:
        """Whether it compares with the model that training starts from."""
        return self not in (PreferenceLoss.simpo, PreferenceLoss.orpo)

    @property
    def starts_at_ln_2(self) -> bool:
        """Whether it is ln 2 as long as the model is its own reference."""
        return self in (PreferenceLoss.sigmoid, PreferenceLoss.cdpo, PreferenceLoss.robust, PreferenceLoss.dpo_norm)

    @property
    def smooths(self) -> bool:
        """Whether it takes `label_smoothing`."""
        return self in (PreferenceLoss.cdpo, PreferenceLoss.robust)


@dataclass(kw_only=True)
class LoraConfig:
    """Low-rank adapters instead of all weights (Hu et al. 2021, through peft); they are merged when exported."""

    rank: int = 16
    """0: no adapters."""
    alpha: float = 32.0
    """The adapters' output is scaled by alpha / rank."""
    dropout: float = 0.0
    targets: list[str] = field(default_factory=lambda: ["all-linear"])
    """Names of the layers that get adapters; `all-linear` is every linear layer but the output layer."""

    def __post_init__(self) -> None:
        if self.rank < 0 or self.alpha <= 0 or not 0 <= self.dropout < 1 or not self.targets:
            raise ValueError(f"lora needs rank >= 0, alpha > 0, 0 <= dropout < 1 and targets, not {self}")

    def __bool__(self) -> bool:
        """Whether there are adapters."""
        return self.rank > 0


@dataclass(kw_only=True)
class TrainConfig:
    """What SFT and DPO share. Defaults are paper Table 9 where it speaks."""

    epochs: int = 2
    """Passes over the rows (paper Table 9)."""
    learning_rate: float = 2e-5
    """Peak learning rate (paper Table 9)."""
    schedule: Schedule = Schedule.cosine
    """Course after the warm-up (paper Table 9)."""
    min_rate: float = 0.0
    """Share of the peak rate at which the schedule ends."""
    warmup_ratio: float = 0.03
    """Share of the optimizer steps with a linearly rising rate. The paper is silent; its predecessor's
    published recipe has 0.03."""
    warmup_steps: int | None = None
    """Steps instead of a share; where they exceed a quarter of all steps, `warmup_ratio` decides after all, so that a
    recipe for 300,000 rows still trains on 3,000."""
    batch_size: int = 8
    """Rows an optimizer step, over all devices. Table 9 has 1 x 8 accumulation a device and does not say how many."""
    batch_unit: BatchUnit = BatchUnit.rows
    """What `batch_size` counts."""
    max_length: int = 4096
    """Tokens; what is longer is cut at the end and counted (paper Table 9)."""
    packing: Packing = Packing.isolated
    weight_decay: float = 0.0
    """AdamW weight decay (paper Table 9)."""
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    """AdamW betas; the paper is silent, these are PyTorch's and FastChat's."""
    gradient_clip: float = 1.0
    """Largest gradient norm; 0 does not clip. The paper is silent, 1.0 is FastChat's default."""
    precision: Precision = Precision.auto
    """The paper is silent; its predecessor trained in bf16."""
    lora: LoraConfig = field(default_factory=lambda: LoraConfig(rank=0))
    """Train adapters, e.g. of rank 16; rank 0 trains all weights. The paper is silent."""
    max_rows: int | None = None
    """Train on at most this many rows, drawn with the stage's seed; null takes all."""
    header_in_completion: bool = False
    """Legacy: the header of an assistant's turn is trained too (alignment-handbook, SmolLM3)."""
    append_eos: bool = False
    """Legacy: the tokenizer's end-of-text token follows the last turn and is trained too (TRL before 1.0)."""

    held_out: float = 0.0
    """Share of the rows that is kept from training and evaluated instead."""
    evaluate_every: int = 0
    """Optimizer steps between two evaluations of the held-out rows; 0: after every epoch."""
    patience: int = 0
    """Evaluations without a lower held-out loss after which training ends early; 0 never does."""
    keep: Keep = Keep.last
    """The weights to export."""
    ema: float = 0.0
    """Decay of an exponential moving average of the trained weights, e.g. 0.999, evaluated, sampled and exported in
    their place; 0 keeps none. In short trainings it decays faster (`matrix.training.averaging`)."""
    export_type: ExportType = ExportType.bfloat16
    """Type of the exported weights."""
    export_gguf: bool = False
    """Also write `model.gguf` (F16), which engines without a GPU serve."""

    micro_batch_size: int = field(default=1, metadata=HOW)
    """What a device computes at once (paper Table 9: 1): packs of `max_length` tokens, rows where they are padded.
    Gradients accumulate up to `batch_size`."""
    gradient_checkpointing: bool = field(default=False, metadata=HOW)
    """Compute activations again in the backward pass: less memory, about 20 % slower."""
    checkpoint_every: int = field(default=100, metadata=HOW)
    """Optimizer steps between two checkpoints to resume from; 0 writes none but on Ctrl-C."""
    samples: int = field(default=0, metadata=HOW)
    """Prompts that are answered at every evaluation, into `samples.jsonl`, for the reader."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "micro_batch_size", "max_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate must be above 0, not {self.learning_rate}")
        for name in ("warmup_ratio", "min_rate", "held_out", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is a share, 0 <= {name} < 1, not {getattr(self, name)}")
        for name in ("gradient_clip", "checkpoint_every", "evaluate_every", "patience", "samples", "warmup_steps"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"{name} must not be negative; 0 switches it off")
        if len(self.betas) != 2:
            raise ValueError(f"betas are two numbers, e.g. [0.9, 0.999], not {self.betas}")
        if self.max_rows is not None and self.max_rows < 1:
            raise ValueError(f"max_rows must be at least 1 or null, not {self.max_rows}")
        if not self.held_out and (self.evaluate_every or self.patience or self.keep is Keep.best):
            raise ValueError("evaluate_every, patience and keep=best need held-out rows, e.g. held_out=0.05")


@dataclass(kw_only=True)
class SFTConfig(TrainConfig):
    """Supervised fine-tuning: cross entropy of the assistant's tokens."""

    loss_on_all_tokens: bool = False
    """Legacy: prompts are trained too (alignment-handbook)."""


@dataclass(kw_only=True)
class DPOConfig(TrainConfig):
    """Preference training on pairs; the default is DPO (Rafailov et al. 2023) against the model that it starts from.

    Table 9 gives one learning rate for all training; 2e-5 is high for DPO of all parameters, whose usual rate is 5e-7.
    """

    loss: PreferenceLoss = PreferenceLoss.sigmoid
    beta: float = 0.1
    """Weight of the implicit KL constraint (paper Table 9). ipo: tau; orpo: lambda; simpo: scale of the rewards."""
    label_smoothing: float = 0.0
    """Probability that a preference is the wrong way round; cdpo and robust need it, no other loss takes it."""
    gamma_beta_ratio: float = 0.5
    """simpo: the margin that is asked for is `gamma_beta_ratio * beta`."""
    desirable_weight: float = 1.0
    """kto: weight of chosen answers."""
    undesirable_weight: float = 1.0
    """kto: weight of rejected answers."""
    sft_weight: float = 0.0
    """Weight of the chosen answers' mean negative log-likelihood beside the loss (RPO, Llama 3); in orpo it is 1."""
    bos_in_completion: bool = False
    """Legacy: a second begin-of-text token stands before every answer (alignment-handbook's `run_dpo.py`)."""
    max_prompt_length: int | None = None
    """Legacy: where prompt and longer answer exceed `max_length`, the prompt keeps this many of its last tokens, and
    the answers get the rest (TRL before 1.0); null cuts the end alone."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta <= 0:
            raise ValueError(f"beta must be above 0, not {self.beta}")
        if not 0 <= self.label_smoothing < 0.5:
            raise ValueError(f"label_smoothing must be in [0, 0.5), not {self.label_smoothing}")
        if self.loss.smooths != (self.label_smoothing > 0):
            raise ValueError(
                f"loss={self.loss} with label_smoothing={self.label_smoothing}: cdpo and robust need a value above 0, "
                "all others take none"
            )
        if self.packing is Packing.wrapped:
            raise ValueError("packing=wrapped is for SFT: pairs cannot be cut")
        if self.loss is PreferenceLoss.kto and self.batch_size < 2:
            raise ValueError(
                "loss=kto estimates its KL term from other rows of the step: batch_size must be at least 2"
            )
        if self.max_prompt_length is not None and not 0 < self.max_prompt_length < self.max_length:
            raise ValueError(f"max_prompt_length must be in 1..{self.max_length - 1}, not {self.max_prompt_length}")


@dataclass(kw_only=True)
class RecipeConfig:
    """The two training steps of an experiment; null leaves one out."""

    name: str = field(default="paper", metadata=HOW)
    """For the reader; not part of any result."""
    sft: SFTConfig | None = field(default_factory=SFTConfig)
    dpo: DPOConfig | None = field(default_factory=DPOConfig)
    strategy: StrategyConfig = field(default_factory=StrategyConfig, metadata=HOW)

    def __post_init__(self) -> None:
        for name, step in (("sft", self.sft), ("dpo", self.dpo)):
            if step and self.strategy.kind.shards_weights and (step.ema or step.samples):
                raise ValueError(
                    f"recipe.{name}.ema and recipe.{name}.samples need whole weights, of which strategy "
                    f"{self.strategy.kind} leaves every process a part; set both to 0, or recipe/strategy=zero2"
                )
