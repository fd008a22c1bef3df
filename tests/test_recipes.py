"""Recipes of the literature: the values that make them what they are, and how they are combined on the command line."""

import functools

import pytest
from hydra import compose, initialize_config_dir

from matrix import cli
from matrix.training.machines import Strategy
from matrix.training.recipe import BatchUnit, Packing, PreferenceLoss, RecipeConfig, Schedule

RECIPES = sorted(path.stem for path in cli.ROOT.glob("conf/recipe/*.yaml"))
STRATEGIES = sorted(path.stem for path in cli.ROOT.glob("conf/recipe/strategy/*.yaml"))


@pytest.fixture(scope="module", autouse=True)
def composing():
    cli.register()
    with initialize_config_dir(str(cli.ROOT / "conf"), version_base="1.3"):
        yield


@functools.cache
def recipe(*overrides) -> RecipeConfig:
    return cli.to_config(compose("config", list(overrides))).recipe


def values(step, *names):
    return tuple(getattr(step, name) for name in names)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_called_by_its_name_and_says_where_it_is_from(name):
    assert recipe(f"recipe={name}").name == name
    comment = "".join(
        line for line in (cli.ROOT / f"conf/recipe/{name}.yaml").read_text().splitlines() if line.startswith("# ")
    )
    if name not in ("embedded", "none"):
        assert any(source in comment for source in ("github.com/", "arXiv", "alignment-handbook"))


def test_every_recipe_has_a_strategy_of_its_own():
    kinds = {name: recipe(f"recipe={name}").strategy.kind for name in RECIPES}
    single = dict.fromkeys(("embedded", "lora_24gb", "none"), Strategy.single)
    assert kinds == dict.fromkeys(RECIPES, Strategy.zero3) | single | {"paper": Strategy.zero2}


@pytest.mark.parametrize("name", STRATEGIES)
def test_any_other_strategy_can_be_asked_for(name):
    devices = 1 if name == "single" else 4
    # Also where the recipe has its strategy from another recipe.
    changed = recipe("recipe=simpo_dpo", f"recipe/strategy={name}", f"recipe.strategy.devices={devices}")
    assert changed.strategy.kind.value == name.removesuffix("_offload")
    assert changed.strategy.offload is name.endswith("_offload")
    assert changed.strategy.world == devices
    assert changed.name == "simpo_dpo"


def test_recipes_for_pairs_begin_with_their_sft():
    for name, first in [("magpie_dpo", "magpie_sft"), ("simpo_dpo", "simpo"), ("tulu3_dpo", "tulu3_sft")]:
        assert recipe(f"recipe={name}").sft == recipe(f"recipe={first}").sft
    assert recipe("recipe=magpie_sft").dpo is None
    assert recipe("recipe=tulu3_sft").dpo is None


def test_the_paper_is_table_9():
    paper = recipe("recipe=paper")
    for step in (paper.sft, paper.dpo):
        table = (2, 2e-5, Schedule.cosine, 1, 8, 4096, 0.0)
        names = ("epochs", "learning_rate", "schedule", "micro_batch_size", "batch_size", "max_length", "weight_decay")
        assert values(step, *names) == table
        assert not step.header_in_completion
        assert not step.append_eos
    assert paper.dpo.beta == 0.1
    assert paper.dpo.loss is PreferenceLoss.sigmoid


def test_magpie():
    magpie = recipe("recipe=magpie_dpo")
    assert values(magpie.sft, "learning_rate", "warmup_steps", "batch_size", "batch_unit", "max_length") == (
        2e-5, 100, 32, BatchUnit.packs, 8192,
    )  # fmt: skip
    assert values(magpie.dpo, "learning_rate", "beta", "batch_size", "max_length", "max_prompt_length") == (
        1e-6, 0.01, 128, 2048, 1800,
    )  # fmt: skip
    assert values(magpie.dpo, "bos_in_completion", "header_in_completion", "append_eos") == (True, True, True)


def test_simpo_and_the_dpo_it_compares_with():
    simpo, dpo = recipe("recipe=simpo"), recipe("recipe=simpo_dpo")
    assert values(simpo.sft, "packing", "loss_on_all_tokens", "append_eos", "batch_size", "max_length") == (
        Packing.wrapped, True, True, 128, 2048,
    )  # fmt: skip
    assert values(simpo.dpo, "loss", "learning_rate", "beta", "gamma_beta_ratio", "bos_in_completion") == (
        PreferenceLoss.simpo, 6e-7, 2.0, 0.5, False,
    )  # fmt: skip
    assert values(dpo.dpo, "loss", "learning_rate", "beta", "bos_in_completion") == (
        PreferenceLoss.sigmoid, 5e-7, 0.01, True,
    )  # fmt: skip
    shared = ("epochs", "schedule", "warmup_ratio", "batch_size", "max_length", "max_prompt_length", "append_eos")
    assert values(simpo.dpo, *shared) == values(dpo.dpo, *shared) == (1, Schedule.cosine, 0.1, 128, 2048, 1800, True)


def test_tulu_3():
    tulu = recipe("recipe=tulu3_dpo")
    names = ("epochs", "learning_rate", "schedule", "warmup_ratio", "batch_size", "max_length")
    assert values(tulu.sft, *names) == (2, 5e-6, Schedule.linear, 0.03, 128, 4096)
    assert values(tulu.dpo, *names) == (1, 5e-7, Schedule.linear, 0.1, 128, 2048)
    assert values(tulu.dpo, "loss", "beta") == (PreferenceLoss.dpo_norm, 5.0)


@pytest.mark.slow
def test_adapters_for_8b_fit_24_gb():
    from matrix.training.budget import memory, shape_of

    shape = shape_of(
        {
            "model_type": "llama", "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336,
            "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
        }
    )  # fmt: skip
    lora = recipe("recipe=lora_24gb")
    for step in (lora.sft, lora.dpo):
        assert step.lora
        needed = memory(shape, step, lora.strategy, bf16=True)
        assert 18 < needed.device < 19  # what the recipe's header says
