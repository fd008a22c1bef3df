"""SFT and DPO written out in plain torch, for `benchmarks/training_invariance.py`.

One padded forward pass a row, Hugging Face's own logits with `eager` attention, log_softmax, autograd, AdamW.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LlamaForCausalLM

from matrix.training.data import Example
from matrix.training.plan import make_plan
from matrix.training.recipe import DPOConfig, SFTConfig


def plain(
    source: str, examples: list[Example], recipe: SFTConfig | DPOConfig, seed: int, dtype: torch.dtype
) -> tuple[list[float], dict[str, Tensor]]:
    """Losses of all steps and the gradient of the first, given tokens, targets and the rows of every step."""
    model = LlamaForCausalLM.from_pretrained(source, dtype=dtype, attn_implementation="eager")
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.learning_rate, weight_decay=0.0)
    with torch.no_grad():
        reference = [answers(model, example) for example in examples] if isinstance(recipe, DPOConfig) else []
    losses: list[float] = []
    first: dict[str, Tensor] = {}
    for step in make_plan(examples, recipe, 1, seed).steps:
        rows = [i for batch in step.micro_batches for i in batch]
        targets = sum(examples[i].targets for i in rows)
        loss = torch.zeros((), dtype=dtype)
        for i in rows:
            said = answers(model, examples[i])
            if isinstance(recipe, SFTConfig):
                loss = loss - said[0] / targets
            else:
                chosen, rejected = said - reference[i]
                loss = loss - F.logsigmoid(recipe.beta * (chosen - rejected)) / len(rows)
        optimizer.zero_grad()
        loss.backward()
        first = first or {name: weight.grad.clone() for name, weight in model.named_parameters()}
        optimizer.step()
        losses.append(loss.item())
    return losses, first


def answers(model: Any, example: Example) -> Tensor:
    """(sequences,) log-probabilities of the targets of a row, whose sequences are one padded batch."""
    longest = example.length
    ids = torch.tensor([s.ids + [0] * (longest - len(s.ids)) for s in example.sequences])
    targets = torch.tensor([s.targets + [False] * (longest - len(s.ids)) for s in example.sequences])
    mask = torch.tensor([[1] * len(s.ids) + [0] * (longest - len(s.ids)) for s in example.sequences])
    logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1]
    logps = logits.log_softmax(-1).gather(2, ids[:, 1:, None])[:, :, 0]
    return (logps * targets[:, 1:]).sum(1)
