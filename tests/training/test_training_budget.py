import dataclasses
from contextlib import nullcontext

import pytest

from matrix.training import budget
from matrix.training.budget import Shape, adapters, flops, memory, peak_flops, shape_of
from matrix.training.machines import Strategy, StrategyConfig
from matrix.training.recipe import DPOConfig, LoraConfig, SFTConfig

LLAMA_8B = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256, "max_position_embeddings": 131072,
}  # fmt: skip
SMALL = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 160, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 512, "max_position_embeddings": 256,
}  # fmt: skip
GIB = 2**30


@pytest.fixture(scope="module")
def llama_8b() -> Shape:
    return shape_of(LLAMA_8B)


@pytest.fixture(scope="module")
def small() -> Shape:
    return shape_of(SMALL)


def small_model(implementation="eager", layers=3):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(**SMALL | {"num_hidden_layers": layers})
    return AutoModelForCausalLM.from_config(config, attn_implementation=implementation).train()


def test_a_shape_counts_the_weights_of_the_real_model(small):
    model = small_model()
    layers = [p for p in model.model.layers.parameters() if p.ndim == 2]
    assert small.parameters == sum(p.numel() for p in model.parameters())
    assert small.active == sum(p.numel() for p in layers)
    assert sum(small.adapted.values()) == sum(sum(p.shape) for p in layers)


def test_tied_weights_count_once_and_experts_by_how_many_a_token_meets(small):
    tied = shape_of(SMALL | {"tie_word_embeddings": True})
    assert tied.parameters == small.parameters - small.embedding
    experts = SMALL | {"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 2}
    mixture = shape_of(experts)
    router = 3 * 4 * 64
    assert mixture.active == small.active + router + 3 * 3 * 64 * 160
    assert mixture.intermediate == 2 * 160
    assert (small.outside, tied.outside) == (2 * small.embedding, small.embedding)


@pytest.mark.parametrize(
    ("tokens_per_second", "full", "causal"), [(5762, 33.7, 30.0), (6667, 39.0, 34.7), (8532, 50.0, 44.4)]
)
def test_utilisation_of_published_runs(llama_8b, tokens_per_second, full, causal):
    """torchtitan, Llama 3.1 8B on eight H100, 8192 tokens, 2024-12; utilisation as TRL counts it, at 989 TFLOPS."""
    peak = peak_flops("NVIDIA H100 80GB HBM3")
    document = flops(llama_8b, [(8192, 8192)])
    assert 100 * tokens_per_second / 8192 * document.full / peak == pytest.approx(full, abs=0.06)
    assert 100 * tokens_per_second / 8192 * document.causal / peak == pytest.approx(causal, abs=0.06)


@pytest.mark.parametrize("lora", [False, True])
def test_operations_are_those_that_torch_counts(small, lora):
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    model, targets = small_model(), torch.arange(30, 50)
    model.requires_grad_(not lora)
    inputs = model.get_input_embeddings()(torch.arange(96)[None]).detach().requires_grad_()  # where adapters' would go
    with FlopCounterMode(display=False) as counter:
        hidden = model.model(inputs_embeds=inputs, use_cache=False).last_hidden_state
        model.lm_head(hidden[0, targets]).sum().backward()
    assert counter.get_total_flops() == flops(small, [(96, 96)], len(targets), lora=lora).full


def test_a_shared_prompt_is_computed_once(small):
    prompt, chosen, rejected = 40, 20, 10
    apart = flops(small, [(60, 60), (50, 50)])
    shared = flops(small, [(60, 60), (10, 50)])
    attention = 3 * 4 * small.layers * small.heads * small.head_dim
    linear = 6 * (small.active + small.embedding)
    assert shared.full == linear * (prompt + chosen + rejected) + attention * (60 * 60 + 10 * 50)
    assert apart.causal - shared.causal == linear * prompt + attention * prompt**2 / 2


def test_checkpointing_repeats_the_layers_once(small):
    once, again = (flops(small, [(96, 96)], 0, checkpointed=on).full for on in (False, True))
    assert again / once == pytest.approx(4 / 3)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA A100 80GB PCIe", 312e12),
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H100 NVL", 835e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA B200", 2250e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA RTX A6000", 154.8e12),
        ("NVIDIA GeForce RTX 4090", 165.2e12),
        ("NVIDIA GeForce RTX 3090", 71e12),
        ("NVIDIA A10", 125e12),
        ("NVIDIA A100-SXM4-80GB MIG 1g.10gb", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA GeForce RTX 3090 Ti", None),
        ("NVIDIA A100X", None),
        ("cpu", None),
    ],
)
def test_peaks(name, peak):
    assert peak_flops(name) == peak


def test_weights_gradients_and_adam_are_those_of_a_real_step(small):
    import torch

    model = small_model()
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.arange(8)[None]).logits.sum().backward()
    optimizer.step()
    estimate = memory(small, SFTConfig(), StrategyConfig(), bf16=False)
    moments = [t for state in optimizer.state.values() for t in state.values() if t.ndim]
    assert estimate.weights * GIB == size(model.parameters())
    assert estimate.gradients * GIB == size(p.grad for p in model.parameters())
    assert estimate.optimizer * GIB == size(moments)


