"""The report's section on training: of each result its course, what looked wrong beforehand, and answers on the way.

Curves of several results are also drawn on one chart (curves.py draws all of them).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from matrix.records import Sample
from matrix.report import curves
from matrix.report.cells import Grid, StageRun
from matrix.report.course import Course, CurveError, read_course
from matrix.report.plots import PALETTE
from matrix.report.samples import spread
from matrix.report.tables import duration
from matrix.training.recipe import PreferenceLoss

ALIASES = ("sft", "tuned")
"""Trainings, as `matrix.pipeline` calls them."""
TITLES = {"sigmoid": "DPO", "orpo": "ORPO", "simpo": "SimPO", "kto": "KTO", "ipo": "IPO", "nca": "NCA", "cdpo": "cDPO"}
"""Preference loss -> what people call it, where that is not its name."""


@dataclass
class Sampled:
    """One prompt, and what the model answered after some of the steps."""

    row: str
    prompt: str
    answers: list[Sample]
    num_answers: int


@dataclass
class Training:
    """What is shown of one training."""

    run: StageRun
    title: str
    numbers: list[tuple[str, str]]
    warnings: list[str]
    doctor: str
    """The pre-flight report."""
    course: Markup
    preferences: list[tuple[Markup, str]]
    """Charts of preference training with what they mean; none for SFT."""
    samples: list[Sampled]
    num_samples: int
    """Prompts that were answered."""


def trainings(grid: Grid, most: int) -> list[Training]:
    """The first `most` trainings of a grid, cell by cell."""
    runs = list(grid.results(*ALIASES).values())[:most]
    return [_training(grid, run, course) for run in runs if (course := _course(grid, run))]


def comparisons(grid: Grid) -> list[Markup]:
    """One chart of all losses for SFT, and one for each kind of preference training, where there are several."""
    kinds: dict[str, dict[str, Course]] = {}
    for run in grid.results(*ALIASES).values():
        title = _title(grid.manifest(run))
        if len(kinds.get(title, {})) < len(PALETTE) and (course := _course(grid, run)):
            runs = kinds.setdefault(title, {})
            label = grid.named(run)
            runs[label if label not in runs else f"{label} ({run.name})"] = course
    return [
        Markup(curves.losses(f"loss-{title}", f"{title}: loss", runs)) for title, runs in kinds.items() if len(runs) > 1
    ]


def write_figures(trainings: Sequence[Training], folder: Path) -> None:
    """Write the charts of trainings as `<SFT or loss>-<12 hex digits>-<number>.svg`."""
    for training in trainings:
        folder.mkdir(exist_ok=True)
        for number, svg in enumerate([training.course, *(svg for svg, _ in training.preferences)]):
            (folder / f"{training.title}-{training.run.key[:12]}-{number}.svg").write_text(svg, encoding="utf-8")


def _course(grid: Grid, run: StageRun) -> Course | None:
    metrics = grid.file(run, "metrics.csv")
    try:
        return read_course(metrics, grid.file(run, "held_out.csv")) if metrics else None
    except (CurveError, UnicodeDecodeError) as error:
        grid.note(f"{run.name}: {error}")
        return None


def _title(manifest: Mapping[str, Any]) -> str:
    """`SFT`, or the name of the preference loss."""
    recipe = manifest.get("config", {}).get("recipe", {})
    if "beta" not in recipe:
        return "SFT"
    loss = recipe.get("loss", "sigmoid")
    return str(TITLES.get(loss, loss))


def _training(grid: Grid, run: StageRun, course: Course) -> Training:
    manifest, name = grid.manifest(run), f"train-{run.key[:12]}"
    recipe = manifest.get("config", {}).get("recipe", {})
    title = _title(manifest)
    loss = PreferenceLoss(recipe.get("loss", "sigmoid"))
    at_ln_2 = title != "SFT" and loss.starts_at_ln_2 and not recipe.get("sft_weight")
    charts = []
    if "margin" in course.train:
        charts.append((curves.preferences(f"{name}-rewards", course), REWARDS))
    if {"logps_chosen", "length_chosen"} <= course.train.keys():
        drifts = "drift_chosen" in course.train
        charts.append((curves.likelihoods(f"{name}-likelihoods", course), DRIFT if drifts else LIKELIHOODS))
    doctor = grid.file(run, "doctor.txt")
    answered = _samples(list(grid.stream(run, "samples.jsonl", Sample)))
    return Training(
        run=run,
        title=title,
        numbers=_numbers(run, course, grid.json(run, "summary.json") or {}),
        warnings=[str(warning) for warning in (grid.json(run, "doctor.json") or {}).get("warnings", [])],
        doctor=doctor.read_text(errors="replace") if doctor else "",
        course=Markup(curves.course(f"{name}-course", course, math.log(2) if at_ln_2 else None)),
        preferences=[(Markup(svg), note) for svg, note in charts],
        samples=spread(answered, 4),
        num_samples=len(answered),
    )


REWARDS = (
    "Rewards are implicit: beta times how much more likely an answer is than under the reference (without a reference: "
    "beta times its log-probability). Diamonds: held-out pairs."
)
DRIFT = (
    "Log-probability of the chosen answers less that under the model that training started from. Below 0, answers that "
    "were preferred become less likely (likelihood displacement), although the margin grows."
)
LIKELIHOODS = (
    "Log-probability of the answers; this loss has no reference to compare with. Where the chosen answers fall too, "
    "answers that were preferred become less likely (likelihood displacement)."
)


def _numbers(run: StageRun, course: Course, summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What the training came to, counted; what is not known is left out."""
    known = [value for value in course.train["loss"] if math.isfinite(value)]
    lowest = course.lowest()
    held = {name: values[-1] for name, values in course.held_out.items() if values}
    memory = summary.get("peak_gpu_memory_gib") or summary.get("peak_memory_gib")
    numbers: list[tuple[str, str | None]] = [
        ("optimizer steps", f"{len(course.steps):,}"),
        ("rows trained on", _count(summary.get("used"), summary.get("held_out", 0))),
        ("rows held out", _count(summary.get("held_out") or None)),
        ("tokens", _count(summary.get("tokens"))),
        ("loss, first → last", f"{known[0]:.3g} → {known[-1]:.3g}" if known else "never finite"),
        ("lowest held-out loss", f"{lowest[1]:.3g}, step {lowest[0]:,.0f}" if lowest else None),
        ("held-out accuracy at the end", f"{held['accuracy']:.0%}" if "accuracy" in held else None),
        ("steps left out", _count(len(course.skipped) or None)),
        ("tokens a second", _median(course, "tokens_per_second", "{:,.0f}")),
        ("model FLOP/s utilisation", _median(course, "mfu", "{:.0%}")),
        ("peak memory", f"{memory:.1f} GiB" if memory else None),
        ("precision", summary.get("precision")),
        ("time", duration(run.seconds)),
    ]
    return [(name, value) for name, value in numbers if value]


def _count(number: int | None, less: int = 0) -> str | None:
    return None if number is None else f"{number - less:,}"


def _median(course: Course, column: str, form: str) -> str | None:
    known = [value for value in course.train.get(column, []) if math.isfinite(value)]
    return form.format(statistics.median(known)) if known else None


def _samples(samples: Sequence[Sample]) -> list[Sampled]:
    """Samples by prompt, of each the answers after at most four steps, the first and the last among them."""
    prompts: dict[tuple[str, str], list[Sample]] = {}
    for sample in samples:
        prompts.setdefault((sample.row, sample.prompt), []).append(sample)
    return [
        Sampled(row, prompt, spread(sorted(answers, key=lambda sample: sample.step), 4), len(answers))
        for (row, prompt), answers in prompts.items()
    ]
