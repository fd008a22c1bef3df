"""Tokens, masks and losses of whole batches beside TRL's: the same rows, each side with its own rendering."""

import copy

import pytest
import torch
from training_samples import pair, sentence

from matrix.jsonl import write_jsonl
from matrix.records import Conversation, Message, Origin
from matrix.training.attention import PACKED
from matrix.training.batch import collate
from matrix.training.chat import Renderer
from matrix.training.data import read_examples
from matrix.training.logprobs import TokenLogps, sequence_sums
from matrix.training.losses import preference_terms
from matrix.training.recipe import DPOConfig, SFTConfig

trl = pytest.importorskip("trl", reason="needs: pip install 'trl==1.16.*'")
# TRL and accelerate warn about their own defaults on a machine without accelerator.
pytestmark = pytest.mark.filterwarnings("ignore")
ROWS = 64


@pytest.fixture
def common(tmp_path):
    return {
        "use_cpu": True, "bf16": False, "gradient_checkpointing": False, "report_to": "none", "max_length": 256,
        "output_dir": str(tmp_path), "disable_tqdm": True, "train_sampling_strategy": "sequential",
    }  # fmt: skip


def multi_turn(i):
    """Two to four turns, now and then after a system message; some answers are one word, or end in blanks."""
    chat = [("system", sentence(i, 3))] if i % 5 == 0 else []
    for turn in range(2 + i % 3):
        end = "\n" if i % 7 == 0 else ""
        chat += [
            ("user", sentence(i + turn, 1 + i % 4)),
            ("assistant", sentence(i + 2 * turn, 1 + (i + turn) % 9) + end),
        ]
    messages = [Message(role=role, content=text) for role, text in chat]
    return Conversation(id=f"c{i}", messages=messages, origin=Origin(stage="generate-0"))


def chat(messages):
    return [{"role": m.role, "content": m.content} for m in messages]


def our_examples(tmp_path, rows, recipe, tokenizer):
    write_jsonl(tmp_path / "rows.jsonl", rows)
    return read_examples(tmp_path / "rows.jsonl", recipe, Renderer(tokenizer, recipe), 0).examples


def lines(ids, attention):
    return [row[mask == 1].tolist() for row, mask in zip(ids, attention, strict=True)]


def our_logps(model, batch, packed):
    judge = copy.deepcopy(model)  # models share their config here, and with it the attention
    judge.set_attn_implementation(PACKED if packed else "sdpa")
    return TokenLogps(judge)(batch)


@pytest.mark.parametrize("packed", [True, False])
def test_sft_tokens_masks_and_loss(tmp_path, common, model, tokenizer, packed):
    from datasets import Dataset
    from trl.chat_template_utils import llama3_training_chat_template

    rows = [multi_turn(i) for i in range(ROWS)]
    marked = copy.deepcopy(tokenizer)
    marked.chat_template = llama3_training_chat_template
    trainer = trl.SFTTrainer(
        model=model,
        args=trl.SFTConfig(assistant_only_loss=True, per_device_train_batch_size=ROWS, **common),
        train_dataset=Dataset.from_list([{"messages": chat(row.messages)} for row in rows]),
        processing_class=marked,
    )
    batch = dict(next(iter(trainer.get_train_dataloader())))
    examples = our_examples(tmp_path, rows, SFTConfig(max_length=256), tokenizer)
    sequences = [example.sequences[0] for example in examples]
    assert lines(batch["input_ids"], batch["attention_mask"]) == [s.ids for s in sequences]
    assert lines(batch["labels"] != -100, batch["attention_mask"]) == [s.targets for s in sequences]

    with torch.no_grad():
        theirs = trainer.compute_loss(trainer.model, batch)
        mine = -our_logps(model, collate(examples, list(range(ROWS)), packed), packed).mean()
    assert mine.item() == pytest.approx(theirs.item(), abs=1e-6)


@pytest.mark.parametrize("packed", [True, False])
def test_dpo_tokens_masks_and_loss(tmp_path, common, model, model_config, tokenizer, packed):
    from datasets import Dataset
    from transformers import LlamaForCausalLM

    rows = [pair(i) for i in range(16)]
    answers = [[[{"role": "assistant", "content": text}] for text in (row.chosen, row.rejected)] for row in rows]
    torch.manual_seed(2)
    reference = LlamaForCausalLM(model_config).eval()
    trainer = trl.DPOTrainer(
        model=model, ref_model=reference, args=trl.DPOConfig(per_device_train_batch_size=len(rows), **common),
        train_dataset=Dataset.from_list([
            {"prompt": chat(row.prompt), "chosen": chosen, "rejected": rejected}
            for row, (chosen, rejected) in zip(rows, answers, strict=True)
        ]),
        processing_class=tokenizer,
    )  # fmt: skip
    batch = dict(next(iter(trainer.get_train_dataloader())))
    config = DPOConfig(max_length=256)
    examples = our_examples(tmp_path, rows, config, tokenizer)
    sequences = [example.sequences[branch] for branch in (0, 1) for example in examples]
    assert lines(batch["input_ids"], batch["attention_mask"]) == [s.ids for s in sequences]
    assert lines(batch["completion_mask"] == 1, batch["attention_mask"]) == [s.targets for s in sequences]

    ours = collate(examples, list(range(len(rows))), packed)
    with torch.no_grad():
        theirs = trainer.compute_loss(trainer.model, batch)
        logps = [our_logps(judge, ours, packed) for judge in (model, reference)]
    sums = [sequence_sums(one, ours["owner"], 2 * len(rows)).view(-1, 2) for one in logps]
    lengths = torch.bincount(ours["owner"]).view(-1, 2)
    terms = preference_terms(config, *sums, lengths, len(rows), int(lengths[:, 0].sum()))
    assert terms["loss"].mean().item() == pytest.approx(theirs.item(), abs=1e-5)
