"""What `matrix-explain` says was measured of a row."""

from __future__ import annotations

import re

import pytest
from handmade_grids import Builder, Handmade

from matrix.records import Likelihood
from matrix.report.explain import main
from matrix.report.library import Library
from matrix.report.measured import measured


@pytest.fixture
def measuring(tmp_path) -> Builder:
    builder = Builder(tmp_path / "outputs", measured=True)
    builder.cell("one", ["filter=[length]"], drop=3)
    return builder


def facts(builder: Builder, stage: str, row: str) -> dict[str, list[str]]:
    library = Library(builder.outputs / "store")
    result = next(result for result in library.results.values() if result.stage == stage)
    return {re.sub(r", in [a-z]+-[0-9a-f]{12}$", "", fact): said for fact, said in measured(library, result, row)}


def test_tags_rewards_and_rollouts_of_a_row(measuring: Builder):
    assert facts(measuring, "generate", "sft-00002") == {
        "tagged category Planning, quality excellent, difficulty hard, safety safe, language en": [],
        "reward: response 0.5": [],
        "4 rollouts of smol@1": [f"Rollout {k} of sft-00002." for k in range(4)],
        "rewards of the rollouts: mean 0.5, standard deviation 0": ["0.5, 0.5, 0.5, 0.5"],
    }


def test_both_answers_of_a_pair_have_rewards(measuring: Builder):
    assert "reward: chosen 0.25, rejected -0.75, margin 1" in facts(measuring, "prefer", "pair-00001")


def test_likelihoods_are_told_by_token(measuring: Builder):
    from dataclasses import dataclass
    from typing import ClassVar

    from matrix.stage import Result

    @dataclass(kw_only=True)
    class Likely(Handmade):
        name: ClassVar[str] = "likelihood"
        rows: Result

    rows = measuring.rows(measuring.society())
    line = Likelihood(row="sft-00002", part="response", tokens=10, logp=-5.0, logp_alone=-20.0)
    measuring.get(Likely(seed=1, rows=rows), {"likelihoods.jsonl": [line]})
    said = "log-probability a token of response (10 tokens): -0.500 given the prompt, -2.000 without"
    assert said in facts(measuring, "generate", "sft-00002")


def test_a_row_that_was_not_measured_has_no_facts(builder: Builder):
    builder.cell("one", [])
    assert facts(builder, "generate", "sft-00002") == {}


def test_explain_says_why_a_measured_row_was_dropped(measuring: Builder, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    assert main(["sft-00001", "--store", str(measuring.outputs / "store")]) == 0
    text = capsys.readouterr().out
    assert "reward: response 0.25, in reward-" in text
    assert "dropped by length: too_long (1 words), in filter-" in text
