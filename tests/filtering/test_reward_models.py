"""The reward models against naive per-chat computations, and the process that holds a torch model."""

import asyncio
import json
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from tiny_tokenizer import tiny_tokenizer

import matrix
from matrix.engines.base import EngineError, EngineName, ModelConfig
from matrix.engines.sources import SourceError
from matrix.filtering.reward import Reward
from matrix.filtering.reward_models import (
    ClassifierReward,
    ImplicitReward,
    Implied,
    JudgeReward,
    alone,
    expected_rating,
)
from matrix.filtering.scorer import Head, Job, Measured, Scorer, ScorerConfig
from matrix.filtering.scoring import Causal, Classifier
from matrix.jsonl import read_jsonl, write_jsonl
from matrix.progress import Progress
from matrix.records import Conversation, Failure, Message, Origin, Score
from matrix.stage import Result
from matrix.training.recipe import TrainingError

SIZES = {
    "vocab_size": 512, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.2, "bos_token_id": 0,
    "eos_token_id": 1,
}  # fmt: skip
CHATS = [
    [Message(role=("user", "assistant")[i % 2], content=text) for i, text in enumerate(texts)]
    for texts in (
        ["What is a row?", "A row is one line of a file."],
        ["Why?", "Because."],
        ["Where do rows lie, and who reads them when all is done?", "In the store.", "And then?", "Reports read them."],
        ["Say nothing.", ""],
    )
]
CUSTOM = """
from types import SimpleNamespace
from transformers import LlamaForSequenceClassification

class Gated(LlamaForSequenceClassification):
    def forward(self, input_ids, attention_mask=None):
        return SimpleNamespace(logits=input_ids[:, :1] * 0.0, score=attention_mask.sum(1).float())
"""


@pytest.fixture(scope="module")
def tokenizer():
    return tiny_tokenizer(Path(matrix.__file__).parent / "records.py")


@pytest.fixture(scope="module")
def folders(tmp_path_factory, tokenizer):
    """A classifier with a padding token, one without, and a language model."""
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

    root = tmp_path_factory.mktemp("models")
    torch.manual_seed(1)
    LlamaForSequenceClassification(LlamaConfig(**SIZES, num_labels=1, pad_token_id=1)).save_pretrained(root / "padded")
    LlamaForSequenceClassification(LlamaConfig(**SIZES, num_labels=1)).save_pretrained(root / "unpadded")
    LlamaForSequenceClassification(LlamaConfig(**SIZES, num_labels=3)).save_pretrained(root / "three")
    LlamaForCausalLM(LlamaConfig(**SIZES)).save_pretrained(root / "causal")
    for folder in root.iterdir():
        tokenizer.save_pretrained(folder)
    return root


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def job(folder, head, max_context=512) -> Job:
    return Job(
        head=head, source=str(folder), revision=None, gguf=None, chat_template=None, trust_remote_code=False,
        dtype="auto", device="cpu", threads=1, max_context=max_context,
    )  # fmt: skip


def ids_of(tokenizer, chat, generation=False):
    turns = [{"role": m.role, "content": m.content} for m in chat]
    return tokenizer.apply_chat_template(turns, add_generation_prompt=generation, return_dict=False)


@pytest.mark.parametrize("name", ["padded", "unpadded"])
def test_a_batch_of_chats_has_the_rewards_of_each_alone(folders, tokenizer, name):
    model = Classifier(job(folders / name, Head.reward))
    rows = [ids_of(tokenizer, chat) for chat in CHATS]
    naive = [model.model(torch.tensor([row])).logits.item() for row in rows]
    found = model.score(CHATS)
    assert [m.value for m in found] == pytest.approx(naive, abs=1e-4)
    assert [m.tokens for m in found] == [len(row) for row in rows]
    assert len(set(naive)) == len(naive)


def test_a_long_prompt_is_cut_behind_its_first_token_and_counted(folders, tokenizer):
    model = Classifier(job(folders / "padded", Head.reward, max_context=24))
    rows = [ids_of(tokenizer, chat) for chat in CHATS]
    kept = [row if len(row) <= 24 else row[:1] + row[len(row) - 23 :] for row in rows]
    found = model.score(CHATS)
    assert [m.cut for m in found] == [max(0, len(row) - 24) for row in rows]
    assert any(m.cut for m in found)
    assert [m.value for m in found] == pytest.approx(
        [model.model(torch.tensor([row])).logits.item() for row in kept], abs=1e-4
    )


@pytest.mark.parametrize(
    ("name", "error"), [("causal", "has no weights for score.weight"), ("three", "gives 3 numbers for a chat")]
)
def test_what_is_no_reward_model_is_refused(folders, name, error):
    with pytest.raises(ValueError, match=error):
        Classifier(job(folders / name, Head.reward)).score(CHATS[:1])


