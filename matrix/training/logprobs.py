"""Log-probabilities of target tokens under a causal language model: the only way from a batch to numbers.

The losses of SFT and preference training, the reference of the latter, held-out losses and the likelihoods that filters
read all come from here. Logits exist only at target positions, only in part, and never in less than fp32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from matrix.training.attention import HALF, PACKED, SEGMENTS
from matrix.training.batch import Batch, collate
from matrix.training.budget import LOGITS
from matrix.training.chat import Sequence
from matrix.training.data import Example
from matrix.training.recipe import TrainingError

RESCALED = ("final_logit_softcapping", "logit_scale", "logits_scaling")
"""Settings with which some models change their logits after the output layer."""


class TokenLogps(nn.Module):
    """A causal language model that says log-probabilities instead of logits.

    Args:
        model: of Hugging Face. Loaded with `attn_implementation=PACKED` it takes packed batches too.

    Raises:
        TrainingError: its output layer cannot be told from the rest.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        if model.base_model is model:
            raise TrainingError(f"{type(model).__name__} does not tell its layers from its output layer: not supported")
        self.model = model
        self.head = LogpHead(model.get_output_embeddings())

    def forward(self, batch: Batch) -> Tensor:
        """Log-probability of every label given the tokens before it.

        Args:
            batch: of `matrix.training.batch.collate`.

        Returns:
            (targets,) float32.
        """
        packed: dict[str, Any] = {name: batch[name] for name in SEGMENTS if name in batch}
        if packed:
            if self.model.config._attn_implementation != PACKED:
                raise TrainingError(f"packed rows need a model that was loaded with attn_implementation={PACKED}")
            # A mask of four dimensions is passed on as it is, so none of tokens x tokens is made. Nobody looks at it;
            # who did would see nothing, which `check_logps` finds out.
            mask = torch.zeros(1, 1, 1, 1, dtype=torch.bool, device=batch["ids"].device)
            packed |= {"position_ids": batch["position_ids"], "attention_mask": mask}
        hidden = self.model.base_model(input_ids=batch["ids"], use_cache=False, **packed).last_hidden_state
        logps: Tensor = self.head(hidden.flatten(0, 1).index_select(0, batch["picks"]), batch["labels"])
        return logps


