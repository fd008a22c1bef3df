import pytest
import torch
import torch.nn.functional as F

from matrix.training.attention import PACKED, SEGMENTS, packed_attention
from matrix.training.batch import collate
from matrix.training.chat import Sequence
from matrix.training.data import Example
from matrix.training.logprobs import TokenLogps
from matrix.training.recipe import TrainingError


def tokens(length: int, seed: int) -> list[int]:
    return torch.randint(3, 97, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def document(length: int, seed: int) -> Example:
    return Example(f"d{seed}", (Sequence(tokens(length, seed), [i > 0 for i in range(length)]),))


def pair(prompt: int, chosen: int, rejected: int, seed: int) -> Example:
    shared = tokens(prompt, seed)
    answers = tokens(chosen, seed + 1000), tokens(rejected, seed + 2000)
    return Example(f"p{seed}", tuple(Sequence(shared + a, [False] * prompt + [True] * len(a)) for a in answers))


def alone(example: Example) -> list[Example]:
    """Its sequences as examples of their own."""
    return [Example("", (sequence,)) for sequence in example.sequences]


MIXED = [document(9, 1), pair(5, 6, 3, 2), document(1, 3), pair(3, 2, 12, 4), document(14, 5)]


def llama(attention: str = PACKED, **settings):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, initializer_range=0.2, attn_implementation=attention, **settings,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def gradients(model, batches: list) -> dict[str, torch.Tensor]:
    """Of a loss in which every target counts differently."""
    logps = TokenLogps(model)
    model.zero_grad()
    values = torch.cat([logps(batch) for batch in batches])
    (values * torch.linspace(0.5, 1.5, len(values))).mean().backward()
    return {"values": values.detach()} | {name: p.grad.clone() for name, p in model.named_parameters()}


def close(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-6, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


def naive(query, key, value, batch, scaling, window):
    """The contract, score by score."""
    index = batch["kv_index"]
    groups = query.shape[1] // key.shape[1]
    key, value = (x if index is None else x[:, :, index] for x in (key, value))
    key, value = (x.repeat_interleave(groups, 1) for x in (key, value))
    bounds = batch["cu_seq_lens_q"].tolist(), batch["cu_seq_lens_k"].tolist()
    scores = query @ key.mT * scaling
    seen = torch.zeros(scores.shape[2:], dtype=torch.bool)
    for q0, q1, k0, k1 in zip(bounds[0], bounds[0][1:], bounds[1], bounds[1][1:], strict=False):
        for i in range(q1 - q0):
            last = (k1 - k0) - (q1 - q0) + i
            seen[q0 + i, k0 + max(0, last - (window or 1000) + 1) : k0 + last + 1] = True
    return (scores.masked_fill(~seen, -torch.inf).softmax(-1) @ value).transpose(1, 2)


@pytest.mark.parametrize("key_heads", [1, 2, 4])
@pytest.mark.parametrize("window", [None, 1, 4, 100])
@pytest.mark.parametrize("examples", [MIXED, [document(9, 1), document(7, 2)]], ids=["pairs", "documents"])
def test_segments_are_what_the_contract_says(key_heads, window, examples):
    batch = collate(examples, list(range(len(examples))), packed=True)
    torch.manual_seed(0)
    length = batch["ids"].shape[1]
    given = [
        torch.randn(1, heads, length, 8, dtype=torch.float64, requires_grad=True) for heads in (4, key_heads, key_heads)
    ]
    segments = {name: batch[name] for name in SEGMENTS}
    ours, weights = packed_attention(None, *given, None, scaling=0.3, sliding_window=window, **segments)
    theirs = naive(*given, batch, 0.3, window)
    assert weights is None
    torch.testing.assert_close(ours, theirs)
    direction = torch.randn_like(theirs)
    torch.testing.assert_close(
        torch.autograd.grad(ours, given, direction), torch.autograd.grad(theirs, given, direction)
    )


@pytest.mark.parametrize("tied", [True, False])
def test_packing_changes_no_number_and_no_gradient(tied):
    model = llama(tie_word_embeddings=tied)
    packed = gradients(model, [collate(MIXED, list(range(5)), packed=True)])
    padded = gradients(model, [collate(MIXED, list(range(5)), packed=False)])
    singles = [single for example in MIXED for single in alone(example)]
    separate = gradients(llama("eager", tie_word_embeddings=tied), [collate([s], [0], packed=False) for s in singles])
    close(packed, separate)
    close(padded, separate)


def test_no_row_sees_another():
    model = TokenLogps(llama())
    for changed, other in enumerate([document(9, 91), pair(5, 6, 3, 92)]):
        examples = list(MIXED)
        examples[changed] = other
        with torch.no_grad():
            before, after = (model(batch := collate(e, list(range(5)), packed=True)) for e in (MIXED, examples))
        owner = batch["owner"]
        lines = {0: [0], 1: [1, 2]}[changed]
        kept = ~torch.isin(owner, torch.tensor(lines))
        assert torch.equal(before[kept], after[kept])
        assert not torch.allclose(before[~kept], after[~kept], atol=1e-2)


def test_the_rejected_answer_does_not_see_the_chosen_one():
    model = TokenLogps(llama())
    first = pair(5, 6, 3, 2)
    other = Example("", (pair(5, 6, 3, 77).sequences[0], first.sequences[1]))
    swapped = Sequence(first.sequences[0].ids[:5] + other.sequences[0].ids[5:], first.sequences[0].targets)
    with torch.no_grad():
        values = [
            model(collate([Example("", (c, first.sequences[1]))], [0], True)) for c in (first.sequences[0], swapped)
        ]
    assert torch.equal(values[0][6:], values[1][6:])
    assert not torch.allclose(values[0][1:6], values[1][1:6], atol=1e-2)


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_changes_nothing(reentrant):
    model, batch = llama(), collate(MIXED, list(range(5)), packed=True)
    plain = gradients(model, [batch])
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    if reentrant:
        model.enable_input_require_grads()
    close(gradients(model.train(), [batch]), plain)


def test_a_model_with_sliding_windows_keeps_them():
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, initializer_range=0.2, sliding_window=4, attn_implementation=PACKED,
    )  # fmt: skip
    model = MistralForCausalLM(config)
    packed = gradients(model, [collate(MIXED, list(range(5)), packed=True)])
    model.set_attn_implementation("eager")
    singles = [single for example in MIXED for single in alone(example)]
    close(packed, gradients(model, [collate([s], [0], packed=False) for s in singles]))


def test_without_segments_it_generates_as_sdpa_does():
    ids = torch.tensor([[0, 0, *tokens(5, 1)], tokens(7, 2)])
    mask = (ids > 0).long()
    settings = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    texts = [llama(name).generate(input_ids=ids, attention_mask=mask, **settings) for name in (PACKED, "sdpa")]
    assert torch.equal(*texts)


@pytest.mark.parametrize("name", ["softcap", "s_aux", "position_bias"])
def test_what_it_does_not_compute_it_refuses(name):
    states = [torch.zeros(1, 2, 3, 8)] * 3
    with pytest.raises(TrainingError, match=f"{name}.*packing=padded"):
        packed_attention(None, *states, None, **{name: 30.0})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("window", [None, 5])
def test_flash_attention_agrees_with_the_segments_on_a_gpu(window):
    batch = collate(MIXED, list(range(5)), packed=True)
    torch.manual_seed(0)
    length = batch["ids"].shape[1]
    given = [torch.randn(1, heads, length, 64, requires_grad=True) for heads in (4, 2, 2)]
    segments = {name: x.cuda() if isinstance(x := batch[name], torch.Tensor) else x for name in SEGMENTS}
    direction = torch.randn(1, length, 4, 64)
    found = []
    for kind in (torch.float32, torch.bfloat16):
        moved = [x.detach().to("cuda", kind).requires_grad_() for x in given]
        out, _ = packed_attention(None, *moved, None, scaling=0.1, sliding_window=window, **segments)
        found.append([out, *torch.autograd.grad(out, moved, direction.to("cuda", kind))])
    for dense, flash in zip(*found, strict=True):
        assert F.cosine_similarity(dense.flatten(), flash.float().flatten(), dim=0) > 0.999
        torch.testing.assert_close(flash.float(), dense, rtol=0.02, atol=0.05)
