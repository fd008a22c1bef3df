import pytest

from matrix.training.machines import Strategy, StrategyConfig
from matrix.training.recipe import DPOConfig, Packing, PreferenceLoss, RecipeConfig, SFTConfig


def test_defaults_are_table_9():
    recipe = RecipeConfig()
    for config in (recipe.sft, recipe.dpo):
        assert (config.epochs, config.learning_rate, config.schedule) == (2, 2e-5, "cosine")
        assert (config.micro_batch_size, config.batch_size, config.max_length, config.weight_decay) == (1, 8, 4096, 0)
    assert recipe.dpo.beta == 0.1
    assert Strategy.zero2.zero_stage == 2
    assert Strategy.ddp.zero_stage == 0


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"warmup_ratio": 100}, "0 <= warmup_ratio < 1"),
        ({"betas": [0.9]}, "two numbers"),
        ({"max_rows": 0}, "max_rows"),
        ({"patience": 2}, "held_out=0.05"),
    ],
)
def test_wrong_values_say_what_to_do(wrong, said):
    with pytest.raises(ValueError, match=said):
        SFTConfig(**wrong)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"devices": 2, "kind": Strategy.single}, "recipe/strategy=ddp"),
        ({"num_nodes": 2}, "launcher"),
        ({"offload": True}, "zero3_offload"),
        ({"devices": 0}, "at least 1"),
    ],
)
def test_wrong_machines_say_what_to_do(wrong, said):
    with pytest.raises(ValueError, match=said):
        StrategyConfig(**wrong)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"beta": 0}, "beta"),
        ({"label_smoothing": 0.5}, "label_smoothing"),
        ({"label_smoothing": 0.1}, "all others take none"),
        ({"loss": PreferenceLoss.cdpo}, "need a value above 0"),
        ({"packing": Packing.wrapped}, "pairs cannot be cut"),
        ({"loss": PreferenceLoss.kto, "batch_size": 1}, "at least 2"),
        ({"max_prompt_length": 4096}, "max_prompt_length must be in"),
    ],
)
def test_dpo_checks_its_own_fields(wrong, said):
    with pytest.raises(ValueError, match=said):
        DPOConfig(**wrong)


@pytest.mark.parametrize("field", ["ema", "samples"])
def test_what_needs_whole_weights_is_refused_where_there_are_none(field):
    sft = SFTConfig(**{field: 1 if field == "samples" else 0.9})
    with pytest.raises(ValueError, match=f"recipe.sft.{field}"):
        RecipeConfig(sft=sft, strategy=StrategyConfig(kind=Strategy.zero3))
    assert RecipeConfig(sft=sft, strategy=StrategyConfig(kind=Strategy.zero2)).sft is sft
