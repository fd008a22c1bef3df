"""The preference losses against formulas written out in float64, their identities, gradients and extremes."""

import math

import pytest
import torch

from matrix.training.losses import LOSSES, preference_terms
from matrix.training.recipe import DPOConfig, PreferenceLoss

CONFIGS = {
    loss: DPOConfig(
        loss=loss, beta=0.3, label_smoothing=0.15 if loss.smooths else 0.0, gamma_beta_ratio=0.4, desirable_weight=1.3,
        undesirable_weight=0.8,
    )
    for loss in PreferenceLoss
}  # fmt: skip
POLICY = torch.tensor([[-30.0, -41.0], [-25.5, -20.0], [-18.0, -19.5], [-3.0, -60.0]])
REFERENCE = torch.tensor([[-33.0, -40.0], [-25.0, -23.5], [-18.0, -19.5], [-4.0, -44.0]])
LENGTHS = torch.tensor([[11, 14], [9, 5], [4, 21], [2, 30]])
KL = torch.tensor(0.7)
every_loss = pytest.mark.parametrize("loss", list(PreferenceLoss))


def terms(config, policy=POLICY, reference=REFERENCE, lengths=LENGTHS, step_rows=4, step_targets=26, kl=KL):
    reference = reference if config.loss.needs_reference else None
    kl = kl if config.loss is PreferenceLoss.kto else None
    return preference_terms(config, policy, reference, lengths, step_rows, step_targets, kl)


def sigma(x):
    return 1 / (1 + math.exp(-x))


def by_hand(config, policy, reference, lengths):
    """One pair's loss and rewards, in Python's floats and straight from the papers, without log-space tricks."""
    (pw, pl), (rw, rl), (nw, nl) = policy, reference, lengths
    c, b, e = config, config.beta, config.label_smoothing
    margin = b * ((pw - rw) - (pl - rl))
    odds = [math.exp(p / n) / (1 - math.exp(p / n)) for p, n in ((pw, nw), (pl, nl))]
    loss = {
        "sigmoid": -math.log(sigma(margin)),
        "cdpo": -(1 - e) * math.log(sigma(margin)) - e * math.log(sigma(-margin)),
        "robust": (-(1 - e) * math.log(sigma(margin)) + e * math.log(sigma(-margin))) / (1 - 2 * e),
        "hinge": max(0.0, 1 - margin),
        "ipo": ((pw - rw) / nw - (pl - rl) / nl - 1 / (2 * b)) ** 2,
        "dpo_norm": -math.log(sigma(b * ((pw - rw) / nw - (pl - rl) / nl))),
        "simpo": -math.log(sigma(b / nw * pw - b / nl * pl - c.gamma_beta_ratio * b)),
        "orpo": -b * math.log(sigma(math.log(odds[0] / odds[1]))) - pw * 4 / 26,
        "kto": (c.desirable_weight * (1 - sigma(b * (pw - rw - 0.7)))
                + c.undesirable_weight * (1 - sigma(b * (0.7 - (pl - rl))))) / 2,
        "apo_zero": 1 - sigma(b * (pw - rw)) + sigma(b * (pl - rl)),
        "nca": -math.log(sigma(b * (pw - rw)))
        - 0.5 * sum(math.log(sigma(-b * score)) for score in (pw - rw, pl - rl)),
    }[c.loss]  # fmt: skip
    per_token = c.loss in ("ipo", "dpo_norm", "simpo", "orpo")
    origin = (rw, rl) if c.loss.needs_reference else (0, 0)
    rewards = [b * (p - o) / (n if per_token else 1) for p, o, n in zip((pw, pl), origin, (nw, nl), strict=True)]
    return loss, *rewards


def test_every_loss_is_in_the_table():
    assert set(LOSSES) == set(PreferenceLoss)


@every_loss
def test_loss_and_rewards_equal_the_papers_formulas(loss):
    found = terms(CONFIGS[loss])
    expected = [
        by_hand(CONFIGS[loss], *pair)
        for pair in zip(POLICY.tolist(), REFERENCE.tolist(), LENGTHS.tolist(), strict=True)
    ]
    for name, column in zip(("loss", "rewards_chosen", "rewards_rejected"), zip(*expected, strict=True), strict=True):
        torch.testing.assert_close(found[name], torch.tensor(column), atol=1e-6, rtol=2e-6)


