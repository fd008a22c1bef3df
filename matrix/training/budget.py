"""What a training costs a device: floating-point operations, for utilisation, and memory, before anything is loaded.

Counted from a model's config: the model is built on torch's meta device, without memory for its weights. Read by the
pre-flight report (`matrix.training.doctor`) and by the recorder of metrics; light to import.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from matrix.training.data import Example
from matrix.training.machines import Strategy, StrategyConfig
from matrix.training.recipe import DPOConfig, LoraConfig, TrainConfig

LOGITS = 2**27
"""Most logits that are held at once (`matrix.training.logprobs`)."""

BUCKET = 200_000_000
"""Gradients that DeepSpeed sends at once (`matrix.training.strategy`); under stages 1 and 2 it holds two of them."""

LIVE = 1_000_000_000
"""Weights that ZeRO stage 3 keeps gathered, DeepSpeed's default."""

PEAKS: list[tuple[str, float]] = [
    ("b200", 2250e12),  # DGX B200 data sheet: 36 PFLOPS of FP16/BF16 a system of 8 with sparsity, half without
    ("h200 nvl", 835e12),  # H200 data sheet: 1,671 TFLOPS with sparsity
    ("h200", 989e12),  # H200 data sheet: 1,979 TFLOPS with sparsity
    ("h100 nvl", 835e12),  # H100 NVL data sheet: 1,671 TFLOPS with sparsity
    ("h100 pcie", 756e12),  # H100 data sheet: 1,513 TFLOPS with sparsity
    ("h100", 989e12),  # H100 data sheet, SXM: 1,979 TFLOPS with sparsity
    ("a100", 312e12),  # A100 data sheet
    ("l40s", 362e12),  # L40S data sheet: 362.05
    ("a6000", 154.8e12),  # GA102 whitepaper, RTX A6000
    ("4090", 165.2e12),  # Ada whitepaper, FP32 accumulation
    ("3090", 71e12),  # GA102 whitepaper, FP32 accumulation
    ("a10", 125e12),  # A10 data sheet
]
"""Peak bf16 operations a second without sparsity, by words of the device's name; the more particular name first."""

OTHER = {"mig", "laptop", "ti", "d", "super"}
"""Words that make a device another one than the rest of its name says: a slice, a slower or a faster one."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The sizes of a decoder-only language model."""

    parameters: int
    """All weights; one that two places share counts once."""
    active: int
    """Weights of the layers that every token is multiplied with: no embedding, no output layer, of experts those that a
    token is sent to."""
    outside: int
    """Weights of token embedding and output layer, once where they are one."""
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    """Width of the MLP; of experts, of those together that a token is sent to."""
    vocab: int
    positions: int | None
    """Longest sequence that the model was made for."""
    adapted: dict[str, int]
    """Inputs and outputs together of the layers' matrices by the last part of their name, e.g. `q_proj`: the weights of
    adapters of rank 1."""

    @property
    def embedding(self) -> int:
        """Weights of the token embedding, and of the output layer: looked up in the first, multiplied in the second."""
        return self.vocab * self.hidden


