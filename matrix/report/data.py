"""The report's section on the training data: what the rows that are left are made of (`matrix.analysis`).

One part an analysis, of rows or of pairs; what an analysis did not measure is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from matrix.filtering.tags import LABELS, TagName
from matrix.report import figures
from matrix.report.cells import Grid, StageRun

WHAT = {"analysis": "Instruction-response rows", "pair_analysis": "Preference pairs"}
"""Alias of an analysis -> what it is of."""
SOURCES = {"analysis": ["rows"], "pair_analysis": ["prompts", "pairs"]}
"""Alias of an analysis -> of what made the rows."""
SCALES = {
    "task_category": ("Task category (paper figure 7a)", None),
    "input_quality": ("Quality of the instructions (paper figure 5a)", LABELS[TagName.quality]),
    "difficulty": ("Difficulty of the instructions (paper figure 5b)", LABELS[TagName.difficulty]),
}
"""Label column that is drawn -> title, and labels in their order, if they have one."""
TAGS = {"task_category": "task category", "input_quality": "input quality", "difficulty": "difficulty",
        "safety": "safety", "language": "language"}  # fmt: skip
NUMBERS = {
    "instruction_words": ("Words of an instruction", "words"),
    "response_words": ("Words of an answer", "words"),
    "rejected_words": ("Words of a rejected answer", "words"),
    "instruct_reward": ("Reward of the answer", "reward"),
    "rejected_reward": ("Reward of the rejected answer", "reward"),
    "margin": ("Reward margin, chosen less rejected", "margin"),
    "min_neighbor_distance": ("Way to the nearest other instruction", "cosine distance"),
}
"""Histogram column -> title and unit."""


@dataclass
class Analysis:
    """What is shown of one analysis."""

    run: StageRun
    what: str
    numbers: list[tuple[str, str]]
    tags: list[tuple[str, list[str]]]
    """Tag, and in words what the rows have of it: kept, and before the filters where there were any."""
    before: bool
    """Whether rows before the filters are set against the kept ones."""
    plots: list[Markup]
    requests: Markup
    requests_note: str
    map: Markup
    map_note: str
    balance: list[str] = field(default_factory=list)
    evaluation: dict[str, Any] = field(default_factory=dict)


def analyses(grid: Grid, most: int) -> list[Analysis]:
    """The first `most` analyses of a grid."""
    found = []
    for run in list(grid.results(*WHAT).values())[:most]:
        if (told := grid.json(run, "analysis.json")) is not None:
            analysis = _analysis(run, told)
            source = grid.beside(run, *SOURCES[run.alias])
            if source and (account := grid.json(source, "generation.json")):
                analysis.balance.insert(0, made(account))
            found.append(analysis)
    return found


def made(account: Mapping[str, Any]) -> str:
    """What a generator says of its candidates, in a sentence."""
    lost = ", ".join(f"{number} {why}" for why, number in account["lost"].items())
    told = f"{account['made']} of {account['wanted']} rows made out of {account['asked']} candidates"
    return told + (f"; lost: {lost}" if lost else "") + (f". Short: {account['short']}" if "short" in account else "")


def _analysis(run: StageRun, told: dict[str, Any]) -> Analysis:
    name, before = f"data-{run.key[:12]}", "before" in told["rows"]
    plots = [
        figures.shares(f"{name}-{column}", title, label_shares(told["labels"][column], scale, before))
        for column, (title, scale) in SCALES.items()
        if column in told["labels"]
    ]
    if "task_category" not in told["labels"] and "requested_category" in told["labels"]:
        asked = label_shares(told["labels"]["requested_category"], None, before)
        plots.append(figures.shares(f"{name}-asked", "Category that was asked for", asked))
    plots += [
        figures.histogram(f"{name}-{column}", title, unit, told["histograms"][column])
        for column, (title, unit) in NUMBERS.items()
        if column in told["histograms"]
    ]
    near = told.get("evaluation", {})
    for way, title in (("words", "share of a question's word 8-grams"), ("meaning", "cosine")):
        if "edges" in near.get(way, {}):
            plots.append(figures.histogram(f"{name}-near-{way}", "Nearest evaluation question", title, near[way]))
    asked_for = told["requests"]
    place = told.get("map")
    return Analysis(
        run=run, what=WHAT[run.alias], numbers=_numbers(told), tags=_tags(told, before), before=before,
        plots=[Markup(plot) for plot in plots],
        requests=Markup(figures.requests(f"{name}-verbs", "What is asked for", asked_for["verbs"]))
        if asked_for["verbs"] else Markup(),
        requests_note=_requests_note(asked_for),
        map=Markup(figures.points(f"{name}-map", "Map of the instructions", **_coordinates(place), faint=""))
        if place else Markup(),
        map_note=_map_note(place) if place else "",
        balance=[_balance(word, told["balance"][word]) for word in told["balance"] if told["balance"][word]["number"]],
        evaluation=near,
    )  # fmt: skip


def label_shares(
    counted: Mapping[str, Mapping[str, int]], scale: list[str] | None, before: bool, most: int = 10
) -> list[tuple[str, float, float | None]]:
    """Label, share of the kept rows and share before the filters: in the order of a scale, or the commonest first.

    Rows whose label could not be had are not counted.
    """
    totals = {name: sum(n for label, n in counts.items() if label) for name, counts in counted.items()}
    names = scale or [label for label in counted["kept" if totals["kept"] else "before"] if label][:most]

    def share(name: str, label: str) -> float:
        return counted[name].get(label, 0) / totals[name] if totals[name] else 0.0

    return [(label, share("kept", label), share("before", label) if before else None) for label in names]


def _numbers(told: Mapping[str, Any]) -> list[tuple[str, str]]:
    of = told["diversity"]["kept"]["instructions"]
    rows, lengths = told["rows"], told["histograms"]
    shown: list[tuple[str, Any]] = [("rows", f"{rows['kept']:,}"), ("rows before the filters", rows.get("before"))]
    for column, word in (("instruction_words", "words of an instruction"), ("response_words", "words of an answer")):
        if column in lengths and lengths[column]["kept"]["median"] is not None:
            shown.append((word, f"{lengths[column]['kept']['median']:,.0f}"))
    distinct = [of[f"distinct_{size}"] for size in (1, 2, 3)]
    shown += [
        ("distinct 1-, 2-, 3-grams", " ".join(f"{share:.2f}" for share in distinct if share is not None)),
        ("Vendi score", of.get("vendi") and f"{of['vendi']:.1f}"),
        ("mean way to the nearest", of.get("nearest") is not None and f"{of['nearest']:.2f}"),
        ("near-duplicates", of.get("near_duplicates") is not None and f"{of['near_duplicates']:.1%}"),
    ]  # fmt: skip
    return [(name, str(value)) for name, value in shown if value]


def _tags(told: Mapping[str, Any], before: bool) -> list[tuple[str, list[str]]]:
    sets = ["kept", "before"] if before else ["kept"]
    rows = [
        (word, [_commonest(told["labels"][column][name]) for name in sets])
        for column, word in TAGS.items()
        if column in told["labels"]
    ]
    if reward := told["histograms"].get("instruct_reward"):
        rows.append(("reward", [_spread(reward[name]) for name in sets]))
    return rows


def _commonest(counts: Mapping[str, int], most: int = 4) -> str:
    had = {label: rows for label, rows in counts.items() if label}
    total = sum(had.values())
    words = [f"{label} {rows / total:.0%}" for label, rows in list(had.items())[:most]]
    if len(had) > most:
        words.append(f"{len(had) - most} more")
    if counts.get(""):
        words.append(f"not had: {counts['']:,}")
    return ", ".join(words) or "–"


def _spread(found: Mapping[str, Any]) -> str:
    if found["mean"] is None:
        return "–"
    return f"mean {found['mean']:.3g}, median {found['median']:.3g}, 95th percentile {found['p95']:.3g}"


def _requests_note(asked: Mapping[str, Any]) -> str:
    return (
        "Figure 7b of the paper: the commonest verbs, 20 at most, with their 5 commonest direct objects. They are read "
        f"by rule from imperatives and the commonest English requests, not by a parser: {asked['read']:,} of "
        f"{asked['rows']:,} instructions have a verb, {asked['with_object']:,} an object; the rest are not counted."
    )


def _coordinates(place: Mapping[str, Any]) -> dict[str, Any]:
    return {"x": place["x"], "y": place["y"], "labels": place["label"]}


def _map_note(place: Mapping[str, Any]) -> str:
    explained = " and ".join(f"{share:.0%}" for share in place["explained"])
    return f"Two principal components of the instructions' embeddings; they explain {explained} of the variance."


def _balance(word: str, spread: Mapping[str, Any]) -> str:
    name, rows = spread["top"][0]
    text = (
        f"{spread['number']:,} {word}{'s' if spread['number'] > 1 else ''} stand behind the rows; {name} has most: "
        f"{rows:,}, {spread['largest']:.1%}. Gini coefficient {spread['gini']:.2f} (0: all have as many)."
    )
    return text + (f" {spread['without']:,} rows grew out of no {word}." if spread["without"] else "")
