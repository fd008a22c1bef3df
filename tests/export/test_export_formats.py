"""Every format as its readers expect it, and all of them through `datasets.load_dataset`."""

import json

import pytest
from small_store import TEXT

from matrix.export.folder import export
from matrix.export.formats import Format
from matrix.export.source import find


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def load(exported, tmp_path):
    from datasets import load_dataset

    return lambda *name: load_dataset(str(exported), *name, split="train", cache_dir=str(tmp_path))


def test_sharegpt(exported):
    row = lines(exported / "sharegpt" / "sft.jsonl")[1]
    assert [turn["from"] for turn in row["conversations"]] == ["system", "human", "gpt"]
    assert row["conversations"][2]["value"] == TEXT * 2
    pair = lines(exported / "sharegpt" / "dpo.jsonl")[0]
    assert [turn["from"] for turn in pair["conversations"]] == ["human"]
    assert pair["chosen"] == {"from": "gpt", "value": TEXT * 2}
    assert pair["rejected"]["from"] == "gpt"


def test_openai(exported):
    row = lines(exported / "messages" / "sft.jsonl")[0]
    assert [list(turn) for turn in row["messages"]] == [["role", "content"]] * 2
    pair = lines(exported / "messages" / "dpo.jsonl")[1]
    assert [turn["role"] for turn in pair["input"]["messages"]] == ["system", "user"]
    assert pair["preferred_output"] == [{"role": "assistant", "content": TEXT * 2}]
    assert [turn["role"] for turn in pair["non_preferred_output"]] == ["assistant"]


def test_trl_is_the_same_in_both_files(exported, load):
    for part in ("sft", "dpo"):
        assert load(f"trl_{part}").to_list() == lines(exported / "trl" / f"{part}.jsonl")
    assert load("trl_sft").column_names == ["messages"]
    assert load("trl_dpo").column_names == ["prompt", "chosen", "rejected"]


def test_the_folder_loads_with_everything_known_of_a_row(load):
    rows = load()
    assert rows.num_rows == 6
    row = rows[1]
    assert row["id"] == "sft-00001"
    assert row["messages"][1]["content"] == "Question 1: why is bread brown?\n“Ünïcode” | pipes"
    assert (row["kind"], row["category"], row["style"]) == ("simple", "cooking", "")
    assert row["origin"]["model"] == "someone/writer@abc"
    assert (row["origin"]["agent"], row["origin"]["seed"]) == ("a0001", 1)
    assert json.loads(row["origin"]["templates"]) == {"simple.jinja": "0123456789ab"}
    pairs = load("dpo")
    assert pairs.num_rows == 4
    assert pairs[0]["rejected_model"].startswith("train-")
    assert pairs[0]["chosen"] == [{"role": "assistant", "content": TEXT * 2}]


def snippet(folder):
    """What the card says to type."""
    text = (folder / "README.md").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line.startswith("load_dataset(")]


def test_what_the_card_says_to_type_works(exported, tmp_path):
    from datasets import load_dataset

    options = {"cache_dir": str(tmp_path)}
    known = {"FOLDER": str(exported), "load_dataset": lambda *words, **named: load_dataset(*words, **named, **options)}
    loaded = [eval(line, known).num_rows for line in snippet(exported)]
    assert loaded == [6, 4] * 2 + [6, 4] * 3  # sft and dpo: two configs each, three JSON Lines files each


@pytest.mark.parametrize("kind", Format)
def test_a_folder_with_one_format_loads(small, tmp_path, kind):
    from datasets import load_dataset

    folder = export(find(str(small.cell), tmp_path), tmp_path / "one", [kind])
    assert load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache")).num_rows == 6


def test_only_the_formats_that_were_asked_for(small, tmp_path):
    folder = export(find(small.rows.name, small.outputs / "store"), tmp_path / "one", [Format.sharegpt])
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert files == ["README.md", "export.json", "sharegpt/sft.jsonl"]
