"""Reading a grid folder: labels, groups, and everything that can be missing or damaged."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from handmade_grids import Builder

from matrix.records import Action
from matrix.report.cells import Cell, Grid, GridError, read_grid


def grid_of(*cells: tuple[list[str], dict[str, str]]) -> Grid:
    made = [
        Cell(cell=f"c{i}", name="sweep", status="done", overrides=overrides, choices=choices)
        for i, (overrides, choices) in enumerate(cells)
    ]
    return Grid(Path("sweep"), made)


def labels(grid: Grid) -> list[str]:
    return [group.label for group in grid.groups]


def test_labels_show_only_what_varies():
    grid = grid_of(
        (["filter=[length]", "recipe.sft.lr=1e-5", "name=x"], {"llm": "smol", "filter": "none"}),
        (["filter=[dedup]", "recipe.sft.lr=1e-5", "name=y"], {"llm": "smol", "filter": "none"}),
    )
    assert labels(grid) == ["filter=[length]", "filter=[dedup]"]
    assert grid.varying() == ["filter"]


def test_labels_take_the_shortest_clear_key():
    clear = grid_of((["simulator.num_agents=10"], {}), (["simulator.num_agents=20"], {}))
    assert labels(clear) == ["num_agents=10", "num_agents=20"]
    unclear = grid_of((["recipe.sft.lr=1", "recipe.dpo.lr=1"], {}), (["recipe.sft.lr=2", "recipe.dpo.lr=2"], {}))
    assert labels(unclear)[0] == "recipe.sft.lr=1, recipe.dpo.lr=1"


def test_a_preset_speaks_for_all_that_it_decides():
    grid = grid_of(
        (["experiment=ours"], {"experiment": "ours", "recipe": "sft_dpo", "llm": "smol"}),
        (["experiment=sft_only"], {"experiment": "sft_only", "recipe": "sft", "llm": "smol"}),
    )
    assert labels(grid) == ["ours", "sft_only"]


def test_cells_that_differ_in_the_seed_alone_are_one_group():
    grid = grid_of((["a=1", "seed=0"], {}), (["a=1", "seed=1"], {}), (["a=2", "seed=0"], {}))
    assert [(g.label, [c.cell for c in g.cells]) for g in grid.groups] == [("a=1", ["c0", "c1"]), ("a=2", ["c2"])]
    assert grid.label(grid.cells[1]) == "a=1, seed=1"
    assert labels(grid_of((["seed=0"], {}), (["seed=1"], {}))) == ["sweep"]


def test_unfinished_and_damaged_cells_are_values(builder: Builder):
    builder.write("planned", ["a=1"], {})
    (builder.grid / "started").mkdir()
    (builder.grid / "started" / "matrix.log").write_text("running")
    (builder.grid / "planned" / ".hydra").mkdir(parents=True)
    (builder.grid / "planned" / ".hydra" / "overrides.yaml").write_text("- seed=1\n- plan=true\n")
    (builder.grid / "damaged").mkdir()
    (builder.grid / "damaged" / "result.json").write_text('{"status": "do')
    (builder.grid / "unrelated").mkdir()
    assert {c.cell: c.status for c in read_grid(builder.grid).cells} == {
        "planned": "planned",
        "started": "running",
        "damaged": "unreadable",
    }


def test_a_metric_that_is_not_a_number_is_read(builder: Builder):
    builder.cell("one", [], lc=float("nan"), train=False)
    assert read_grid(builder.grid).cells[0].status == "done"


@pytest.mark.parametrize("place", ["outputs/grids/dmo", "outputs/store", "outputs/grids"])
def test_what_is_not_a_grid_is_refused_with_grids_near_it(builder: Builder, tmp_path: Path, place: str):
    builder.write("planned", [], {})
    (tmp_path / "outputs/store").mkdir(exist_ok=True)
    with pytest.raises(GridError, match=r"Grids near it: .*grids/demo"):
        read_grid(tmp_path / place)


def test_a_cell_folder_is_refused_with_its_grid(builder: Builder):
    folder = builder.write("planned", [], {})
    with pytest.raises(GridError, match=f"The grid is {builder.grid}"):
        read_grid(folder)


def test_stage_folders_that_are_gone_or_damaged_are_noted_once(builder: Builder):
    builder.cell("one", [])
    grid = read_grid(builder.grid)
    run = next(iter(grid.results("society").values()))
    (Path(run.path) / "actions.jsonl").write_text("not a row\n")
    assert grid.rows(run, "actions.jsonl", Action) == []
    assert len(grid.problems) == 1
    shutil.rmtree(run.path)
    assert grid.rows(run, "agents.jsonl", Action) == grid.rows(run, "actions.jsonl", Action) == []
    assert len(grid.problems) == 2
    assert run.name in grid.problems[1]


def test_moved_outputs_are_found(builder: Builder, tmp_path: Path):
    builder.cell("one", [])
    moved = tmp_path / "elsewhere"
    builder.outputs.rename(moved)
    grid = read_grid(moved / "grids" / "demo")
    run = next(iter(grid.results("society").values()))
    assert grid.folder(run) == moved / "store" / "simulate" / Path(run.path).name
    assert grid.rows(run, "actions.jsonl", Action)


def test_shared_results_are_listed_once(builder: Builder):
    builder.cell("one", ["filter=[length]"], drop=3)
    builder.cell("two", ["filter=[]"], drop=0)
    grid = read_grid(builder.grid)
    assert len(grid.results("society")) == 1
    assert len(grid.results("kept")) == 2
    assert [c.cell for c in grid.users(next(iter(grid.results("society"))))] == ["one", "two"]
    assert json.loads((builder.grid / "one" / "result.json").read_text())["status"] == "done"