class LogpHead(nn.Module):
    """A model's output layer, with its very weights, that says log-probabilities.

    It is a module so that ZeRO stage 3 and FSDP2 gather the weights around it.

    Args:
        output: the output layer.

    Raises:
        TrainingError: it is more than a matrix and a bias.
    """

    def __init__(self, output: nn.Module) -> None:
        super().__init__()
        if not isinstance(output, nn.Linear):
            raise TrainingError(
                f"the output layer is a {type(output).__name__} and not a plain linear layer; with adapters, leave it "
                "out of lora.targets, e.g. lora.targets=[all-linear]"
            )
        self.weight, self.bias = output.weight, output.bias

    def forward(self, hidden: Tensor, labels: Tensor) -> Tensor:
        """(n, width) outputs of the last layer and (n,) int64 labels to (n,) float32."""
        return linear_logps(hidden, self.weight, self.bias, labels, max(1, LOGITS // len(self.weight)))


def linear_logps(hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, chunk: int) -> Tensor:
    """`log_softmax(hidden @ weight.T + bias)` at the labels, in fp32, without holding all logits.

    Products are those of the types that come in, or that autocast asks for, but are never rounded to 16 bits; gradients
    add up in fp32. A CPU computes in fp32 throughout. No derivative of the derivative.

    Args:
        hidden: (n, width); n = 0 gives gradients of zero.
        weight: (vocabulary, width).
        bias: (vocabulary,) or None.
        labels: (n,) int64.
        chunk: rows whose logits are held at once. The last ones stay until the backward pass, the others are computed
            again in it.

    Returns:
        (n,) float32; float64 where `hidden` is.
    """
    device = hidden.device.type
    kind = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    if device == "cpu" and kind in HALF:
        kind = torch.float32
    with torch.autocast(device, enabled=False):
        logps: Tensor = _LinearLogps.apply(hidden, weight, bias, labels, chunk, kind)  # type: ignore[no-untyped-call]
    return logps


class _LinearLogps(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, chunk: int, kind: torch.dtype
    ) -> Tensor:
        ctx.save_for_backward(hidden, weight, bias, labels)
        ctx.chunk, ctx.kind, ctx.kept = chunk, kind, None
        matrix = weight.to(kind)
        logps = torch.empty(len(labels), dtype=torch.promote_types(kind, torch.float32), device=hidden.device)
        for rows in _chunks(len(labels), chunk):
            ctx.kept = None  # before the next logits are made
            logps[rows], *ctx.kept = _softmax(hidden[rows].to(kind), matrix, bias, labels[rows])
        return logps

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias, labels = ctx.saved_tensors
        given = (hidden, weight, bias)
        sums = [
            torch.zeros(x.shape, dtype=gradient.dtype, device=x.device) if needed else None
            for x, needed in zip(given, ctx.needs_input_grad[:3], strict=True)
        ]
        d_hidden, d_weight, d_bias = sums
        matrix = weight.to(ctx.kind)
        with torch.autocast(hidden.device.type, enabled=False):
            for rows in reversed(_chunks(len(labels), ctx.chunk)):
                h = hidden[rows].to(ctx.kind)
                exps, totals = ctx.kept or _softmax(h, matrix, bias, labels[rows])[1:]
                ctx.kept = None
                # Softmax minus one at the label, times totals; the difference is taken before anything is rounded.
                exps.scatter_add_(1, labels[rows, None], -totals)
                errors, scale = exps.to(ctx.kind), -gradient[rows, None] / totals
                if d_hidden is not None:
                    d_hidden[rows] = _product(errors, matrix) * scale
                if d_weight is not None:
                    _add_product(d_weight, errors.T, (h * scale).to(ctx.kind))
                if d_bias is not None:
                    d_bias += scale[:, 0] @ exps
                del exps, errors
        return (*(s if s is None else s.to(x.dtype) for s, x in zip(sums, given, strict=True)), None, None, None)


def _chunks(n: int, chunk: int) -> list[slice]:
    return [slice(start, start + chunk) for start in range(0, n, chunk)]


def _softmax(hidden: Tensor, matrix: Tensor, bias: Tensor | None, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(n,) log-probabilities of the labels, (n, vocabulary) exponentials, the largest 1, and their (n, 1) totals."""
    logits = _product(hidden, matrix.T)
    if bias is not None:
        logits += bias
    top = logits.amax(1, keepdim=True)
    chosen = logits.gather(1, labels[:, None]) - top
    exps = logits.sub_(top).exp_()
    totals = exps.sum(1, keepdim=True)
    return (chosen - totals.log())[:, 0], exps, totals


def _product(a: Tensor, b: Tensor) -> Tensor:
    """a @ b in fp32 at least."""
    return torch.mm(a, b, out_dtype=torch.float32) if a.dtype in HALF else a @ b


def _add_product(sums: Tensor, a: Tensor, b: Tensor) -> None:
    """Add a @ b to fp32 sums, without a copy of them."""
    if a.dtype in HALF:
        torch.addmm(sums, a, b, out_dtype=torch.float32, out=sums)
    else:
        sums.addmm_(a, b)


def check_logps(token_logps: TokenLogps) -> None:
    """Compare with the model's own logits on a few tokens, so that no architecture is trained wrongly in silence.

    To be called where a forward pass may be made: before FSDP2 shards the weights, after DeepSpeed has taken them, and
    under the autocast of training.

    Raises:
        TrainingError: the model's logits are not its output layer's, or packed rows see each other.
    """
    model, head = token_logps.model, token_logps.head
    name, config = model.config.name_or_path or type(model).__name__, model.config.get_text_config()
    if odd := [key for key in RESCALED if getattr(config, key, None) not in (None, 0, 1)]:
        raise TrainingError(f"{name} changes its logits after the output layer ({', '.join(odd)}): not supported")
    packed = model.config._attn_implementation == PACKED
    if packed and not (model._supports_flash_attn and model._supports_attention_backend):
        # Those that do tell the attention function all that they want, windows included; others make masks of it.
        raise TrainingError(f"{name} does not leave its attention to a function: set packing=padded")
    ids = [i * 7919 % config.vocab_size for i in range(1, 20)]
    examples = [_probe(0, ids[:7]), _probe(3, ids[7:13], ids[7:10] + ids[13:])]
    device, training = head.weight.device, model.training
    rounded = head.weight.dtype in HALF or torch.is_autocast_enabled(device.type)
    rounded |= torch.get_float32_matmul_precision() != "highest"
    rtol, atol = (0.02, 0.05) if rounded else (0, 2e-3)
    model.eval()
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        theirs = _own_logps(model, [s for e in examples for s in e.sequences], device)
        for way in (False, True) if packed else (False,):
            batch = collate(examples, [0, 1], way)
            ours = token_logps({k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()})
            if not torch.allclose(ours, theirs, rtol, atol):
                gap = f"{(ours - theirs).abs().max():.3g} nats"
                if way:
                    raise TrainingError(f"{name}: packed rows see each other (by {gap}); set packing=padded")
                raise TrainingError(f"{name}: the logits are not the output layer's (by {gap}): not supported")
    model.train(training)


def _probe(prefix: int, *sequences: list[int]) -> Example:
    """An example whose sequences share their first `prefix` tokens; all others but the very first are targets."""
    start = max(prefix, 1)
    return Example("", tuple(Sequence(ids, [i >= start for i in range(len(ids))]) for ids in sequences))


def _own_logps(model: Any, sequences: list[Sequence], device: torch.device) -> Tensor:
    """What the model itself says of the targets, one sequence at a time, with its own attention instead of `PACKED`."""
    attention = model.config._attn_implementation
    if attention == PACKED:
        model.set_attn_implementation("eager")
    found = []
    for sequence in sequences:
        ids, targets = torch.tensor(sequence.ids, device=device), torch.tensor(sequence.targets[1:], device=device)
        logps = model(input_ids=ids[None]).logits[0, :-1].float().log_softmax(-1)
        found.append(logps.gather(1, ids[1:, None])[targets, 0])
    model.set_attn_implementation(attention)
    return torch.cat(found)


def sequence_sums(logps: Tensor, owner: Tensor, n: int) -> Tensor:
    """(n,) sums of (targets,) log-probabilities; `owner`, (targets,) int64, says whose each is."""
    return logps.new_zeros(n).index_add(0, owner, logps)
