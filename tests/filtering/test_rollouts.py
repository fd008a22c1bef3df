"""Rollouts on the scripted engine: words drawn by chat and seed."""

import json

import msgspec
import pytest
from rows_and_rewards import conversation, pair

from matrix.engines.base import EngineName, ModelConfig
from matrix.filtering.rollouts import Roll, RolloutConfig
from matrix.jsonl import read_jsonl, write_jsonl
from matrix.progress import Usage
from matrix.prompting import Decoding
from matrix.records import Message, Rollout
from matrix.stage import Result

NAMES = ["one", "two", "three"]


def rolled(folder, rows, concurrency=8, **config) -> Roll:
    folder.mkdir(exist_ok=True)
    write_jsonl(folder / "rows.jsonl", rows)
    (folder / "policy.json").write_text("[]")
    return Roll(
        rollouts=RolloutConfig(**({"samples": 4, "decoding": Decoding(max_tokens=32)} | config)),
        model=ModelConfig(model="replaced", engine=EngineName("scripted"), concurrency=concurrency),
        checkpoint=Result(stage="train", key="7" * 64, path=folder / "policy.json"),
        rows=Result(stage="filter", key="1" * 64, path=folder), expected_rows=len(rows), seed=3,
    )  # fmt: skip


def run(stage, work) -> list[Rollout]:
    work.mkdir(exist_ok=True)
    stage.run(work)
    return read_jsonl(work / "rollouts.jsonl", Rollout)


@pytest.mark.parametrize("make", [conversation, pair])
def test_every_prompt_is_answered_so_many_times_by_the_policy(tmp_path, make):
    stage = rolled(tmp_path / "up", [make(name) for name in NAMES])
    found = run(stage, tmp_path / "work")
    assert [(r.row, r.index) for r in found] == [(name, index) for name in NAMES for index in range(4)]
    assert len({r.text for r in found}) == 12
    assert {(r.origin.stage, r.origin.model, r.origin.instruction == r.row) for r in found} == {
        (f"rollout-{stage.key()[:12]}", "train-" + "7" * 12, True)
    }
    asked = [json.loads(line)["messages"] for line in (tmp_path / "work/journal.jsonl").read_text().splitlines()]
    assert {m[-1]["content"] for m in asked} == {f"Is it {name}?" for name in NAMES}


def test_the_prompt_of_a_dialogue_is_all_but_its_last_answer(tmp_path):
    turns = [Message(role=role, content=role[0] * 3) for role in ("user", "assistant", "user", "assistant")]
    row = msgspec.structs.replace(conversation("chat"), messages=turns)
    run(rolled(tmp_path / "up", [row], samples=2), tmp_path / "work")
    asked = [json.loads(line)["messages"] for line in (tmp_path / "work/journal.jsonl").read_text().splitlines()]
    assert [[m["role"] for m in messages] for messages in asked] == [["user", "assistant", "user"]] * 2


def test_concurrency_and_an_interruption_change_nothing(tmp_path):
    rows = [conversation(name) for name in NAMES]
    whole = run(rolled(tmp_path / "up", rows), tmp_path / "whole")
    assert run(rolled(tmp_path / "up", rows, concurrency=1), tmp_path / "one") == whole
    part = tmp_path / "part"
    part.mkdir()
    lines = (tmp_path / "whole/journal.jsonl").read_bytes().splitlines(keepends=True)
    (part / "journal.jsonl").write_bytes(b"".join(lines[:5]) + lines[5][:30])
    assert run(rolled(tmp_path / "up", rows), part) == whole
    used = msgspec.json.decode((part / "usage.json").read_bytes(), type=Usage)
    assert (used.replayed, used.calls) == (5, 7)


def test_the_plan_foresees_the_calls(tmp_path):
    stage = rolled(tmp_path / "up", [conversation(name) for name in NAMES])
    run(stage, tmp_path / "work")
    assert stage.estimate().calls == len((tmp_path / "work/journal.jsonl").read_text().splitlines()) == 12


def test_a_single_sample_has_no_variance():
    with pytest.raises(ValueError, match="samples must be at least 2"):
        RolloutConfig(samples=1)
