"""Rows of files in the schemas of the public sets, made by hand."""

import json
import re

import pytest
from rival_fakes import generated
from society_fakes import FakeModel

from matrix.engines.base import ContextOverflow, EngineName, ModelConfig
from matrix.engines.embedder import EmbedderConfig
from matrix.generation.dataset import DatasetConfig, Responses
from matrix.generation.sources import ColumnsConfig, SourceConfig, SourceError, UnusableRow, at, chat, sample
from matrix.generation.stage import Generate
from matrix.jsonl import read_jsonl
from matrix.records import Conversation

SHAREGPT = {
    "id": "QWJhYvA_0",
    "conversations": [
        {"from": "gpt", "value": "Ask me."},
        {"from": "human", "value": "Name a river."},
        {"from": "gpt", "value": "The Po."},
        {"from": "human", "value": "Another?"},
        {"from": "gpt", "value": "The Rhine."},
        {"from": "human", "value": "Thanks!"},
    ],
}
WILDCHAT = {
    "conversation_hash": "0c", "model": "gpt-4", "language": "English", "turn": 1,
    "conversation": [
        {"content": "Name a river.", "role": "user", "language": "English", "toxic": False, "redacted": False},
        {"content": "The Po.", "role": "assistant", "language": "English", "toxic": False, "redacted": False},
    ],
}  # fmt: skip
ULTRACHAT = {
    "prompt": "Name a river.", "prompt_id": "f0",
    "messages": [{"content": "Name a river.", "role": "user"}, {"content": "The Po.", "role": "assistant"}],
}  # fmt: skip
OPENHERMES = {"output": "The Po.", "input": "", "instruction": "Name a river."}
ALPACA = {"instruction": "Translate.", "input": "Der Fluss", "output": "The river"}
MAGPIE = {
    "uuid": "b1", "instruction": "Name a river.", "response": "The Po.", "input_quality": "good",
    "conversations": [{"from": "human", "value": "Name a river."}, {"from": "gpt", "value": "The Po."}],
}  # fmt: skip
TULU = {
    "dataset": "flan_v2", "id": "flan_v2_0",
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Name a river."},
        {"role": "assistant", "content": "The Po."},
    ],
}  # fmt: skip
RIVER = ["user: Name a river.", "assistant: The Po."]


def said(messages):
    return [f"{m.role}: {m.content}" for m in messages]


def written(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return SourceConfig(path=str(path))


def numbered(folder, count=40):
    rows = [{"instruction": f"Count to {i} in French.", "output": f"{i} words."} for i in range(count)]
    return written(folder / "rows.jsonl", rows)


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        (SHAREGPT, [*RIVER, "user: Another?", "assistant: The Rhine.", "user: Thanks!"]),
        (WILDCHAT, RIVER),
        (ULTRACHAT, RIVER),
        (OPENHERMES, RIVER),
        (ALPACA, ["user: Translate.\n\nDer Fluss", "assistant: The river"]),
        (MAGPIE, RIVER),
        (TULU, ["system: Be brief.", *RIVER]),
    ],
    ids=["sharegpt", "wildchat", "ultrachat", "openhermes", "alpaca", "magpie", "tulu"],
)
def test_usual_layouts_are_found_out(row, wanted):
    assert said(chat(row, ColumnsConfig())) == wanted


def test_any_column_may_be_named():
    row = {"a": {"q": "Name a river.", "sys": "Be brief."}, "answers": [{"text": "The Po."}, {"text": "No."}]}
    columns = ColumnsConfig(prompt="a.q", response="answers.0.text", system="a.sys")
    assert said(chat(row, columns)) == ["system: Be brief.", *RIVER]
    assert at(row, "answers.2.text") is at(row, "a.q.x") is None


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"text": "once"}, "columns are text"),
        ({"conversations": []}, "no turn of a user"),
        ({"conversations": [{"from": "gpt", "value": "Hi"}]}, "no turn of a user"),
        ({"conversations": [{"from": "tool", "value": "Hi"}]}, "turn of 'tool'"),
        ({"conversations": [{"from": "human", "value": " "}]}, "without text"),
        ({"conversations": [{"from": "human", "value": None}]}, "without text"),
        ({"conversations": "Hi"}, "no list of turns"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]}, "take turns"),
        ({"messages": [{"role": r, "content": "a"} for r in ("system", "system", "user")]}, "more than one system"),
        ({"instruction": "Hi", "output": ""}, "output is empty"),
        ({"instruction": 7, "output": "x"}, "no text but int"),
    ],
    ids=str,
)
def test_a_row_that_is_no_chat_says_why(row, why):
    with pytest.raises(UnusableRow, match=why):
        chat(row, ColumnsConfig())


def test_rows_are_drawn_by_seed_and_more_rows_leave_the_first_as_they_are(tmp_path):
    source = numbered(tmp_path)
    drawn = [number for number, _ in sample(source, 10, 1)]
    assert len(set(drawn)) == 10
    assert [number for number, _ in sample(source, 25, 1)][:10] == drawn
    assert [number for number, _ in sample(source, 10, 2)] != drawn
    assert sorted(number for number, _ in sample(source, 99, 1)) == list(range(40))
    for number, row in sample(source, 5, 3):
        assert row["instruction"] == f"Count to {number} in French."


def test_files_of_all_kinds_give_the_same_rows(tmp_path):
    import pyarrow
    import pyarrow.csv
    import pyarrow.parquet

    source = numbered(tmp_path)
    table = pyarrow.Table.from_pylist([json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()])
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    pyarrow.csv.write_csv(table, tmp_path / "rows.csv")
    (tmp_path / "rows.json").write_text(json.dumps(table.to_pylist()))
    for kind in ("parquet", "csv", "json"):
        assert sample(SourceConfig(path=str(tmp_path / f"rows.{kind}")), 9, 1) == sample(source, 9, 1)


