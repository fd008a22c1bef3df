"""What is exported is trained on by TRL as it is: one step of SFTTrainer and of DPOTrainer."""

import json
import math
from pathlib import Path

import pytest

trl = pytest.importorskip("trl", reason="needs: pip install 'trl==1.16.*'")
# TRL and accelerate warn about their own defaults on a machine without accelerator.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def tiny(exported, tmp_path_factory) -> Path:
    """A random model of 16 dimensions with its tokenizer."""
    import torch
    from tiny_tokenizer import tiny_tokenizer
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("tiny")
    tokenizer = tiny_tokenizer(exported / "trl" / "sft.jsonl")
    tokenizer.pad_token = tokenizer.eos_token
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def stepped(trainer, config, model, rows, folder):
    """The loss of one step, and the parameters that it moved."""
    import torch

    settings = config(
        output_dir=str(folder), max_steps=1, per_device_train_batch_size=2, learning_rate=1e-2, max_length=256,
        use_cpu=True, bf16=False, gradient_checkpointing=False, report_to="none", save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    made = trainer(model=str(model), args=settings, train_dataset=rows)
    before = [p.detach().clone() for p in made.model.parameters()]
    loss = made.train().training_loss
    moved = [not torch.equal(a, b) for a, b in zip(before, made.model.parameters(), strict=True)]
    return loss, sum(moved)


def load(exported, how, tmp_path):
    from datasets import load_dataset

    options = {"split": "train", "cache_dir": str(tmp_path / "cache")}
    if how.endswith(".jsonl"):
        return load_dataset("json", data_files=str(exported / how), **options)
    return load_dataset(str(exported), how, **options)


@pytest.mark.parametrize("how", ["sft", "trl_sft", "trl/sft.jsonl"])
def test_sft(exported, tiny, how, tmp_path):
    loss, moved = stepped(trl.SFTTrainer, trl.SFTConfig, tiny, load(exported, how, tmp_path), tmp_path)
    vocabulary = json.loads((tiny / "config.json").read_text())["vocab_size"]
    assert loss == pytest.approx(math.log(vocabulary), abs=0.1)  # the model is random
    assert moved


@pytest.mark.parametrize("how", ["dpo", "trl_dpo", "trl/dpo.jsonl"])
def test_dpo(exported, tiny, how, tmp_path):
    loss, moved = stepped(trl.DPOTrainer, trl.DPOConfig, tiny, load(exported, how, tmp_path), tmp_path)
    assert loss == pytest.approx(math.log(2), abs=1e-3)  # model and reference are the same
    assert moved
