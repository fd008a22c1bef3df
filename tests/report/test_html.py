"""The HTML report: everything shown, hostile text escaped, half-finished grids rendered."""

from __future__ import annotations

import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from handmade_grids import Builder

from matrix.report.cells import read_grid
from matrix.report.html import cut, render
from matrix.report.main import write_report

HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\"' {{ 7*7 }} $x^2$ 日本 😀"


class Page(HTMLParser):
    """Collects tags, attributes and text, and checks that what is opened is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in ("meta", "br", "img", "path", "use", "rect"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        if tag not in ("path", "use", "rect"):
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def page_of(builder: Builder) -> Page:
    return Page(render(read_grid(builder.grid)))


def with_two_cells(builder: Builder) -> Builder:
    builder.cell("one", ["filter=[length]"], lc=58.0, drop=3)
    builder.cell("two", ["filter=[]"], lc=46.0, drop=0)
    return builder


@pytest.fixture
def two_cells(builder: Builder) -> Builder:
    return with_two_cells(builder)


@pytest.fixture(scope="module")
def text(tmp_path_factory) -> str:
    """The page of two cells, for tests that only look at it."""
    return render(read_grid(with_two_cells(Builder(tmp_path_factory.mktemp("html") / "outputs")).grid))


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def test_the_page_says_what_was_compared_and_the_answer(page: Page):
    assert (
        "2 settings (varying filter) compared with untuned Smol-135M: best is filter=[length] with 58.0 %" in page.text
    )
    assert "better than the baseline" in page.text
    for heading in ("Leaderboard", "The society", "What the filters dropped", "Preference pairs", "Training", "Cost"):
        assert heading in page.text
    assert page.open == []


def test_the_page_loads_and_runs_nothing(page: Page):
    assert not {"script", "link", "iframe", "img"} & set(page.tags)
    links = [value or "" for name, value in page.attributes if name in ("href", "src", "xlink:href")]
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in links)


def test_ids_are_unique_and_internal_links_resolve(page: Page):
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    links = [value[1:] for name, value in page.attributes if name in ("href", "xlink:href") and value]
    assert {link for link in links if not link.startswith("ata:")} <= set(ids)


def test_rows_are_shown_with_scenario_and_fate(page: Page):
    assert "Pharmacist 0 asks" in page.text
    assert "dropped by length: too short; kept by 1 of 2 chains" in page.text
    assert "heard by" in page.text
    assert "passed on to group" in page.text
    assert "Shelves shelves shelves." in page.text


def test_one_scenario_is_traced_from_profile_to_row(page: Page):
    assert "One scenario, from profile to instruction" in page.text
    assert "the source is p0" in page.text
    assert "Real Name" not in page.text
    assert "Plan step 1: Learn: read a book." in page.text
    assert "Told " in page.text


def test_similarity_and_cohesion_are_shown_where_they_were_measured(tmp_path: Path, page: Page):
    assert "cosine" not in page.text
    measured = Builder(tmp_path / "measured", similarity=True)
    measured.cell("one", [])
    text = page_of(measured).text
    assert "Agents of one group are more alike than agents of different groups: the profiles of the 6 pairs" in text
    assert "Cosine similarity of the profile embeddings of 6 agents. " in text


def test_shared_results_are_shown_once(text: str):
    assert text.count("Each point is an agent") == 1
    assert text.count("SFT: loss</text>") == 1


def test_text_of_models_is_never_markup(tmp_path: Path):
    builder = Builder(tmp_path / "outputs", hostile=HOSTILE)
    error = f"ValueError: {HOSTILE}"
    builder.cell("one", [f"filter={HOSTILE}"])
    builder.write("two", ["filter=[]"], {"status": "failed", "stage": "train", "error": error, "traceback": error})
    page = page_of(builder)
    assert "script" not in page.tags
    assert "img" not in page.tags
    assert "onerror" not in {name for name, _ in page.attributes}
    assert page.text.count(HOSTILE) > 20
    assert page.open == []
    report = write_report(builder.grid)
    assert "<script" not in report.read_text()
    assert "<script" not in (builder.grid / "leaderboard.md").read_text()


def test_failed_cells_are_shown_with_stage_error_and_traceback(two_cells: Builder):
    two_cells.write(
        "three",
        ["filter=[dedup]"],
        {"status": "failed", "stage": "train", "error": "RuntimeError: NaN", "traceback": "Traceback: line 7"},
    )
    text = page_of(two_cells).text
    assert "1 cell failed: filter=[dedup] (in train)" in text
    assert "failed in train: RuntimeError: NaN" in text
    assert "Traceback: line 7" in text


@pytest.mark.parametrize("gone", ["store", "simulate", "generate", "filter", "train", "evaluate", "answer", "import"])
def test_missing_stage_folders_are_named(two_cells: Builder, gone: str):
    shutil.rmtree(two_cells.outputs / "store" if gone == "store" else two_cells.outputs / "store" / gone)
    page = page_of(two_cells)
    assert "58.0" in page.text
    if gone != "import":
        assert "could not be read" in page.text


def test_a_grid_with_nothing_done_still_has_a_report(builder: Builder):
    builder.write("one", ["filter=[]"], {"status": "planned"})
    builder.write("two", ["filter=[length]"], {"status": "running", "environment": {}, "command": None})
    assert "2 settings (varying filter), no scores yet: 2 cells: 1 planned, 1 running." in page_of(builder).text


def test_a_cell_that_stopped_after_the_simulation_shows_its_society(builder: Builder):
    society = builder.society()
    builder.write("one", [], {"status": "done", "until": "simulate", "stages": {"society": society}})
    text = page_of(builder).text
    assert "The society" in text
    assert "Leaderboard" not in text


def test_same_grid_same_bytes(two_cells: Builder):
    assert render(read_grid(two_cells.grid)) == render(read_grid(two_cells.grid))


def test_long_texts_are_cut_and_counted():
    assert cut("abc", 3) == "abc"
    assert cut("abcdef", 3) == "abc … (3 more characters)"


def test_plots_carry_no_dates_and_no_outside_references(text: str):
    assert "<metadata>" not in text
    assert not re.search(r"(src|href)=\"https?:", text)
