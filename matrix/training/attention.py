"""Attention over packed rows in which no row sees another, registered with transformers as `matrix_packed`.

`matrix.training.batch` lays rows one after another and says where each begins; `matrix.training.logprobs` hands that to
the model, which passes it on to the attention function of every layer. Importing this module registers the function.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from matrix.training.recipe import TrainingError

PACKED = "matrix_packed"
"""The name for `from_pretrained(attn_implementation=...)`."""
SEGMENTS = ("cu_seq_lens_q", "cu_seq_lens_k", "max_length_q", "max_length_k", "kv_index")
"""What a packed batch says of its segments (`matrix.training.batch.collate`)."""
HALF = (torch.bfloat16, torch.float16)
SHARED_HEADS: dict[str, Any] = {"enable_gqa": True} if "enable_gqa" in inspect.signature(varlen_attn).parameters else {}
"""Newer versions of PyTorch ask to be told that key heads are shared."""
FOREIGN = ("softcap", "s_aux", "position_bias")
"""Arguments with which some models ask for scores that are computed otherwise."""


def packed_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    cu_seq_lens_q: Tensor | None = None,
    cu_seq_lens_k: Tensor | None = None,
    max_length_q: int = 0,
    max_length_k: int = 0,
    kv_index: Tensor | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Causal attention within segments; without segments what transformers does for `sdpa`.

    Segment s is the queries between two bounds of `cu_seq_lens_q` against the keys between two bounds of
    `cu_seq_lens_k`, aligned at the end: its last query sees its last key. On a GPU in 16 bits this is one call of
    PyTorch's variable-length flash attention, elsewhere one of its dense attention a segment.

    Args:
        module: the model's attention layer.
        query: (1, heads, tokens, width), positions already rotated in.
        key: (1, key heads, tokens, width); fewer heads than the query's are shared by neighbours.
        value: like `key`.
        attention_mask: not looked at where there are segments.
        dropout: probability with which a weight is left out.
        scaling: factor on the scores; None is width ** -0.5.
        sliding_window: keys that a query sees at most, itself included; None is all.
        cu_seq_lens_q: (segments + 1,) int32; None means that there are no segments.
        cu_seq_lens_k: (segments + 1,) int32 bounds in `key[kv_index]`.
        max_length_q: queries of the longest segment.
        max_length_k: keys of the longest segment.
        kv_index: (keys,) int64 that brings the keys in order, None where they are.
        others: what else a model passes on.

    Returns:
        (1, tokens, heads, width), and None in place of the weights.

    Raises:
        TrainingError: the model asks for something that is not computed here.
    """
    if odd := [name for name in FOREIGN if others.get(name) is not None]:
        raise TrainingError(f"this model's attention uses {', '.join(odd)}: rows cannot be packed; set packing=padded")
    if cu_seq_lens_q is None or cu_seq_lens_k is None:
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **others
        )
    if kv_index is not None:
        key, value = key.index_select(2, kv_index), value.index_select(2, kv_index)
    window = sliding_window if sliding_window is not None and sliding_window < max_length_k else None
    kind = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else query.dtype
    if query.is_cuda and kind in HALF and not dropout:
        # Rotation leaves queries and keys in fp32 under autocast, which does not know of this operator.
        q, k, v = (x.squeeze(0).transpose(0, 1).to(kind) for x in (query, key, value))
        bounds = (cu_seq_lens_q, cu_seq_lens_k, max_length_q, max_length_k)
        sight = (-1 if window is None else window - 1, 0)
        out: Any = varlen_attn(q, k, v, *bounds, scale=scaling, window_size=sight, **SHARED_HEADS)
        return out.unsqueeze(0), None
    return _separate(query, key, value, cu_seq_lens_q, cu_seq_lens_k, dropout, scaling, window), None


@torch.compiler.disable  # type: ignore[untyped-decorator]  # it would be compiled again for every batch
def _separate(
    query: Tensor, key: Tensor, value: Tensor, cu_seq_lens_q: Tensor, cu_seq_lens_k: Tensor, dropout: float,
    scaling: float | None, window: int | None,
) -> Tensor:  # fmt: skip
    """One segment after the other, (1, tokens, heads, width)."""
    lengths_q, lengths_k = cu_seq_lens_q.diff().tolist(), cu_seq_lens_k.diff().tolist()
    pieces = query.split(lengths_q, 2), key.split(lengths_k, 2), value.split(lengths_k, 2)  # type: ignore[no-untyped-call]
    done = [_dense(*segment, dropout, scaling, window).transpose(1, 2) for segment in zip(*pieces, strict=True)]
    return torch.cat(done, dim=1)


def _dense(q: Tensor, k: Tensor, v: Tensor, dropout: float, scaling: float | None, window: int | None) -> Tensor:
    """One segment; (1, heads, tokens, width) in and out. Without a mask PyTorch skips the half that nobody sees."""
    queries, keys = q.shape[2], k.shape[2]
    mask = None
    if queries != keys or (window is not None and window < keys):
        mask = torch.ones(queries, keys, dtype=torch.bool, device=q.device).tril(keys - queries)
        if window is not None:
            mask = mask.triu(keys - queries - window + 1)
    return F.scaled_dot_product_attention(
        q, k, v, mask, dropout, is_causal=mask is None, scale=scaling, enable_gqa=q.shape[1] != k.shape[1]
    )


ALL_ATTENTION_FUNCTIONS.register(PACKED, packed_attention)
# A forward pass over segments brings a mask of its own, which transformers leaves alone (`matrix.training.logprobs`).
ALL_MASK_ATTENTION_FUNCTIONS.register(PACKED, sdpa_mask)
