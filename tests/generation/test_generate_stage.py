"""Generate and Prefer end to end on the scripted engine."""

import json
from pathlib import Path

import msgspec
import pyarrow.parquet
import pytest
from society_fakes import HashedWords, script

from matrix.engines.base import EngineName, ModelConfig
from matrix.engines.embedder import EmbedderConfig
from matrix.generation.preference import PolicyPairsConfig
from matrix.generation.scenarios import Kind, ScenarioConfig
from matrix.generation.stage import Generate, Prefer
from matrix.jsonl import read_jsonl
from matrix.progress import Usage
from matrix.prompting import Decoding
from matrix.records import Action, Agent, Conversation, Failure, PreferencePair, Scenario
from matrix.stage import Result


@pytest.fixture(autouse=True)
def hashed_words(monkeypatch):
    """Loading a sentence-transformers model takes longer than all of these tests."""
    monkeypatch.setattr("matrix.generation.stage.Embedder", HashedWords)


def llm(rules, **how):
    return ModelConfig(model=str(rules), engine=EngineName("scripted"), **how)


def generate(lives, folder, concurrency=64, **config):
    """Words drawn by chat and seed make instructions and responses."""
    return Generate(
        generator=ScenarioConfig(**({"num_rows": 12} | config)),
        llm=llm(script(folder / "llm.json"), concurrency=concurrency),
        embedder=EmbedderConfig(model="hashed-words"), society=lives, seed=5,
    )  # fmt: skip


def prefer(lives, folder, answers):
    """The SFT model answers by the rules `answers`, the aligned LLM as in `generate`."""
    (folder / "sft.json").write_text(json.dumps(answers))
    return Prefer(
        preference=PolicyPairsConfig(generator=ScenarioConfig(kind=Kind("complex"), num_rows=12)),
        llm=generate(lives, folder).llm, model=llm("replaced"), embedder=EmbedderConfig(model="hashed-words"),
        society=lives, sft=Result(stage="train", key="7" * 64, path=folder / "sft.json"), seed=5,
    )  # fmt: skip


def run(stage, work):
    work.mkdir(exist_ok=True)
    stage.run(work)
    return work


def files(work):
    return {name: (work / name).read_bytes() for name in ("rows.jsonl", "rows.parquet", "failures.jsonl")}


def journal(work, name="journal.jsonl"):
    return [json.loads(line) for line in (work / name).read_text().splitlines()]


def test_rows_walk_back_to_scenario_and_agent(lives, tmp_path):
    stage = generate(lives, tmp_path)
    rows = read_jsonl(run(stage, tmp_path / "work") / "rows.jsonl", Conversation)
    agents = {a.id: a for a in read_jsonl(lives.path / "agents.jsonl", Agent)}
    scenarios = {s.id: s for s in read_jsonl(lives.path / "scenarios.jsonl", Scenario)}
    actions = {a.id: a for a in read_jsonl(lives.path / "actions.jsonl", Action)}
    asked = {e["completion"]["text"]: e["messages"][0]["content"] for e in journal(tmp_path / "work")}
    assert len(rows) == len({row.id for row in rows}) == 12
    for row in rows:
        assert row.origin.stage == f"generate-{stage.key()[:12]}"
        assert row.origin.society == lives.name
        prompt = asked[row.messages[0].content]
        assert agents[row.origin.agent].name in prompt
        assert all(actions[a].text in prompt for a in scenarios[row.origin.scenario].actions)
        assert row.origin.agent in scenarios[row.origin.scenario].agents


@pytest.mark.parametrize("concurrency", [1, 3])
def test_concurrency_is_no_part_of_the_result(lives, tmp_path, concurrency):
    one, other = generate(lives, tmp_path), generate(lives, tmp_path, concurrency)
    assert one.key() == other.key()
    assert files(run(one, tmp_path / "one")) == files(run(other, tmp_path / "other"))


def test_an_interrupted_run_goes_on_from_its_journal(lives, tmp_path):
    whole = run(generate(lives, tmp_path), tmp_path / "whole")
    part = tmp_path / "part"
    part.mkdir()
    lines = (whole / "journal.jsonl").read_text().splitlines(keepends=True)
    (part / "journal.jsonl").write_text("".join(lines[:10]) + lines[10][:40])  # killed while it wrote a line
    run(generate(lives, tmp_path), part)
    assert files(part) == files(whole)
    used = msgspec.json.decode((part / "usage.json").read_bytes(), type=Usage)
    assert (used.replayed, used.calls) == (10, 14)
    assert len({e["key"] for e in journal(part)}) == len(journal(part)) == 24


def test_parquet_holds_the_same_rows(lives, tmp_path):
    work = run(generate(lives, tmp_path), tmp_path / "work")
    table = pyarrow.parquet.read_table(work / "rows.parquet").to_pylist()
    rows = read_jsonl(work / "rows.jsonl", Conversation)
    assert [(r["id"], r["messages"], r["origin"]["scenario"]) for r in table] == [
        (r.id, msgspec.to_builtins(r.messages), r.origin.scenario) for r in rows
    ]