def test_a_folder_is_a_data_set(tmp_path):
    (tmp_path / "data").mkdir()
    numbered(tmp_path / "data")
    assert len(sample(SourceConfig(path=str(tmp_path / "data")), 99, 1)) == 40


@pytest.mark.parametrize("name", ["missing.jsonl", "notes.txt"])
def test_a_data_set_that_cannot_be_read_is_explained(tmp_path, monkeypatch, name):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(SourceError, match=re.escape(name)):
        sample(SourceConfig(path=str(tmp_path / name)), 1, 1)


def test_the_sets_own_answers_cost_no_call(tmp_path):
    model, source = FakeModel(), numbered(tmp_path)
    config = DatasetConfig(label="french", source=source, num_rows=12)
    rows, asker = generated(config, model)
    assert (len(rows), model.calls, asker.failures) == (12, [], [])
    for row in rows:
        place = int(row.origin.instruction.rpartition(":")[2])
        assert said(row.messages) == [f"user: Count to {place} in French.", f"assistant: {place} words."]
        assert (row.kind, row.origin.model, row.origin.stage) == ("french", "", "generate-test")
    assert rows == generated(config, model, window=1)[0]


def test_answers_may_be_made_anew(tmp_path):
    model = FakeModel(response=lambda prompt, _: f"Anew: {prompt}")
    config = DatasetConfig(source=written(tmp_path / "s.jsonl", [SHAREGPT]), num_rows=1, responses=Responses.llm)
    rows, _ = generated(config, model)
    assert said(rows[0].messages) == [
        "user: Name a river.", "assistant: Anew: Name a river.", "user: Another?", "assistant: Anew: Another?",
        "user: Thanks!", "assistant: Anew: Thanks!",
    ]  # fmt: skip
    assert rows[0].origin.model == "fake"
    assert config.calls()[0].number == 1


def test_a_chat_too_long_for_the_responder_is_a_failure(tmp_path):
    class Short(FakeModel):
        """Takes no prompt at all."""

        async def chat(self, messages, sampling, priority=()):
            raise ContextOverflow("too long")

    config = DatasetConfig(source=numbered(tmp_path, 1), num_rows=1, responses=Responses.llm)
    rows, asker = generated(config, Short())
    assert (rows, [failure.error for failure in asker.failures]) == ([], ["too long"])


@pytest.mark.parametrize(("turns", "kept"), [(0, 4), (1, 2), (2, 4)])
def test_chats_end_with_an_answer_after_as_many_turns_as_wanted(tmp_path, turns, kept):
    config = DatasetConfig(source=written(tmp_path / "s.jsonl", [SHAREGPT]), num_rows=1, turns=turns)
    rows, _ = generated(config, FakeModel())
    assert len(rows[0].messages) == kept
    assert rows[0].messages[-1].role == "assistant"


def test_unusable_rows_are_counted_and_replaced(tmp_path):
    bad = [{"instruction": f"Do number {i} now.", "output": ""} for i in range(6)]
    good = [{"instruction": f"Count to {i} in French.", "output": "Yes."} for i in range(6)]
    config = DatasetConfig(source=written(tmp_path / "s.jsonl", bad + good), num_rows=6)
    rows, asker = generated(config, FakeModel())
    assert len(rows) == 6
    assert {(f.purpose, f.error) for f in asker.failures} == {("dataset", "column output is empty")}
    assert all(json.loads(f.text)["output"] == "" for f in asker.failures)


def test_rows_without_answers_need_a_responder(tmp_path):
    source = written(tmp_path / "s.jsonl", [{"prompt": "Name a river."}])
    rows, asker = generated(DatasetConfig(source=source, num_rows=1), FakeModel())
    assert rows == []
    assert "responses=llm" in asker.failures[0].error
    assert len(generated(DatasetConfig(source=source, num_rows=1, responses=Responses.llm), FakeModel())[0]) == 1


def test_the_content_of_a_file_decides_the_key_and_streaming_does_not(tmp_path):
    def key():
        return Generate(
            generator=DatasetConfig(source=source, num_rows=2), llm=ModelConfig(model="m", engine=EngineName.scripted),
            embedder=EmbedderConfig(model="unused"), society=None, seed=1,
        ).key()  # fmt: skip

    source = numbered(tmp_path)
    first = key()
    source.streaming = True
    assert key() == first
    numbered(tmp_path, 41)
    assert key() != first


def test_the_stage_writes_rows_and_tells_when_the_source_is_empty(tmp_path):
    (tmp_path / "llm.json").write_text("[]")
    stage = Generate(
        generator=DatasetConfig(source=numbered(tmp_path, 5), num_rows=9), society=None, seed=1,
        llm=ModelConfig(model=str(tmp_path / "llm.json"), engine=EngineName.scripted),
        embedder=EmbedderConfig(model="unused"),
    )  # fmt: skip
    assert stage.estimate().calls == 0
    stage.run(tmp_path)
    assert len(read_jsonl(tmp_path / "rows.jsonl", Conversation)) == 5
    assert "no more" in json.loads((tmp_path / "generation.json").read_text())["short"]


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="turns"):
        DatasetConfig(source=SourceConfig(path="x"), turns=-1)
    with pytest.raises(ValueError, match=re.escape("columns.prompt")):
        ColumnsConfig(turns="a", prompt="b")