@every_loss
def test_metrics(loss):
    found = terms(CONFIGS[loss], policy=POLICY.clone().requires_grad_())
    assert next(iter(found)) == "loss"
    assert [name for name, value in found.items() if value.requires_grad] == ["loss"]
    assert all(value.shape == (4,) and value.dtype == torch.float32 for value in found.values())
    torch.testing.assert_close(found["margin"], found["rewards_chosen"] - found["rewards_rejected"])
    assert found["accuracy"].tolist() == (found["rewards_chosen"] > found["rewards_rejected"]).float().tolist()
    assert found["logps_chosen"].tolist() == POLICY[:, 0].tolist()
    assert found["logps_rejected"].tolist() == POLICY[:, 1].tolist()
    assert found["length_chosen"].tolist() == LENGTHS[:, 0].tolist()
    assert found["length_rejected"].tolist() == LENGTHS[:, 1].tolist()
    assert ("drift_chosen" in found) == loss.needs_reference
    if loss.needs_reference:
        assert found["drift_chosen"].tolist() == [3.0, -0.5, 0.0, 1.0]
        assert found["kl"].tolist() == (REFERENCE - POLICY)[:, 1].tolist()


@every_loss
@pytest.mark.parametrize("sft_weight", [0.0, 0.5])
def test_gradients_equal_finite_differences(loss, sft_weight):
    config = DPOConfig(**(vars(CONFIGS[loss]) | {"sft_weight": sft_weight}))
    policy = POLICY.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda p: terms(config, p, REFERENCE.double(), kl=KL.double())["loss"], policy)


@every_loss
def test_raising_the_chosen_and_lowering_the_rejected_answer_lowers_the_loss(loss):
    if loss is PreferenceLoss.ipo:  # has its minimum at a margin of 1 / (2 beta)
        config = DPOConfig(loss=loss, beta=0.01)
    else:
        config = DPOConfig(**(vars(CONFIGS[loss]) | {"beta": 0.05}))  # a small margin: hinge and nca are not flat
    policy = POLICY.clone().requires_grad_()
    terms(config, policy)["loss"].sum().backward()
    assert (policy.grad[:, 0] < 0).all()
    assert (policy.grad[:, 1] > 0).all()


def test_where_policy_equals_reference_the_loss_is_known():
    start = {
        "sigmoid": math.log(2), "cdpo": math.log(2), "robust": math.log(2), "dpo_norm": math.log(2), "hinge": 1.0,
        "ipo": 1 / (2 * 0.3) ** 2, "kto": (1.3 + 0.8) / 4, "apo_zero": 1.0, "nca": 2 * math.log(2),
    }  # fmt: skip
    for name, value in start.items():
        found = terms(CONFIGS[PreferenceLoss(name)], reference=POLICY, kl=torch.tensor(0.0))
        torch.testing.assert_close(found["loss"], torch.full((4,), value))
        assert found["accuracy"].sum() == 0


def test_losses_that_are_special_cases_of_each_other():
    config = CONFIGS[PreferenceLoss.sigmoid]
    sigmoid = terms(config)["loss"]
    swapped = terms(config, policy=POLICY.flip(1), reference=REFERENCE.flip(1))["loss"]
    torch.testing.assert_close(terms(CONFIGS[PreferenceLoss.cdpo])["loss"], 0.85 * sigmoid + 0.15 * swapped)
    torch.testing.assert_close(terms(CONFIGS[PreferenceLoss.robust])["loss"], (0.85 * sigmoid - 0.15 * swapped) / 0.7)
    for loss in (PreferenceLoss.cdpo, PreferenceLoss.robust):
        almost = DPOConfig(loss=loss, beta=0.3, label_smoothing=1e-9)
        torch.testing.assert_close(terms(almost)["loss"], sigmoid)
    one = torch.ones_like(LENGTHS)
    torch.testing.assert_close(terms(CONFIGS[PreferenceLoss.dpo_norm], lengths=one)["loss"], sigmoid)
    plain = DPOConfig(loss=PreferenceLoss.simpo, beta=0.3, gamma_beta_ratio=0.0)
    torch.testing.assert_close(terms(plain, lengths=one)["loss"], terms(config, reference=torch.zeros(4, 2))["loss"])
    kto = terms(DPOConfig(loss=PreferenceLoss.kto, beta=0.3), kl=torch.tensor(0.0))["loss"]
    torch.testing.assert_close(2 * kto, terms(CONFIGS[PreferenceLoss.apo_zero])["loss"])


