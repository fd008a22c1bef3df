"""The import process: a GGUF file as a Hugging Face folder that can be trained. Started by `matrix.training.stage`."""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main(job_file: Path) -> None:
    """Read a GGUF file and write `hf/` and `model.gguf` (F16, so that it is served as its tuned descendants are)."""
    job = json.loads(job_file.read_text())
    import torch
    from transformers import AutoModelForCausalLM

    from matrix.training.export import export, load_tokenizer

    source = Path(job["source"])
    folder, file = str(source.parent), source.name
    tokenizer = load_tokenizer((folder, None), job["chat_template"], False, gguf_file=file)
    model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32)
    weights = dict(model.state_dict())
    export(Path(job["work"]), model, weights, tokenizer, "float32", True, source)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
