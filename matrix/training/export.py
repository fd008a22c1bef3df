"""Writes a checkpoint result: `hf/` for transformers and vLLM, `model.gguf` for engines without a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from matrix.engines.sources import read_template
from matrix.training.data import Renderer


def load_tokenizer(
    source: tuple[str, str | None], chat_template: str | None, trust_remote_code: bool, **options: Any
) -> Any:
    """A model's tokenizer, its chat template replaced by `chat_template` (a name or a path) where one is given."""
    from transformers import AutoTokenizer

    name, revision = source
    tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=trust_remote_code, **options)
    if template := read_template(chat_template):
        tokenizer.chat_template = template
    return tokenizer


def export(
    work: Path, model: Any, weights: dict[str, Tensor], tokenizer: Any, dtype: str, to_gguf: bool, source: Path | None
) -> None:
    """Write `hf/` and, where asked for, `model.gguf` into `work`.

    Args:
        work: a stage's folder; what an interrupted export left there is written over.
        model: the Hugging Face model, for its class and configs; its own weights are not looked at.
        weights: what to write, by Hugging Face name.
        tokenizer: with the chat template that the model was trained with.
        dtype: type of the weights in `hf/`, e.g. `bfloat16`.
        to_gguf: write `model.gguf`.
        source: GGUF file whose tokenizer is copied, or None.
    """
    end_of_turn = Renderer(tokenizer).end_of_turn
    config, generation = model.config, model.generation_config
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # left by reading a quantised file; the weights no longer are
    config.dtype = dtype
    stops = generation.eos_token_id
    stops = stops if isinstance(stops, list) else [stops]
    generation.eos_token_id = sorted({i for i in [*stops, tokenizer.eos_token_id, end_of_turn] if i is not None})
    converted = {name: tensor.to(getattr(torch, dtype)).contiguous() for name, tensor in weights.items()}
    model.save_pretrained(work / "hf", state_dict=converted)
    tokenizer.save_pretrained(work / "hf")
    if to_gguf:
        from matrix.training.gguf import write_gguf

        write_gguf(work / "model.gguf", config, weights, tokenizer, end_of_turn, source)
