"""The reward stage: what it scores, what it refuses, what it writes. The reward models are fakes here."""

import json
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import ClassVar

import pytest

from matrix.engines.base import ModelConfig
from matrix.filtering.reward import Reward, RewardConfig, RewardError
from matrix.filtering.reward_models import JudgeReward
from matrix.filtering.sanity import PAIRS, ObviousPair, Sanity
from matrix.jsonl import read_jsonl, write_jsonl
from matrix.records import Conversation, Failure, Message, Origin, PreferencePair, Rollout, Score
from matrix.stage import Result

ORIGIN = Origin(stage="generate-0")
OBVIOUS = read_jsonl(PAIRS, ObviousPair)
GOOD = {(pair.prompt, pair.good) for pair in OBVIOUS}


@dataclass(kw_only=True)
class Oracle(RewardConfig):
    """Knows the obvious pairs; elsewhere the length of the answer. Answers that say `silent` get no reward."""

    def score(self, chat):
        known = (chat[-2].content, chat[-1].content) in GOOD
        return 1000.0 if known else float(len(chat[-1].content))

    @asynccontextmanager
    async def open(self, llm, seed, work, progress):
        yield Known(self)


@dataclass(kw_only=True)
class Longest(Oracle):
    """Takes the longer answer for the better one."""

    def score(self, chat):
        return float(len(chat[-1].content))


class Known:
    """A `RewardModel` that writes down what it was asked."""

    asked: ClassVar[Counter] = Counter()

    def __init__(self, config):
        self.config, self.cut, self.failures = config, set(), []
        Known.asked.clear()

    async def rewards(self, chats):
        Known.asked.update(tuple(m.content for m in chat) for chat in chats.values())
        silent = {name for name, chat in chats.items() if chat[-1].content == "silent"}
        self.failures += [Failure(id=name, purpose="reward", text="?", error="no number") for name in silent]
        return {name: self.config.score(chat) for name, chat in chats.items() if name not in silent}


def turns(*texts):
    return [Message(role=("user", "assistant")[i % 2], content=text) for i, text in enumerate(texts)]


def upstream(folder, name, rows) -> Result:
    (folder / "up").mkdir(exist_ok=True)
    write_jsonl(folder / "up" / name, rows)
    return Result(stage="generate", key="g" * 64, path=folder / "up")


def conversations(folder, *texts):
    rows = [Conversation(id=f"c{i}", messages=turns(*t), origin=ORIGIN) for i, t in enumerate(texts)]
    return upstream(folder, "rows.jsonl", rows)


def run(stage, work):
    work.mkdir(exist_ok=True)
    stage.run(work)
    return read_jsonl(work / "rewards.jsonl", Score)


def test_a_reward_for_every_answer_in_the_order_of_the_rows(tmp_path):
    rows = conversations(tmp_path, ["Hi.", "Hello!", "And?", "Yes."], ["Hi.", "Hey"], ["Hi.", "Hey"])
    scores = run(Reward(reward=Oracle(), rows=rows, seed=1), tmp_path / "work")
    assert scores == [Score(row=f"c{i}", part="response", reward=n) for i, n in enumerate([4.0, 3.0, 3.0])]
    assert Known.asked[("Hi.", "Hey")] == 1  # equal answers to equal prompts go once
    assert Known.asked[("Hi.", "Hello!", "And?", "Yes.")] == 1
    assert json.loads((tmp_path / "work/counts.json").read_text()) == {
        "answers": 3, "distinct": 2, "cut": 0, "without_reward": 0,
    }  # fmt: skip


def test_both_answers_of_a_pair(tmp_path):
    pair = PreferencePair(id="p", prompt=turns("Hi."), chosen="Hello!", rejected="No.", origin=ORIGIN)
    scores = run(Reward(reward=Oracle(), rows=upstream(tmp_path, "rows.jsonl", [pair]), seed=1), tmp_path / "work")
    assert [(s.part, s.reward) for s in scores] == [("chosen", 6.0), ("rejected", 3.0)]


