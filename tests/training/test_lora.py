"""Adapters begin as nothing, are the same everywhere, and end inside the weights."""

import copy

import pytest
import torch

from matrix.training.lora import adapted, add_adapters, merge, save_adapters
from matrix.training.recipe import LoraConfig, TrainingError

CONFIG = LoraConfig(rank=4, alpha=6)
IDS = torch.arange(5, 45)[None]


@pytest.fixture
def tuned(model):
    """The tiny model with adapters that add something."""
    tuned = copy.deepcopy(model)
    add_adapters(tuned, CONFIG, seed=2)
    torch.manual_seed(0)
    for name, parameter in tuned.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return tuned


def test_new_adapters_add_nothing_and_follow_from_the_seed(model):
    made = [copy.deepcopy(model) for _ in range(3)]
    for one, seed in zip(made, (2, 2, 3), strict=True):
        torch.manual_seed(torch.seed())  # whatever the rest of the program drew
        add_adapters(one, CONFIG, seed)
    first, same, other = (one.state_dict() for one in made)
    assert all(first[name].equal(same[name]) for name in first)
    a = "model.layers.1.mlp.up_proj.lora_A.default.weight"
    assert not first[a].equal(other[a])
    torch.testing.assert_close(made[0](IDS).logits, model(IDS).logits, rtol=0, atol=0)


def test_only_adapters_are_trained_and_they_are_fp32(model):
    model.bfloat16()
    add_adapters(model, CONFIG, seed=2)
    trained = {name: p.dtype for name, p in model.named_parameters() if p.requires_grad}
    assert len(trained) == 2 * 7 * model.config.num_hidden_layers  # every linear layer but the output layer
    assert set(trained.values()) == {torch.float32}
    assert all(".lora_" in name for name in trained)
    assert {p.dtype for p in model.parameters() if not p.requires_grad} == {torch.bfloat16}


def test_merged_weights_are_the_adapted_model(model, tuned):
    merged = merge(tuned.state_dict(), adapted(tuned))
    assert merged.keys() == model.state_dict().keys()
    plain = copy.deepcopy(model)
    plain.load_state_dict(merged)
    torch.testing.assert_close(plain(IDS).logits, tuned(IDS).logits, rtol=1e-4, atol=1e-4)
    assert (plain(IDS).logits - model(IDS).logits).abs().max() > 0.1
    adapters = {name: tensor for name, tensor in tuned.state_dict().items() if ".lora_" in name}
    apart = merge({**model.state_dict(), **adapters}, CONFIG)
    assert all(apart[name].equal(merged[name]) for name in merged)


def test_merging_is_in_fp32(tuned):
    exact = merge(tuned.state_dict(), CONFIG)
    coarse = merge({n: t if ".lora_" in n else t.bfloat16() for n, t in tuned.state_dict().items()}, CONFIG)
    name = "model.layers.0.mlp.up_proj.weight"
    assert coarse[name].dtype == torch.float32
    base = tuned.state_dict()["model.layers.0.mlp.up_proj.base_layer.weight"]
    torch.testing.assert_close(coarse[name] - base.bfloat16().float(), exact[name] - base)


def test_peft_reads_the_saved_adapters(model, tuned, tmp_path):
    from peft import PeftModel

    save_adapters(tmp_path / "adapter", tuned.state_dict(), CONFIG, "somewhere/base")
    read = PeftModel.from_pretrained(copy.deepcopy(model), tmp_path / "adapter")
    torch.testing.assert_close(read(IDS).logits, tuned(IDS).logits, rtol=0, atol=0)
    save_adapters(tmp_path / "again", tuned.state_dict(), CONFIG, "somewhere/base")
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "adapter" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_layers_can_be_named(model):
    add_adapters(model, LoraConfig(rank=2, targets=["q_proj", "v_proj"]), seed=0)
    layers = {name.split(".")[-4] for name, p in model.named_parameters() if p.requires_grad}
    assert layers == {"q_proj", "v_proj"}
    assert adapted(model).rank == 2


@pytest.mark.filterwarnings("ignore:Model has .tie_word_embeddings:UserWarning")
@pytest.mark.parametrize(("targets", "said"), [(["k_projj"], "k_projj"), (["embed_tokens"], "Embedding")])
def test_layers_that_cannot_have_adapters_are_refused(model, targets, said):
    with pytest.raises(TrainingError, match=said):
        add_adapters(model, LoraConfig(targets=targets), seed=0)


def test_a_plain_model_has_no_adapters(model):
    assert adapted(model) is None
