"""The report's section on the filters: what each chain dropped and why, and what that made of the rows.

Beside the funnel and dropped rows (samples.py): which rules say the same, measures before and after, how much the
prompts have to teach, and whether the reward could be trusted. What was not measured is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from matrix.analysis.distributions import histogram
from matrix.filtering.base import Facts
from matrix.filtering.learnability import LearnabilityConfig
from matrix.filtering.tags import LABELS, TagName
from matrix.records import Drop, Score
from matrix.report import figures, plots
from matrix.report.cells import Grid, StageRun
from matrix.report.samples import Funnel, funnels

KEPT = "kept"
MEASURES = {"instruction_words": "words of an instruction, median", "response_words": "words of an answer, median",
            "instruct_reward": "reward of the answer, median", "margin": "reward margin, median"}  # fmt: skip
DIVERSITY = {"vendi": "Vendi score of the instructions", "nearest": "mean cosine distance to the nearest instruction",
             "near_duplicates": "near-duplicates", "distinct_2": "distinct 2-grams"}  # fmt: skip
SHARES = {
    "input_quality": ("instructions of good quality or better", LABELS[TagName.quality][-2:]),
    "difficulty": ("hard or very hard instructions", LABELS[TagName.difficulty][-2:]),
    "safety": ("safe instructions", LABELS[TagName.safety][:1]),
}
"""Label column -> what a share of is told, and the labels that count."""


@dataclass
class Overlap:
    """How many of all rows two rules would both drop, each by itself."""

    names: list[str]
    lines: list[list[tuple[int, float]]]
    """A line a filter, an entry a filter: rows, and their share (0..1) of what the lesser of both drops."""


@dataclass
class Learnability:
    """How much the rewards of a prompt's rollouts differ."""

    plot: Markup
    prompts: int
    still: int
    """Prompts whose rollouts all earn the same: nothing to learn from them."""


@dataclass
class Chain:
    """What is shown of one chain of filters over one set of rows."""

    funnel: Funnel
    label: str
    plot: Markup
    overlap: Overlap | None
    changes: list[tuple[str, str, str]]
    """Measure, before, after."""
    map: Markup
    learnability: Learnability | None
    sanity: Mapping[str, Any] | None

    @property
    def measured(self) -> bool:
        """Whether there is more to show than funnel and rows."""
        return bool(self.overlap or self.changes or self.map or self.learnability or self.sanity)


def chains(grid: Grid, most: int, examples: int) -> list[Chain]:
    """The first `most` filter results of a grid, each with at most `examples` of its dropped rows."""
    return [_chain(grid, funnel) for funnel in funnels(grid, most, examples)]


def _chain(grid: Grid, funnel: Funnel) -> Chain:
    run = funnel.run
    pairs = any(stage.alias == "kept_pairs" for cell in grid.users(run.name) for stage in cell.stages
                if stage.name == run.name)  # fmt: skip
    prefix, name = "pair_" if pairs else "", f"filter-{run.key[:12]}"
    analysis = grid.beside(run, f"{prefix}analysis")
    told = grid.json(analysis, "analysis.json") if analysis else None
    title = "Preference pairs" if pairs else "Instruction-response rows"
    sane = grid.beside(run, f"{prefix}sanity")
    return Chain(
        funnel=funnel,
        label=grid.named(run),
        plot=Markup(plots.funnel(f"{name}-funnel", title, funnel.steps)),
        overlap=overlap(grid.json(run, "overlap.json") or []),
        changes=changes(told) if told else [],
        map=Markup(_map(name, told)) if told else Markup(),
        learnability=_learnability(grid, run, grid.beside(run, f"{prefix}rollout_rewards"), name),
        sanity=grid.json(sane, "sanity.json") if sane else None,
    )


def overlap(told: list[dict[str, Any]]) -> Overlap | None:
    """The matrix of `overlap.json`; filters that drop nothing are left out, and there is none for less than two."""
    rows = {frozenset(entry["filters"]): entry["rows"] for entry in told}
    names = [entry["filters"][0] for entry in told if len(entry["filters"]) == 1 and entry["rows"]]
    if len(names) < 2:
        return None

    def both(a: str, b: str) -> tuple[int, float]:
        number = rows.get(frozenset((a, b)), 0)
        return number, number / min(rows[frozenset((a,))], rows[frozenset((b,))])

    return Overlap(names, [[both(a, b) for b in names] for a in names])


def changes(told: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Measures of the rows before and after the filters; none where there is no before."""
    if "before" not in told["rows"]:
        return []
    found = [("rows", *(f"{told['rows'][name]:,}" for name in ("before", KEPT)))]
    for column, title in MEASURES.items():
        if column in told["histograms"]:
            found.append((title, *(_number(told["histograms"][column][name]["median"]) for name in ("before", KEPT))))
    for column, (title, good) in SHARES.items():
        if column in told["labels"]:
            found.append((title, *(_share(told["labels"][column][name], good) for name in ("before", KEPT))))
    for measure, title in DIVERSITY.items():
        values = [told["diversity"][name]["instructions"].get(measure) for name in ("before", KEPT)]
        if any(value is not None for value in values):
            found.append((title, *map(_percent if measure == "near_duplicates" else _number, values)))
    return [(title, before, after) for title, before, after in found]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.4g}"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"


def _share(counts: Mapping[str, int], good: list[str]) -> str:
    total = sum(rows for label, rows in counts.items() if label)
    return f"{sum(counts.get(label, 0) for label in good) / total:.0%}" if total else "–"


def _map(name: str, told: Mapping[str, Any]) -> str:
    place = told.get("map")
    if not place or not any(place["dropped_by"]):
        return ""
    labels = [f"dropped by {by}" if by else KEPT for by in place["dropped_by"]]
    return figures.points(f"{name}-map", "What was dropped, on the map", place["x"], place["y"], labels, faint=KEPT)


def _learnability(grid: Grid, run: StageRun, rewarded: StageRun | None, name: str) -> Learnability | None:
    if rewarded is None:
        return None
    rewards: dict[str, list[float]] = {}
    for score in grid.stream(rewarded, "rewards.jsonl", Score):
        rewards.setdefault(score.row, []).append(score.reward)
    rule = LearnabilityConfig()
    judge = rule.build(Facts(rollout_rewards=rewards))
    spread = {row: moments.std for row in rewards if (moments := judge.moments(row))}
    if not spread:
        return None
    dropped = {drop.id for drop in grid.stream(run, "drops.jsonl", Drop)}
    kept = [std for row, std in spread.items() if row not in dropped]
    counted = histogram({KEPT: kept, "before": list(spread.values())})
    plot = figures.histogram(f"{name}-std", "What prompts have to teach", "standard deviation of the rewards", counted)
    return Learnability(Markup(plot), len(spread), sum(std <= rule.min_std for std in spread.values()))
