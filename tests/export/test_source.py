"""What a name on the command line stands for."""

import shutil
from pathlib import Path

import pytest
from small_store import Small

from matrix.export.source import ExportError, find
from matrix.filtering.length import LengthConfig


def test_a_result_is_found_by_name_start_and_folder(small):
    store = small.outputs / "store"
    for word in (small.kept.name, small.kept.name[:12], str(small.kept.path), f"filter/{small.kept.path.name}"):
        source = find(word, store)
        assert source.name == small.kept.name
        assert [(part.name, part.rows) for part in source.parts] == [("sft", 6)]
        assert [row.id for row in source.parts[0].read()] == [f"sft-{i:05}" for i in range(6)]
    assert find(small.pairs.name, store).parts[0].name == "dpo"


def test_a_cell_has_kept_rows_and_pairs(small):
    source = find(str(small.cell), Path("none"))
    assert source.name == "bread/one"
    found = [(part.name, part.result.name, part.rows) for part in source.parts]
    assert found == [("sft", small.kept.name, 6), ("dpo", small.kept_pairs.name, 4)]


def test_a_cell_that_stopped_early_has_its_rows(small):
    source = find(str(small.grown("early", society=small.society, rows=small.rows)), Path("none"))
    assert [(part.name, part.result.name) for part in source.parts] == [("sft", small.rows.name)]
    nothing = small.grown("nothing", society=small.society)
    with pytest.raises(
        ExportError, match=rf"no rows in the store: its status is done, it made society \({small.society.name}"
    ):
        find(str(nothing), Path("none"))


def test_lineage_goes_back_to_the_society(small):
    results, gone = find(str(small.cell), Path("none")).lineage()
    expected = [small.society, small.rows, small.kept, small.base, small.sft, small.pairs, small.kept_pairs]
    assert [result.name for result in results] == [result.name for result in expected]
    assert not gone


def test_lineage_names_what_is_gone(tmp_path):
    small = Small(tmp_path / "outputs")
    shutil.rmtree(small.rows.path)
    results, gone = find(small.kept.name, tmp_path / "outputs" / "store").lineage()
    assert [result.name for result in results] == [small.kept.name]
    assert gone == [small.rows.name]


def test_the_command_is_that_of_a_cell_with_the_result(small):
    assert find(small.rows.name, small.outputs / "store").command.startswith("matrix experiment=bread")


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("generate-ffffffffffff", r"no result generate-ffffffffffff in .*Nearest: generate-[0-9a-f]{12}"),
        ("filter", r"filter is \d results: filter-\w+, filter-\w+.* Name one"),
        ("import", r"import-\w+ holds no rows. Results with rows: .*generate-\w+"),
        ("sft-", r"train-\w+ is a model. To export it type: matrix-export train-\w+ --to FOLDER"),
    ],
)
def test_what_cannot_be_exported_says_what_can(small, word, told):
    with pytest.raises(ExportError, match=told):
        find(word, small.outputs / "store")


def test_a_grid_is_not_a_cell(small):
    with pytest.raises(ExportError, match="is a grid. Name one of its cells: .*bread/one"):
        find(str(small.cell.parent), small.outputs / "store")


def test_an_empty_store_asks_for_another(tmp_path):
    with pytest.raises(ExportError, match="no stage results in .*nowhere. Name the store with --store"):
        find("filter-0123", tmp_path / "nowhere")


def test_rows_that_were_changed_are_refused(tmp_path):
    small = Small(tmp_path / "outputs")
    with (small.kept.path / "rows.jsonl").open("a") as file:
        file.write("\n")
    with pytest.raises(ExportError, match="rows.jsonl is not what was published"):
        find(small.kept.name, tmp_path / "outputs" / "store")


def test_an_empty_result_has_no_rows(small):
    empty = small.filtered(small.rows, LengthConfig(min_response=9_000))
    with pytest.raises(ExportError, match=f"{empty.name} holds no rows"):
        find(empty.name, small.outputs / "store")
    with pytest.raises(ExportError, match="hold no rows: the filters dropped all"):
        find(str(small.grown("strict", kept=empty)), Path("none"))