def test_robust_loss_over_flipped_labels_averages_to_the_clean_loss():
    config = CONFIGS[PreferenceLoss.robust]
    right = terms(config)["loss"]
    wrong = terms(config, policy=POLICY.flip(1), reference=REFERENCE.flip(1))["loss"]
    torch.testing.assert_close(0.85 * right + 0.15 * wrong, terms(CONFIGS[PreferenceLoss.sigmoid])["loss"])


@every_loss
def test_sums_over_a_step_do_not_depend_on_how_it_is_cut(loss):
    config = DPOConfig(**(vars(CONFIGS[loss]) | {"sft_weight": 0.5}))
    whole = terms(config)["loss"].sum() / 4
    cut = [terms(config, POLICY[i], REFERENCE[i], LENGTHS[i])["loss"].sum() / 4 for i in ([2], [0, 3], [], [1])]
    torch.testing.assert_close(sum(cut), whole)


@every_loss
def test_sft_weight_adds_the_steps_mean_over_chosen_tokens(loss):
    config = DPOConfig(**(vars(CONFIGS[loss]) | {"sft_weight": 0.5}))
    added = (terms(config)["loss"] - terms(CONFIGS[loss])["loss"]).sum() / 4
    mean = -POLICY[:, 0].sum() / LENGTHS[:, 0].sum()
    expected = 0.0 if loss is PreferenceLoss.orpo else 0.5 * mean.item()  # orpo's own likelihood term has weight 1
    assert added.item() == pytest.approx(expected, abs=1e-5)


@every_loss
def test_loss_and_gradient_are_finite_at_extremes(loss):
    certain, hopeless = 0.0, -1e5
    policy = torch.tensor([[certain, certain], [certain, hopeless], [hopeless, certain], [hopeless, hopeless],
                           [-1e-7, -1e-7], [-1e-7, -3e4], [-3e4, -1e-7]], requires_grad=True)  # fmt: skip
    found = terms(CONFIGS[loss], policy, policy.detach().flip(1), torch.full((7, 2), 3), step_rows=7, step_targets=21)
    found["loss"].sum().backward()
    assert found["loss"].isfinite().all()
    assert policy.grad.isfinite().all()


def test_orpo_keeps_its_digits_where_an_answer_is_nearly_certain_or_nearly_impossible():
    config = DPOConfig(loss=PreferenceLoss.orpo, beta=1.0)
    policy = torch.tensor([[-1e-5, -2e-5], [-50.0, -51.0], [-1e-4, -80.0], [-2.0, -1e-3]])
    found = terms(config, policy, lengths=torch.ones(4, 2, dtype=torch.long), step_targets=4)["loss"] + policy[:, 0]
    pairs = policy.double().tolist()
    odds = [[p - math.log(-math.expm1(p)) for p in pair] for pair in pairs]
    expected = [math.log1p(math.exp(rejected - chosen)) for chosen, rejected in odds]
    torch.testing.assert_close(found, torch.tensor(expected), atol=1e-6, rtol=1e-5)


def test_a_loss_without_what_it_needs_says_so():
    with pytest.raises(ValueError, match="loss=sigmoid compares with a reference model"):
        preference_terms(CONFIGS[PreferenceLoss.sigmoid], POLICY, None, LENGTHS, 4, 26)
    with pytest.raises(ValueError, match="pass kl"):
        preference_terms(CONFIGS[PreferenceLoss.kto], POLICY, REFERENCE, LENGTHS, 4, 26)
