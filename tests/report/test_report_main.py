"""The command line of the report."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from handmade_grids import Builder

from matrix.report.main import main


def test_writes_its_files_and_prints_the_table(builder: Builder, capsys):
    builder.cell("one", ["filter=[length]"])
    assert main([str(builder.grid)]) == 0
    out = capsys.readouterr().out
    assert str(builder.grid / "report.html") in out.replace("\n", "")
    assert "54.0" in out
    assert {"report.html", "leaderboard.md", "leaderboard.csv"} <= {f.name for f in builder.grid.iterdir()}
    assert main([str(builder.grid)]) == 0


def test_says_which_grids_there_are(builder: Builder, tmp_path: Path, capsys):
    builder.write("one", [], {})
    assert main([str(tmp_path / "outputs" / "grids" / "dmo")]) == 2
    assert f"Grids near it: {builder.grid}" in capsys.readouterr().err
    empty = tmp_path / "empty" / "inner"
    empty.mkdir(parents=True)
    assert main([str(empty)]) == 2
    assert "not a grid folder" in capsys.readouterr().err


def test_heavy_packages_are_not_imported_to_read_a_grid():
    rooms = "matrix.report.main, matrix.report.explain"
    code = f"import sys, {rooms}; print({{'matplotlib', 'numpy', 'torch'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