def test_rollouts_take_the_place_of_the_answers(tmp_path):
    rows = conversations(tmp_path, ["One?", "own answer"], ["Two?", "own answer"])
    rollouts = [
        Rollout(row=row, index=i, text=text, origin=ORIGIN)
        for row, texts in (("c1", ["a", "bb"]), ("gone", ["x"]), ("c0", ["ccc", "a"]))
        for i, text in enumerate(texts)
    ]
    stage = Reward(reward=Oracle(), rows=rows, rollouts=upstream(tmp_path, "rollouts.jsonl", rollouts), seed=1)
    assert run(stage, tmp_path / "work") == [
        Score(row=row, part="rollout", index=i, reward=reward)
        for row, i, reward in [("c0", 0, 3.0), ("c0", 1, 1.0), ("c1", 0, 1.0), ("c1", 1, 2.0)]
    ]
    assert not any("own answer" in chat for chat in Known.asked)


def test_what_gets_no_reward_is_counted_and_kept(tmp_path):
    rows = conversations(tmp_path, ["Hi.", "silent"], ["Hi.", "Hey"])
    scores = run(Reward(reward=Oracle(), rows=rows, seed=1), tmp_path / "work")
    assert [s.row for s in scores] == ["c1"]
    assert json.loads((tmp_path / "work/counts.json").read_text())["without_reward"] == 1
    assert [f.id for f in read_jsonl(tmp_path / "work/failures.jsonl", Failure)] == ["c0/response-0"]


def test_a_reward_that_goes_by_length_is_refused(tmp_path):
    stage, work = Sanity(reward=Longest(), seed=1), tmp_path / "work"
    work.mkdir()
    with pytest.raises(RewardError, match=r"50% of 40 obvious pairs; at least 80% .* reward.min_accuracy=0.5"):
        stage.run(work)
    sanity = json.loads((work / "sanity.json").read_text())
    assert sanity["accuracy"] == 0.5
    assert set(sanity["kinds"].values()) == {0.5}
    assert len(sanity["wrong"]) == 20
    Sanity(reward=Longest(min_accuracy=0.5), seed=1).run(work)


def test_the_obvious_pairs_are_balanced():
    assert len(OBVIOUS) == len({pair.prompt for pair in OBVIOUS}) == 40
    for kind, number in Counter(pair.kind for pair in OBVIOUS).items():
        longer = [len(pair.good) > len(pair.bad) for pair in OBVIOUS if pair.kind == kind]
        assert sum(longer) * 2 == number


def test_the_key_depends_on_the_judge_only_where_one_is_asked(tmp_path):
    rows = conversations(tmp_path, ["Hi.", "Hello!"])

    def key(reward, llm):
        return Reward(reward=reward, llm=llm, rows=rows, seed=1).key()

    one, two = ModelConfig(model="a/one"), ModelConfig(model="a/two")
    assert key(Oracle(), one) == key(Oracle(), two) == key(Oracle(), None)
    assert key(JudgeReward(), one) != key(JudgeReward(), two)
    assert key(JudgeReward(llm=one), two) == key(JudgeReward(llm=one), None)
    assert key(Oracle(min_accuracy=0.5), None) == key(Oracle(), None)
    assert Sanity(reward=Oracle(min_accuracy=0.5), seed=1).key() != Sanity(reward=Oracle(), seed=1).key()
    with pytest.raises(ValueError, match="set reward.llm"):
        key(JudgeReward(), None)


def test_only_prompts_of_the_reward_are_part_of_the_key(tmp_path):
    rows = conversations(tmp_path, ["Hi.", "Hello!"])
    asked = Reward(reward=JudgeReward(), llm=ModelConfig(model="a/one"), rows=rows, seed=1).identity()["prompts"]
    assert set(asked) == {"reward.jinja"}
    assert not Reward(reward=Oracle(), rows=rows, seed=1).identity()["prompts"]


def test_the_plan_counts_what_a_judge_is_asked(tmp_path):
    rows = conversations(tmp_path, ["Hi.", "Hello!"], ["Hi.", "Hey"])
    assert Reward(reward=JudgeReward(), llm=ModelConfig(model="a/one"), rows=rows, seed=1).estimate().calls == 2
    assert Sanity(reward=JudgeReward(), llm=ModelConfig(model="a/one"), seed=1).estimate().calls == 80
    assert Reward(reward=Oracle(), rows=rows, seed=1).estimate().calls == 0
