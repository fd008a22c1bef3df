"""`matrix-export` from the outside."""

import pytest

from matrix.export.main import main


def test_a_cell_is_exported(small, tmp_path, capsys):
    assert main([str(small.cell), str(tmp_path / "data"), "--format", "sharegpt", "trl"]) == 0
    out = capsys.readouterr().out
    assert f"6 sft rows of {small.kept.name}, 4 dpo rows of {small.kept_pairs.name}" in out
    assert sorted(p.name for p in (tmp_path / "data").iterdir()) == ["README.md", "export.json", "sharegpt", "trl"]


def test_a_result_is_exported_by_name(small, tmp_path):
    store = str(small.outputs / "store")
    assert main([small.rows.name, str(tmp_path / "data"), "--store", store, "--license", "mit"]) == 0
    assert main([small.rows.name, str(tmp_path / "data"), "--store", store]) == 2
    assert main([small.rows.name, str(tmp_path / "data"), "--store", store, "--overwrite"]) == 0


def test_mistakes_are_told_in_one_line(small, tmp_path, capsys):
    assert main(["generate-0", str(tmp_path / "data"), "--store", str(small.outputs / "store")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("matrix-export: no result generate-0")
    assert error.count("\n") == 1
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--public"], "--public goes with --push OWNER/NAME"),
        (["--push", "bread"], "need OWNER/NAME, e.g. --push me/matrix-sft"),
        (["--format", "xml"], "choose from datasets, trl, sharegpt, messages"),
    ],
)
def test_arguments_are_checked_before_anything_is_written(small, tmp_path, capsys, words, told):
    with pytest.raises(SystemExit):
        main([str(small.cell), str(tmp_path / "data"), *words])
    assert told in capsys.readouterr().err.replace("'", "")
    assert not (tmp_path / "data").exists()