def shape_of(config: Any, trust_remote_code: bool = False) -> Shape:
    """The shape of a model.

    Args:
        config: a Hugging Face config, as an object or as the content of `config.json`.
        trust_remote_code: let a hub repository run its own Python.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    if isinstance(config, Mapping):
        config = AutoConfig.for_model(**config)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            config, trust_remote_code=trust_remote_code
        )
    config = config.get_text_config()
    embeddings = [m for m in model.modules() if isinstance(m, torch.nn.Embedding)]
    tables = {id(p): p.numel() for m in (*embeddings, model.get_output_embeddings()) for p in m.parameters()}
    matrices = {name: p for name, p in model.named_parameters() if p.ndim > 1 and id(p) not in tables}
    chosen = getattr(config, "num_experts_per_tok", None) or 1
    experts = getattr(config, "num_local_experts", None) or getattr(config, "num_experts", None) or 1
    adapted: Counter[str] = Counter()
    for name, p in matrices.items():
        if p.ndim == 2:
            adapted[name.split(".")[-2]] += sum(p.shape)
    width = getattr(config, "moe_intermediate_size", None) or getattr(config, "intermediate_size", None)
    heads = config.num_attention_heads
    return Shape(
        parameters=sum(p.numel() for p in model.parameters()),
        active=sum(p.numel() * chosen // experts if ".experts." in name else p.numel() for name, p in matrices.items()),
        outside=sum(tables.values()),
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        heads=heads,
        kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        intermediate=chosen * (width or 4 * config.hidden_size),
        vocab=config.vocab_size,
        positions=getattr(config, "max_position_embeddings", None),
        adapted=dict(adapted),
    )


@dataclass(frozen=True, kw_only=True)
class Flops:
    """Floating-point operations under the two conventions of published utilisation figures."""

    full: float
    """Every token is counted as if it saw its whole document (PaLM appendix B, Megatron, torchtitan, TRL)."""
    causal: float
    """The half above the diagonal is left out (Llama 3, DeepSpeed Ulysses)."""


def documents(examples: Iterable[Example], packed: bool) -> list[tuple[int, int]]:
    """(queries, keys) of every run of tokens that is computed; a packed pair's prompt is computed once."""
    spans = []
    for example in examples:
        for branch, sequence in enumerate(example.sequences):
            shared = example.prefix if packed and branch else 0
            spans.append((len(sequence.ids) - shared, len(sequence.ids)))
    return spans


def flops(
    shape: Shape,
    spans: Iterable[tuple[int, int]],
    targets: int | None = None,
    *,
    lora: bool = False,
    checkpointed: bool = False,
) -> Flops:
    """Operations of a forward and a backward pass.

    A weight costs a token two operations forward and four backward, two of them for its gradient; a frozen weight has
    none. The embedding is looked up, not multiplied. Attention costs `4 * heads * head_dim` for every query and key,
    and twice that backward. The output layer is counted at the positions that are trained: elsewhere no result depends
    on it. Published figures train every position, so that both ways of counting agree on them.

    Args:
        shape: the model.
        spans: (queries, keys) of each document, aligned at the end (`documents`); (n, n) for n tokens on their own.
        targets: positions that the output layer is computed at; None is all of them.
        lora: only adapters are trained. Their own operations, below one percent, are left out.
        checkpointed: count the forward pass that gradient checkpointing repeats too, for hardware utilisation; model
            utilisation (MFU) leaves it out.
    """
    spans = list(spans)
    tokens = sum(queries for queries, _ in spans)
    weights = 2 * (shape.active * tokens + shape.embedding * (tokens if targets is None else targets))
    pairs = sum(queries * keys for queries, keys in spans)
    seen = sum(queries * (keys - queries / 2) for queries, keys in spans)
    attention = 4 * shape.layers * shape.heads * shape.head_dim
    again = int(checkpointed)
    linear = weights * (2 if lora else 3) + again * 2 * shape.active * tokens
    return Flops(full=linear + attention * pairs * (3 + again), causal=linear + attention * seen * (3 + again))


def peak_flops(device: str) -> float | None:
    """Peak bf16 operations a second of a GPU by the name that CUDA gives it; None where it is not known."""
    words = set(device.lower().replace("-", " ").split())
    if words & OTHER:
        return None
    return next((peak for name, peak in PEAKS if set(name.split()) <= words), None)


