"""A moving average of the weights in training (`ema` of a recipe), evaluated and exported instead of the last weights.

It lies in the optimizer's state beside Adam's moments, in the fp32 of the weights that the optimizer moves. So it is of
trained weights only, checkpoints hold it, and under ZeRO every process keeps a part.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import DeepSpeedStrategy
from torch.optim import Optimizer

AVERAGE = "average"
"""Of a weight, in the optimizer's state."""


def follow(optimizer: Optimizer, decay: float) -> None:
    """Average the weights after every step of an optimizer, but those that left them as they were.

    After step t the average is `d * average + (1 - d) * weight` with d = min(decay, (1 + t) / (10 + t)), as in
    TensorFlow's `ExponentialMovingAverage`: up to step 9 / (1 - decay) about the last ninth of all steps counts, so
    that a training which is short for its decay is not pulled back to where it began.

    Args:
        optimizer: one that counts its steps in `state[weight]["step"]`, as AdamW does.
        decay: share of the average that stays, below 1.
    """

    def average(optimizer: Optimizer, *_: Any) -> None:
        moved = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if not moved:
            return
        t = float(optimizer.state[moved[0]]["step"])
        share = 1 - min(decay, (1 + t) / (10 + t))
        for weight in moved:
            state = optimizer.state[weight]
            if AVERAGE in state:
                state[AVERAGE].lerp_(weight.detach(), share)
            else:
                state[AVERAGE] = weight.detach().clone()

    optimizer.register_step_post_hook(average)


@contextmanager
def averaged(module: LightningModule) -> Iterator[None]:
    """The model with its averages for weights, for a while; every process must call it."""
    exchange(module)
    yield
    exchange(module)


@torch.no_grad()
def exchange(module: LightningModule) -> None:
    """Put the averages where the weights are, and the weights where the averages are; twice changes no bit."""
    trainer = module.trainer
    optimizer: Any = trainer.optimizers[0]
    deepspeed = isinstance(trainer.strategy, DeepSpeedStrategy)
    for weight, state in (optimizer.optimizer if deepspeed else optimizer).state.items():
        held = weight.clone()
        weight.copy_(state[AVERAGE])
        state[AVERAGE].copy_(held)
    if deepspeed:
        from deepspeed.utils import safe_get_full_fp32_param

        # What the optimizer moves is this process's part; what computes are copies, in bf16 perhaps.
        for weight in module.parameters():
            if weight.requires_grad:
                weight.copy_(safe_get_full_fp32_param(weight))
