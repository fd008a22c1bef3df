"""How processes share a training: one process, DDP, DeepSpeed ZeRO stages 1 to 3 (Table 9: stage 2), or FSDP2.

Each runs on GPUs and on CPUs. The worker hands `trainer_strategy` to Lightning; the module calls `partitioned_loading`
and `shard` while it is made; whoever exports weights gets them from `gather`.
"""

from __future__ import annotations

import importlib
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import DDPStrategy, DeepSpeedStrategy, ModelParallelStrategy
from torch import Tensor

from matrix.training.budget import BUCKET
from matrix.training.machines import Strategy, StrategyConfig
from matrix.training.recipe import Precision, TrainConfig


def trainer_strategy(recipe: TrainConfig, config: StrategyConfig, bf16: bool) -> Any:
    """What `Trainer(strategy=...)` takes.

    Args:
        recipe: what is trained; DeepSpeed clips and wants to know the micro-batch.
        config: the machines.
        bf16: whether to compute in bf16.
    """
    if config.kind.zero_stage:
        kind = DeepSpeedStrategy if torch.cuda.is_available() else HostDeepSpeed
        # Frozen weights are those of the base model; DeepSpeed leaves them out, as the module does elsewhere.
        return kind(config=deepspeed_config(recipe, config, bf16), exclude_frozen_parameters=bool(recipe.lora))
    if config.kind is Strategy.fsdp2:
        return ModelParallelStrategy(
            data_parallel_size=config.world, tensor_parallel_size=1, save_distributed_checkpoint=False
        )
    return "ddp" if config.world > 1 or config.kind is Strategy.ddp else "auto"


def deepspeed_config(recipe: TrainConfig, config: StrategyConfig, bf16: bool) -> dict[str, Any]:
    """The whole DeepSpeed config; given one, Lightning adds the accumulation steps and no defaults of its own.

    Gradients accumulate in fp32: DeepSpeed's default is bf16, which loses small ones. Clipping is explicit: its default
    is 1.0. An offloaded optimizer is torch's AdamW on the host: DeepSpeed's own would be compiled first.
    """
    cuda = torch.cuda.is_available()
    stage = config.kind.zero_stage
    host = {"device": "cpu", "pin_memory": cuda}
    offload: dict[str, Any] = {"offload_optimizer": host} if config.offload else {}
    if config.offload and stage == 3:
        offload["offload_param"] = host
    return {
        "train_micro_batch_size_per_gpu": recipe.micro_batch_size,
        "gradient_clipping": recipe.gradient_clip,
        "bf16": {"enabled": bf16},
        "data_types": {"grad_accum_dtype": "fp32"},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {
            "stage": stage,
            "contiguous_gradients": True,
            "overlap_comm": cuda,
            "reduce_bucket_size": BUCKET,
            "allgather_bucket_size": BUCKET,
            **offload,
        },
    }


def computes_bf16(precision: Precision) -> bool:
    """Whether to train in bf16; `auto` asks the device."""
    if precision is not Precision.auto:
        return precision is Precision.bf16
    if torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return any(torch.cpu.get_capabilities().get(unit, False) for unit in ("avx512_bf16", "amx_bf16"))


@contextmanager
def partitioned_loading(strategy: Any) -> Iterator[None]:
    """Under ZeRO stage 3, let transformers load every process's part of the weights only.

    transformers keeps a weak reference to what it is told here: as long as that lives, every model loaded in this
    process is partitioned.
    """
    if not getattr(strategy, "zero_stage_3", False):
        yield
        return
    from transformers.integrations.deepspeed import HfDeepSpeedConfig

    told = HfDeepSpeedConfig(strategy.config)  # type: ignore[no-untyped-call]
    yield
    del told


def shard(module: Any, mesh: Any, bf16: bool) -> None:
    """FSDP2: keep this process's part of every weight; whole ones exist while their layer computes.

    Args:
        module: holds the Hugging Face model as `model`; its forward is what training calls, so that the embeddings and
            the output layer are whole for as long as either computes.
        mesh: the strategy's `device_mesh`.
        bf16: compute in bf16; the parts stay as they are, and gradients are summed in fp32.
    """
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32) if bf16 else None
    options: dict[str, Any] = {"mesh": mesh["data_parallel"], "mp_policy": policy or MixedPrecisionPolicy()}
    for layer in decoder_layers(module.model):
        fully_shard(layer, **options)
    fully_shard(module, **options)


def decoder_layers(model: Any) -> list[Any]:
    """The layers of a Hugging Face model that are alike and follow one another."""
    return [part for part in model.modules() if type(part).__name__ in model._no_split_modules]


def gather(module: Any, trainer: Trainer) -> dict[str, Tensor]:
    """The weights in training by their names in the Hugging Face model, on the CPU, each once; trained ones in fp32.

    Every process must call it; the first gets all weights, the others may get none. Adapters are not merged: that is
    for the export (`matrix.training.lora.merge`).
    """
    model, strategy = module.model, trainer.strategy
    found: dict[str, Any] = {}
    if isinstance(strategy, ModelParallelStrategy):
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        found = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    else:
        for name, tensor in model.state_dict(keep_vars=True).items():
            whole = _whole(tensor) if isinstance(strategy, DeepSpeedStrategy) else tensor.detach()
            if trainer.is_global_zero:
                found[name] = whole.cpu()
    return {name: tensor for name, tensor in found.items() if name not in model.all_tied_weights_keys}


def _whole(tensor: Tensor) -> Tensor:
    """A weight under DeepSpeed: the optimizer's fp32 copy where it has one."""
    from deepspeed import zero
    from deepspeed.utils import safe_get_full_fp32_param

    if tensor.requires_grad:
        master: Tensor = safe_get_full_fp32_param(tensor)
        return master.detach()
    with zero.GatheredParameters([tensor], enabled=hasattr(tensor, "ds_id")):
        return tensor.detach().clone()


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