def test_a_model_that_gives_nothing_usable_leaves_failures_and_no_rows(lives, tmp_path):
    stage = generate(lives, tmp_path)
    script(Path(stage.llm.model), simple="No.")
    work = run(stage, tmp_path / "work")
    assert read_jsonl(work / "rows.jsonl", Conversation) == []
    assert pyarrow.parquet.read_table(work / "rows.parquet").num_rows == 0
    assert len(read_jsonl(work / "failures.jsonl", Failure)) == 72
    told = json.loads((work / "generation.json").read_text())
    assert (told["wanted"], told["made"], told["asked"], told["lost"]) == (12, 0, 36, {"no instruction": 36})
    assert "max_tries" in told["short"]


def test_pairs_are_the_llms_answer_and_the_sft_models(lives, tmp_path):
    work = run(prefer(lives, tmp_path, [{"match": ".", "reply": "I do not know."}]), tmp_path / "work")
    pairs = read_jsonl(work / "rows.jsonl", PreferencePair)
    assert [p.id for p in pairs] == [f"pair-{i:05}" for i in range(12)]
    responses = {e["messages"][0]["content"]: e["completion"]["text"] for e in journal(work)}
    for pair in pairs:
        assert (pair.kind, pair.rejected, pair.rejected_model) == ("complex", "I do not know.", f"train-{'7' * 12}")
        assert [m.role for m in pair.prompt] == ["user"]
        assert pair.chosen == responses[pair.prompt[0].content]
        assert pair.origin.agent
        assert pair.origin.scenario
    assert read_jsonl(work / "failures.jsonl", Failure) == []


def test_the_sft_model_sees_the_instruction_alone_and_its_calls_have_a_journal(lives, tmp_path):
    work = run(prefer(lives, tmp_path, []), tmp_path / "work")
    asked = journal(work, "journal-rejected.jsonl")
    pairs = read_jsonl(work / "rows.jsonl", PreferencePair)
    assert {e["model"] for e in asked} == {f"train-{'7' * 12}"}
    assert {e["messages"][0]["content"] for e in asked} == {p.prompt[0].content for p in pairs}
    assert not {e["key"] for e in asked} & {e["key"] for e in journal(work)}
    again = files(work)
    assert files(run(prefer(lives, tmp_path, []), work)) == again
    assert len(journal(work, "journal-rejected.jsonl")) == len(asked)


def test_equal_and_empty_answers_are_failures_and_no_pairs(lives, tmp_path):
    first = run(prefer(lives, tmp_path, []), tmp_path / "first")
    pairs = read_jsonl(first / "rows.jsonl", PreferencePair)
    answers = [
        {"match": pairs[2].prompt[0].content, "reply": pairs[2].chosen},
        {"match": pairs[4].prompt[0].content, "reply": "  "},
    ]
    work = run(prefer(lives, tmp_path, answers), tmp_path / "work")
    kept = read_jsonl(work / "rows.jsonl", PreferencePair)
    assert [p.id for p in kept] == [p.id for i, p in enumerate(pairs) if i not in (2, 4)]
    failures = read_jsonl(work / "failures.jsonl", Failure)
    assert [(f.id, f.purpose, f.text) for f in failures] == [
        (pairs[2].id, "rejected", pairs[2].chosen), (pairs[4].id, "rejected", ""),
    ]  # fmt: skip
    assert failures[0].error != failures[1].error


def test_sft_rows_and_pairs_of_one_seed_have_different_instructions(lives, tmp_path):
    rows = read_jsonl(run(generate(lives, tmp_path), tmp_path / "rows") / "rows.jsonl", Conversation)
    pairs = read_jsonl(run(prefer(lives, tmp_path, []), tmp_path / "pairs") / "rows.jsonl", PreferencePair)
    assert not {r.messages[0].content for r in rows} & {p.prompt[0].content for p in pairs}


def test_estimates_are_the_calls_of_a_run(lives, tmp_path):
    rows, pairs = generate(lives, tmp_path), prefer(lives, tmp_path, [])
    assert rows.estimate().calls == len(journal(run(rows, tmp_path / "rows"))) == 24
    work = run(pairs, tmp_path / "pairs")
    assert pairs.estimate().calls == len(journal(work)) + len(journal(work, "journal-rejected.jsonl")) == 36


def test_estimates_know_prices_and_limits_of_length(lives, tmp_path):
    stage = prefer(lives, tmp_path, [])
    assert stage.estimate().money == 0
    stage.llm.price_in, stage.llm.price_out = 1.0, 10.0
    for_llm = stage.estimate()
    stage.model.price_out = 10.0
    assert stage.estimate().money > for_llm.money > 0
    stage.preference.rejected = Decoding(max_tokens=7)
    assert stage.estimate().tokens_out == for_llm.tokens_out - 12 * (450 - 7)


def test_keys_hang_on_prompts_config_and_society(lives, tmp_path):
    stage = generate(lives, tmp_path)
    assert set(stage.identity()["prompts"]) == {"simple.jinja"}
    assert set(prefer(lives, tmp_path, []).identity()["prompts"]) == {"complex.jinja"}
    assert stage.key() != generate(lives, tmp_path, num_rows=13).key()
    elsewhere = Result(stage="simulate", key="6" * 64, path=lives.path)
    assert stage.key() != generate(elsewhere, tmp_path).key()