@dataclass(frozen=True)
class Memory:
    """GiB at the moment of most use, when the last activation is kept and the first gradient is about to be made."""

    weights: float
    gradients: float
    optimizer: float
    """Adam's two moments, and master weights and moving average where they are copies."""
    activations: float
    """What the backward pass needs of a micro-batch."""
    logits: float
    """What the output layer works with at once."""
    host: float = 0.0
    """In the memory of the machine instead, for each device (offload)."""

    @property
    def device(self) -> float:
        """GiB on the device, without what the driver and fragments take, about 1 to 2 GiB on a GPU."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.logits


def memory(
    shape: Shape,
    recipe: TrainConfig,
    strategy: StrategyConfig,
    bf16: bool,
    tokens: int | None = None,
) -> Memory:
    """Memory of one process, an upper estimate: kernels that fuse (Liger, torch.compile) keep less.

    With P weights of which T are trained, N processes, and b = 2 bytes in bf16, 4 otherwise:

        ============  =================  ===============  ==========================
        strategy      weights            gradients        optimizer
        ============  =================  ===============  ==========================
        single, ddp   4T + b(P-T)        4T; ddp 8T       8T
        zero1         bP                 4T (bf16: 6T)    12T/N (with master weights)
        zero2         bP                 4T/N             12T/N
        zero3         bP/N + gathered    4T/N             12T/N
        fsdp2         (4T + b(P-T))/N    4T/N             8T/N
                      + gathered
        ============  =================  ===============  ==========================

    DeepSpeed's buckets are added to the gradients. `offload` moves optimizer, gradients and, under zero3, weights to
    the host. Under autocast (single, ddp in bf16) the matrices' bf16 copies are kept for the backward pass and count as
    activations.

    A layer keeps for a token of width h, with q and k as wide as queries and keys and m as the MLP, in bytes: inputs,
    norms and copies 24h (fp32), 26h (bf16 under autocast) or 16h (bf16 throughout), and b(2q + 2k + 4m) of attention
    and MLP; the last norm keeps 8h or 6h. With gradient checkpointing all layers keep their input alone, and one all of
    it.

    Args:
        shape: the model.
        recipe: micro-batch, adapters, gradient checkpointing, moving average.
        strategy: how processes share the work.
        bf16: whether the arithmetic is bf16.
        tokens: of the largest micro-batch; None: `micro_batch_size` times `max_length`, of both answers for pairs.
    """
    kind, stage = strategy.kind, strategy.kind.zero_stage
    width = 2 if bf16 else 4
    trained, frozen = (adapters(shape, recipe.lora), shape.parameters) if recipe.lora else (shape.parameters, 0)
    several = strategy.world > 1 and kind in (Strategy.auto, Strategy.ddp)

    weights = ((width if stage else 4) * trained + width * frozen) / (strategy.world if kind.shards_weights else 1)
    each = 8 if several else 6 if stage == 1 and bf16 else 4
    gradients = each * trained / (strategy.world if kind.shards_weights or stage == 2 else 1)
    optimizer = (12 if stage else 8) * trained / (strategy.world if stage or kind.shards_weights else 1)
    optimizer += 4 * trained if recipe.ema else 0
    host = 0.0
    if strategy.offload:
        host, optimizer, gradients = optimizer + gradients, 0.0, 0.0
        if stage == 3:
            host, weights = host + weights, 0.0
    if kind.shards_weights:
        layers = LIVE if stage else 2 * shape.active / shape.layers + shape.outside
        weights += width * min(layers, shape.parameters)
    if stage:
        gradients += width * BUCKET * (1 if stage == 3 else 2)

    whole = bf16 and (stage > 0 or kind is Strategy.fsdp2 or bool(recipe.lora))
    tokens = tokens or recipe.micro_batch_size * recipe.max_length * (2 if isinstance(recipe, DPOConfig) else 1)
    stream = (2 if whole else 4) * shape.hidden
    inner = 2 * shape.head_dim * (shape.heads + shape.kv_heads) + 4 * shape.intermediate
    layer = tokens * ((16 if whole else 26 if bf16 else 24) * shape.hidden + width * inner + 4 * shape.heads + 8)
    last = tokens * (6 if whole else 8) * shape.hidden
    copies = 2 * shape.active if bf16 and not whole else 0
    if recipe.gradient_checkpointing:  # forward all copies, backward one layer and its copies
        activations = tokens * stream * shape.layers + max(copies, layer + copies / shape.layers) + last
    else:
        activations = layer * shape.layers + copies + last

    logits = (6 if bf16 else 4) * min(LOGITS, tokens * shape.vocab) + 8 * tokens * shape.hidden
    logits += (0 if recipe.lora else 4 * shape.embedding) + (0 if whole or not bf16 else 2 * shape.embedding)
    parts = (weights, gradients, optimizer, activations, logits, host)
    return Memory(*(part / 2**30 for part in parts))


def adapters(shape: Shape, lora: LoraConfig) -> int:
    """Weights that are trained with `lora`: rank times inputs and outputs of every adapted matrix."""
    everywhere = "all-linear" in lora.targets
    return lora.rank * sum(size for name, size in shape.adapted.items() if everywhere or name in lora.targets)
