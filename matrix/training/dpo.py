"""Direct preference optimisation (paper section 4.1, beta of Table 9) against a reference table computed once."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from matrix.training.losses import dpo_terms, token_logps
from matrix.training.module import Trained
from matrix.training.plan import collate
from matrix.training.recipe import DPOConfig, TrainingError

log = logging.getLogger(__name__)


class DPO(Trained):
    """Sigmoid DPO. The reference model is the starting model, so one pass before the first step replaces it.

    Its log-probabilities live in `reference`, (examples, 2) float32, and not in the batches: DeepSpeed would round them
    to bf16, an error of whole nats on long answers. `reference_file` keeps them for a resumed run, whose weights have
    moved by then.
    """

    columns: ClassVar[list[str]] = ["loss", "rewards_chosen", "rewards_rejected", "accuracy", "margin"]
    config: DPOConfig

    def __init__(self, reference_file: Path, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.reference_file = reference_file
        self.reference = torch.empty(0)

    def sums(self, batch: dict[str, Any]) -> Tensor:
        """(5,): loss, rewards, accuracy and margin summed over the micro-batch's pairs."""
        policy = self._answers(batch)
        sums = dpo_terms(policy, self.reference[batch["rows"]], self.config.beta, self.config.label_smoothing).sum(1)
        if self.trainer.global_step == 0 and len(policy):
            self._check_start(sums[0].item() / len(policy))
        return sums

    def on_train_start(self) -> None:
        """Load the reference table, or compute it while the weights are still those of the reference."""
        if self.reference_file.exists():
            self.reference = torch.load(self.reference_file, weights_only=True).to(self.device)
            return
        if self.trainer.global_step > 0:
            raise TrainingError(
                f"{self.reference_file} is gone. Remove {self.reference_file.parent} to train from the start"
            )
        rank, world = self.trainer.global_rank, self.trainer.world_size
        table = torch.zeros(len(self.examples), 2, device=self.device)
        self.model.eval()
        batches = [rows for step in self.plan.steps for rows in step.micro_batches]
        seen: set[int] = set()
        with torch.no_grad(), self.trainer.precision_plugin.forward_context():
            for number in range(0, len(batches), world):
                if seen.issuperset(i for rows in batches[number : number + world] for i in rows):
                    continue  # a later epoch, already there; the same on all processes, which ZeRO stage 3 needs
                seen.update(i for rows in batches[number : number + world] for i in rows)
                rows = batches[number + rank]
                batch = {k: v.to(self.device) for k, v in collate(self.examples, rows, 1).items() if k != "normaliser"}
                table[batch["rows"]] = self._answers(batch)
        self.model.train()
        self.reference = self.trainer.strategy.reduce(table, reduce_op="sum")
        if self.trainer.is_global_zero:
            unfinished = self.reference_file.with_suffix(".partial")
            torch.save(self.reference.cpu(), unfinished)
            unfinished.replace(self.reference_file)
        log.info("reference log-probabilities of %d pairs are ready", len(self.examples))

    def _answers(self, batch: dict[str, Any]) -> Tensor:
        """(pairs, 2): log-probabilities of the chosen and rejected answers."""
        pairs = len(batch["rows"])
        summed = token_logps(self.model, batch["ids"], batch["targets"]).sum(1)
        return torch.stack([summed[:pairs], summed[pairs : 2 * pairs]], 1)

    def _check_start(self, loss: float) -> None:
        """Before the first update policy and reference are one model, so the loss is ln 2 whatever the data."""
        if not math.isclose(loss, math.log(2), abs_tol=0.02 if self.trainer.precision.startswith("bf16") else 1e-3):
            raise TrainingError(
                f"the first DPO loss is {loss:.6f} and not ln 2 = {math.log(2):.6f}: the reference log-probabilities "
                f"do not belong to these weights. Remove {self.reference_file.parent} and train from the start"
            )
