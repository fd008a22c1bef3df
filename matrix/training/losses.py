"""Preference losses as pure functions of log-probabilities, in one table keyed by `recipe.dpo.loss`.

`preference_terms` is what training calls. Every loss is a function of two scores a pair: of an answer y to a prompt x,
log pi(y|x) - log pi_ref(y|x), or log pi(y|x) where the loss has no reference, summed over the answer's tokens, or
their mean where the loss is in `PER_TOKEN`. What sums over pairs is divided by the pairs of a whole optimizer step, so
no loss depends on how a step is cut into micro-batches and processes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from matrix.training.recipe import DPOConfig, PreferenceLoss

PER_TOKEN = {PreferenceLoss.ipo, PreferenceLoss.dpo_norm, PreferenceLoss.simpo, PreferenceLoss.orpo}
"""Losses whose scores are means over an answer's tokens."""

NEARLY_CERTAIN = -1e-6
"""Mean log-probability above which float32 no longer tells an answer from a certain one."""


def preference_terms(
    config: DPOConfig,
    policy: Tensor,
    reference: Tensor | None,
    lengths: Tensor,
    step_rows: int,
    step_targets: int,
    kl: Tensor | None = None,
) -> dict[str, Tensor]:
    """Loss and metrics of each pair; their sums over an optimizer step's pairs, divided by `step_rows`, are its means.

    Beside the loss stands `sft_weight` times the negative log-likelihood of the chosen answers, a mean over the target
    tokens of the whole step, and not of each answer (Pang et al. 2024, equation 1) or micro-batch (TRL); orpo always
    has it, with weight 1. Rewards are beta times the scores that the loss compares, so means over tokens for ipo and
    dpo_norm, where TRL logs sums.

    Args:
        config: the loss and its constants.
        policy: (n, 2) float32, log-probabilities in nats, summed over the targets of the chosen and rejected answers.
        reference: the same under the reference model; may be None for simpo and orpo.
        lengths: (n, 2) numbers of targets, at least 1.
        step_rows: pairs of the whole optimizer step, over all micro-batches and processes.
        step_targets: target tokens of its chosen answers.
        kl: kto's z0, a detached scalar, at least 0; no other loss reads it.

    Returns:
        (n,) float32 each: `loss` with its gradient; then, detached, rewards_chosen, rewards_rejected, accuracy (whether
        the chosen answer is ahead), margin (of the rewards), logps_chosen, logps_rejected (sums, nats), length_chosen,
        length_rejected (tokens), and with a reference drift_chosen (policy - reference, nats) and kl (reference -
        policy of the rejected answer, nats: where the reference wrote that, as in MATRIX, the mean estimates
        KL(reference || policy) of an answer).

    Raises:
        ValueError: the loss needs a reference, or kto its z0, and there is none.
    """
    scores = policy
    if config.loss.needs_reference:
        if reference is None:
            raise ValueError(f"loss={config.loss} compares with a reference model: pass its log-probabilities")
        scores = policy - reference
    if config.loss in PER_TOKEN:
        scores = scores / lengths
    compared = scores
    if config.loss is PreferenceLoss.kto:
        if kl is None:
            raise ValueError("loss=kto measures rewards against an estimate of the KL divergence: pass kl")
        compared = scores - kl
    loss = LOSSES[config.loss](config, *compared.unbind(1))
    if weight := 1.0 if config.loss is PreferenceLoss.orpo else config.sft_weight:
        loss = loss - weight * step_rows / step_targets * policy[:, 0]

    rewards, logps, counts = config.beta * scores.detach(), policy.detach(), lengths.to(policy.dtype)
    margin = rewards[:, 0] - rewards[:, 1]
    terms = {
        "loss": loss,
        "rewards_chosen": rewards[:, 0],
        "rewards_rejected": rewards[:, 1],
        "accuracy": (margin > 0).to(policy.dtype),
        "margin": margin,
        "logps_chosen": logps[:, 0],
        "logps_rejected": logps[:, 1],
        "length_chosen": counts[:, 0],
        "length_rejected": counts[:, 1],
    }
    if reference is not None:
        terms["drift_chosen"] = logps[:, 0] - reference[:, 0]
        terms["kl"] = reference[:, 1] - logps[:, 1]
    return terms


def sigmoid(config: DPOConfig, chosen: Tensor, rejected: Tensor) -> Tensor:
    """DPO (Rafailov et al. 2023, equation 7): -log s(beta m), where m = chosen - rejected and s is the logistic."""
    return -F.logsigmoid(config.beta * (chosen - rejected))


def cdpo(config: DPOConfig, chosen: Tensor, rejected: Tensor) -> Tensor:
    """Conservative DPO (Mitchell 2023, equation 3): DPO's cross entropy with targets 1 - e and e = label_smoothing.

    It is what `label_smoothing` makes of sigmoid DPO in the author's code, open-instruct and OpenRLHF. TRL 1.16 has no
    such loss: it ignores the smoothing there.
    """
    e, margin = config.label_smoothing, config.beta * (chosen - rejected)
    return -(1 - e) * F.logsigmoid(margin) - e * F.logsigmoid(-margin)


