"""The stage on rows of a filter and of a generator, with and without what can be measured."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import yaml

import matrix
from matrix.analysis.stage import Analyse, overlap, place
from matrix.analysis.table import line
from matrix.engines.embedder import EmbedderConfig
from matrix.jsonl import write_jsonl
from matrix.records import Conversation, Drop, Message, Origin, PreferencePair, Question, Score, Tags
from matrix.stage import Result

MINILM = yaml.safe_load((Path(matrix.__file__).parents[1] / "conf/embedder/minilm.yaml").read_text())
ASKED = [
    "Write a poem about a ferry on a quiet morning.",
    "Write a poem about a night train.",
    "How do I fix a dripping tap?",
    "Plan a trip to the mountains for three people.",
    "Hm?",
]


def conversation(number: int) -> Conversation:
    messages = [
        Message(role="user", content=ASKED[number]),
        Message(role="assistant", content="Start with a list. " * (1 + number)),
    ]
    origin = Origin(stage="generate-test", agent=f"a{number // 3}", scenario=f"g00-s{number:02}")
    return Conversation(id=f"row{number}", messages=messages, kind="simple", category="advice", origin=origin)


def pair(number: int) -> PreferencePair:
    row = conversation(number)
    return PreferencePair(
        id=row.id, prompt=row.messages[:1], chosen="A good answer.", rejected="A bad one, too.", origin=row.origin
    )


def result(folder: Path, **files) -> Result:
    folder.mkdir()
    for name, rows in files.items():
        write_jsonl(folder / f"{name}.jsonl", rows)
    return Result(stage=folder.name, key=folder.name.ljust(64, "0"), path=folder)


@pytest.fixture
def stage(tmp_path: Path) -> Analyse:
    rows = [conversation(n) for n in range(5)]
    drops = [Drop(id="row4", filter="length", reason="too short")]
    return Analyse(
        rows=result(tmp_path / "filter", rows=rows[:4], dropped=rows[4:], drops=drops),
        tags=result(
            tmp_path / "tag",
            tags=[
                Tags(id=row.id, category="Planning", quality="good", difficulty="easy", safety="safe", language="en")
                for row in rows
            ],
        ),
        rewards=result(
            tmp_path / "reward",
            rewards=[Score(row=row.id, part="response", reward=n / 2) for n, row in enumerate(rows)],
        ),
        questions=result(tmp_path / "questions", questions=[Question(id="q", instruction=ASKED[0], category="set")]),
        seed=1,
    )


def written(stage: Analyse, work: Path) -> tuple[dict, list[dict]]:
    work.mkdir()
    stage.run(work)
    return json.loads((work / "analysis.json").read_text()), pyarrow.parquet.read_table(
        work / "rows.parquet"
    ).to_pylist()


def test_kept_rows_are_set_against_all_rows(stage: Analyse, tmp_path: Path):
    found, rows = written(stage, tmp_path / "work")
    assert found["rows"] == {"kept": 4, "before": 5}
    assert found["labels"]["task_category"] == {"kept": {"Planning": 4}, "before": {"Planning": 5}}
    assert found["labels"]["dropped_by"]["before"] == {"": 4, "length": 1}
    assert found["histograms"]["instruct_reward"]["before"]["mean"] == 1.0
    assert found["diversity"]["kept"]["instructions"]["rows"] == 4
    assert "vendi" not in found["diversity"]["kept"]["instructions"]
    assert found["requests"]["verbs"][0] == {"verb": "write", "rows": 2, "objects": [["poem", 2]]}
    assert found["balance"]["agent"]["top"] == [["a0", 3], ["a1", 1]]
    assert found["evaluation"]["words"]["nearest"][0]["id"] == "row0"
    assert "meaning" not in found["evaluation"]
    assert "map" not in found
    assert [row["id"] for row in rows] == ["row0", "row1", "row2", "row3"]
    assert rows[1]["input_quality"] == "good"
    assert rows[1]["instruct_reward"] == 0.5
    assert rows[1]["input_length"] == len(ASKED[1])
    assert rows[0]["evaluation_ngrams"] == 1.0
    assert "dropped_by" not in rows[0]


def test_the_same_rows_give_the_same_bytes(stage: Analyse, tmp_path: Path):
    written(stage, tmp_path / "one")
    written(stage, tmp_path / "two")
    for name in ("analysis.json", "rows.parquet"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_pairs_have_both_answers(tmp_path: Path):
    rewards = [Score(row="row0", part=part, reward=reward) for part, reward in (("chosen", 2.0), ("rejected", -1.0))]
    stage = Analyse(
        rows=result(tmp_path / "prefer", rows=[pair(0), pair(1)]),
        rewards=result(tmp_path / "reward", rewards=rewards),
        seed=1,
    )
    found, rows = written(stage, tmp_path / "work")
    assert found["rows"] == {"kept": 2}
    assert found["histograms"]["margin"]["kept"]["mean"] == 3.0
    assert found["histograms"]["rejected_words"]["kept"]["rows"] == 2
    assert (rows[0]["instruct_reward"], rows[0]["rejected_reward"], rows[1]["margin"]) == (2.0, -1.0, None)


def test_nothing_left_is_a_result_too(tmp_path: Path):
    stage = Analyse(rows=result(tmp_path / "filter", rows=[], dropped=[conversation(0)], drops=[]), seed=1)
    found, rows = written(stage, tmp_path / "work")
    assert found["rows"] == {"kept": 0, "before": 1}
    assert rows == []


def test_instructions_are_embedded(stage: Analyse, tmp_path: Path):
    stage.embedder = EmbedderConfig(**MINILM)
    found, rows = written(stage, tmp_path / "work")
    assert len(found["map"]["x"]) == 5
    assert found["map"]["dropped_by"][4] == "length"
    assert found["evaluation"]["meaning"]["nearest"][0]["value"] == pytest.approx(1.0, abs=1e-3)
    kept = found["diversity"]["kept"]["instructions"]
    assert 2 < kept["vendi"] < 4
    assert rows[0]["min_neighbor_distance"] < rows[2]["min_neighbor_distance"]
    assert found["diversity"]["before"]["instructions"]["vendi"] > kept["vendi"]


def test_rows_on_the_map_are_capped(monkeypatch):
    monkeypatch.setattr("matrix.analysis.stage.POINTS", 3)
    lines = [line(conversation(n), None, {}) for n in range(5)]
    found = place(lines, np.eye(5, dtype=np.float32), seed=0)
    assert len(found["x"]) == len(found["label"]) == 3
    assert all(item.x is not None for item in lines)


def test_nearest_questions_are_named():
    lines = [line(conversation(n), None, {}) for n in range(3)]
    questions = [Question(id="q0", instruction="Mend a tap.", category="a"), Question(id="q1", instruction="Sing.")]
    found = overlap(lines, questions, np.eye(3, dtype=np.float32), np.eye(3, dtype=np.float32)[2:1:-1].repeat(2, 0))
    assert found["meaning"]["nearest"][0] | {"question": "Mend a tap.", "set": "a"} == found["meaning"]["nearest"][0]
    assert found["meaning"]["nearest"][0]["id"] == "row2"
    assert found["words"]["nearest"] == []
    assert found["questions"] == {"": 1, "a": 1}
