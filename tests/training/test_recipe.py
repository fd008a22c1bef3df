import pytest

from matrix.training.recipe import DPOConfig, RecipeConfig, SFTConfig, Strategy


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
        ({"warmup_ratio": 100}, "share of the steps"),
        ({"betas": [0.9]}, "two numbers"),
        ({"devices": 2, "strategy": Strategy.single}, "devices=1 or strategy=ddp"),
        ({"num_nodes": 2}, "launcher"),
        ({"max_rows": 0}, "max_rows"),
    ],
)
def test_wrong_values_say_what_to_do(wrong, said):
    with pytest.raises(ValueError, match=said):
        SFTConfig(**wrong)


def test_dpo_checks_its_own_fields():
    with pytest.raises(ValueError, match="beta"):
        DPOConfig(beta=0)
    with pytest.raises(ValueError, match="label_smoothing"):
        DPOConfig(label_smoothing=0.5)
