import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from matrix.training.attention import PACKED
from matrix.training.batch import collate
from matrix.training.chat import Sequence
from matrix.training.data import Example
from matrix.training.logprobs import LogpHead, TokenLogps, check_logps, linear_logps, sequence_sums
from matrix.training.recipe import TrainingError

WIDTH, VOCABULARY = 16, 61


def inputs(n: int, dtype: torch.dtype = torch.float32, bias: bool = True):
    torch.manual_seed(n)
    shapes = [(n, WIDTH), (VOCABULARY, WIDTH), (VOCABULARY,)]
    hidden, weight, shift = (torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes)
    return hidden, weight, shift if bias else None, torch.randint(VOCABULARY, (n,))


def plain(hidden, weight, bias, labels):
    return torch.nn.functional.linear(hidden, weight, bias).log_softmax(-1).gather(1, labels[:, None])[:, 0]


def with_gradients(function, hidden, weight, bias, labels):
    given = [x for x in (hidden, weight, bias) if x is not None and x.requires_grad]
    values = function(hidden, weight, bias, labels)
    direction = torch.linspace(-1, 2, len(labels), dtype=values.dtype)
    return [values.detach(), *torch.autograd.grad(values, given, direction)]


def chunked(chunk: int):
    return lambda *given: linear_logps(*given, chunk)


@pytest.mark.parametrize("chunk", [1, 3, 8, 9, 1000])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients_are_those_of_log_softmax(chunk, bias, dtype):
    given = inputs(9, dtype, bias)
    ours, theirs = with_gradients(chunked(chunk), *given), with_gradients(plain, *given)
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype is dtype
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12 if dtype is torch.float64 else 3e-6)


def test_gradcheck():
    hidden, weight, bias, labels = inputs(5, torch.float64)
    assert torch.autograd.gradcheck(lambda *x: linear_logps(*x, labels, 2), (hidden, weight, bias))


def test_no_target_still_gives_gradients():
    """A process whose micro-batch is empty must meet the others in the backward pass."""
    values, *found = with_gradients(chunked(4), *inputs(0))
    assert values.shape == (0,)
    assert [x.shape for x in found] == [(0, WIDTH), (VOCABULARY, WIDTH), (VOCABULARY,)]
    assert not any(x.any() for x in found)


def test_extreme_logits_stay_finite():
    hidden, weight, _, labels = inputs(9, bias=False)
    hidden = (hidden * 1e3).detach().requires_grad_()
    assert (hidden @ weight.T).abs().max() > 1e4
    ours = with_gradients(chunked(4), hidden, weight, None, labels)
    theirs = with_gradients(plain, hidden.double(), weight.double(), None, labels)
    for a, b in zip(ours, theirs, strict=True):
        assert a.isfinite().all()
        torch.testing.assert_close(a.double(), b, rtol=1e-2, atol=1e-2)


