"""Llama, Qwen2 and Qwen3 checkpoints as one GGUF file, which OpenVINO and llama.cpp serve without a GPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from torch import Tensor

from matrix.training.recipe import TrainingError

ARCHITECTURES = {"llama": gguf.MODEL_ARCH.LLAMA, "qwen2": gguf.MODEL_ARCH.QWEN2, "qwen3": gguf.MODEL_ARCH.QWEN3}
"""By `model_type` of Hugging Face."""


def check_gguf(config: Any, tokenizer: Any, source: Path | None) -> gguf.MODEL_ARCH:
    """The architecture by which a model is known in GGUF; better asked before a training than after it.

    Args:
        config: the model's Hugging Face config.
        tokenizer: the Hugging Face tokenizer.
        source: GGUF file with the same vocabulary, whose tokenizer is taken instead.

    Raises:
        TrainingError: the architecture or the tokenizer has no known form in GGUF.
    """
    rope = getattr(config, "rope_parameters", None) or {}
    architecture = ARCHITECTURES.get(config.model_type)
    # Scaled ones (Llama 3.1 and later) would have their place in the file, but neither transformers nor OpenVINO looks
    # there, and both would answer as another model.
    plain = rope.get("rope_type", "default") == "default"
    extras = [name for name in ("attention_bias", "mlp_bias", "use_sliding_window") if getattr(config, name, False)]
    if architecture is None or not plain or extras:
        raise TrainingError(
            f"GGUF export knows {', '.join(ARCHITECTURES)} with plain rotary embeddings, not {config.model_type} with "
            f"{rope} {extras or ''}. Set recipe.sft.export_gguf=false and recipe.dpo.export_gguf=false, "
            "and serve hf/ with vLLM"
        )
    if source is None:
        _describe(tokenizer)
    return architecture


def write_gguf(
    path: Path, config: Any, weights: dict[str, Tensor], tokenizer: Any, end_of_turn: int, source: Path | None
) -> None:
    """Write a model and its tokenizer: matrices in F16, vectors in F32.

    Args:
        path: the file to write.
        config: the model's Hugging Face config.
        weights: Hugging Face names and tensors of any float type.
        tokenizer: the Hugging Face tokenizer, for the chat template and, without a `source`, the vocabulary.
        end_of_turn: token that ends generation.
        source: GGUF file with the same vocabulary, whose tokenizer is copied.

    Raises:
        TrainingError: the architecture or tokenizer has no known form in GGUF, or a weight exceeds F16.
    """
    architecture = check_gguf(config, tokenizer, source)
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[architecture])
    writer.add_name("model")  # no path: equal weights are to give equal files
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(head)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    if source:
        _copy_tokenizer(writer, source)
    else:
        _add_tokenizer(writer, tokenizer, config.vocab_size)
    writer.add_eos_token_id(end_of_turn)
    writer.add_chat_template(tokenizer.chat_template)
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    if architecture is not gguf.MODEL_ARCH.LLAMA:
        heads = {}  # these are rotated as transformers does it
    for name, tensor in weights.items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        new = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if new is None:
            raise TrainingError(f"GGUF has no name for the tensor {name}; set export_gguf=false")
        array = tensor.float().numpy()
        projection = name.split(".")[-2]
        if projection in heads:
            array = _interleave(array, heads[projection])
        if array.ndim > 1:
            with np.errstate(over="ignore"):
                array = array.astype(np.float16)
            if not np.isfinite(array).all():
                raise TrainingError(f"{name} holds values beyond F16; set export_gguf=false and serve hf/")
        writer.add_tensor(new, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _interleave(array: np.ndarray[Any, Any], heads: int) -> np.ndarray[Any, Any]:
    """Rows of each head as llama.cpp rotates them, in pairs (2i, 2i + 1); transformers rotates (i, i + d/2)."""
    rows = array.shape[0]
    split = array.reshape(heads, 2, rows // heads // 2, *array.shape[1:])
    return np.ascontiguousarray(split.swapaxes(1, 2).reshape(array.shape))


REPLACED = ("tokenizer.chat_template", "tokenizer.ggml.eos_token_id")


def _copy_tokenizer(writer: gguf.GGUFWriter, source: Path) -> None:
    for name, field in gguf.GGUFReader(source).fields.items():
        if name.startswith("tokenizer.") and name not in REPLACED:
            item_type = field.types[-1] if len(field.types) > 1 else None
            writer.add_key_value(name, field.contents(), field.types[0], item_type)


SMOLLM = [
    {"type": "Digits", "individual_digits": True},
    {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
]
CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|"
REST = "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
EXPRESSIONS = {
    CONTRACTIONS + "\\p{N}{1,3}" + REST: "llama-bpe",
    CONTRACTIONS + "\\p{N}" + REST: "qwen2",
}
"""Names of the regular expressions by which Llama 3 and Qwen 2 split text."""


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: Any, size: int) -> None:
    """A byte-level BPE tokenizer's vocabulary, merges and special tokens."""
    merges, splitting = _describe(tokenizer)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(splitting)
    vocabulary = {i: token for token, i in tokenizer.get_vocab().items()}
    added = tokenizer.added_tokens_decoder
    kinds = [
        gguf.TokenType.UNUSED if i not in vocabulary
        else gguf.TokenType.NORMAL if i not in added
        else gguf.TokenType.CONTROL if added[i].special
        else gguf.TokenType.USER_DEFINED
        for i in range(size)
    ]  # fmt: skip
    writer.add_token_list([vocabulary.get(i, f"[PAD{i}]") for i in range(size)])
    writer.add_token_types(kinds)
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    if tokenizer.bos_token_id is not None:
        writer.add_bos_token_id(tokenizer.bos_token_id)
    if tokenizer.pad_token_id is not None:
        writer.add_pad_token_id(tokenizer.pad_token_id)
    writer.add_add_bos_token(False)  # the chat template writes it where there is one


def _describe(tokenizer: Any) -> tuple[list[Any], str]:
    """A byte-level BPE tokenizer's merges, and the name of how it splits text before merging."""
    described = json.loads(tokenizer.backend_tokenizer.to_str())
    merges = described["model"].get("merges")
    if described["model"]["type"] != "BPE" or merges is None:
        raise TrainingError(
            f"GGUF export knows byte-level BPE tokenizers, not {described['model']['type']}. Set export_gguf=false"
        )
    return merges, _splitting(described["pre_tokenizer"])


def _splitting(pre_tokenizer: dict[str, Any] | None) -> str:
    """Name by which GGUF readers know how a tokenizer splits text before merging."""
    parts = (pre_tokenizer or {}).get("pretokenizers", [pre_tokenizer])
    if parts == SMOLLM:
        return "smollm"
    if parts[0] == SMOLLM[1]:
        return "gpt-2"
    expression = parts[0].get("pattern", {}).get("Regex") if parts[0] else None
    if expression in EXPRESSIONS:
        return EXPRESSIONS[expression]
    raise TrainingError(f"GGUF has no name for this way of splitting text: {pre_tokenizer}. Set export_gguf=false")
