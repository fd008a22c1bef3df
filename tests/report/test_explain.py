"""Walking from a row back to its profile and on to the models trained on it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from handmade_grids import Builder

from matrix.report.explain import main


@pytest.fixture
def store(builder: Builder) -> str:
    builder.cell("one", ["filter=[length]"], drop=3)
    builder.cell("two", ["filter=[]"], drop=0)
    return str(builder.outputs / "store")


def explained(capsys, *arguments: str) -> str:
    assert main(arguments) == 0
    return " ".join(re.sub(r"[│├└─]", " ", capsys.readouterr().out).split())


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")


def test_a_row_is_walked_back_to_its_profile(store: str, capsys):
    text = explained(capsys, "sft-00001", "--store", store)
    for part in (
        "Question 1: how do I keep", "model smol@1; seed 101; simple.jinja abcabcabcabc", "scenario g01-s00, group 1",
        "action g01-s00-t2", "in reaction to: News.", "plan step: Learn: read a book.", "agent a0001: Chess Coach 1",
        "goal: Be the best chess coach in town.", "made from profile p0001", "plan.jinja 0123456789ab",
    ):  # fmt: skip
        assert part in text


def test_a_row_is_followed_to_filters_and_models(store: str, capsys):
    dropped = explained(capsys, "sft-00001", "--store", store)
    assert "dropped by length: too_long (1 words), in filter-" in dropped
    assert dropped.count("trained on by train-") == 1
    kept = explained(capsys, "sft-00008", "--store", store)
    assert "dropped by" not in kept
    assert kept.count("kept by length, dedup, in filter-") == 2
    assert kept.count("trained on by train-") == 2


def test_a_row_in_several_results_asks_for_the_stage(store: str, capsys):
    text = explained(capsys, "pair-00000", "--store", store)
    assert "pair-00000 is in 2 stage results; name one with --stage" in text
    name = re.search(r"prefer-[0-9a-f]{12}", text)
    assert name
    text = explained(capsys, "pair-00000", "--store", store, "--stage", name[0])
    assert text.startswith(f"pair-00000 in {name[0]}")
    assert "rejected answer, by train-" in text
    assert "name one" not in text
    assert main(["pair-00000", "--store", store, "--stage", "generate"]) == 2
    assert "It is in prefer-" in capsys.readouterr().err


def test_agents_scenarios_actions_and_profiles_can_be_asked_for(store: str, capsys):
    assert "1 rows grew out of it" not in explained(capsys, "a0001", "--store", store)
    assert re.search(r"3 rows grew out of it in generate-\w+ sft-00001", explained(capsys, "g01-s00", "--store", store))
    action = explained(capsys, "g01-s00-t1", "--store", store)
    assert "scenario g01-s00, group 1" in action
    assert "heard by agent" in action
    assert "agent a0002: Sound Engineer 2" in explained(capsys, "p0002", "--store", store)


def test_an_unknown_id_gets_the_nearest(store: str, capsys):
    assert main(["sft-0001", "--store", store]) == 2
    error = capsys.readouterr().err
    assert "no row sft-0001" in error
    assert "sft-00001" in error
    assert main(["?", "--store", store]) == 2
    assert "No id there is like it" in capsys.readouterr().err


def test_a_store_that_is_not_there_is_said(tmp_path: Path, capsys):
    assert main(["sft-00001", "--store", str(tmp_path / "none")]) == 2
    assert "Name the store with --store" in capsys.readouterr().err


def test_a_society_that_is_gone_is_said(store: str, capsys):
    shutil.rmtree(Path(store) / "simulate")
    assert "is not in the store any more" in explained(capsys, "sft-00001", "--store", store)


def test_text_of_models_is_not_read_as_terminal_markup(tmp_path: Path, capsys):
    builder = Builder(tmp_path / "outputs", hostile=" [bold]x[/bold] [/]")
    builder.cell("one", [])
    text = explained(capsys, "sft-00001", "--store", str(builder.outputs / "store"))
    assert "[bold]x[/bold] [/]" in text