def test_a_second_backward_pass_gives_the_same():
    hidden, weight, bias, labels = inputs(9)
    loss = linear_logps(hidden, weight, bias, labels, 4).sum()
    first = torch.autograd.grad(loss, (hidden, weight, bias), retain_graph=True)
    for a, b in zip(first, torch.autograd.grad(loss, (hidden, weight, bias)), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("weight_type", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("hidden_type", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("chunk", [1, 100])
def test_sixteen_bits_are_rounded_at_the_ends_alone(weight_type, hidden_type, chunk):
    """However many chunks add up, the weight's gradient is the exact one, rounded once."""
    hidden, weight, _, labels = inputs(64, bias=False)
    hidden, weight = (x.detach().to(t).requires_grad_() for x, t in ((hidden, hidden_type), (weight, weight_type)))
    with torch.autocast("cpu", torch.bfloat16, enabled=weight_type is not hidden_type):
        ours = with_gradients(chunked(chunk), hidden, weight, None, labels)
    exact = [x.detach().double().requires_grad_() for x in (hidden, weight)]
    theirs = with_gradients(plain, *exact, None, labels)
    assert [x.dtype for x in ours] == [torch.float32, hidden_type, weight_type]
    for a, b in zip(ours, theirs, strict=True):
        step = torch.finfo(a.dtype).eps
        torch.testing.assert_close(a.double(), b, rtol=0.51 * step, atol=1e-5)


class Watch(TorchDispatchMode):
    """Remembers the most numbers that tensors of (rows, vocabulary) held at once, and what was made like the weight."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight, self.made, self.most, self.like_weight = weight, weakref.WeakValueDictionary(), 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **kwargs or {})
        if isinstance(out, torch.Tensor) and out.data_ptr() != self.weight.data_ptr():
            self.made[id(out)] = out
            alive = {x.data_ptr(): x.numel() for x in self.made.values() if x.ndim == 2 and x.shape[1] == VOCABULARY}
            self.most = max(self.most, sum(alive.values()))
            self.like_weight += out.shape == self.weight.shape
        return out


@pytest.mark.parametrize("chunk", [1, 7, 16, 64, 100])
def test_never_more_logits_than_a_chunk(chunk):
    hidden, weight, _, labels = inputs(64, bias=False)
    with Watch(weight) as watch:
        linear_logps(hidden, weight, None, labels, chunk).sum().backward()
    assert watch.most == min(chunk, 64) * VOCABULARY


def test_frozen_weights_cost_no_gradient():
    hidden, weight, _, labels = inputs(64, bias=False)
    weight.requires_grad_(False)
    with Watch(weight) as watch:
        linear_logps(hidden, weight, None, labels, 16).sum().backward()
    assert hidden.grad is not None and watch.like_weight == 0
    assert not linear_logps(hidden.detach(), weight, None, labels, 16).requires_grad
    with torch.no_grad():
        assert not linear_logps(hidden, weight, None, labels, 16).requires_grad


def test_sums_of_sequences():
    sums = sequence_sums(torch.tensor([1.0, 2, 4, 8]), torch.tensor([2, 0, 2, 0]), 4)
    assert sums.tolist() == [10, 0, 5, 0]


def test_the_head_shares_its_weights():
    output = torch.nn.Linear(4, 7)
    head = LogpHead(output)
    assert head.weight is output.weight and head.bias is output.bias
    with pytest.raises(TrainingError, match=r"Sequential.*lora\.targets"):
        LogpHead(torch.nn.Sequential(output))


SMALL = {
    "vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64, "pad_token_id": 0, "initializer_range": 0.2,
}  # fmt: skip
OWN = {
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 16},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "mistral": {"sliding_window": 4},
    "gpt_oss": {"num_local_experts": 2, "num_experts_per_tok": 1, "rope_parameters": {"rope_type": "default"}},
    "qwen3_next": {
        "layer_types": ["linear_attention", "full_attention"], "num_experts": 0, "linear_num_value_heads": 2,
        "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
    },
}  # fmt: skip


def architecture(kind: str, attention: str = PACKED, **settings):
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **(SMALL | OWN.get(kind, {}) | settings))
    return AutoModelForCausalLM.from_config(config, attn_implementation=attention)


def examples() -> list[Example]:
    ids = torch.randint(3, 97, (40,), generator=torch.Generator().manual_seed(0)).tolist()
    pair = (Sequence(ids[:12], [False] * 5 + [True] * 7), Sequence(ids[:5] + ids[12:20], [False] * 5 + [True] * 8))
    return [Example("a", pair), Example("b", (Sequence(ids[20:], [False] * 3 + [True] * 17),))]


KINDS = [
    "llama",
    "qwen2",
    "qwen3",
    "gemma",
    "gemma3_text",
    "mistral",
    "mixtral",
    "phi3",
    "phi",
    "gpt_neox",
    "opt",
    "gpt2",
]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_log_probabilities_are_the_models_own(kind, tied):
    model = architecture(kind, tie_word_embeddings=tied).eval()
    logps = TokenLogps(model)
    check_logps(logps)
    theirs = []
    for sequence in (s for e in examples() for s in e.sequences):
        ids = torch.tensor([sequence.ids])
        own = model(input_ids=ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
        theirs.append(own[torch.tensor(sequence.targets[1:])])
    expected = torch.cat(theirs)
    parameters = [p for p in model.parameters() if p.requires_grad]
    truth = torch.autograd.grad(expected.sum(), parameters, allow_unused=True)
    for packed in (True, False):
        ours = logps(collate(examples(), [0, 1], packed))
        torch.testing.assert_close(ours, expected, rtol=0, atol=3e-6)
        found = torch.autograd.grad(ours.sum(), parameters, allow_unused=True)
        for a, b in zip(found, truth, strict=True):
            if b is not None:
                assert (a - b).abs().max() <= 3e-6 * b.abs().max().clamp(min=1)


def test_the_check_leaves_the_model_as_it_was():
    model = architecture("llama").train()
    check_logps(TokenLogps(model))
    assert model.training and model.config._attn_implementation == PACKED
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    ("kind", "settings", "said"),
    [
        ("granite", {"logits_scaling": 4.0}, "logits_scaling.*not supported"),
        ("cohere", {}, "logit_scale.*not supported"),
        ("gemma2", {}, "final_logit_softcapping.*not supported"),
        ("gemma2", {"final_logit_softcapping": None}, "softcap.*packing=padded"),
        ("gpt_oss", {}, "s_aux.*packing=padded"),
        ("stablelm", {}, "packing=padded"),
        ("qwen3_next", {}, "packing=padded"),
    ],
)
def test_models_that_compute_otherwise_are_refused(kind, settings, said):
    logps = TokenLogps(architecture(kind, **settings))
    with pytest.raises(TrainingError, match=said):
        check_logps(logps)


def test_logits_that_are_not_the_output_layers_are_found_out():
    from transformers import LlamaForCausalLM

    class Doubled(LlamaForCausalLM):
        def forward(self, *arguments, **named):
            output = super().forward(*arguments, **named)
            output.logits = 2 * output.logits
            return output

    with pytest.raises(TrainingError, match="output layer's .*nats.*not supported"):
        check_logps(TokenLogps(Doubled(architecture("llama").config)))


def test_rows_that_see_each_other_are_found_out():
    from transformers import LlamaForCausalLM

    model = architecture("llama")

    class Leaky(LlamaForCausalLM):
        @property
        def base_model(self):
            def forward(**named):
                kept = {k: v for k, v in named.items() if k in ("input_ids", "position_ids", "use_cache")}
                return self.model(**kept, attention_mask=torch.ones_like(named["input_ids"]))

            return forward

    leaky = Leaky(model.config)
    with pytest.raises(TrainingError, match="see each other.*nats.*packing=padded"):
        check_logps(TokenLogps(leaky))


def test_packed_rows_need_packed_attention():
    logps = TokenLogps(architecture("llama", "sdpa"))
    check_logps(logps)
    with pytest.raises(TrainingError, match=f"attn_implementation={PACKED}"):
        logps(collate(examples(), [0, 1], True))


def test_a_model_with_adapters():
    peft = pytest.importorskip("peft")
    model = architecture("llama")
    config = peft.LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    peft.inject_adapter_in_model(config, model)
    logps = TokenLogps(model)
    check_logps(logps)
    for packed in (True, False):
        logps(collate(examples(), [0, 1], packed)).sum().backward()
    assert all(p.grad is not None for name, p in model.named_parameters() if "lora_" in name)
    assert logps.head.weight.grad is None
