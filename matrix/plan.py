"""See before you pay: what a cell would run, why, and what it would cost. Nothing runs."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from rich.table import Table

from matrix.config import MatrixConfig
from matrix.pipeline import run
from matrix.stage import Estimate
from matrix.store import Mode, Store, read_manifest


@dataclass(frozen=True, kw_only=True)
class PlannedStage:
    """One line of a plan."""

    alias: str
    name: str
    hit: bool
    why: str
    estimate: Estimate
    """Zero for a hit."""
    seconds: float | None
    """From stored results of the same stage; None where there is none to go by. 0 for a hit."""


def make_plan(config: MatrixConfig) -> list[PlannedStage]:
    """The stages of one cell: keys chain from configs, so none of them has to run."""
    store = Store(dataclasses.replace(config.store, mode=Mode.PLAN))
    stages = []
    for alias, result in run(config, store):
        visit = store.visits[-1]
        estimate = Estimate() if result.hit else visit.stage.estimate()
        seconds = 0.0 if result.hit else _expected_seconds(store, result.stage, estimate)
        stages.append(
            PlannedStage(
                alias=alias, name=result.name, hit=result.hit, why=visit.why, estimate=estimate, seconds=seconds
            )
        )  # fmt: skip
    return stages


def _expected_seconds(store: Store, stage: str, estimate: Estimate) -> float | None:
    """Seconds at the mean speed of this stage's stored results: per completion token, or per result without any."""
    manifests = [read_manifest(file.parent) for file in (store.root / stage).glob("*/manifest.json")]
    if not manifests:
        return None
    seconds = sum(m["seconds"] for m in manifests)
    tokens = sum(m["usage"].get("tokens_out", 0) for m in manifests)
    return seconds / tokens * estimate.tokens_out if tokens else seconds / len(manifests)


def plan_table(title: str, stages: list[PlannedStage]) -> Table:
    """The plan as a table for the terminal."""
    table = Table(title=title, title_justify="left")
    for column in ("stage", "result", "", "calls", "tokens in", "tokens out", "hours", "money", "why"):
        table.add_column(
            column, justify="right" if column in ("calls", "tokens in", "tokens out", "hours", "money") else "left"
        )
    for s in stages:
        hours = "?" if s.seconds is None else f"{s.seconds / 3600:.2f}"
        e = s.estimate
        cost = [f"{e.calls:,}", f"{e.tokens_in:,}", f"{e.tokens_out:,}", hours, f"{e.money:.2f}"]
        table.add_row(s.alias, s.name, "hit" if s.hit else "miss", *([""] * 5 if s.hit else cost), s.why)
    return table
