import pytest
import torch
import torch.nn.functional as F

from matrix.training import losses
from matrix.training.losses import dpo_terms, token_logps
from matrix.training.plan import collate


def sum_by_hand(model, sequence):
    """Log-probability of a sequence's targets through the model's own forward, one sequence at a time, no padding."""
    ids = torch.tensor([sequence.ids])
    logps = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, :-1].log_softmax(-1)
    picked = logps[range(len(sequence.ids) - 1), sequence.ids[1:]]
    return picked[torch.tensor(sequence.targets[1:])].sum()


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize("chunk", [1024, 7])
def test_sft_loss_and_gradients_equal_plain_torch(model, sft_examples, monkeypatch, chunk):
    monkeypatch.setattr(losses, "CHUNK", chunk)
    rows = [0, 3, 5, 1]
    batch = collate(sft_examples, rows, 1)
    ours = -token_logps(model, batch["ids"], batch["targets"]).sum()
    count = sum(sft_examples[i].targets for i in rows)
    labels = batch["ids"].masked_fill(~batch["targets"], -100)
    mask = torch.zeros_like(labels)
    for row, i in enumerate(rows):
        mask[row, : sft_examples[i].length] = 1
    theirs = model(input_ids=batch["ids"], attention_mask=mask, labels=labels).loss
    assert ours.item() / count == pytest.approx(theirs.item(), abs=1e-6)
    difference = gradients(model, ours / count) - gradients(model, theirs)
    assert difference.abs().max() < 1e-6


def test_dpo_loss_and_gradients_equal_plain_torch(model, dpo_examples):
    rows, beta = [4, 1, 2], 0.1
    reference = torch.tensor([[-30.0, -41.0], [-25.5, -20.0], [-18.0, -19.0]])
    batch = collate(dpo_examples, rows, 1)
    policy = torch.stack(token_logps(model, batch["ids"], batch["targets"]).sum(1).chunk(2), 1)
    loss, chosen, rejected, accuracy, margin = dpo_terms(policy, reference, beta, 0.0)
    by_hand = torch.stack([torch.stack([sum_by_hand(model, s) for s in dpo_examples[i].sequences]) for i in rows])
    torch.testing.assert_close(policy, by_hand, atol=2e-5, rtol=0)
    ratio = (by_hand[:, 0] - by_hand[:, 1]) - (reference[:, 0] - reference[:, 1])
    theirs = -F.logsigmoid(beta * ratio).mean()
    assert loss.mean().item() == pytest.approx(theirs.item(), abs=1e-6)
    assert (gradients(model, loss.mean()) - gradients(model, theirs)).abs().max() < 1e-6
    torch.testing.assert_close(margin, chosen - rejected)
    assert accuracy.tolist() == (ratio > 0).float().tolist()


def test_dpo_starts_at_ln_2_and_smoothing_mixes_both_orders():
    policy = torch.tensor([[-3.0, -5.0]])
    assert dpo_terms(policy, policy, 0.1, 0.0)[0].item() == pytest.approx(0.69314718)
    moved, swapped = policy + torch.tensor([[1.0, -1.0]]), policy + torch.tensor([[-1.0, 1.0]])
    right, wrong = (dpo_terms(p, policy, 0.1, 0.0)[0].item() for p in (moved, swapped))
    assert dpo_terms(moved, policy, 0.1, 0.2)[0].item() == pytest.approx(0.8 * right + 0.2 * wrong)


def test_batch_without_targets_gives_zero_and_zero_gradients(model, sft_examples):
    batch = collate(sft_examples, [], 1)
    loss = token_logps(model, batch["ids"], batch["targets"]).sum()
    assert loss.item() == 0
    assert gradients(model, loss).abs().max() == 0
