"""A tiny Llama and a byte-level tokenizer, made on the spot, in the layout of a checkpoint result."""

from pathlib import Path

import pytest
from tiny_tokenizer import tiny_tokenizer
from training_samples import conversation, pair, published

from matrix.jsonl import write_jsonl
from matrix.stage import Result
from matrix.training.recipe import DPOConfig, SFTConfig

TEXT = Path(__file__).parents[2] / "LICENSE"


@pytest.fixture(scope="session")
def tokenizer():
    return tiny_tokenizer(TEXT)


@pytest.fixture(scope="session")
def model_config():
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=512, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, tie_word_embeddings=True, bos_token_id=0, eos_token_id=1,
        initializer_range=0.1,
    )  # fmt: skip


@pytest.fixture
def model(model_config):
    import torch
    from transformers import LlamaForCausalLM

    torch.manual_seed(1)
    return LlamaForCausalLM(model_config)


@pytest.fixture(scope="session")
def base(tmp_path_factory, tokenizer, model_config) -> Result:
    import torch
    from transformers import LlamaForCausalLM

    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(1)
    LlamaForCausalLM(model_config).save_pretrained(folder / "hf")
    tokenizer.save_pretrained(folder / "hf")
    return published("import", folder)


@pytest.fixture(scope="session")
def conversations(tmp_path_factory) -> Result:
    folder = tmp_path_factory.mktemp("conversations")
    write_jsonl(folder / "rows.jsonl", [conversation(i) for i in range(11)])
    return published("filter", folder)


@pytest.fixture(scope="session")
def pairs(tmp_path_factory) -> Result:
    folder = tmp_path_factory.mktemp("pairs")
    write_jsonl(folder / "rows.jsonl", [pair(i) for i in range(6)])
    return published("filter", folder)


@pytest.fixture(scope="session")
def sft_examples(conversations, tokenizer):
    return examples(conversations, SFTConfig(max_length=256), tokenizer)


@pytest.fixture(scope="session")
def dpo_examples(pairs, tokenizer):
    return examples(pairs, DPOConfig(max_length=256), tokenizer)


def examples(rows, recipe, tokenizer):
    from matrix.training.chat import Renderer
    from matrix.training.data import read_examples

    return read_examples(rows.path / "rows.jsonl", recipe, Renderer(tokenizer, recipe), 0).examples
