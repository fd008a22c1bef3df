"""Packed attention on a device in bf16 beside attention to every document by itself, on the CPU in fp32.

For `benchmarks/gpu_training.py`.
"""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any

import torch

from matrix.training.attention import SEGMENTS, packed_attention
from matrix.training.batch import collate
from matrix.training.chat import Sequence
from matrix.training.data import Example


def pairs(length: int, vocabulary: int) -> list[Example]:
    """Four pairs that share their prompts and make no more than a pack of `length`."""
    dice, found = random.Random(2), list[Example]()
    for number in range(4):
        sizes = [dice.randint(8, length // 16) for _ in range(3)]
        prompt, *answers = ([dice.randrange(1, vocabulary) for _ in range(size)] for size in sizes)
        branches = (Sequence(prompt + answer, [False] * len(prompt) + [True] * len(answer)) for answer in answers)
        found.append(Example(str(number), tuple(branches)))
    return found


def errors(examples: list[Example], told: Any, device: torch.device) -> dict[str, float]:
    """Largest differences of the output and of each gradient, each over its largest value.

    Args:
        examples: what is packed.
        told: the model's config, for its heads.
        device: where packed attention runs.
    """
    batch = collate(examples, list(range(len(examples))), packed=True)
    tokens = batch["ids"].shape[1]
    generator = torch.Generator().manual_seed(0)
    sizes = [told.num_attention_heads, told.num_key_value_heads, told.num_key_value_heads]
    inputs = [torch.randn(1, heads, tokens, told.head_dim, generator=generator).bfloat16() for heads in sizes]
    pull = torch.randn(1, tokens, sizes[0], told.head_dim, generator=generator).bfloat16()
    found, expected = _packed(inputs, pull, batch, device), _separate(inputs, pull, batch)
    return {
        name: ((a.cpu().float() - b).abs().max() / b.abs().max()).item()
        for name, a, b in zip(("output", "dq", "dk", "dv"), found, expected, strict=True)
    }


def _packed(inputs: list[Any], pull: Any, batch: dict[str, Any], device: torch.device) -> list[Any]:
    """Output (1, tokens, heads, head_dim) and gradients of what training computes with, on the device."""
    q, k, v = (tensor.to(device).requires_grad_() for tensor in inputs)
    segments = {name: batch[name] for name in SEGMENTS}
    segments = {name: s.to(device) if isinstance(s, torch.Tensor) else s for name, s in segments.items()}
    output, _ = packed_attention(torch.nn.Module(), q, k, v, None, **segments)
    return [output, *torch.autograd.grad(output, [q, k, v], pull.to(device))]


def _separate(inputs: list[Any], pull: Any, batch: dict[str, Any]) -> list[Any]:
    """The same of every segment by itself, on the CPU in fp32."""
    q, k, v = leaves = [tensor.float().requires_grad_() for tensor in inputs]
    index = batch["kv_index"]
    keys, values = (k, v) if index is None else (k[:, :, index], v[:, :, index])
    queries = pairwise(batch["cu_seq_lens_q"].tolist())
    outputs = []
    for (start, end), (first, last) in zip(queries, pairwise(batch["cu_seq_lens_k"].tolist()), strict=True):
        seen = torch.ones(end - start, last - first, dtype=torch.bool).tril(last - first - (end - start))
        outputs.append(
            torch.nn.functional.scaled_dot_product_attention(
                q[:, :, start:end], keys[:, :, first:last], values[:, :, first:last], attn_mask=seen, enable_gqa=True
            )
        )
    output = torch.cat(outputs, 2).transpose(1, 2)
    return [output, *torch.autograd.grad(output, leaves, pull.float())]
