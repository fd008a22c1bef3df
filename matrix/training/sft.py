"""Supervised fine-tuning (paper section 4.1): cross entropy over the assistant's tokens."""

from __future__ import annotations

from torch import Tensor

from matrix.training.batch import Batch
from matrix.training.module import Trained


class SFT(Trained):
    """Mean negative log-likelihood of the target tokens of a whole optimizer step."""

    def sums(self, batch: Batch) -> Tensor:
        """(1,): negative log-likelihood summed over the micro-batch's target tokens."""
        logps: Tensor = self.logps(batch)
        return -logps.sum()[None]
