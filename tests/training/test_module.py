"""Lightning around the losses, in this process: what is trained does not depend on how it is cut."""

import csv
import math
from dataclasses import replace

import pytest
import torch

from matrix.jsonl import write_jsonl
from matrix.records import Reference
from matrix.training.batch import collate
from matrix.training.dpo import DPO, Referring, mismatched
from matrix.training.machines import LoggerConfig, Strategy, StrategyConfig, Tracker
from matrix.training.module import Source
from matrix.training.plan import make_plan
from matrix.training.recipe import DPOConfig, Packing, Precision, PreferenceLoss, SFTConfig, TrainingError
from matrix.training.sft import SFT
from matrix.training.stage import reference_recipe
from matrix.training.worker import fit

pytestmark = [
    # Lightning 2.6 calls what torch 2.13 deprecates, and advises on loader workers and loggers.
    pytest.mark.filterwarnings("ignore:.*treespec.*"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning"),
]

COMMON = {
    "precision": Precision.fp32, "batch_size": 4, "epochs": 1, "learning_rate": 1e-2, "max_length": 256,
    "warmup_ratio": 0.03, "checkpoint_every": 0,
}  # fmt: skip
CUTS = [(Packing.padded, 1), (Packing.padded, 3), (Packing.padded, 4), (Packing.isolated, 1), (Packing.isolated, 4)]


def module_of(work, base, config, examples, reference=None):
    (work / "checkpoints").mkdir(parents=True, exist_ok=True)
    source, strategy = Source(name=str(base.path / "hf")), StrategyConfig(kind=Strategy.single)
    if isinstance(config, SFTConfig):
        return SFT(source, config, strategy, make_plan(examples, config, 1, seed=0), examples, 0)
    kto = config.loss is PreferenceLoss.kto
    every = [*examples, *mismatched(examples, config.max_length)] if kto else examples
    if reference is None and config.loss.needs_reference:
        reference = base.path / f"{'kto' if kto else 'reference'}.jsonl"
        if not reference.exists():
            recipe = reference_recipe(config)
            plan = make_plan(every, recipe, 1, seed=0)
            referring = Referring(reference, source, recipe, strategy, plan, every, 0)
            fit(referring, work, LoggerConfig(tracker=Tracker.none), seed=0)
    return DPO(reference, source, config, strategy, make_plan(examples, config, 1, seed=0), every, 0)


def trained(work, base, config, examples, reference=None):
    module = module_of(work, base, config, examples, reference)
    fit(module, work, LoggerConfig(tracker=Tracker.none), seed=0)
    with (work / "metrics.csv").open() as file:
        rows = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
    return module, rows


@pytest.mark.parametrize("config", [SFTConfig(**COMMON), DPOConfig(**COMMON)], ids=["sft", "dpo"])
def test_losses_and_weights_do_not_depend_on_how_steps_are_cut(config, tmp_path, base, sft_examples, dpo_examples):
    examples = sft_examples if isinstance(config, SFTConfig) else dpo_examples
    runs = [
        trained(tmp_path / f"{p}{m}", base, replace(config, packing=p, micro_batch_size=m, gradient_clip=0), examples)
        for p, m in CUTS
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
    config = SFTConfig(**{**COMMON, "batch_size": 11, "warmup_ratio": 0.0})
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
    config = DPOConfig(**{**COMMON, "epochs": 4, "learning_rate": 1e-3})
    _, rows = trained(tmp_path, base, config, dpo_examples)
    assert rows[0]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert rows[0]["rewards_chosen"] == pytest.approx(0, abs=1e-5)
    assert rows[-1]["loss"] < 0.6
    assert rows[-1]["accuracy"] == 1
    assert rows[-1]["margin"] == pytest.approx(rows[-1]["rewards_chosen"] - rows[-1]["rewards_rejected"], abs=1e-6)
    assert rows[-1]["drift_chosen"] == pytest.approx(rows[-1]["rewards_chosen"] / 0.1, abs=1e-4)


@pytest.mark.parametrize("loss", list(PreferenceLoss))
def test_every_loss_learns_whatever_the_cut(loss, tmp_path, base, dpo_examples):
    smoothing = 0.1 if loss.smooths else 0.0
    config = DPOConfig(loss=loss, label_smoothing=smoothing, **{**COMMON, "epochs": 3, "learning_rate": 1e-3})
    _, rows = trained(tmp_path / "packed", base, config, dpo_examples)
    _, padded = trained(tmp_path / "padded", base, replace(config, packing=Packing.padded), dpo_examples)
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert rows[-1]["margin"] > rows[0]["margin"]
    assert [row["loss"] for row in rows] == pytest.approx([row["loss"] for row in padded], rel=2e-4)
    assert ("drift_chosen" in rows[0]) == ("kl" in rows[0]) == loss.needs_reference


def test_kto_compares_with_the_divergence_on_mismatched_answers(tmp_path, base, dpo_examples):
    """Before the first update it is nothing; before a later one it is that of the weights at that moment."""
    config = DPOConfig(loss=PreferenceLoss.kto, **{**COMMON, "batch_size": 6, "epochs": 2, "learning_rate": 3e-3})
    module, rows = trained(tmp_path / "two", base, config, dpo_examples)
    assert rows[0]["loss"] == pytest.approx(0.5, abs=1e-5)  # 1 - sigmoid(0) for both answers
    moved, _ = trained(
        tmp_path / "one", base, replace(config, epochs=1), dpo_examples
    )  # its one step is the first of two
    pairs = len(dpo_examples)
    wrong = collate(moved.examples, list(range(pairs, 2 * pairs)), packed=False)
    with torch.no_grad():
        ratios = moved.answers(wrong)[0] - module.reference[pairs:]
    assert module.kl.item() == pytest.approx(max(0.0, ratios.mean().item()), abs=1e-4)


def test_reference_of_other_weights_is_refused(tmp_path, base, dpo_examples):
    wrong = tmp_path / "reference.jsonl"
    write_jsonl(wrong, [Reference(row=e.id, chosen=-3.0, rejected=-27.0) for e in dpo_examples])
    with pytest.raises(TrainingError, match="not ln 2"):
        trained(tmp_path, base, DPOConfig(**COMMON), dpo_examples, wrong)
    write_jsonl(wrong, [Reference(row=e.id, chosen=-3.0, rejected=-27.0) for e in dpo_examples[1:]])
    with pytest.raises(TrainingError, match="says nothing of 1 of 6 pairs"):
        trained(tmp_path, base, DPOConfig(**COMMON), dpo_examples, wrong)


def test_norms_do_not_decay(tmp_path, base, sft_examples):
    config = SFTConfig(weight_decay=0.5, **COMMON)
    module, _ = trained(tmp_path, base, config, sft_examples)
    groups = module.optimizers().param_groups
    assert [(g["weight_decay"], {p.ndim for p in g["params"]}) for g in groups] == [(0.5, {2}), (0.0, {1})]


class Exhausted(SFT):
    """Runs out of memory as torch says it on a CPU."""

    def sums(self, batch):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")


def test_out_of_memory_says_what_to_try(tmp_path, base, sft_examples):
    (tmp_path / "checkpoints").mkdir()
    config = SFTConfig(**COMMON)
    plan = make_plan(sft_examples, config, 1, seed=0)
    module = Exhausted(Source(name=str(base.path / "hf")), config, StrategyConfig(), plan, sft_examples, 0)
    with pytest.raises(TrainingError, match=r"out of memory at step 1. Try, .*checkpointing=true, .*offload"):
        fit(module, tmp_path, LoggerConfig(tracker=Tracker.none), seed=0)