def kept_for_backward(arithmetic, layers=3, checkpointing=False) -> int:
    """Bytes that the backward pass of 200 tokens needs, weights left out; of checkpointed layers their inputs alone."""
    import torch

    model = small_model("sdpa", layers)
    if arithmetic == "bf16":
        model.bfloat16()
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    autocast = torch.autocast("cpu", torch.bfloat16) if arithmetic == "autocast" else nullcontext()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast:
        model.model(input_ids=torch.arange(200)[None], use_cache=False)
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize("arithmetic", ["fp32", "autocast", "bf16"])
def test_activations_are_those_that_the_backward_pass_keeps(small, arithmetic):
    strategy = StrategyConfig(kind=Strategy.zero2 if arithmetic == "bf16" else Strategy.single)
    bf16 = arithmetic != "fp32"
    whole = kept_for_backward(arithmetic)
    estimate = memory(small, SFTConfig(), strategy, bf16, tokens=200)
    assert estimate.activations * GIB == pytest.approx(whole, rel=0.02)
    layer = (whole - kept_for_backward(arithmetic, layers=1)) / 2
    inputs = kept_for_backward(arithmetic, checkpointing=True)
    estimate = memory(small, SFTConfig(gradient_checkpointing=True), strategy, bf16, tokens=200)
    assert estimate.activations * GIB == pytest.approx(inputs + layer, rel=0.02)


def size(tensors) -> int:
    return sum(t.numel() * t.element_size() for t in tensors)


def test_processes_share_what_the_strategy_shares(llama_8b):
    def need(kind, devices=8, recipe=None, **options):
        strategy = StrategyConfig(kind=kind, devices=devices, **options)
        return memory(llama_8b, recipe or SFTConfig(), strategy, bf16=True)

    p, bucket = llama_8b.parameters / GIB, 2 * 200e6 / GIB
    assert need(Strategy.auto).optimizer == need(Strategy.ddp).optimizer == pytest.approx(8 * p)
    assert need(Strategy.ddp).gradients == pytest.approx(8 * p)
    assert need(Strategy.zero1).gradients == pytest.approx(6 * p + 2 * bucket)
    assert need(Strategy.zero1).optimizer == need(Strategy.zero2).optimizer == pytest.approx(12 * p / 8)
    assert need(Strategy.zero2).gradients == pytest.approx(4 * p / 8 + 2 * bucket)
    assert need(Strategy.zero2).weights == pytest.approx(2 * p)
    assert need(Strategy.zero3).weights == pytest.approx(2 * p / 8 + 2e9 / GIB)
    assert need(Strategy.fsdp2).optimizer == pytest.approx(p)
    assert need(Strategy.zero3).gradients == pytest.approx(4 * p / 8 + bucket)
    offloaded = need(Strategy.zero2, offload=True)
    assert (offloaded.optimizer, offloaded.gradients) == (0, pytest.approx(2 * bucket))
    assert offloaded.host == pytest.approx(16 * p / 8)
    assert need(Strategy.zero3, offload=True).weights == pytest.approx(2e9 / GIB)
    averaged = need(Strategy.single, 1, SFTConfig(ema=0.99)).optimizer - need(Strategy.single, 1).optimizer
    assert averaged == pytest.approx(4 * p)


def test_adapters_train_a_hundredth_and_fit_a_small_gpu(llama_8b):
    queries = LoraConfig(rank=8, targets=["q_proj"])
    assert adapters(llama_8b, queries) == 32 * 8 * (4096 + 4096)
    recipe = SFTConfig(lora=LoraConfig(rank=16), gradient_checkpointing=True, max_length=2048)
    need = memory(llama_8b, recipe, StrategyConfig(), bf16=True)
    assert adapters(llama_8b, recipe.lora) == 41_943_040
    assert need.weights * GIB == pytest.approx(2 * llama_8b.parameters + 4 * 41_943_040)
    assert need.device < 22


def test_logits_are_held_as_the_output_layer_holds_them(small):
    from matrix.training import logprobs

    assert budget.LOGITS == logprobs.LOGITS
    vocabulary = 2**20
    wide = dataclasses.replace(small, vocab=vocabulary)
    few, many = (memory(wide, SFTConfig(), StrategyConfig(), False, tokens).logits * GIB for tokens in (64, 1024))
    gradient = 4 * wide.embedding
    assert few == 4 * 64 * vocabulary + gradient + 8 * 64 * wide.hidden
    assert many == 4 * budget.LOGITS + gradient + 8 * 1024 * wide.hidden


def test_pairs_hold_two_answers(small):
    one = memory(small, SFTConfig(max_length=100), StrategyConfig(), bf16=False)
    two = memory(small, DPOConfig(max_length=100), StrategyConfig(), bf16=False)
    assert two.activations == pytest.approx(2 * one.activations)
