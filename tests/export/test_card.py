"""The card says what the rows are, with which models they were made and how to make them again, and no more."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from small_store import Generate, Small, Tag, model

from matrix.engines.base import ModelConfig
from matrix.export.folder import export
from matrix.export.source import find
from matrix.jsonl import write_jsonl
from matrix.records import Conversation, Message, Origin


@pytest.fixture
def text(exported):
    return (exported / "README.md").read_text(encoding="utf-8")


def header(text):
    return yaml.safe_load(text.split("---\n")[1])


def test_the_header_is_the_hubs(text):
    told = header(text)
    assert told["license"] == "unknown"
    assert told["task_categories"] == ["text-generation"]
    assert told["size_categories"] == ["n<1K"]
    assert told["tags"] == ["synthetic", "matrix-gen", "sft", "dpo"]
    assert [config["config_name"] for config in told["configs"]][:2] == ["sft", "dpo"]
    assert [config.get("default", False) for config in told["configs"]].count(True) == 1


def test_counts_funnel_and_shortfall(text, small):
    assert "- **sft**: 6 conversations for supervised fine-tuning" in text
    assert "- **dpo**: 4 preference pairs" in text
    assert "| length | 8 | 6 | response too long 2 |" in text
    assert "- wanted: 9\n- made: 8\n- asked: 10\n- lost: repeated instruction 2\n- short: max_tries: 10" in text
    assert "- **category**: math 3, cooking 3" in text
    assert f"- **rejected answer by**: {small.sft.name} 4" in text


def test_models_sources_seeds_and_settings(text, small):
    assert "| someone/writer@abc | llm of simulate, generate, prefer | unknown: check |" in text
    assert "Read besides: someone/people@v1. Their licences were not looked up: check." in text
    assert f"| `{small.rows.name}` | 3 | 20" in text
    assert '"max_response": ' in text
    assert "@inproceedings{tang2025matrix," in text


def test_it_can_be_made_again(text):
    assert "matrix experiment=bread seed=3 model.model=m.gguf\nmatrix-export outputs/grids/bread/one FOLDER" in text


def test_strangers_do_not_read_addresses_and_folders(exported):
    for file in exported.rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            assert not [secret for secret in (b"10.1.2.3", b"SECRET", b"/home/me") if secret in content], file


def test_local_models_are_named_without_their_folder(tmp_path):
    small = Small(tmp_path / "outputs")
    local = ModelConfig(model=str(tmp_path / "private" / "writer.gguf"))
    rows = small.store.get(Generate(seed=1, society=small.society, llm=local, rows=2))
    folder = export(find(rows.name, tmp_path / "outputs" / "store"), tmp_path / "data")
    assert "- **written by**: writer.gguf 2" in (folder / "README.md").read_text()
    assert not [f for f in folder.rglob("*") if f.is_file() and b"private" in f.read_bytes()]


def test_tags_are_counted_and_a_column(tmp_path):
    from datasets import load_dataset

    small = Small(tmp_path / "outputs")
    small.store.get(Tag(seed=3, rows=small.rows))
    folder = export(find(small.kept.name, tmp_path / "outputs" / "store"), tmp_path / "data", licence="cc-by-4.0")
    text = (folder / "README.md").read_text()
    assert header(text)["language"] == ["de", "fr"]
    assert header(text)["license"] == "cc-by-4.0"
    assert "published under `cc-by-4.0`" in text
    assert "- **quality**: good 6\n- **language**: de 5, fr 1" in text
    rows = load_dataset(str(folder), "sft", split="train", cache_dir=str(tmp_path / "cache"))
    assert rows[0]["tags"]["language"] == "fr"
    assert rows[0]["tags"]["complexity"] is None


def test_a_society_is_only_told_of_where_there_was_one(small, tmp_path):
    @dataclass(kw_only=True)
    class Copied(Generate):
        """Rows of people, from elsewhere."""

        def run(self, work: Path) -> None:
            messages = [Message(role="user", content="Why?"), Message(role="assistant", content="So.")]
            write_jsonl(work / "rows.jsonl", [Conversation(id="sft-0", messages=messages, origin=Origin(stage="x"))])

    rows = small.store.get(Copied(seed=9, society=small.society, llm=model("other/model")))
    text = (export(find(str(rows.path), Path("none")), tmp_path / "data") / "README.md").read_text()
    assert "without a simulated\nsociety" in text
    assert "synthetic" not in header(text)["tags"]
