"""The losses and masks of TRL, which everybody compares with, on the same rows."""

import copy
from itertools import chain

import pytest
import torch

from matrix.training.losses import dpo_terms, token_logps
from matrix.training.plan import collate

trl = pytest.importorskip("trl", reason="needs: pip install 'trl==1.16.*'")
# TRL and accelerate warn about their own defaults on a machine without accelerator.
pytestmark = pytest.mark.filterwarnings("ignore")


def common(tmp_path):
    return {
        "use_cpu": True, "bf16": False, "gradient_checkpointing": False, "report_to": "none", "max_length": 256,
        "output_dir": str(tmp_path), "disable_tqdm": True, "per_device_train_batch_size": 4, "seed": 1,
    }  # fmt: skip


def chat(messages):
    return [{"role": m.role, "content": m.content} for m in messages]


def test_sft_masks_and_loss(tmp_path, model, tokenizer, conversations, sft_examples):
    from datasets import Dataset
    from trl.chat_template_utils import llama3_training_chat_template

    from matrix.jsonl import read_jsonl
    from matrix.records import Conversation

    marked = copy.deepcopy(tokenizer)
    marked.chat_template = llama3_training_chat_template

    rows = read_jsonl(conversations.path / "rows.jsonl", Conversation)
    trainer = trl.SFTTrainer(
        model=model,
        args=trl.SFTConfig(assistant_only_loss=True, train_sampling_strategy="sequential", **common(tmp_path)),
        train_dataset=Dataset.from_list([{"messages": chat(row.messages)} for row in rows]),
        processing_class=marked,
    )
    theirs = next(iter(trainer.get_train_dataloader()))
    ours = collate(sft_examples, [0, 1, 2, 3], 1)
    expected = chain(*(sft_examples[i].sequences[0].ids for i in range(4)))
    assert theirs["input_ids"][theirs["attention_mask"] == 1].tolist() == list(expected)
    assert theirs["labels"][theirs["labels"] != -100].tolist() == ours["ids"][ours["targets"]].tolist()
    loss = trainer.compute_loss(trainer.model, dict(theirs))
    mine = -token_logps(model, ours["ids"], ours["targets"]).sum() / ours["targets"].sum()
    assert mine.item() == pytest.approx(loss.item(), abs=2e-6)


def test_dpo_loss(tmp_path, model, model_config, tokenizer, pairs, dpo_examples):
    from datasets import Dataset
    from transformers import LlamaForCausalLM

    from matrix.jsonl import read_jsonl
    from matrix.records import PreferencePair

    torch.manual_seed(2)
    reference = LlamaForCausalLM(model_config).eval()
    rows = read_jsonl(pairs.path / "rows.jsonl", PreferencePair)
    columns = [
        {
            "prompt": chat(row.prompt),
            "chosen": [{"role": "assistant", "content": row.chosen}],
            "rejected": [{"role": "assistant", "content": row.rejected}],
        }
        for row in rows
    ]
    trainer = trl.DPOTrainer(
        model=model, ref_model=reference, args=trl.DPOConfig(beta=0.1, **common(tmp_path)),
        train_dataset=Dataset.from_list(columns), processing_class=tokenizer,
    )  # fmt: skip
    batch = next(iter(trainer.get_train_dataloader()))
    loss = trainer.compute_loss(trainer.model, dict(batch))
    # TRL shuffles; find out which rows it drew by their tokens.
    ids = [row[mask == 1].tolist() for row, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)]
    known = [[sequence.ids for sequence in example.sequences] for example in dpo_examples]
    drawn = [known.index([ids[i], ids[i + 4]]) for i in range(4)]
    ours = collate(dpo_examples, drawn, 1)
    assert ours["ids"][ours["targets"]].tolist() == batch["input_ids"][batch["completion_mask"] == 1].tolist()
    sums = [torch.stack(token_logps(m, ours["ids"], ours["targets"]).sum(1).chunk(2), 1) for m in (model, reference)]
    assert dpo_terms(*sums, 0.1, 0.0)[0].mean().item() == pytest.approx(loss.item(), abs=4e-6)
