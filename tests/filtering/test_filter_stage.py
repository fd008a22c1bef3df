import json
import logging

import msgspec
import pyarrow.parquet
import pytest

from matrix.filtering.base import Need
from matrix.filtering.decontaminate import ContaminationError, DecontaminateConfig
from matrix.filtering.dedup import DedupConfig, Method
from matrix.filtering.language import LanguageConfig
from matrix.filtering.length import LengthConfig
from matrix.filtering.rewarded import MarginConfig, RewardedConfig
from matrix.filtering.stage import Filter, for_conversations, needs
from matrix.filtering.window import Window
from matrix.jsonl import RowError, read_jsonl, write_jsonl
from matrix.records import Conversation, Drop, Message, Origin, PreferencePair, Question, Score
from matrix.stage import Result

ORIGIN = Origin(stage="generate-test", templates={"simple.jinja": "0123456789ab"}, seed=3)
TEXTS = [
    "How do I plan the budget of a small clinic?",
    "Hm?",
    "Wie plane ich das Budget einer kleinen Klinik?",
    "how do I plan the budget  of a small clinic?",
    "Which plants survive a dry balcony?",
]


def upstream(folder, rows) -> Result:
    folder.mkdir()
    write_jsonl(folder / "rows.jsonl", rows)
    return Result(stage="generate", key="0" * 64, path=folder)


def conversations(texts=TEXTS) -> list[Conversation]:
    return [
        Conversation(
            id=f"row{number}",
            messages=[
                Message(role="user", content=text),
                Message(role="assistant", content="Start with a list of it."),
            ],
            origin=ORIGIN,
        )
        for number, text in enumerate(texts)
    ]


def chain():
    return {"length": LengthConfig(), "language": LanguageConfig(), "dedup": DedupConfig(method=Method.exact)}


def run(stage: Filter, work):
    work.mkdir()
    stage.run(work)
    return {file.name: file.read_bytes() for file in work.iterdir()}


def test_rows_in_rows_out_and_every_drop_explained(tmp_path):
    rows = conversations()
    run(Filter(seed=0, filters=chain(), rows=upstream(tmp_path / "up", rows)), tmp_path / "work")
    work = tmp_path / "work"
    assert read_jsonl(work / "rows.jsonl", Conversation) == [rows[0], rows[4]]
    assert read_jsonl(work / "dropped.jsonl", Conversation) == [rows[1], rows[2], rows[3]]
    drops = read_jsonl(work / "drops.jsonl", Drop)
    assert [(d.id, d.filter, d.reason) for d in drops] == [
        ("row1", "length", "instruction too short"),
        ("row2", "language", "instruction in another language"),
        ("row3", "dedup", "exact duplicate"),
    ]
    assert drops[2].value == "row0"
    assert json.loads((work / "funnel.json").read_text()) == [
        {"filter": "length", "in": 5, "kept": 4, "dropped": {"instruction too short": 1}},
        {"filter": "language", "in": 4, "kept": 3, "dropped": {"instruction in another language": 1}},
        {"filter": "dedup", "in": 3, "kept": 2, "dropped": {"exact duplicate": 1}},
    ]
    assert pyarrow.parquet.read_table(work / "rows.parquet").column("id").to_pylist() == ["row0", "row4"]


def test_same_rows_same_bytes(tmp_path):
    source = upstream(tmp_path / "up", conversations())
    filters = {**chain(), "near": DedupConfig()}
    one = run(Filter(seed=0, filters=filters, rows=source), tmp_path / "one")
    two = run(Filter(seed=1, filters=filters, rows=source), tmp_path / "two")
    assert one == two


def test_pairs_stay_pairs(tmp_path):
    pairs = [
        PreferencePair(
            id=f"pair{n}", prompt=[Message(role="user", content=text)], chosen="A long and kind answer.",
            rejected="Another, worse answer.", rejected_model="sft", origin=ORIGIN,
        )
        for n, text in enumerate(TEXTS)
    ]  # fmt: skip
    run(Filter(seed=0, filters=chain(), rows=upstream(tmp_path / "up", pairs)), tmp_path / "work")
    assert read_jsonl(tmp_path / "work/rows.jsonl", PreferencePair) == [pairs[0], pairs[4]]


def test_no_filter_keeps_all(tmp_path):
    rows = conversations()
    run(Filter(seed=0, filters={}, rows=upstream(tmp_path / "up", rows)), tmp_path / "work")
    assert read_jsonl(tmp_path / "work/rows.jsonl", Conversation) == rows
    assert json.loads((tmp_path / "work/funnel.json").read_text()) == []


