"""The leaderboard: pinned baseline, deltas, seeds, precision, failures, published rows."""

from __future__ import annotations

import csv
import io
import math

import pytest
from handmade_grids import Builder
from rich.console import Console

from matrix.report.cells import read_grid
from matrix.report.leaderboard import Leaderboard, Line, leaderboard
from matrix.report.tables import as_csv, as_markdown, as_table, duration


def board_of(builder: Builder) -> Leaderboard:
    return leaderboard(read_grid(builder.grid))


def line_of(board: Leaderboard, label: str) -> Line:
    return next(line for line in board.lines if line.label == label)


def test_the_reference_is_pinned_at_50_and_deltas_are_against_it(builder: Builder):
    builder.cell("one", ["filter=[length]"], lc=54.0, win=47.5, arena=51.0)
    builder.cell("two", ["filter=[]"], lc=58.0, drop=0)
    board = board_of(builder)
    assert [(line.label, line.kind) for line in board.lines] == [
        ("untuned Smol-135M", "reference"),
        ("filter=[]", "cell"),
        ("filter=[length]", "cell"),
    ]
    reference, _, one = board.lines
    assert reference.entries["lc_win_rate"].value == reference.entries["arena_hard"].value == 50.0
    assert reference.entries["avg_length"].value == 640.0
    assert [one.entries[key].delta for key in ("lc_win_rate", "win_rate", "arena_hard")] == [4.0, -2.5, 1.0]
    assert one.entries["avg_length"].delta is None
    assert (one.entries["win_rate"].error, one.entries["win_rate"].low) == (1.25, 41.5)
    assert (one.rows_sft, one.rows_pairs, one.rows) == (9, 6, "9 + 6")


def test_an_untuned_cell_is_the_baseline(builder: Builder):
    builder.cell("one", ["recipe=sft"], lc=24.0)
    builder.cell("base", ["recipe=none"], lc=22.5, train=False)
    board = board_of(builder)
    assert [line.kind for line in board.lines] == ["reference", "untuned", "cell"]
    assert line_of(board, "recipe=sft").entries["lc_win_rate"].delta == 1.5
    assert line_of(board, "recipe=none").entries["lc_win_rate"].delta is None


def test_seeds_become_mean_and_standard_deviation(builder: Builder):
    for seed, score in enumerate((40.0, 44.0, 48.0)):
        builder.cell(f"c{seed}", ["a=1", f"seed={seed}"], lc=score, seed=seed)
    builder.cell("other", ["a=2", "seed=0"], lc=50.0, seed=9)
    board = board_of(builder)
    line = line_of(board, "a=1")
    entry = line.entries["lc_win_rate"]
    assert (line.seeds, entry.n, entry.value, entry.std, entry.delta) == (3, 3, 44.0, 4.0, -6.0)
    assert line.seed_values["lc_win_rate"] == [40.0, 44.0, 48.0]
    assert entry.spread() == "± 4.0"
    assert (entry.low, entry.high) == (35.0, 53.0)
    assert "a=1 (3 seeds)" in as_markdown(board)


def test_shared_stages_are_counted_once(builder: Builder):
    builder.cell("c0", ["a=1", "seed=0"])
    tokens = board_of(builder).lines[1].tokens_in
    builder.cell("c1", ["a=1", "seed=1"], seed=1)
    assert board_of(builder).lines[1].tokens_in == tokens


def test_csv_keeps_every_digit(builder: Builder):
    builder.cell("one", ["filter=[length,dedup]"], lc=54.123456789012345)
    rows = list(csv.DictReader(io.StringIO(as_csv(board_of(builder)))))
    assert [row["kind"] for row in rows] == ["reference", "cell"]
    assert float(rows[1]["lc_win_rate"]) == 54.123456789012345
    assert float(rows[1]["lc_win_rate_delta"]) == 54.123456789012345 - 50.0
    assert rows[1]["rows_sft"] == "9"


def test_cells_without_scores_stand_below_with_stage_and_error(builder: Builder):
    builder.cell("one", ["filter=[length]"])
    error = "RuntimeError: loss | is NaN\nat step 12"
    builder.write("two", ["filter=[]"], {"status": "failed", "stage": "train", "error": error})
    builder.write("three", ["filter=[dedup]"], {"status": "done", "until": "simulate"})
    board = board_of(builder)
    markdown = as_markdown(board)
    assert "- filter=[]: failed in train: RuntimeError: loss \\| is NaN\n" in markdown
    assert "- filter=[dedup]: done up to simulate" in markdown
    rows = list(csv.DictReader(io.StringIO(as_csv(board))))
    assert {row["label"]: row["status"] for row in rows}["filter=[]"] == "failed"
    assert rows[-1]["error"] == error


def test_a_grid_without_any_scores_has_a_table_of_fates_only(builder: Builder):
    builder.write("two", ["filter=[]"], {"status": "stopped", "stage": "simulate"})
    board = board_of(builder)
    assert board.lines == []
    assert "stopped in simulate" in as_markdown(board)


def test_published_rows_stand_only_beside_comparable_scores(builder: Builder):
    builder.cell("demo", ["judge=small"])
    assert not [line for line in board_of(builder).lines if line.kind == "published"]
    assert board_of(builder).notices == ["demo judge: not comparable with published numbers"]


def test_official_runs_are_followed_by_published_rows(builder: Builder):
    builder.cell("official", ["judge=gpt4"], notice="")
    board = board_of(builder)
    ours = line_of(board, "MATRIX-Gen-SFT, Table 2")
    assert (ours.kind, ours.entries["lc_win_rate"].value, ours.entries["arena_hard"].value) == ("published", 14.7, 14.7)
    assert "MATRIX-Gen-SFT, Table 2 (published)" in as_markdown(board)


def test_a_score_that_could_not_be_computed_is_left_out(builder: Builder):
    builder.cell("one", ["a=1"], lc=math.nan, win=51.0)
    entries = board_of(builder).lines[1].entries
    assert "lc_win_rate" not in entries
    assert entries["win_rate"].value == 51.0


def test_the_terminal_table_fits_80_columns_and_takes_labels_literally(builder: Builder):
    builder.cell("one", ["filter=[bold]"])
    builder.cell("two", ["filter=[]"], drop=0)
    console = Console(width=80, record=True, force_terminal=False)
    console.print(as_table(board_of(builder), "demo"))
    text = console.export_text()
    assert "[bold]" in text
    assert "54.0 +4.0" in text
    assert "49.0–59.0" in text
    assert "demo judge" in text


@pytest.mark.parametrize(("seconds", "text"), [(3.14, "3.1 s"), (59, "59 s"), (600, "10 min"), (7500, "2 h 05 min")])
def test_durations(seconds: float, text: str):
    assert duration(seconds) == text
