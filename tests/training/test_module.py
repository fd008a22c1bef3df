"""Lightning around the losses, in this process: what is trained does not depend on how it is cut."""

import csv
import math

import pytest
import torch

from matrix.training.dpo import DPO
from matrix.training.module import rate
from matrix.training.plan import make_plan
from matrix.training.recipe import DPOConfig, Precision, Schedule, SFTConfig, TrainingError
from matrix.training.sft import SFT
from matrix.training.worker import fit

pytestmark = [
    # Lightning 2.6 calls what torch 2.13 deprecates, and advises on loader workers and loggers.
    pytest.mark.filterwarnings("ignore:.*treespec.*"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
]

COMMON = {"precision": Precision.fp32, "batch_size": 4, "epochs": 1, "learning_rate": 1e-2, "checkpoint_every": 0}


def trained(work, base, config, examples):
    (work / "checkpoints").mkdir(parents=True)
    plan = make_plan(examples, config.epochs, config.batch_size, config.micro_batch_size, 1, seed=0)
    shared = ((str(base.path / "hf"), None), False, config, plan, examples)
    dpo = isinstance(config, DPOConfig)
    module = DPO(work / "checkpoints" / "reference.pt", *shared) if dpo else SFT(*shared)
    fit(module, work, seed=0)
    with (work / "metrics.csv").open() as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    return module, rows


@pytest.mark.parametrize("kind", [SFTConfig, DPOConfig])
def test_losses_and_weights_do_not_depend_on_the_micro_batch_size(kind, tmp_path, base, sft_examples, dpo_examples):
    examples = sft_examples if kind is SFTConfig else dpo_examples
    runs = [
        trained(tmp_path / str(m), base, kind(micro_batch_size=m, gradient_clip=0, **COMMON), examples)
        for m in (1, 3, 4)
    ]
    (first, rows), *others = runs
    for module, theirs in others:
        for number, (row, other) in enumerate(zip(rows, theirs, strict=True)):
            # AdamW blows the last digits of its first update up, where second moments are tiny.
            assert other["loss"] == pytest.approx(row["loss"], abs=1e-4 if number else 2e-6)
            assert other["gradient_norm"] == pytest.approx(row["gradient_norm"], rel=1e-3 if number else 1e-5)
        for mine, other in zip(first.model.parameters(), module.model.parameters(), strict=True):
            moved = (mine - other).abs()
            assert moved.mean() < 1e-5
            assert moved.max() < 1e-3  # a tenth of one update: AdamW divides by second moments that may be tiny
    assert rows[-1]["step"] == math.ceil(len(examples) / 4)


def test_first_step_is_adamw_on_the_mean_over_all_targets(tmp_path, base, model, sft_examples):
    config = SFTConfig(micro_batch_size=2, **{**COMMON, "batch_size": 11, "warmup_ratio": 0.0})
    module, rows = trained(tmp_path, base, config, sft_examples)
    total = torch.zeros(())
    for example in sft_examples:
        (sequence,) = example.sequences
        ids = torch.tensor([sequence.ids])
        labels = ids.masked_fill(~torch.tensor([sequence.targets]), -100)
        total = total + model(input_ids=ids, labels=labels).loss * example.targets
    loss = total / sum(example.targets for example in sft_examples)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    torch.optim.AdamW(model.parameters(), lr=1e-2, betas=(0.9, 0.999), weight_decay=0.0).step()
    assert rows[0]["loss"] == pytest.approx(loss.item(), abs=1e-6)
    assert rows[0]["gradient_norm"] == pytest.approx(norm.item(), rel=1e-5)
    assert rows[0]["learning_rate"] == pytest.approx(1e-2)
    for mine, theirs in zip(module.model.parameters(), model.parameters(), strict=True):
        moved = (mine - theirs).abs()
        assert moved.mean() < 1e-6
        assert moved.max() < 1e-3  # where the gradient is about zero, AdamW's first step is its sign


def test_dpo_starts_at_ln_2_and_learns(tmp_path, base, dpo_examples):
    config = DPOConfig(micro_batch_size=2, **{**COMMON, "epochs": 4, "learning_rate": 1e-3})
    _, rows = trained(tmp_path, base, config, dpo_examples)
    assert rows[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert rows[0]["rewards_chosen"] == pytest.approx(0, abs=1e-5)
    assert rows[-1]["loss"] < 0.6
    assert rows[-1]["accuracy"] == 1
    assert rows[-1]["margin"] == pytest.approx(rows[-1]["rewards_chosen"] - rows[-1]["rewards_rejected"], abs=1e-6)


def test_reference_of_other_weights_is_refused(tmp_path, base, dpo_examples):
    work = tmp_path / "work"
    torch.save(torch.full((len(dpo_examples), 2), -3.0) * torch.tensor([1.0, 9.0]), tmp_path / "reference.pt")
    config = DPOConfig(**COMMON)
    work.mkdir()
    plan = make_plan(dpo_examples, 1, 4, 1, 1, seed=0)
    source = (str(base.path / "hf"), None)
    with pytest.raises(TrainingError, match="not ln 2"):
        fit(DPO(tmp_path / "reference.pt", source, False, config, plan, dpo_examples), work, seed=0)


def test_rate_warms_up_and_follows_its_schedule():
    config = SFTConfig(warmup_ratio=0.1)
    rates = [rate(step, 100, config) for step in range(101)]
    assert rates[0] == pytest.approx(1 / 11)
    assert rates[10] == 1
    assert rates[55] == pytest.approx(0.5)
    assert rates[100] == pytest.approx(0)
    assert rates[:11] == sorted(rates[:11])
    assert rate(55, 100, SFTConfig(warmup_ratio=0.1, schedule=Schedule.linear)) == pytest.approx(0.5)
    assert rate(99, 100, SFTConfig(warmup_ratio=0.0, schedule=Schedule.constant)) == 1
    assert rate(0, 1, SFTConfig(warmup_ratio=0.0)) == 1
