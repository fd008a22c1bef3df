"""The report's section on training: courses, warnings and answers of each result, and all losses on one chart."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
from handmade_grids import Builder

from matrix.report import training
from matrix.report.cells import Grid, read_grid
from matrix.report.main import write_report
from matrix.training.recipe import DPOConfig, PreferenceLoss, SFTConfig


def one_cell(builder: Builder) -> Grid:
    builder.cell("one", ["filter=[length]"], drop=3)
    return read_grid(builder.grid)


@pytest.fixture
def grid(builder: Builder) -> Grid:
    return one_cell(builder)


@pytest.fixture(scope="module")
def shown(tmp_path_factory) -> list[training.Training]:
    """SFT and DPO of one cell, for tests that only look at them."""
    return training.trainings(one_cell(Builder(tmp_path_factory.mktemp("training") / "outputs")), 6)


def write(grid: Grid, alias: str, name: str, content: str | None) -> None:
    (run,) = grid.results(alias).values()
    file = Path(run.path) / name
    if content is None:
        file.unlink()
    else:
        file.write_text(content)


def test_a_cell_has_its_trainings_in_their_order(shown):
    sft, dpo = shown
    assert (sft.title, sft.run.alias, dpo.title, dpo.run.alias) == ("SFT", "sft", "DPO", "tuned")
    assert not sft.preferences
    assert [note for _, note in dpo.preferences] == [training.REWARDS, training.DRIFT]
    assert "0.693: nothing learned" in dpo.course
    assert "0.693: nothing learned" not in sft.course


def test_numbers(shown):
    sft, dpo = (dict(found.numbers) for found in shown)
    assert sft["optimizer steps"] == "80"
    assert sft["rows trained on"] == "7"
    assert sft["rows held out"] == "2"
    assert sft["tokens"] == "41,000"
    assert sft["steps left out"] == "1"
    assert sft["lowest held-out loss"].endswith(", step 80")
    assert sft["peak memory"] == "3.8 GiB"
    assert "model FLOP/s utilisation" not in sft
    assert dpo["held-out accuracy at the end"] == "89%"


def test_what_was_not_written_is_left_out(grid: Grid):
    for name in ("held_out.csv", "summary.json", "doctor.txt", "doctor.json", "samples.jsonl"):
        write(grid, "sft", name, None)
    (sft,) = training.trainings(grid, 1)
    assert not sft.warnings
    assert not sft.samples
    assert not sft.doctor
    assert [name for name, _ in sft.numbers] == [
        "optimizer steps", "loss, first → last", "steps left out", "tokens a second", "time"
    ]  # fmt: skip
    assert not grid.problems


def test_warnings_and_answers_on_the_way(shown):
    sft, _ = shown
    assert sft.warnings == ["only 80 optimizer steps: lower batch_size=8, e.g. to 2, or raise epochs"]
    assert sft.doctor.startswith("rows  9 of 12")
    assert [sampled.row for sampled in sft.samples] == ["sft-00000", "sft-00001"]
    assert [answer.step for answer in sft.samples[0].answers] == [20, 40, 60, 80]


def test_of_many_answers_the_first_and_the_last_are_among_those_shown(grid: Grid):
    lines = [{"step": step, "row": f"r{row}", "prompt": "p", "answer": ""} for row in range(9) for step in range(10)]
    write(grid, "sft", "samples.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    (sft,) = training.trainings(grid, 1)
    assert (len(sft.samples), sft.num_samples) == (4, 9)
    assert [answer.step for answer in sft.samples[0].answers] == [0, 3, 6, 9]
    page = write_report(grid.path).read_text()
    assert "What it answered on the way to 4 of 9 prompts" in page
    assert "Before training" in page
    assert "An empty answer." in page


def test_a_damaged_table_is_noted_and_the_rest_shown(grid: Grid):
    write(grid, "sft", "metrics.csv", "step,margin\n1,1\n")
    (dpo,) = training.trainings(grid, 6)
    assert dpo.title == "DPO"
    assert "has no columns step and loss" in grid.problems[0]


def test_losses_of_one_kind_are_compared_and_others_are_not(builder: Builder):
    base, society = builder.society(), builder.society()
    recipes = {"a": SFTConfig(), "b": SFTConfig(epochs=1), "c": DPOConfig(), "d": DPOConfig(loss=PreferenceLoss.orpo)}
    for name, recipe in recipes.items():
        alias = "sft" if isinstance(recipe, SFTConfig) else "tuned"
        made = {alias: builder.train(base, society, recipe, 1, steps=30)}
        builder.write(name, [f"recipe={name}"], {"status": "done", "stages": made})
    grid = read_grid(builder.grid)
    (chart,) = training.comparisons(grid)
    assert ">SFT: loss</text>" in chart
    assert ">recipe=a</text>" in chart
    found = training.trainings(grid, 6)
    assert [one.title for one in found] == ["SFT", "SFT", "DPO", "ORPO"]
    assert "nothing learned" not in found[-1].course


def test_charts_are_files_too(grid: Grid):
    write_report(grid.path)
    files = sorted(file.name for file in (grid.path / "figures").iterdir())
    assert [name.split("-")[0] + name[-6:] for name in files] == ["DPO-0.svg", "DPO-1.svg", "DPO-2.svg", "SFT-0.svg"]
    for name in files:
        ElementTree.fromstring((grid.path / "figures" / name).read_text())