def naive_logp(model, tokenizer, chat) -> tuple[float, int]:
    """Token by token: the answer is what the whole chat has beyond its prompt."""
    prompt, whole = ids_of(tokenizer, chat[:-1], generation=True), ids_of(tokenizer, chat)
    assert whole[: len(prompt)] == prompt
    total = 0.0
    for i in range(len(prompt), len(whole)):
        total += model(torch.tensor([whole[:i]])).logits[0, -1].double().log_softmax(-1)[whole[i]].item()
    return total, len(whole) - len(prompt)


def test_log_probabilities_of_the_last_answer_alone(folders, tokenizer):
    model = Causal(job(folders / "causal", Head.language))
    chats = [*CHATS, *map(alone, CHATS)]
    naive = [naive_logp(model.model, tokenizer, chat) for chat in chats]
    found = model.score(chats)
    assert [m.value for m in found] == pytest.approx([value for value, _ in naive], abs=1e-4)
    assert [m.tokens for m in found] == [tokens for _, tokens in naive]


def test_an_answer_beyond_the_context_keeps_its_end(folders):
    (whole,) = Causal(job(folders / "causal", Head.language)).score(CHATS[:1])
    (cut,) = Causal(job(folders / "causal", Head.language, max_context=8)).score(CHATS[:1])
    assert cut.cut > 0
    assert cut.tokens == 7 < whole.tokens


def test_logits_that_are_changed_after_the_output_layer_are_noticed(tmp_path, tokenizer):
    from transformers import Gemma2Config, Gemma2ForCausalLM

    Gemma2ForCausalLM(Gemma2Config(**SIZES, head_dim=8, final_logit_softcapping=1.0)).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(TrainingError, match="logits are not the output layer's|changes its logits"):
        Causal(job(tmp_path, Head.language)).score(CHATS[:1])


async def test_the_process_resumes_and_ends_and_says_why(folders, tmp_path):
    """One process for all of it: each takes seconds to start."""
    folder = tmp_path / "model"
    shutil.copytree(folders / "padded", folder)
    file = tmp_path / "scores.jsonl"
    config = ModelConfig(model=str(folder), threads=1)

    def scorer(path=file):
        return Scorer(config, ScorerConfig(batch_tokens=20, device="cpu"), Head.reward, path, Progress("reward", 0))

    async with scorer() as made:
        first = await made.measure([*CHATS, CHATS[0]])
        assert first[0] == first[-1]
        assert made._progress.done == made._progress.total == 5
        written = file.read_bytes()
        assert len(written.splitlines()) > 1
        expected = Classifier(job(folder, Head.reward)).score(CHATS)
        assert [m.value for m in first[:-1]] == pytest.approx([m.value for m in expected], abs=1e-4)
        os.kill(made._process.pid, signal.SIGINT)  # Ctrl-C goes to all; it is the owner who ends it
        await made.measure([[Message(role="user", content="More?"), Message(role="assistant", content="More.")]])
        os.kill(made._process.pid, signal.SIGKILL)
        with pytest.raises(EngineError, match=r"was killed by signal 9\. Finished scores are kept"):
            await made.measure([[Message(role="user", content="Still?"), Message(role="assistant", content="No.")]])
    shutil.rmtree(folder)  # what is finished needs no model; a line that was cut short is taken off
    with file.open("ab") as torn:
        torn.write(b'{"measured":{"abc')
    async with scorer() as again:
        assert await again.measure([*CHATS, CHATS[0]]) == first
        assert again._process is None
        assert file.read_bytes().startswith(written)
        with pytest.raises(SourceError, match="no such file or folder"):
            await again.measure([[Message(role="user", content="New?"), Message(role="assistant", content="Yes.")]])


def test_a_custom_head_through_the_whole_stage(folders, tmp_path, monkeypatch, tokenizer):
    """Repositories like ArmoRM's bring their own code, whose output has a `score`."""
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = tmp_path / "gated"
    shutil.copytree(folders / "padded", folder)
    (folder / "gated.py").write_text(CUSTOM)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForSequenceClassification": "gated.Gated"}
    (folder / "config.json").write_text(json.dumps(config))
    (tmp_path / "up").mkdir()
    rows = [Conversation(id=f"c{i}", messages=chat, origin=Origin(stage="g")) for i, chat in enumerate(CHATS)]
    write_jsonl(tmp_path / "up" / "rows.jsonl", rows)
    stage = Reward(
        reward=ClassifierReward(
            model=ModelConfig(model=str(folder), trust_remote_code=True, threads=1, max_context=40), min_accuracy=0.0
        ),
        rows=Result(stage="generate", key="g" * 64, path=tmp_path / "up"),
        seed=1,
    )
    (tmp_path / "work").mkdir()
    stage.run(tmp_path / "work")
    lengths = [len(ids_of(tokenizer, chat)) for chat in CHATS]
    scores = read_jsonl(tmp_path / "work" / "rewards.jsonl", Score)
    assert [score.reward for score in scores] == [min(n, 40) for n in lengths]
    counts = json.loads((tmp_path / "work" / "counts.json").read_text())
    assert counts["cut"] == sum(n > 40 for n in lengths) > 0


