"""Supervised fine-tuning (paper section 4.1): cross entropy over the assistant's tokens."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from matrix.training.losses import token_logps
from matrix.training.module import Trained


class SFT(Trained):
    """Mean negative log-likelihood of the target tokens of a whole optimizer step."""

    def sums(self, batch: dict[str, Any]) -> Tensor:
        """(1,): negative log-likelihood summed over the micro-batch's target tokens."""
        return -token_logps(self.model, batch["ids"], batch["targets"]).sum()[None]
