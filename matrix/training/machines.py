"""On what machines a recipe is trained and where its metrics are shown: what decides no result.

Read by `matrix.training.stage` and the worker; light to import.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum


class Strategy(StrEnum):
    """How processes share the work; `auto` is `single` on one device and `ddp` on several."""

    auto = "auto"
    single = "single"
    ddp = "ddp"
    zero1 = "zero1"
    zero2 = "zero2"
    zero3 = "zero3"
    fsdp2 = "fsdp2"

    @property
    def zero_stage(self) -> int:
        """DeepSpeed ZeRO stage, 0 for the strategies without DeepSpeed."""
        return int(self.value[-1]) if self.value.startswith("zero") else 0

    @property
    def shards_weights(self) -> bool:
        """Whether a process holds a part of the weights only."""
        return self in (Strategy.zero3, Strategy.fsdp2)


@dataclass(kw_only=True)
class StrategyConfig:
    """On what machines SFT and DPO run, and how processes share the work. Losses do not depend on it."""

    kind: Strategy = Strategy.auto
    """Table 9 trained with DeepSpeed ZeRO stage 2 (`zero2`)."""
    offload: bool = False
    """ZeRO: optimizer state in host memory, for stage 3 the weights too."""
    devices: int = 1
    """Processes a node, each with its own GPU where there are GPUs."""
    num_nodes: int = 1
    """Machines; more than one needs a `launcher`."""
    launcher: list[str] = field(default_factory=list)
    """Command that starts the worker on every rank, e.g. `[srun]`; empty: torchrun where `devices` exceeds 1."""
    compile: bool = False
    """torch.compile the model: minutes at the start, then faster on a GPU."""
    liger: bool = False
    """Liger's kernels for norm, rotation and gate, on a GPU; needs `pip install 'matrix-gen[liger]'`."""
    threads: int = 0
    """CPU threads a process; 0: all cores that it may use, shared among the devices. Equal bits need equal threads."""

    def __post_init__(self) -> None:
        for name in ("devices", "num_nodes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.threads < 0:
            raise ValueError(f"threads must not be negative, not {self.threads}; 0 takes all cores")
        if self.kind is Strategy.single and self.world > 1:
            raise ValueError(
                "kind=single uses one device; set devices=1, or another strategy, e.g. recipe/strategy=ddp"
            )
        if self.num_nodes > 1 and not self.launcher:
            raise ValueError("num_nodes > 1 needs a launcher that starts every rank, e.g. launcher=[srun]")
        if self.offload and not self.kind.zero_stage:
            raise ValueError(f"offload is for DeepSpeed, not kind={self.kind}; e.g. recipe/strategy=zero3_offload")

    @property
    def world(self) -> int:
        """Processes in all."""
        return self.devices * self.num_nodes


class Tracker(StrEnum):
    """Where metrics go besides `metrics.csv`, which is always written."""

    none = "none"
    tensorboard = "tensorboard"
    wandb = "wandb"
    mlflow = "mlflow"


@dataclass(kw_only=True)
class LoggerConfig:
    """Where the metrics of training are also shown."""

    tracker: Tracker = Tracker.tensorboard
    project: str = "matrix"
    """wandb: project; mlflow: experiment."""
    location: str | None = None
    """mlflow: tracking URI; wandb: `offline` keeps the run in the stage's `logs/`. null: the service's default."""
