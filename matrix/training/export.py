"""Writes a checkpoint result: `hf/` for transformers and vLLM, `adapter/` for peft, `model.gguf` for CPU engines."""

from __future__ import annotations

import copy
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from matrix.engines.sources import read_template
from matrix.training.chat import Renderer
from matrix.training.lora import adapted, merge, save_adapters
from matrix.training.recipe import TrainingError

GENERATION = re.compile(r"\{%([-+]?)\s*(?:end)?generation\s*([-+]?)%\}")
"""Tags with which some templates mark what is trained; servers do not know them."""


def load_tokenizer(
    source: tuple[str, str | None], chat_template: str | None, trust_remote_code: bool, **options: Any
) -> Any:
    """A model's tokenizer with the chat template that it is trained, exported and served with.

    Args:
        source: path or hub id, and revision.
        chat_template: name or path of a template to take instead of the tokenizer's own.
        trust_remote_code: let a hub repository run its own Python.
        options: further ones of `AutoTokenizer.from_pretrained`.
    """
    from transformers import AutoTokenizer

    name, revision = source
    tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=trust_remote_code, **options)
    template = read_template(chat_template) or tokenizer.chat_template
    if isinstance(template, str):
        tokenizer.chat_template = GENERATION.sub(r"{#\1 \2#}", template)  # comments trim as the tags did
    return tokenizer


def export(
    work: Path, model: Any, weights: dict[str, Tensor], tokenizer: Any, dtype: str, to_gguf: bool, source: Path | None
) -> None:
    """Write `hf/`, for a model with adapters also `adapter/`, and where asked for `model.gguf` into `work`.

    Each appears complete or not at all; what an earlier export left is written over.

    Args:
        work: a stage's folder.
        model: the Hugging Face model, for its class and configs; its own weights are not looked at.
        weights: what to write, by name in `model`; adapters are merged.
        tokenizer: with the chat template that the model was trained with.
        dtype: type of the weights in `hf/`, e.g. `bfloat16`.
        to_gguf: write `model.gguf`.
        source: GGUF file whose tokenizer is copied, or None.

    Raises:
        TrainingError: weights are missing, or GGUF has no form for the model or the tokenizer.
    """
    if lora := adapted(model):
        with _complete(work / "adapter") as folder:
            save_adapters(folder, weights, lora, model.name_or_path)
        weights = merge(weights, lora)
    write_hf(work / "hf", model, weights, tokenizer, dtype)
    if to_gguf:
        from matrix.training.gguf import write_gguf

        unfinished = work / "model.gguf.partial"
        write_gguf(unfinished, model.config, weights, tokenizer, Renderer(tokenizer).end_of_turn, source)
        unfinished.replace(work / "model.gguf")


def write_hf(folder: Path, model: Any, weights: dict[str, Tensor], tokenizer: Any, dtype: str) -> None:
    """Write a Hugging Face folder that is complete once it is there: safetensors in files of at most 5 GB, configs,
    tokenizer. Arguments as for `export`, without adapters.

    Raises:
        TrainingError: weights are missing.
    """
    config, generation = copy.deepcopy(model.config), copy.deepcopy(model.generation_config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config  # left by reading a quantised file; the weights no longer are
    config.dtype = dtype
    stops = generation.eos_token_id
    stops = stops if isinstance(stops, list) else [stops]
    stops = {*stops, tokenizer.eos_token_id, Renderer(tokenizer).end_of_turn}
    generation.eos_token_id = sorted(stop for stop in stops if stop is not None)
    try:
        generation.validate(strict=True)
    except ValueError:
        generation.do_sample = True  # some name a temperature and do not sample, which transformers will not save
    with torch.device("meta"):
        # Without weights, hooks and adapters, which those of the model in training have.
        plain = type(model)(config)
    plain.generation_config = generation
    if missing := sorted(plain.state_dict().keys() - plain.all_tied_weights_keys.keys() - weights.keys()):
        raise TrainingError(f"{len(missing)} weights of the model are missing, e.g. {missing[0]}: nothing is exported")
    converted = {name: tensor.to(getattr(torch, dtype)).contiguous() for name, tensor in weights.items()}
    with _complete(folder) as unfinished:
        plain.save_pretrained(unfinished, state_dict=converted, max_shard_size="5GB")
        tokenizer.save_pretrained(unfinished)


@contextmanager
def _complete(folder: Path) -> Iterator[Path]:
    """A folder to write into that gets its name when all is written."""
    unfinished = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    yield unfinished
    shutil.rmtree(folder, ignore_errors=True)
    unfinished.replace(folder)
