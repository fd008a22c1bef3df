"""How processes share the work: plain, DDP, or DeepSpeed ZeRO stage 1 to 3 (Table 9: stage 2), on GPUs or CPUs."""

from __future__ import annotations

import importlib
from argparse import Namespace
from typing import Any

import torch
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy

from matrix.training.recipe import Precision, Strategy, TrainConfig


def trainer_strategy(config: TrainConfig, bf16: bool) -> Any:
    """What `Trainer(strategy=...)` takes for a recipe."""
    several = config.devices * config.num_nodes > 1
    if config.strategy.zero_stage:
        kind = DeepSpeedStrategy if torch.cuda.is_available() else HostDeepSpeed
        return kind(config=deepspeed_config(config, bf16))
    return "ddp" if several or config.strategy is Strategy.ddp else "auto"


def deepspeed_config(config: TrainConfig, bf16: bool) -> dict[str, Any]:
    """The whole DeepSpeed config; given one, Lightning adds the accumulation steps and no defaults of its own.

    Gradients accumulate in fp32: DeepSpeed's default is bf16, which loses small ones. Clipping is explicit: its default
    is 1.0.
    """
    return {
        "train_micro_batch_size_per_gpu": config.micro_batch_size,
        "gradient_clipping": config.gradient_clip,
        "bf16": {"enabled": bf16},
        "data_types": {"grad_accum_dtype": "fp32"},
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {
            "stage": config.strategy.zero_stage,
            "contiguous_gradients": True,
            "overlap_comm": torch.cuda.is_available(),
            "reduce_bucket_size": 200_000_000,
            "allgather_bucket_size": 200_000_000,
            "stage3_gather_16bit_weights_on_model_save": True,
        },
    }


def computes_bf16(precision: Precision) -> bool:
    """Whether to train in bf16; `auto` asks the device."""
    if precision is not Precision.auto:
        return precision is Precision.bf16
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return any(torch.cpu.get_capabilities().get(unit, False) for unit in ("avx512_bf16", "amx_bf16"))


class HostDeepSpeed(DeepSpeedStrategy):
    """DeepSpeed without GPUs, which Lightning refuses and DeepSpeed supports (gloo between processes)."""

    def __init__(self, **options: Any) -> None:
        super().__init__(process_group_backend="gloo", **options)

    def setup_environment(self) -> None:
        """As DDP does, without the check for CUDA."""
        DDPStrategy.setup_environment(self)

    def setup_distributed(self) -> None:
        """As the parent does, without checking GPU indices."""
        # DeepSpeed would compile a shared-memory operator at start, which takes a compiler and a minute; gloo will do.
        backend: Any = importlib.import_module("deepspeed.comm.torch")
        backend.build_shm_op = lambda: None
        self.set_world_ranks()
        self._init_deepspeed_distributed()

    def _setup_model_and_optimizer(self, model: Any, optimizer: Any, lr_scheduler: Any = None) -> Any:
        """As the parent does; a CPU device has no index, so the local rank stands for it."""
        import deepspeed

        engine, wrapped, _, _ = deepspeed.initialize(
            args=Namespace(device_rank=self.local_rank),
            config=self.config,
            model=model,
            model_parameters=[p for p in model.parameters() if p.requires_grad],
            optimizer=optimizer,
            lr_scheduler=lr_scheduler,
            dist_init_required=False,
        )
        return engine, wrapped
