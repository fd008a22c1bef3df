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
    preview: str
    """What the stage says of its inputs, where they are there."""


def make_plan(config: MatrixConfig) -> list[PlannedStage]:
    """The stages of one cell: keys chain from configs, so none of them has to run."""
    store = Store(dataclasses.replace(config.store, mode=Mode.plan))
    stages = []
    for alias, result in run(config, store):
        visit = store.visits[-1]
        estimate = Estimate() if result.hit else visit.stage.estimate()
        seconds = 0.0 if result.hit else _expected_seconds(store, result.stage, estimate)
        stages.append(
            PlannedStage(
                alias=alias, name=result.name, hit=result.hit, why=visit.why, estimate=estimate, seconds=seconds,
                preview="" if result.hit else visit.stage.preview(),
            )
        )  # fmt: skip
    return stages


def _expected_seconds(store: Store, stage: str, estimate: Estimate) -> float | None:
    """Seconds at the mean speed of this stage's stored results: per completion token, or per result without any."""
    manifests = [read_manifest(file.parent) for file in (store.root / stage).glob("*/manifest.json")]
    if not manifests:
        return None
    seconds = sum(float(m["seconds"]) for m in manifests)
    tokens = sum(m["usage"].get("tokens_out", 0) for m in manifests)
    return seconds / tokens * estimate.tokens_out if tokens else seconds / len(manifests)


def plan_table(title: str, stages: list[PlannedStage]) -> Table:
    """The plan as a table for the terminal; under it, why each missing result is missing."""
    reasons = "\n".join(f"{s.name}: {s.why}" for s in stages if s.why)
    table = Table(title=title, title_justify="left", caption=reasons, caption_justify="left")
    for column in ("stage", "result", ""):
        table.add_column(column, no_wrap=True)
    priced = any(s.estimate.money for s in stages)
    for column in ("calls", "in", "out", "hours", *(["money"] if priced else [])):
        table.add_column(column, justify="right", no_wrap=True)
    for s in stages:
        e = s.estimate
        hours = "?" if s.seconds is None else f"{s.seconds / 3600:.2f}"
        money = [f"{e.money:.2f}"] if priced else []
        cost = [_short(e.calls), _short(e.tokens_in), _short(e.tokens_out), hours, *money]
        table.add_row(s.alias, s.name, "hit" if s.hit else "miss", *([] if s.hit else cost))
    return table


def _short(number: int) -> str:
    """At most five characters: 950, 12.3k, 4.1M."""
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.1f}{unit}"
    return str(number)
