"""Every preference loss against TRL's trainers: the tensors of their batches, their models, their loss."""

import pytest
import torch
from training_samples import pair

from matrix.training.losses import preference_terms
from matrix.training.recipe import DPOConfig, PreferenceLoss

trl = pytest.importorskip("trl", reason="needs: pip install 'trl==1.16.*'")
# TRL and accelerate warn about their own defaults on a machine without accelerator.
pytestmark = pytest.mark.filterwarnings("ignore")
TOLERANCE = 1e-5
ROWS = 8
SMOOTHING = 0.15


@pytest.fixture(scope="module")
def models(model_config):
    """Policy and reference: the reference's weights, moved a little."""
    from transformers import LlamaForCausalLM

    torch.manual_seed(1)
    reference = LlamaForCausalLM(model_config)
    policy = LlamaForCausalLM(model_config)
    policy.load_state_dict(reference.state_dict())
    with torch.no_grad():
        for weight in policy.parameters():
            weight += 0.02 * torch.randn_like(weight)
    return policy, reference


@pytest.fixture(scope="module")
def preferences():
    from datasets import Dataset

    def columns(row):
        chat = [{"role": m.role, "content": m.content} for m in row.prompt]
        answers = [[{"role": "assistant", "content": text}] for text in (row.chosen, row.rejected)]
        return {"prompt": chat, "chosen": answers[0], "rejected": answers[1]}

    return Dataset.from_list([columns(pair(i)) for i in range(ROWS)])


@pytest.fixture(scope="module")
def common(tmp_path_factory):
    return {
        "use_cpu": True, "bf16": False, "gradient_checkpointing": False, "report_to": "none", "max_length": 256,
        "output_dir": str(tmp_path_factory.mktemp("trl")), "disable_tqdm": True, "per_device_train_batch_size": ROWS,
    }  # fmt: skip


def summed(model, ids, attention, targets):
    """Log-probabilities of each line's targets and their number, by transformers and torch alone."""
    logps = model(input_ids=ids, attention_mask=attention).logits[:, :-1].log_softmax(-1)
    picked = logps.gather(2, ids[:, 1:, None])[..., 0] * targets[:, 1:]
    return picked.sum(1), targets[:, 1:].sum(1)


def by_pair(both):
    """Chosen answers before rejected ones -> (pairs, 2)."""
    return torch.stack(both.chunk(2), 1)


def ours(config, policy, reference, lengths, kl=None):
    """Means over the batch as an optimizer step of its own."""
    found = preference_terms(config, policy, reference, lengths, len(policy), int(lengths[:, 0].sum()), kl)
    return {name: value.mean().item() for name, value in found.items()}


def logged(trainer):
    """The metrics of TRL's last batch."""
    return {
        name: values[-1] for name, values in trainer._metrics["train" if trainer.model.training else "eval"].items()
    }


class TestDPOTrainer:
    @pytest.fixture(scope="class")
    def trainer(self, models, preferences, tokenizer, common):
        return trl.DPOTrainer(
            model=models[0], ref_model=models[1], args=trl.DPOConfig(**common), train_dataset=preferences,
            processing_class=tokenizer,
        )  # fmt: skip

    @pytest.fixture(scope="class")
    def batch(self, trainer):
        return dict(next(iter(trainer.get_train_dataloader())))

    @pytest.fixture(scope="class")
    def measured(self, models, batch):
        with torch.no_grad():
            both = [summed(m, batch["input_ids"], batch["attention_mask"], batch["completion_mask"]) for m in models]
        (policy, lengths), (reference, _) = both
        return by_pair(policy), by_pair(reference), by_pair(lengths)

    def theirs(self, trainer, batch, beta, losses, weights=(1.0, 1.0)):
        trainer.beta, trainer.loss_types, trainer.loss_weights = beta, losses, list(weights[: len(losses)])
        trainer.label_smoothing = SMOOTHING if losses[0] in ("robust", "sigmoid") else 0.0
        with torch.no_grad():
            return trainer.compute_loss(trainer.model, dict(batch)).item()

    @pytest.mark.parametrize("beta", [0.1, 2.0])
    @pytest.mark.parametrize(
        ("loss", "name"),
        [
            ("sigmoid", "sigmoid"), ("robust", "robust"), ("hinge", "hinge"), ("ipo", "ipo"),
            ("dpo_norm", "sigmoid_norm"), ("apo_zero", "apo_zero"), ("nca", "nca_pair"),
        ],
    )  # fmt: skip
    def test_loss(self, trainer, batch, measured, loss, name, beta):
        # TRL's smoothing is set for sigmoid too, which ignores it.
        config = DPOConfig(loss=PreferenceLoss(loss), beta=beta, label_smoothing=SMOOTHING * (loss == "robust"))
        theirs = self.theirs(trainer, batch, beta, [name])
        assert ours(config, *measured)["loss"] == pytest.approx(theirs, abs=TOLERANCE, rel=1e-6)

    def test_sft_weight_is_trls_sft_loss(self, trainer, batch, measured):
        config = DPOConfig(sft_weight=0.3)
        theirs = self.theirs(trainer, batch, 0.1, ["sigmoid", "sft"], weights=(1.0, 0.3))
        assert ours(config, *measured)["loss"] == pytest.approx(theirs, abs=TOLERANCE)

    def test_metrics(self, trainer, batch, measured):
        self.theirs(trainer, batch, 0.1, ["sigmoid"])
        theirs = logged(trainer)
        found = ours(DPOConfig(), *measured)
        names = {
            "rewards_chosen": "rewards/chosen", "rewards_rejected": "rewards/rejected", "margin": "rewards/margins",
            "accuracy": "rewards/accuracies", "logps_chosen": "logps/chosen", "logps_rejected": "logps/rejected",
        }  # fmt: skip
        for our_name, name in names.items():
            assert found[our_name] == pytest.approx(theirs[name], abs=TOLERANCE, rel=1e-6)