class Table:
    """A scorer with fixed answers: two tokens for every word, values by place in the table."""

    def __init__(self, *values):
        self.values, self.asked = list(values), []

    async def measure(self, chats):
        self.asked += chats
        return [Measured(value=self.values.pop(0), tokens=2 * len(chat[-1].content.split())) for chat in chats]


@pytest.mark.parametrize("normalised", [False, True])
async def test_the_implicit_reward_is_a_difference_of_log_probabilities(normalised):
    config = ImplicitReward(policy=ModelConfig(model="a/policy"), beta=0.5, length_normalised=normalised)
    chats = {"one": CHATS[0], "two": CHATS[1]}
    tokens = (16, 2) if normalised else (1, 1)
    found = await Implied(config, Table(-10.0, -3.0), Table(-14.0, -2.0)).rewards(chats)
    assert found == {"one": 0.5 * 4 / tokens[0], "two": 0.5 * -1 / tokens[1]}
    itself = Table(-10.0, -3.0, -30.0, -3.5)
    assert await Implied(config, itself, None).rewards(chats) == {"one": 10 / tokens[0], "two": 0.25 / tokens[1]}
    assert [[m.content for m in chat] for chat in itself.asked[2:]] == [["", CHATS[0][-1].content], ["", "Because."]]


def judge(tmp_path, replies, **knobs):
    """A judge that answers by rule, through the real engine, journal and prompt."""
    script = tmp_path / "rules.json"
    script.write_text(json.dumps([{"match": match, "reply": reply} for match, reply in replies]))
    model = ModelConfig(model=str(script), engine=EngineName.scripted, max_context=knobs.pop("max_context", 8192))

    async def rate(chats, work=tmp_path):
        progress = Progress("reward", 0)
        async with JudgeReward(**knobs).open(model, 1, work, progress) as made:
            return await made.rewards(chats), made, progress

    return lambda chats: asyncio.run(rate(chats))


def test_the_judge_s_rating_is_an_expectation(tmp_path):
    rate = judge(tmp_path, [("one line of a file", "5"), ("Because", "1")])
    found, _, progress = rate({"good": CHATS[0], "poor": CHATS[1]})
    assert found["good"] == pytest.approx(0.75 * 5 + 0.0625 * (1 + 2 + 3 + 4))
    assert found["poor"] == pytest.approx(0.75 * 1 + 0.0625 * (2 + 3 + 4 + 5))
    again, _, replayed = rate({"poor": CHATS[1], "good": CHATS[0]})
    assert again == found
    assert (progress.usage.calls, replayed.usage.calls, replayed.usage.replayed) == (2, 0, 2)
    assert expected_rating({"1": -1e9, "4": -2.0, "5": -2.0}) == pytest.approx(4.5)  # reported in part, scaled to one


def test_a_judge_without_log_probabilities_is_read(tmp_path):
    replies = [("one line of a file", "Rating: 4/5"), ("Because", "10"), ("Reports", "none")]
    rate = judge(tmp_path, replies, logprobs=False)
    found, made, _ = rate(dict(zip(["good", "high", "lost"], CHATS[:3], strict=True)))
    assert found == {"good": 4.0}
    assert sorted((f.id, f.text) for f in made.failures) == [("high", "10")] * 2 + [("lost", "none")] * 2
    assert all(isinstance(failure, Failure) for failure in made.failures)


def test_an_answer_that_a_judge_cannot_be_shown_whole_is_counted(tmp_path):
    rate = judge(tmp_path, [], max_context=600)
    long = [Message(role="user", content="Tell me."), Message(role="assistant", content="word " * 2000)]
    found, made, _ = rate({"short": CHATS[0], "long": long})
    assert set(found) == {"short", "long"}
    assert made.cut == {"long"}


def test_knobs_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="scale must be 2 to 10"):
        JudgeReward(scale=11)
    with pytest.raises(ValueError, match="beta must be positive"):
        ImplicitReward(policy=ModelConfig(model="a/b"), beta=0.0)
    with pytest.raises(ValueError, match="batch_tokens must be at least 1"):
        ScorerConfig(batch_tokens=0)