def robust(config: DPOConfig, chosen: Tensor, rejected: Tensor) -> Tensor:
    """Robust DPO (Chowdhury et al. 2024, section 3.1): its mean over labels flipped with probability e is DPO's loss.

    ((1 - e) l(m) - e l(-m)) / (1 - 2 e) with DPO's l; not bounded below, as for large m it falls like -e beta m.
    """
    e, margin = config.label_smoothing, config.beta * (chosen - rejected)
    return (e * F.logsigmoid(-margin) - (1 - e) * F.logsigmoid(margin)) / (1 - 2 * e)


def hinge(config: DPOConfig, chosen: Tensor, rejected: Tensor) -> Tensor:
    """max(0, 1 - beta m): SLiC-HF's loss (Zhao et al. 2023, section 2) on log-ratios, as in RSO (Liu et al. 2023)."""
    return F.relu(1 - config.beta * (chosen - rejected))


def ipo(config: DPOConfig, chosen: Tensor, rejected: Tensor) -> Tensor:
    """IPO (Azar et al. 2023, equation 17): (m - 1 / (2 tau))^2 with tau = beta.

    Log-ratios are means over tokens, as in TRL, which names the authors for it; the paper and OpenRLHF have sums.
    """
    return (chosen - rejected - 1 / (2 * config.beta)) ** 2


def simpo(config: DPOConfig, chosen: Tensor, rejected: Tensor) -> Tensor:
    """SimPO (Meng et al. 2024, equation 6): -log s(beta m - gamma) of mean log-probabilities.

    gamma = gamma_beta_ratio * beta, as the authors' configs have it; TRL's `simpo_gamma` is gamma itself.
    """
    return -F.logsigmoid(config.beta * (chosen - rejected - config.gamma_beta_ratio))


def orpo(config: DPOConfig, chosen: Tensor, rejected: Tensor) -> Tensor:
    """ORPO's odds ratio (Hong et al. 2024, equations 4 and 7): -lambda log s(log odds ratio), lambda = beta.

    The likelihood term of its equation 6 is added by `preference_terms`, over the answers' tokens. TRL takes prompts
    into it too, and so does the authors' code without its `disable_prompt_loss`.
    """
    return -config.beta * F.logsigmoid(_log_odds(chosen) - _log_odds(rejected))


def _log_odds(logp: Tensor) -> Tensor:
    """log(p / (1 - p)) of log p; `expm1` keeps 1 - p exact where p is near 1, and near 0 it does not matter."""
    return logp - torch.log(-torch.expm1(logp.clamp(max=NEARLY_CERTAIN)))


def kto(config: DPOConfig, chosen: Tensor, rejected: Tensor) -> Tensor:
    """KTO (Ethayarajh et al. 2024, equation 7): a pair is a desirable and an undesirable example.

    Half of w_d (1 - s(beta (chosen - z0))) + w_u (1 - s(beta (z0 - rejected))); scores come here less z0. The mean over
    a step's pairs is the mean over its 2 * step_rows examples. TRL's KTOTrainer averages over the examples of a batch,
    whatever their labels: the same number where a batch holds both answers of its pairs and z0 is the same. Its z0 is
    that of a micro-batch on all processes, with its completions rotated by one; here z0 is the whole step's.
    """
    desirable = config.desirable_weight * torch.sigmoid(-config.beta * chosen)
    return (desirable + config.undesirable_weight * torch.sigmoid(config.beta * rejected)) / 2


def apo_zero(config: DPOConfig, chosen: Tensor, rejected: Tensor) -> Tensor:
    """APO-zero (D'Oosterlinck et al. 2024, equation 7): 1 - s(beta chosen) + s(beta rejected); the 1 is TRL's."""
    return torch.sigmoid(-config.beta * chosen) + torch.sigmoid(config.beta * rejected)


def nca(config: DPOConfig, chosen: Tensor, rejected: Tensor) -> Tensor:
    """NCA for pairs (Chen et al. 2024, section 4.1): -log s(r_c) - (log s(-r_c) + log s(-r_r)) / 2, r = beta score."""
    good, bad = config.beta * chosen, config.beta * rejected
    return -F.logsigmoid(good) - (F.logsigmoid(-good) + F.logsigmoid(-bad)) / 2


LOSSES: dict[PreferenceLoss, Callable[[DPOConfig, Tensor, Tensor], Tensor]] = {
    PreferenceLoss.sigmoid: sigmoid,
    PreferenceLoss.cdpo: cdpo,
    PreferenceLoss.robust: robust,
    PreferenceLoss.hinge: hinge,
    PreferenceLoss.ipo: ipo,
    PreferenceLoss.dpo_norm: sigmoid,  # length-normalised DPO (Lambert et al. 2024, Tulu 3, section 5): PER_TOKEN
    PreferenceLoss.simpo: simpo,
    PreferenceLoss.orpo: orpo,
    PreferenceLoss.kto: kto,
    PreferenceLoss.apo_zero: apo_zero,
    PreferenceLoss.nca: nca,
}
"""From the scores of chosen and rejected answers, (n,) each, to the loss of each pair."""