def reference_free(trainer, model):
    """A batch of CPO's or ORPO's own tokenisation, its log-probabilities and lengths, and TRL's loss and metrics."""
    batch = next(iter(trainer.get_train_dataloader()))
    with torch.no_grad():
        loss, metrics = trainer.get_batch_loss_metrics(trainer.model, batch, "train")
        sides = [
            summed(model, *(batch[f"{side}_{key}"] for key in ("input_ids", "attention_mask")),
                   batch[f"{side}_labels"] != -100)
            for side in ("chosen", "rejected")
        ]  # fmt: skip
    policy, lengths = (torch.stack(column, 1) for column in zip(*sides, strict=True))
    return batch, policy, lengths, loss.item(), metrics


@pytest.mark.parametrize("sft_weight", [0.0, 0.7])
def test_simpo(models, preferences, tokenizer, common, sft_weight):
    """TRL's gamma is absolute; its likelihood term is a mean over the chosen answers' tokens of a batch, as ours."""
    from trl.experimental.cpo import CPOConfig, CPOTrainer

    config = DPOConfig(loss=PreferenceLoss.simpo, beta=2.0, gamma_beta_ratio=0.4, sft_weight=sft_weight)
    args = CPOConfig(loss_type="simpo", cpo_alpha=sft_weight, beta=2.0, simpo_gamma=0.8, **common)
    trainer = CPOTrainer(model=models[0], args=args, train_dataset=preferences, processing_class=tokenizer)
    _, policy, lengths, loss, metrics = reference_free(trainer, models[0])
    found = ours(config, policy, None, lengths)
    assert found["loss"] == pytest.approx(loss, abs=TOLERANCE)
    for our_name, name in {"rewards_chosen": "rewards/chosen", "accuracy": "rewards/accuracies"}.items():
        assert found[our_name] == pytest.approx(metrics[name], abs=TOLERANCE)


def test_orpo(models, preferences, tokenizer, common):
    """Odds ratios are equal; TRL's likelihood term is over prompt and answer, ours over the answer."""
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    config = DPOConfig(loss=PreferenceLoss.orpo, beta=0.25)
    trainer = ORPOTrainer(
        model=models[0], args=ORPOConfig(beta=0.25, **common), train_dataset=preferences, processing_class=tokenizer
    )
    batch, policy, lengths, loss, metrics = reference_free(trainer, models[0])
    found = ours(config, policy, None, lengths)
    likelihood = -(policy[:, 0].sum() / lengths[:, 0].sum()).item()
    assert found["loss"] - likelihood == pytest.approx(loss - metrics["nll_loss"], abs=TOLERANCE)
    ids, attention = batch["chosen_input_ids"], batch["chosen_attention_mask"]
    with torch.no_grad():
        sums, counts = summed(models[0], ids, attention, attention)
    assert metrics["nll_loss"] == pytest.approx(-(sums.sum() / counts.sum()).item(), abs=TOLERANCE)
    assert found["rewards_rejected"] == pytest.approx(metrics["rewards/rejected"], abs=TOLERANCE)


@pytest.mark.parametrize("clamped", [True, False])
def test_kto(models, preferences, tokenizer, common, clamped):
    """A batch of TRL's that holds both answers of its pairs: its mean over 2n examples is our mean over n pairs.

    z0 is TRL's here: the batch's mean log-ratio of completions rotated by one place, at least 0.
    """
    models = models if clamped else models[::-1]  # random steps away from the reference make every answer less likely
    config = DPOConfig(loss=PreferenceLoss.kto, desirable_weight=1.2, undesirable_weight=0.9)
    args = trl.KTOConfig(beta=0.1, desirable_weight=1.2, undesirable_weight=0.9,
                         **(common | {"per_device_train_batch_size": 2 * ROWS}))  # fmt: skip
    trainer = trl.KTOTrainer(
        model=models[0], ref_model=models[1], args=args, train_dataset=trl.unpair_preference_dataset(preferences),
        processing_class=tokenizer,
    )  # fmt: skip
    batch = dict(next(iter(trainer.get_train_dataloader())))
    assert batch["label"].tolist() == [True] * ROWS + [False] * ROWS  # the same pairs, chosen answers first
    with torch.no_grad():
        theirs = trainer.compute_loss(trainer.model, batch).item()
        both = [summed(m, batch["input_ids"], batch["attention_mask"], batch["completion_mask"]) for m in models]
        mismatched = [batch[f"KL_{key}"] for key in ("input_ids", "attention_mask", "completion_mask")]
        (policy, _), (reference, _) = (summed(m, *mismatched) for m in models)
    kl = (policy - reference).mean().clamp(min=0)
    metrics = logged(trainer)
    assert kl.item() == pytest.approx(metrics["kl"], abs=TOLERANCE)
    assert (kl == 0) == clamped
    found = ours(config, by_pair(both[0][0]), by_pair(both[1][0]), by_pair(both[0][1]), kl)
    assert found["loss"] == pytest.approx(theirs, abs=TOLERANCE)
    assert found["rewards_chosen"] == pytest.approx(metrics["rewards/chosen"], abs=TOLERANCE)
