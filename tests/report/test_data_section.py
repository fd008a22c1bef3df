"""The sections on data and filters: what was measured is shown, what was not is left out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from handmade_grids import Builder
from test_html import HOSTILE, Page

from matrix.report.cells import Grid, read_grid
from matrix.report.data import analyses, label_shares, made
from matrix.report.filters import chains, changes, overlap
from matrix.report.html import render


@pytest.fixture(scope="module")
def outputs(tmp_path_factory) -> Path:
    builder = Builder(tmp_path_factory.mktemp("measured"), measured=True, hostile=HOSTILE)
    builder.cell("one", ["filter=[length]"], drop=3)
    return builder.grid


@pytest.fixture(scope="module")
def grid(outputs: Path) -> Grid:
    return read_grid(outputs)


@pytest.fixture(scope="module")
def page(grid: Grid) -> Page:
    return Page(render(grid))


def test_the_page_is_whole_and_safe(page: Page):
    assert page.open == []
    assert not {"script", "img"} & set(page.tags)
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))


def test_the_six_tags_are_told_for_rows_and_pairs(grid: Grid):
    rows, pairs = analyses(grid, 4)
    assert (rows.what, pairs.what) == ("Instruction-response rows", "Preference pairs")
    assert [tag for tag, _ in rows.tags] == [
        "task category", "input quality", "difficulty", "safety", "language", "reward",
    ]  # fmt: skip
    kept, before = dict(rows.tags)["safety"]
    assert kept == before == "safe 100%"
    assert "not had: 1" in dict(rows.tags)["language"][1]
    assert dict(rows.numbers)["rows before the filters"] == "12"
    assert "2 agents stand behind the rows; a0001 has most: 5, 55.6%" in rows.balance[0]


@pytest.mark.parametrize(
    "said",
    [
        "The data", "Task category (paper figure 7a)", "Quality of the instructions (paper figure 5a)",
        "Difficulty of the instructions (paper figure 5b)", "Words of a rejected answer", "Reward margin",
        "Figure 7b of the paper", "What prompts have to teach", "Those of 6 of 12 prompts (50 %) do not differ at all",
        "puts the better answer ahead in 90 % of 10 obvious pairs", "Which rules say the same", "1 pair that it gets",
        "3 rows that", "length: too short",
    ],
)  # fmt: skip
def test_what_was_measured_is_said(page: Page, said: str):
    assert said in page.text


def test_filters_are_set_against_each_other():
    rows = {("a",): 8, ("b",): 2, ("c",): 0, ("a", "b"): 1, ("a", "c"): 0, ("b", "c"): 0}
    told = [{"filters": list(names), "rows": number} for names, number in rows.items()]
    found = overlap(told)
    assert found
    assert found.names == ["a", "b"]
    assert found.lines == [[(8, 1.0), (1, 0.5)], [(1, 0.5), (2, 1.0)]]
    assert overlap(told[:1]) is None
    assert overlap([]) is None


def test_before_and_after_are_told(grid: Grid):
    rows, pairs = chains(grid, 8, 20)
    told = {measure: (before, after) for measure, before, after in rows.changes}
    assert told["rows"] == ("12", "9")
    assert told["reward of the answer, median"] == ("1.375", "1.75")
    assert told["hard or very hard instructions"] == ("33%", "33%")
    assert "reward margin, median" in {measure for measure, _, _ in pairs.changes}
    assert changes({"rows": {"kept": 3}}) == []


def test_every_dropped_row_up_to_the_cap_can_be_read(grid: Grid):
    rows, pairs = chains(grid, 8, 20)
    assert len(rows.funnel.examples) == 3
    assert all(row and row.instruction for _, row in pairs.funnel.examples)
    assert len(chains(grid, 8, 1)[0].funnel.examples) == 1


def test_labels_stand_in_their_order_and_missing_ones_do_not_count():
    counted = {"kept": {"hard": 3, "easy": 1, "": 6}, "before": {"easy": 10}}
    assert label_shares(counted, ["easy", "medium", "hard"], True) == [
        ("easy", 0.25, 1.0), ("medium", 0.0, 0.0), ("hard", 0.75, 0.0),
    ]  # fmt: skip
    assert label_shares(counted, None, False) == [("hard", 0.75, None), ("easy", 0.25, None)]
    assert label_shares({"kept": {}, "before": {"x": 1}}, None, True) == [("x", 0.0, 1.0)]


@pytest.mark.parametrize("gone", ["analysis", "reward", "sanity", "filter"])
def test_a_result_that_is_gone_leaves_a_page(outputs: Path, tmp_path: Path, gone: str):
    shutil.copytree(outputs.parents[1], tmp_path / "outputs")
    grid = tmp_path / "outputs" / "grids" / outputs.name
    result = json.loads((grid / "one" / "result.json").read_text())
    for stage in result["stages"]:
        stage["path"] = "/moved/" + Path(stage["path"]).name  # the store beside the grid is found instead
    (grid / "one" / "result.json").write_text(json.dumps(result))
    shutil.rmtree(tmp_path / "outputs" / "store" / gone)
    page = Page(render(read_grid(grid)))
    assert page.open == []
    assert ("The data" in page.text) == (gone != "analysis")
    assert ("What the filters dropped" in page.text) == (gone != "filter")
    assert ("Can the reward be trusted?" in page.text) == (gone not in ("sanity", "filter"))
    assert ("What prompts have to teach" in page.text) == (gone not in ("reward", "filter"))


def test_a_grid_without_analyses_has_no_such_section(builder: Builder):
    builder.cell("one", [])
    page = Page(render(read_grid(builder.grid)))
    assert "The data" not in page.text
    assert "Which rules say the same" not in page.text
    assert "What the filters dropped" in page.text


def test_a_shortfall_is_explained():
    account = {"wanted": 9, "made": 4, "asked": 12, "lost": {"no answer": 2}, "short": "max_tries: 12 candidates"}
    assert made(account) == (
        "4 of 9 rows made out of 12 candidates; lost: 2 no answer. Short: max_tries: 12 candidates"
    )
