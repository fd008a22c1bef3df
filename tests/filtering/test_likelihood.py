"""The likelihood stage on a tiny model in the layout of a checkpoint, against naive sums."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from tiny_tokenizer import tiny_tokenizer

import matrix
from matrix.engines.base import ModelConfig
from matrix.filtering.likelihood import Likely
from matrix.filtering.scorer import ScorerConfig
from matrix.jsonl import read_jsonl, write_jsonl
from matrix.records import Conversation, Likelihood, Message, Origin, PreferencePair
from matrix.stage import Result

ORIGIN = Origin(stage="generate-0")


def turns(*texts):
    return [Message(role=("user", "assistant")[i % 2], content=text) for i, text in enumerate(texts)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Result:
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("checkpoint")
    torch.manual_seed(2)
    config = LlamaConfig(
        vocab_size=512, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=256, initializer_range=0.2, bos_token_id=0, eos_token_id=1,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder / "hf")
    tiny_tokenizer(Path(matrix.__file__).parent / "records.py").save_pretrained(folder / "hf")
    return Result(stage="train", key="t" * 64, path=folder)


def stage(folder, rows, checkpoint) -> Likely:
    folder.mkdir()
    write_jsonl(folder / "rows.jsonl", rows)
    return Likely(
        model=ModelConfig(model="no/such-model", threads=1),
        checkpoint=checkpoint,
        rows=Result(stage="generate", key="g" * 64, path=folder),
        scorer=ScorerConfig(batch_tokens=40, device="cpu"),
        seed=1,
    )


def naive(checkpoint, chats):
    """Per chat, the sum over what the whole chat has beyond its prompt, and the number of these tokens."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint.path / "hf")
    model = AutoModelForCausalLM.from_pretrained(checkpoint.path / "hf", dtype=torch.float32).eval()
    found = []
    for chat in chats:
        messages = [{"role": m.role, "content": m.content} for m in chat]
        prompt = tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True, return_dict=False)
        ids = tokenizer.apply_chat_template(messages, return_dict=False)
        with torch.no_grad():
            logps = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        answer = range(len(prompt), len(ids))
        found.append((sum(logps[i - 1, ids[i]].item() for i in answer), len(answer)))
    return found


CHATS = [
    turns("Why?", "Because."),
    turns("Where?", "Here.", "Since when?", "Since long ago."),
    turns("A", ""),
    turns("Why?", "No."),
]


@pytest.fixture(scope="module")
def measured(tmp_path_factory, checkpoint):
    """The work folder of a stage that measured `CHATS`."""
    rows = [Conversation(id=f"c{i}", messages=chat, origin=ORIGIN) for i, chat in enumerate(CHATS)]
    work = tmp_path_factory.mktemp("work")
    likely = stage(work / "up", rows, checkpoint)
    likely.run(work)
    return likely, work


def test_every_answer_with_its_prompt_and_alone(measured, checkpoint):
    found = read_jsonl(measured[1] / "likelihoods.jsonl", Likelihood)
    given = naive(checkpoint, CHATS)
    bare = naive(checkpoint, [turns("", chat[-1].content) for chat in CHATS])
    assert [(row.row, row.part, row.tokens) for row in found] == [
        (f"c{i}", "response", tokens) for i, (_, tokens) in enumerate(given)
    ]
    assert [row.logp for row in found] == pytest.approx([value for value, _ in given], abs=1e-4)
    assert [row.logp_alone for row in found] == pytest.approx([value for value, _ in bare], abs=1e-4)
    assert json.loads((measured[1] / "counts.json").read_text()) == {"answers": 4, "cut": 0}


def test_a_killed_run_goes_on_and_writes_the_same(measured):
    likely, work = measured
    written = {name: (work / name).read_bytes() for name in ("likelihoods.jsonl", "measured.jsonl")}
    kept, _, last = written["measured.jsonl"].rstrip(b"\n").rpartition(b"\n")
    (work / "likelihoods.jsonl").unlink()
    (work / "measured.jsonl").write_bytes(kept + b"\n" + last[: len(last) // 2])  # as kill -9 leaves it
    likely.run(work)
    assert written == {name: (work / name).read_bytes() for name in written}


def test_chosen_and_rejected_of_a_pair(measured, tmp_path, checkpoint):
    """What is measured needs no model."""
    pair = PreferencePair(id="p", prompt=turns("Why?"), chosen="Because.", rejected="No.", origin=ORIGIN)
    likely = stage(tmp_path / "up", [pair], Result(stage="train", key="n" * 64, path=tmp_path / "nothing"))
    shutil.copy(measured[1] / "measured.jsonl", tmp_path)
    likely.run(tmp_path)
    expected = naive(checkpoint, [CHATS[0], CHATS[3]])
    found = read_jsonl(tmp_path / "likelihoods.jsonl", Likelihood)
    assert [(row.row, row.part, row.tokens) for row in found] == [
        ("p", "chosen", expected[0][1]),
        ("p", "rejected", expected[1][1]),
    ]
    assert [row.logp for row in found] == pytest.approx([value for value, _ in expected], abs=1e-4)


def test_the_key_depends_on_the_checkpoint_and_not_on_how_it_is_run(tmp_path, checkpoint):
    rows = Result(stage="generate", key="g" * 64, path=tmp_path)

    def key(**changes):
        return Likely(**{"model": ModelConfig(model="a/b"), "rows": rows, "seed": 1} | changes).key()

    assert key(scorer=ScorerConfig(batch_tokens=1, device="cpu")) == key()
    assert key(checkpoint=checkpoint) != key()
    assert key(model=ModelConfig(model="a/c")) != key()
