"""A checkpoint of an unfinished training as a Hugging Face folder: `python -m matrix.training.consolidate FROM OUT`.

Checkpoints are `checkpoints/step-*` in the folder of a training: one file, or DeepSpeed's folder, of which each process
wrote a part. A finished training needs none of this: its `hf/` is there.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor

from matrix.engines.sources import hub_source
from matrix.training.export import load_tokenizer, write_hf
from matrix.training.job import Job
from matrix.training.lora import merge
from matrix.training.recipe import TrainingError

PREFIX = "logps.model."
"""Of the Hugging Face model's weights within `matrix.training.module.Trained`."""


def consolidate(checkpoint: Path, out: Path) -> None:
    """Write the weights of a checkpoint, adapters merged, with the base's configs and tokenizer.

    Args:
        checkpoint: `checkpoints/step-*` of a training.
        out: the folder to write; its files are those of a finished training's `hf/`.

    Raises:
        TrainingError: this is no checkpoint, not a whole one or not in its place, or `out` is there already.
    """
    checkpoint = checkpoint.resolve()
    if out.exists():
        raise TrainingError(f"{out} is there already; name another folder, or remove it")
    if not checkpoint.exists():
        raise TrainingError(f"{checkpoint} does not exist; checkpoints are called <training>/checkpoints/step-00000000")
    if checkpoint.suffix == ".partial":
        raise TrainingError(f"{checkpoint} was not written to its end; take the one that is not called .partial")
    told = checkpoint.parents[1] / "logs" / "stage.json"
    if not told.exists():
        raise TrainingError(
            f"{told} is missing, which says what was trained; leave checkpoints where training put them"
        )
    job = msgspec.json.decode(told.read_bytes(), type=Job)
    lora = job.recipe.lora
    weights = _weights(checkpoint, bool(lora))

    from transformers import AutoModelForCausalLM

    name, revision = hub_source(job.base)
    model: Any = AutoModelForCausalLM.from_pretrained(
        name, revision=revision, trust_remote_code=job.trust_remote_code, dtype="auto"
    )
    if lora:
        weights = merge({**model.state_dict(), **weights}, lora)
    tokenizer = load_tokenizer((name, revision), job.chat_template, job.trust_remote_code)
    write_hf(out, model, weights, tokenizer, job.recipe.export_type)


def _weights(checkpoint: Path, adapters: bool) -> dict[str, Tensor]:
    """The weights in a checkpoint by Hugging Face name; with adapters those of them alone may be there."""
    if checkpoint.is_file():
        found = torch.load(checkpoint, map_location="cpu", mmap=True, weights_only=True)["state_dict"]
    elif not (checkpoint / "latest").exists():
        raise TrainingError(
            f"{checkpoint} is neither a checkpoint file nor a DeepSpeed folder: it has no file `latest`"
        )
    else:
        from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint

        try:
            found = get_fp32_state_dict_from_zero_checkpoint(checkpoint, exclude_frozen_parameters=adapters)
        except (FileNotFoundError, ValueError) as error:
            raise TrainingError(
                f"{checkpoint} is not whole; the parts of all processes belong into it: {error}"
            ) from error
    return {name.removeprefix(PREFIX): tensor for name, tensor in found.items() if name.startswith(PREFIX)}


def main() -> None:
    """The command line."""
    if len(sys.argv) != 3:
        sys.exit("usage: python -m matrix.training.consolidate <training>/checkpoints/step-<number> <folder to write>")
    try:
        consolidate(Path(sys.argv[1]), Path(sys.argv[2]))
    except TrainingError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