@pytest.mark.parametrize("rows", [[], conversations(["Hm?"])])
def test_an_empty_outcome_is_kept_and_warned_of(tmp_path, caplog, rows):
    with caplog.at_level(logging.WARNING):
        run(Filter(seed=0, filters=chain(), rows=upstream(tmp_path / "up", rows)), tmp_path / "work")
    assert f"no row is left of {len(rows)}" in caplog.text
    assert (tmp_path / "work/rows.jsonl").read_bytes() == b""
    assert pyarrow.parquet.read_table(tmp_path / "work/rows.parquet").num_rows == 0


def test_a_row_of_another_kind_is_named(tmp_path):
    source = upstream(tmp_path / "up", conversations())
    with (source.path / "rows.jsonl").open("ab") as file:
        file.write(msgspec.json.encode({"id": "x"}) + b"\n")
    with pytest.raises(RowError, match=r"rows\.jsonl:6: .*messages"):
        run(Filter(seed=0, filters=chain(), rows=source), tmp_path / "work")


def test_key_depends_on_order_and_names_and_knobs(tmp_path):
    source = upstream(tmp_path / "up", [])
    keys = [
        Filter(seed=0, filters=filters, rows=source).key()
        for filters in (
            {"length": LengthConfig(), "dedup": DedupConfig(method=Method.exact)},
            {"dedup": DedupConfig(method=Method.exact), "length": LengthConfig()},
            {"length": LengthConfig(min_response=11), "dedup": DedupConfig(method=Method.exact)},
            {"length": LengthConfig(), "dedup": DedupConfig()},
        )
    ]
    assert len(set(keys)) == 4


def test_rules_that_say_the_same_show_in_the_overlap(tmp_path):
    texts = ["Hm?", "Hm?", "Which plants survive a dry balcony?", "which plants survive a dry balcony?"]
    chain = {"length": LengthConfig(), "exact": DedupConfig(method=Method.exact)}
    run(Filter(seed=0, filters=chain, rows=upstream(tmp_path / "up", conversations(texts))), tmp_path / "work")
    funnel = json.loads((tmp_path / "work/funnel.json").read_text())
    assert [(f["filter"], f["in"], f["kept"]) for f in funnel] == [("length", 4, 2), ("exact", 2, 1)]
    assert json.loads((tmp_path / "work/overlap.json").read_text()) == [
        {"filters": ["length"], "rows": 2},
        {"filters": ["exact"], "rows": 2},
        {"filters": ["length", "exact"], "rows": 1},
    ]


def test_filters_of_pairs_have_no_part_in_the_chain_of_conversations(tmp_path):
    chain = {"length": LengthConfig(), "margin": MarginConfig()}
    assert list(for_conversations(chain)) == ["length"]
    with pytest.raises(ValueError, match="margin judge preference pairs"):
        run(Filter(seed=0, filters=chain, rows=upstream(tmp_path / "up", conversations())), tmp_path / "work")


def test_a_run_that_a_filter_refuses_leaves_what_it_dropped(tmp_path):
    rows = conversations([f"Tell me all about town number {n} of the ten, and be brief about it." for n in range(3)])
    questions = tmp_path / "questions"
    questions.mkdir()
    asked = Question(id="q", instruction=rows[0].messages[0].content, category="demo")
    write_jsonl(questions / "questions.jsonl", [asked])
    stage = Filter(
        seed=0,
        filters={"decontaminate": DecontaminateConfig(max_contamination=0.0, threshold=1.0)},
        rows=upstream(tmp_path / "up", rows),
        questions=Result(stage="questions", key="0" * 64, path=questions),
    )
    with pytest.raises(ContaminationError, match="1 of 3 rows") as raised:
        run(stage, tmp_path / "work")
    assert "drops.jsonl" in raised.value.__notes__[0]
    assert [drop.id for drop in read_jsonl(tmp_path / "work/drops.jsonl", Drop)] == ["row0"]


def test_facts_come_from_the_measuring_stages(tmp_path):
    rows = conversations(["How do I prune this old apple tree?", "How do I bake this heavy rye bread?"])

    def measured(name, found):
        (tmp_path / name).mkdir(exist_ok=True)
        write_jsonl(tmp_path / name / f"{name}.jsonl", found)
        return Result(stage="x", key="0" * 64, path=tmp_path / name)

    rewards = [Score(row="row0", part="response", reward=0.1), Score(row="row1", part="response", reward=0.9)]
    chain = {"reward": RewardedConfig(window=Window(low=0.5))}
    stage = Filter(seed=0, filters=chain, rows=upstream(tmp_path / "up", rows), rewards=measured("rewards", rewards))
    assert needs(chain) == {Need.rewards}
    run(stage, tmp_path / "work")
    assert [row.id for row in read_jsonl(tmp_path / "work/rows.jsonl", Conversation)] == ["row1"]
