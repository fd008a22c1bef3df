"""Low-rank adapters (Hu et al. 2021): peft puts them into a model, and `merge` multiplies them into its weights."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from matrix.training.recipe import LoraConfig, TrainingError

NAME = "default"
"""Of the adapters within the model."""


def add_adapters(model: Any, config: LoraConfig, seed: int) -> None:
    """Freeze a model's weights and give its linear layers fp32 adapters, which at first add nothing.

    Args:
        model: a Hugging Face causal LM, changed in place; whole, or partitioned by ZeRO stage 3.
        config: rank, scale and layers.
        seed: of the adapters' first weights; equal seeds give equal ones under every strategy.

    Raises:
        TrainingError: the model has no linear layers of such names.
    """
    import peft
    from deepspeed import zero

    targets = "all-linear" if config.targets == ["all-linear"] else config.targets
    try:
        peft.inject_adapter_in_model(_peft_config(config, targets, init_lora_weights=False), model, NAME)
    except ValueError as error:
        raise TrainingError(f"lora.targets={config.targets}: {error}") from error
    layers = {type(m.base_layer) for m in model.modules() if isinstance(m, peft.tuners.lora.LoraLayer)}
    if layers != {nn.Linear}:
        kinds = ", ".join(sorted(kind.__name__ for kind in layers))
        raise TrainingError(f"lora.targets={config.targets} are {kinds}; name nn.Linear layers, e.g. [all-linear]")
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".lora_" in name)
        if not parameter.requires_grad:
            continue
        # Not left to peft: under ZeRO stage 3 it would fill empty placeholders, and B would not be zero.
        with zero.GatheredParameters([parameter], modifier_rank=0, enabled=hasattr(parameter, "ds_id")):
            first = torch.zeros(parameter.shape).float()  # that stage makes every new tensor bf16
            if ".lora_A." in name:
                nn.init.kaiming_uniform_(first, a=math.sqrt(5), generator=generator)
            if hasattr(parameter, "ds_id"):
                parameter.data.copy_(first)
            else:
                parameter.data = first.to(parameter.device)


def adapted(model: Any) -> LoraConfig | None:
    """The adapters' config of a model that `add_adapters` has changed, else None."""
    told = getattr(model, "peft_config", {}).get(NAME)
    return told and LoraConfig(rank=told.r, alpha=told.lora_alpha, dropout=told.lora_dropout)


def merge(weights: dict[str, Tensor], config: LoraConfig) -> dict[str, Tensor]:
    """The plain model's weights with the adapters multiplied in, in fp32.

    Args:
        weights: those of a model with adapters, or of the plain model and the adapters.
        config: for the scale.
    """
    merged = {}
    for name, tensor in weights.items():
        if ".lora_" in name:
            continue
        plain = name.replace(".base_layer.", ".")
        layer = plain.removesuffix(".weight")
        if f"{layer}.lora_A.{NAME}.weight" in weights:
            a, b = (weights[f"{layer}.lora_{side}.{NAME}.weight"].float() for side in "AB")
            tensor = tensor.float() + config.alpha / config.rank * (b @ a)
        merged[plain] = tensor
    return merged


def save_adapters(folder: Path, weights: dict[str, Tensor], config: LoraConfig, base: str) -> None:
    """Write the adapters as `peft.PeftModel.from_pretrained` reads them.

    Args:
        folder: to make.
        weights: those of a model with adapters.
        config: rank and scale.
        base: name of the model that they belong to, for the reader.
    """
    from safetensors.torch import save_file

    adapters = {
        "base_model.model." + name.replace(f".{NAME}.", "."): tensor.float().contiguous()
        for name, tensor in weights.items()
        if ".lora_" in name
    }
    layers = sorted({name.partition(".lora_")[0].rpartition(".")[2] for name in adapters})
    told = _peft_config(config, layers, base_model_name_or_path=base, inference_mode=True).to_dict()
    told["target_modules"] = layers  # a set inside peft, whose order is another in every process
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(told, indent=2, sort_keys=True, default=sorted))
    save_file(adapters, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def _peft_config(config: LoraConfig, targets: Any, **more: Any) -> Any:
    import peft

    options: dict[str, Any] = {"r": config.rank, "lora_alpha": config.alpha, "lora_dropout": config.dropout, **more}
    return peft.LoraConfig(target_modules=targets, task_type=peft.TaskType.CAUSAL_LM, **options)
