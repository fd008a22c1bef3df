"""Preference training (paper section 4.1, beta of Table 9): the losses of `matrix.training.losses` on pairs.

The reference model is the model that training starts from. One pass over the pairs before the first step replaces it
(`matrix.training.stage.Refer`); what it said is looked up by the pair's id.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence as Many
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from matrix.jsonl import read_jsonl, write_jsonl
from matrix.records import Reference
from matrix.training.batch import Batch
from matrix.training.chat import Sequence
from matrix.training.data import Example
from matrix.training.logprobs import sequence_sums
from matrix.training.losses import preference_terms
from matrix.training.module import Trained
from matrix.training.plan import Step
from matrix.training.recipe import DPOConfig, PreferenceLoss, TrainingError

log = logging.getLogger(__name__)

METRICS = [
    "loss", "rewards_chosen", "rewards_rejected", "accuracy", "margin", "logps_chosen", "logps_rejected",
    "drift_chosen", "kl", "length_chosen", "length_rejected",
]  # fmt: skip


class DPO(Trained):
    """Preference training against a table of the reference's log-probabilities.

    The table, (examples, 2) float32, stays out of the batches: DeepSpeed would round it to bf16, an error of whole nats
    on long answers.

    For kto, `examples` holds a second half: each pair's prompt with the answers of the next pair, from which the
    divergence of policy and reference is estimated before every step.
    """

    divisor = "step_rows"
    config: DPOConfig

    def __init__(self, reference: Path | None, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.reference: Tensor | None = None
        self.kl: Tensor | None = None
        if reference:
            self.reference = read_reference(reference, self.examples)

    @property
    def columns(self) -> list[str]:
        """Names of the numbers that `sums` returns."""
        compared = ("drift_chosen", "kl")
        return [name for name in METRICS if name not in compared or self.config.loss.needs_reference]

    def sums(self, batch: Batch) -> Tensor:
        """(len(columns),): loss and metrics summed over the micro-batch's pairs."""
        policy, lengths = self.answers(batch)
        reference = self.reference.to(policy.device)[batch["rows"]] if self.reference is not None else None
        counts = batch["step_rows"], batch["step_targets"]
        terms = preference_terms(self.config, policy, reference, lengths, *counts, kl=self.kl)
        sums = torch.stack([terms[name].sum() for name in self.columns])
        if self.trainer.global_step == 0 and self.training and len(policy):
            self._check_start(sums[0].item() / len(policy))
        return sums

    def answers(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """(pairs, 2) log-probabilities of the chosen and rejected answers, and their numbers of targets."""
        logps, pairs = self.logps(batch), len(batch["rows"])
        summed = sequence_sums(logps, batch["owner"], 2 * pairs).view(pairs, 2)
        return summed, torch.bincount(batch["owner"], minlength=2 * pairs).view(pairs, 2)

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Before the first micro-batch of a step of kto: its z0, from all processes."""
        if self.config.loss is PreferenceLoss.kto and batch_idx % self.plan.accumulation == 0:
            self.kl = self._divergence(self.plan.steps[self.trainer.global_step])

    def evaluate(self) -> dict[str, float]:
        """The metrics on the held-out pairs, for kto with their own divergence."""
        if self.config.loss is PreferenceLoss.kto:
            assert self.plan.held_out
            self.kl = self._divergence(self.plan.held_out)
        return super().evaluate()

    def _divergence(self, step: Step) -> Tensor:
        """Mean log-ratio of policy and reference on mismatched answers, not below 0 (Ethayarajh et al. 2024)."""
        assert self.reference is not None
        half = len(self.examples) // 2
        shifted = [[i + half for i in rows] for rows in step.micro_batches]
        total = torch.zeros((), device=self.device)
        with self.measuring():
            for batch in self.each(Step(shifted, step.rows, step.targets, step.tokens)):
                total += (self.answers(batch)[0] - self.reference.to(self.device)[batch["rows"]]).sum()
        mean: Tensor = self.trainer.strategy.reduce(total, reduce_op="sum") / (2 * step.rows)
        return mean.clamp(min=0)

    def _check_start(self, loss: float) -> None:
        """Before the first update policy and reference are one model, so the loss is ln 2 whatever the data."""
        if not self.config.loss.starts_at_ln_2 or self.config.sft_weight:
            return
        if not math.isclose(loss, math.log(2), abs_tol=0.02 if self.trainer.precision.startswith("bf16") else 1e-3):
            raise TrainingError(
                f"the first DPO loss is {loss:.6f} and not ln 2 = {math.log(2):.6f}: the reference log-probabilities "
                "do not belong to these weights. Make them again: store.mode=refresh"
            )


class Referring(DPO):
    """Not training: one pass over all pairs, and `reference.jsonl` of what the model says of them."""

    def __init__(self, file: Path, *arguments: Any) -> None:
        super().__init__(None, *arguments)
        self.file = file

    def on_train_start(self) -> None:
        """Measure everything before the first step, and stop."""
        super().on_train_start()
        table = torch.zeros(len(self.examples), 2, device=self.device)
        with self.measuring():
            for step in self.plan.steps:
                for batch in self.each(step):
                    table[batch["rows"]] = self.answers(batch)[0].float()
        table = self.trainer.strategy.reduce(table, reduce_op="sum").cpu()
        if self.trainer.is_global_zero:
            rows = zip(self.examples, table.tolist(), strict=True)
            write_jsonl(self.file, [Reference(row=e.id, chosen=c, rejected=r) for e, (c, r) in rows])
        self.trainer.should_stop = True


def mismatched(examples: Many[Example], max_length: int) -> list[Example]:
    """Every pair's prompt with the next pair's answers (kto), cut at `max_length`; whatever the order of training."""
    found = []
    for mine, other in zip(examples, [*examples[1:], examples[0]], strict=True):
        prompt = mine.sequences[0].ids[: mine.prefix]
        answers = [(s.ids[other.prefix :], s.targets[other.prefix :]) for s in other.sequences]
        whole = [Sequence([*prompt, *ids], [False] * len(prompt) + targets) for ids, targets in answers]
        sequences = tuple(Sequence(s.ids[:max_length], s.targets[:max_length]) for s in whole)
        found.append(Example(f"{mine.id}+{other.id}", sequences))
    return found


def read_reference(file: Path, examples: Many[Example]) -> Tensor:
    """(examples, 2) float32 log-probabilities of the chosen and rejected answers, in the order of the examples.

    Raises:
        TrainingError: an example is missing.
    """
    known = {row.row: (row.chosen, row.rejected) for row in read_jsonl(file, Reference)}
    if missing := [e.id for e in examples if e.id not in known]:
        raise TrainingError(
            f"{file} says nothing of {len(missing)} of {len(examples)} pairs, e.g. {missing[0]}: it was made of other "
            "rows. Make it again: store.mode=refresh"
        )
    return torch.tensor([known[e.id] for e in examples])
