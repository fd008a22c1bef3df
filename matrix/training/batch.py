"""Micro-batches as tensors: rows packed one after another, or padded one a line; and the loader that yields them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from matrix.training.data import Example
from matrix.training.plan import Plan

Batch = dict[str, Any]


def collate(examples: list[Example], rows: list[int], packed: bool) -> Batch:
    """One micro-batch of n sequences, those of an example together: chosen, rejected, next chosen, next rejected.

    Args:
        examples: what `rows` are indices of.
        rows: the micro-batch; without rows it has one token and no target.
        packed: all in one line, of a pair the prompt once and both answers after it; otherwise a line a sequence.

    Returns:
        `rows` (examples,); `ids` and `position_ids` (lines, tokens); for every target token `picks`, the place in the
        flattened lines whose output predicts it, `labels`, the token, and `owner`, its sequence: all int64. There is
        no attention mask: under causal attention no token looks at padding to its right. There is no float tensor:
        DeepSpeed casts those to bf16.
        Packed, for `matrix.training.attention`: `cu_seq_lens_q` and `cu_seq_lens_k` (segments + 1,) int32 and the
        longest of each, `max_length_q` and `max_length_k`. Segment s is the queries between two bounds against
        the keys between two bounds, causal and aligned at the end; `kv_index` brings the keys in order, None where they
        are. A pair is two segments: prompt and chosen answer; rejected answer against the prompt and itself.
    """
    batch = _packed(examples, rows) if packed and rows else _padded(examples, rows)
    return {"rows": torch.tensor(rows, dtype=torch.long), **batch}


def _padded(examples: list[Example], rows: list[int]) -> Batch:
    sequences = [s for i in rows for s in examples[i].sequences]
    length = max((len(s.ids) for s in sequences), default=1)
    ids = torch.zeros(max(len(sequences), 1), length, dtype=torch.long)
    picks, labels, owner = [], [], []
    for line, sequence in enumerate(sequences):
        tokens = torch.tensor(sequence.ids)
        ids[line, : len(tokens)] = tokens
        targets = torch.tensor(sequence.targets).nonzero().flatten()
        picks.append(line * length + targets - 1)
        labels.append(tokens[targets])
        owner.append(torch.full_like(targets, line))
    positions = torch.arange(length).repeat(len(ids), 1)
    return {"ids": ids, "position_ids": positions, "picks": _cat(picks), "labels": _cat(labels), "owner": _cat(owner)}


def _packed(examples: list[Example], rows: list[int]) -> Batch:
    ids, positions, picks, labels, owner, keys = [], [], [], [], [], []
    bounds_q, bounds_k = [0], [0]
    end = line = 0
    for i in rows:
        prefix = start = 0
        for branch, sequence in enumerate(examples[i].sequences):
            if branch == 0:
                start = end
            else:
                prefix = examples[i].prefix
            tokens = torch.tensor(sequence.ids)
            targets = torch.tensor(sequence.targets).nonzero().flatten()
            # Where this sequence's tokens lie: the prefix where the first one put it, the rest from here on.
            place = torch.cat([torch.arange(start, start + prefix), torch.arange(end, end + len(tokens) - prefix)])
            ids.append(tokens[prefix:])
            positions.append(torch.arange(prefix, len(tokens)))
            picks.append(place[targets - 1])
            labels.append(tokens[targets])
            owner.append(torch.full_like(targets, line))
            keys.append(place)
            end += len(tokens) - prefix
            bounds_q.append(end)
            bounds_k.append(bounds_k[-1] + len(tokens))
            line += 1
    shared = bounds_k[-1] > end
    return {
        "ids": torch.cat(ids)[None],
        "position_ids": torch.cat(positions)[None],
        "picks": torch.cat(picks),
        "labels": torch.cat(labels),
        "owner": torch.cat(owner),
        "cu_seq_lens_q": torch.tensor(bounds_q, dtype=torch.int32),
        "cu_seq_lens_k": torch.tensor(bounds_k, dtype=torch.int32),
        "max_length_q": max(b - a for a, b in pairwise(bounds_q)),
        "max_length_k": max(b - a for a, b in pairwise(bounds_k)),
        "kv_index": torch.cat(keys) if shared else None,
    }


def _cat(parts: list[Tensor]) -> Tensor:
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.long)


class MicroBatches(IterableDataset[Batch]):
    """One process's micro-batches from optimizer step `start` on, each with the counts of its whole step.

    It has no length on purpose: Lightning then takes the number of steps from the plan and not from the loader.
    """

    def __init__(self, examples: list[Example], plan: Plan, rank: int, start: int) -> None:
        self.examples, self.plan, self.rank, self.start = examples, plan, rank, start

    def __iter__(self) -> Iterator[Batch]:
        for step, rows in self.plan.micro_batches(self.start, self.rank):
            counts = {"step_rows": step.rows, "step_targets": step.targets}
            yield collate(self.examples, rows, self.plan.packed) | counts
