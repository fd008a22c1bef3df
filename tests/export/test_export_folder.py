"""A folder is written whole or not at all, and nothing of anybody else is replaced."""

import hashlib
import json
from dataclasses import replace

import pytest

from matrix.export.folder import export
from matrix.export.formats import Format
from matrix.export.source import ExportError, find


@pytest.fixture
def source(small):
    return find(small.kept.name, small.outputs / "store")


def content(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_same_results_same_bytes(source, tmp_path):
    first, second = export(source, tmp_path / "a"), export(source, tmp_path / "b")
    assert content(first) == content(second)


def test_what_it_was_made_from_is_written_down(source, small, tmp_path):
    folder = export(source, tmp_path / "a")
    told = json.loads((folder / "export.json").read_text())
    assert told["source"] == small.kept.name
    assert told["results"][small.kept.name] == small.kept.key
    files = {name: data for name, data in content(folder).items() if name != "export.json"}
    assert told["files"] == {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}


def test_a_folder_in_use_is_left_alone(source, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    export(source, folder)  # empty: free
    with pytest.raises(ExportError, match="is not empty. Name another folder, or add --overwrite"):
        export(source, folder)
    (folder / "stale").touch()
    export(source, folder, [Format.trl], overwrite=True)
    assert set(content(folder)) == {"README.md", "export.json", "trl/sft.jsonl", "trl/sft.parquet"}
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_overwrite_takes_earlier_exports_only(source, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("Once")
    with pytest.raises(ExportError, match="is no earlier export"):
        export(source, tmp_path / "thesis", overwrite=True)
    assert (tmp_path / "thesis" / "chapter1.tex").read_text() == "Once"
    (tmp_path / "file").touch()
    with pytest.raises(ExportError, match="is a file"):
        export(source, tmp_path / "file")


def test_a_failure_leaves_nothing_behind(source, small, tmp_path):
    """A row that cannot be read: an earlier export stays as it was, and no half of a new one appears."""
    folder = export(source, tmp_path / "a")
    before = content(folder)
    elsewhere = [replace(part, result=replace(part.result, path=small.society.path)) for part in source.parts]
    broken = replace(source, parts=elsewhere)
    with pytest.raises(FileNotFoundError):
        export(broken, folder, overwrite=True)
    assert content(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
