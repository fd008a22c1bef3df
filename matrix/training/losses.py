"""The mathematics of training as pure functions of a model and token ids; the only place where logits exist."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK = 1024
"""Target tokens whose logits are held at once; beyond it they are computed again in the backward pass."""


def token_logps(model: Any, ids: Tensor, targets: Tensor) -> Tensor:
    """Log-probability of every target token given the tokens before it.

    Only target positions are projected onto the vocabulary, which is most of the work and memory of a small model.

    Args:
        model: a Hugging Face causal language model.
        ids: (n, length) int64, padded on the right.
        targets: (n, length) bool.

    Returns:
        (n, length - 1) float32; column i is token i + 1, zero where it is no target.
    """
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
    wanted = targets[:, 1:]
    picked, labels = hidden[wanted], ids[:, 1:][wanted]
    head = model.get_output_embeddings()
    if len(labels) <= CHUNK:
        logps = _logps(head, picked, labels)
    else:
        pieces = zip(picked.split(CHUNK), labels.split(CHUNK), strict=True)  # type: ignore[no-untyped-call]
        logps = torch.cat([checkpoint(_logps, head, h, y, use_reentrant=False) for h, y in pieces])
    return torch.zeros_like(wanted, dtype=torch.float32).masked_scatter(wanted, logps)


def _logps(head: Any, hidden: Tensor, labels: Tensor) -> Tensor:
    return -F.cross_entropy(head(hidden).float(), labels, reduction="none")


def dpo_terms(policy: Tensor, reference: Tensor, beta: float, label_smoothing: float) -> Tensor:
    """Per-pair terms of the sigmoid DPO loss (Rafailov et al. 2023, equation 7; smoothing as in conservative DPO).

    Args:
        policy: (pairs, 2) summed log-probabilities of chosen and rejected answers under the trained model.
        reference: the same under the model that training started from.
        beta: weight of the implicit KL constraint.
        label_smoothing: probability that a preference is the wrong way round.

    Returns:
        (5, pairs): loss, reward of the chosen answer, of the rejected one, whether chosen is ahead, margin.
    """
    rewards = beta * (policy - reference)
    chosen, rejected = rewards.unbind(1)
    margin = chosen - rejected
    loss = -(1 - label_smoothing) * F.logsigmoid(margin) - label_smoothing * F.logsigmoid(-margin)
    shown = torch.stack([chosen, rejected, (margin > 0).float(), margin]).detach()
    return torch.cat([loss[None], shown])
