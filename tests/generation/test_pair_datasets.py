"""Pairs of files in the schemas of the public preference sets, made by hand."""

import json

import pyarrow.parquet
import pytest

from matrix.generation.pair_datasets import DatasetPairsConfig, ImportPairs, pair
from matrix.generation.sources import ColumnsConfig, SourceConfig, UnusableRow
from matrix.jsonl import read_jsonl
from matrix.records import Failure, PreferencePair


def turns(*texts, first="user"):
    roles = ("user", "assistant") if first == "user" else ("assistant", "user")
    return [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]


ULTRAFEEDBACK = {
    "prompt": "Name a river.", "prompt_id": "a1", "score_chosen": 8.0, "score_rejected": 3.0,
    "chosen": turns("Name a river.", "The Po."), "rejected": turns("Name a river.", "No."),
    "messages": turns("Name a river.", "The Po."),
}  # fmt: skip
ORCA = {"system": "", "question": "Name a river.", "chosen": "The Po.", "rejected": "No."}
ARGILLA = {
    "dataset": "argilla/distilabel-capybara-dpo-7k-binarized", "chosen_rating": 4.0, "rejected_rating": 2.0,
    "chosen": turns("Hi", "Hello.", "Name a river.", "The Po."),
    "rejected": turns("Hi", "Hello.", "Name a river.", "No."),
}  # fmt: skip


def config(path="x", **fields):
    return DatasetPairsConfig(source=SourceConfig(path=str(path)), **fields)


def said(row, **fields):
    prompt, chosen, rejected = pair(row, config(**fields))
    return [f"{m.role}: {m.content}" for m in prompt], chosen, rejected


ORCA_COLUMNS = ColumnsConfig(system="system", prompt="question")


def test_ultrafeedback():
    assert said(ULTRAFEEDBACK) == (["user: Name a river."], "The Po.", "No.")


def test_orca():
    assert said(ORCA, columns=ORCA_COLUMNS) == (["user: Name a river."], "The Po.", "No.")
    told = said(ORCA | {"system": "Be brief."}, columns=ORCA_COLUMNS)[0]
    assert told == ["system: Be brief.", "user: Name a river."]


def test_argillas_mix_keeps_the_earlier_turns():
    told = ["user: Hi", "assistant: Hello.", "user: Name a river."]
    assert said(ARGILLA) == (told, "The Po.", "No.")


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (ORCA, "do not differ in the last turn alone"),
        (ULTRAFEEDBACK | {"rejected": turns("Name a lake.", "No.")}, "do not differ in the last turn alone"),
        (ULTRAFEEDBACK | {"rejected": turns("Name a river.", "The Po.")}, "the same"),
        (ULTRAFEEDBACK | {"rejected": turns("Name a river.")}, "does not end with an answer"),
        (ULTRAFEEDBACK | {"rejected": None}, "no list of turns"),
        (ULTRAFEEDBACK | {"rejected": " "}, "no list of turns"),
        (ULTRAFEEDBACK | {"chosen": turns("a", "b", first="assistant")}, "does not end with an answer"),
    ],
)
def test_a_row_that_is_no_pair_says_why(row, why):
    with pytest.raises(UnusableRow, match=why):
        pair(row, config())


def stage(folder, rows, seed=1, **fields):
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return ImportPairs(preference=config(folder / "rows.jsonl", columns=ORCA_COLUMNS, **fields), seed=seed)


def run(made, work):
    work.mkdir()
    made.run(work)
    return read_jsonl(work / "rows.jsonl", PreferencePair)


def test_the_stage_draws_pairs_by_seed(tmp_path):
    rows = [ORCA | {"question": f"Name river {i}.", "chosen": f"River {i}."} for i in range(30)]
    made = stage(tmp_path, rows, num_rows=9, label="orca")
    pairs = run(made, tmp_path / "one")
    assert len(pairs) == len({p.prompt[0].content for p in pairs}) == 9
    for p in pairs:
        place = int(p.origin.instruction.rpartition(":")[2])
        assert (p.chosen, p.rejected, p.kind) == (f"River {place}.", "No.", "orca")
        assert p.origin.stage == f"pairs-{made.key()[:12]}"
    assert run(made, tmp_path / "again") == pairs
    assert [p.prompt for p in run(stage(tmp_path, rows, seed=2, num_rows=9), tmp_path / "two")] != [
        p.prompt for p in pairs
    ]
    assert pyarrow.parquet.read_table(tmp_path / "one" / "rows.parquet").num_rows == 9
    assert made.readable() == "orca-9"


def test_rows_that_are_no_pairs_are_kept_as_failures_and_replaced(tmp_path):
    rows = [ORCA | {"question": f"Name river {i}.", "rejected": "No." if i % 2 else "The Po."} for i in range(20)]
    assert len(run(stage(tmp_path, rows, num_rows=10), tmp_path / "work")) == 10
    failures = read_jsonl(tmp_path / "work" / "failures.jsonl", Failure)
    assert failures
    assert {(f.purpose, f.error) for f in failures} == {("pairs", "both answers are the same")}


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="num_rows"):
        config(num_rows=0)
    with pytest.raises(ValueError, match="chosen and rejected"):
        config(columns=ColumnsConfig(prompt="a", response="b"))
