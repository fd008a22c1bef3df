"""TRL's side of `benchmarks/training_parity.py`: its trainers on untokenised rows, with its own templates and masks."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import trl
from datasets import Dataset
from trl.chat_template_utils import llama3_training_chat_template
from trl.experimental.cpo import CPOConfig, CPOTrainer
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

from matrix.records import Conversation, Message, PreferencePair
from matrix.training.recipe import DPOConfig, PreferenceLoss, SFTConfig

SMOOTHING = 0.15
NAMES = {PreferenceLoss.dpo_norm: "sigmoid_norm", PreferenceLoss.nca: "nca_pair"}
"""What TRL calls a loss, where it has another name for it."""


class Recorded:
    """Keeps the loss of every step, which TRL's log rounds."""

    losses: Sequence[float] = ()

    def compute_loss(self, *arguments: Any, **more: Any) -> Any:
        """What the trainer computes."""
        loss = super().compute_loss(*arguments, **more)  # type: ignore[misc]
        self.losses = [*self.losses, loss.item()]
        return loss


class RecordedSFT(Recorded, trl.SFTTrainer):  # type: ignore[misc]
    """`SFTTrainer` that keeps its losses."""


class RecordedDPO(Recorded, trl.DPOTrainer):  # type: ignore[misc]
    """`DPOTrainer` that keeps its losses."""


class Trainers:
    """TRL's trainers on the CPU in fp32, rows in their order.

    Args:
        folder: for what they write.
        tokenizer: with a Llama 3 template.
        length: tokens of the longest row.
    """

    def __init__(self, folder: Path, tokenizer: Any, length: int) -> None:
        self.tokenizer, self.marked = tokenizer, copy.deepcopy(tokenizer)
        self.marked.chat_template = llama3_training_chat_template  # tells the assistant's tokens from others
        self.options = {
            "output_dir": str(folder), "use_cpu": True, "bf16": False, "gradient_checkpointing": False,
            "max_length": length, "report_to": "none", "disable_tqdm": True, "save_strategy": "no",
            "train_sampling_strategy": "sequential",
        }  # fmt: skip

    def sft(self, model: Any, rows: Sequence[Conversation], **options: Any) -> Any:
        """For the assistants' tokens."""
        args = trl.SFTConfig(assistant_only_loss=True, **self.options, **options)
        data = Dataset.from_list([{"messages": _chat(row.messages)} for row in rows])
        return RecordedSFT(model=model, args=args, train_dataset=data, processing_class=self.marked)

    def dpo(self, model: Any, reference: Any, rows: Sequence[PreferencePair], **options: Any) -> Any:
        """For pairs."""
        args = trl.DPOConfig(**self.options, **options)
        return RecordedDPO(
            model=model, ref_model=reference, args=args, train_dataset=_pairs(rows), processing_class=self.tokenizer
        )

    def losses(
        self, rows: Sequence[PreferencePair], policy: Any, reference: Any, shared: dict[str, Any]
    ) -> Iterator[tuple[str, DPOConfig, float, torch.Tensor | None]]:
        """Every preference loss on all rows as one batch; of ORPO without its likelihood term.

        Yields:
            Name, our config for it (`shared` and what is its own), TRL's number, and what kto takes for the divergence.
        """
        whole: dict[str, Any] = {"per_device_train_batch_size": len(rows)}
        trainer = self.dpo(policy, reference, rows, **whole)
        for loss in map(PreferenceLoss, ("sigmoid", "robust", "hinge", "ipo", "dpo_norm", "apo_zero", "nca")):
            smoothing = SMOOTHING * loss.smooths
            trainer.loss_types, trainer.label_smoothing = [NAMES.get(loss, loss)], smoothing
            yield loss, DPOConfig(**shared, loss=loss, label_smoothing=smoothing), first_loss(trainer), None
        trainer.loss_types, trainer.loss_weights = ["sigmoid", "sft"], [1.0, 0.3]
        yield "sigmoid + sft", DPOConfig(**shared, sft_weight=0.3), first_loss(trainer), None

        common = {"model": policy, "train_dataset": _pairs(rows), "processing_class": self.tokenizer}
        more = {"loss_type": "simpo", "beta": 2.0, "simpo_gamma": 1.0, "cpo_alpha": 0.0}
        trainer = CPOTrainer(args=CPOConfig(**self.options, **whole, **more), **common)
        # CPO and ORPO end an answer with the end-of-text token too.
        simpo = DPOConfig(**shared, loss=PreferenceLoss.simpo, beta=2.0, gamma_beta_ratio=0.5, append_eos=True)
        yield "simpo", simpo, first_loss(trainer), None
        trainer = ORPOTrainer(args=ORPOConfig(beta=0.2, **self.options, **whole), **common)
        orpo = DPOConfig(**shared, loss=PreferenceLoss.orpo, beta=0.2, append_eos=True)
        loss = first_loss(trainer)
        yield "orpo", orpo, loss - trainer._stored_metrics["train"]["nll_loss"][-1], None

        both = trl.KTOConfig(**self.options, per_device_train_batch_size=2 * len(rows))
        common["train_dataset"] = trl.unpair_preference_dataset(common["train_dataset"])
        trainer = trl.KTOTrainer(ref_model=reference, args=both, **common)
        loss = first_loss(trainer)
        kl = trainer._metrics["train" if policy.training else "eval"]["kl"][-1]
        yield "kto", DPOConfig(**shared, loss=PreferenceLoss.kto), loss, torch.tensor(kl)


def first_loss(trainer: Any) -> float:
    """The loss of a trainer's first batch."""
    with torch.no_grad():
        return float(trainer.compute_loss(trainer.model, dict(next(iter(trainer.get_train_dataloader())))))


def optimizer(recipe: SFTConfig | DPOConfig) -> dict[str, Any]:
    """One epoch of AdamW at a constant rate, an optimizer step a batch."""
    return {
        "learning_rate": recipe.learning_rate, "lr_scheduler_type": "constant", "weight_decay": recipe.weight_decay,
        "max_grad_norm": recipe.gradient_clip, "num_train_epochs": 1, "per_device_train_batch_size": recipe.batch_size,
    }  # fmt: skip


def _chat(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": m.role, "content": m.content} for m in messages]


def _pairs(rows: Sequence[PreferencePair]) -> Any:
    def answer(text: str) -> list[dict[str, str]]:
        return [{"role": "assistant", "content": text}]

    columns = ({"prompt": _chat(r.prompt), "chosen": answer(r.chosen), "rejected": answer(r.rejected)} for r in rows)
    return Dataset.from_list(list(columns))
