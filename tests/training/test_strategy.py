"""Every strategy is plain AdamW: the same losses, gradient norms and weights, and the same bits after going on."""

import csv

import pytest
import torch
from sharded import ADAPTED, CASES, RECIPE, SEED, sharded

from matrix.training.lora import add_adapters
from matrix.training.machines import Strategy, StrategyConfig
from matrix.training.plan import make_plan, rate
from matrix.training.recipe import Precision, SFTConfig
from matrix.training.strategy import computes_bf16, deepspeed_config


def plain_torch(base, examples, recipe):
    """Losses, gradient norms and weights of the same steps, one row at a time."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base.path / "hf", dtype=torch.float32)
    if recipe.lora:
        add_adapters(model, recipe.lora, SEED)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=recipe.learning_rate, betas=tuple(recipe.betas), weight_decay=0.0)
    plan = make_plan(examples, recipe, 1, SEED)
    losses, norms = [], []
    for number, step in enumerate(plan.steps):
        optimizer.param_groups[0]["lr"] = recipe.learning_rate * rate(number, plan, recipe)
        loss = torch.zeros(())
        for row in (i for rows in step.micro_batches for i in rows):
            (sequence,) = examples[row].sequences
            ids = torch.tensor([sequence.ids])
            labels = ids.masked_fill(~torch.tensor([sequence.targets]), -100)
            loss = loss + model(input_ids=ids, labels=labels).loss * sum(sequence.targets) / step.targets
        optimizer.zero_grad()
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(trained, recipe.gradient_clip).item())
        losses.append(loss.item())
        optimizer.step()
    return losses, norms, model.state_dict()


@pytest.fixture(scope="module")
def runs(base, conversations):
    return sharded(base.path, conversations.path)


@pytest.fixture(scope="module")
def expected(base, sft_examples):
    return {bool(recipe.lora): plain_torch(base, sft_examples, recipe) for recipe in (RECIPE, ADAPTED)}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_processes_train_as_plain_torch_does(case, runs, expected):
    recipe = CASES[case][1]
    losses, norms, weights = expected[bool(recipe.lora)]
    with (runs / case / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert float(rows[0]["loss"]) == pytest.approx(losses[0], abs=1e-6)
    assert [float(row["loss"]) for row in rows] == pytest.approx(losses, abs=2e-5)
    assert min(norms) > recipe.gradient_clip
    assert [float(row["gradient_norm"]) for row in rows] == pytest.approx(norms, rel=1e-4)
    trained = torch.load(runs / case / "weights.pt")
    assert trained.keys() == weights.keys() - {"lm_head.weight"}  # which is the embeddings
    for name, weight in trained.items():
        assert weight.dtype == torch.float32
        moved = (weight - weights[name]).abs()
        assert moved.mean() < 1e-6
        assert moved.max() < 2e-4  # AdamW divides by second moments that may be tiny


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_two_processes_go_on_from_a_checkpoint_with_the_same_bits(case, runs):
    first, again = (torch.load(runs / case / name) for name in ("weights.pt", "again.pt"))
    assert first.keys() == again.keys()
    assert all(first[name].equal(again[name]) for name in first)


@pytest.mark.slow
def test_checkpoints_of_adapters_leave_the_base_out(runs):
    def size(case):
        checkpoint = runs / case / "checkpoints" / "step-00000002"
        return sum(file.stat().st_size for file in [checkpoint, *checkpoint.rglob("*")] if file.is_file())

    for kind in ("ddp", "zero2", "zero3", "fsdp2"):
        assert size(f"{kind}_lora") < 0.5 * size(kind)


def test_deepspeed_is_told_everything_that_its_defaults_get_wrong():
    recipe = SFTConfig(gradient_clip=0.0)
    told = deepspeed_config(recipe, StrategyConfig(kind=Strategy.zero3, offload=True), bf16=True)
    assert told["gradient_clipping"] == 0.0
    assert told["data_types"] == {"grad_accum_dtype": "fp32"}
    assert told["zero_force_ds_cpu_optimizer"] is False
    assert told["zero_optimization"]["offload_optimizer"]["device"] == "cpu"
    assert told["zero_optimization"]["offload_param"]["device"] == "cpu"
    of_two = deepspeed_config(recipe, StrategyConfig(kind=Strategy.zero2, offload=True), bf16=True)
    assert "offload_param" not in of_two["zero_optimization"]


def test_precision_is_what_the_recipe_says():
    assert computes_bf16(Precision.bf16)
    assert not computes_bf16(Precision.fp32)
