"""Curves of training: loss and held-out loss over the optimizer steps, and what preference training does to answers.

Functions that return text return inline SVG, as those of plots.py do; `training_curves` writes an image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matrix.report.course import Course, CurveError, read_course
from matrix.report.plots import FAINT, INK, MUTED, PALETTE, new_figure, short, styled, svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FEW = 30
"""Steps from which on a running mean says more than the single values."""
BINS = 300
"""Stretches of a longer curve, of each of which the lowest and the highest value are drawn."""
HELD_OUT, SKIPPED, REJECTED = PALETTE[1], PALETTE[3], PALETTE[3]
DIAMONDS: dict[str, Any] = {"ls": (0, (4, 2)), "lw": 1.2, "ms": 4.5, "mec": "white", "mew": 0.7}
"""Style of held-out values."""


def losses(name: str, title: str, runs: Mapping[str, Course], start: float | None = None) -> str:
    """Losses of several trainings, one colour each, as `training_curves` draws them.

    Args:
        name: of the plot, unique on the page.
        title: above the axes.
        runs: label -> training; the first ten are drawn.
        start: loss of a model that has learned nothing.
    """
    with styled():
        figure = new_figure(5.0, 3.0 + 0.17 * len(runs))
        axes = figure.add_subplot()
        _compare(axes, runs, start)
        axes.set_title(title, loc="left", fontsize=10.5, fontweight="bold")
        columns = 2 if max(map(len, runs), default=0) <= 28 else 1
        figure.legend(loc="outside lower left", fontsize=8.5, handlelength=1.6, ncols=columns)
        return svg(figure, name, f"{title} of {', '.join(runs)}")


def training_curves(folders: Mapping[str, Path], out: Path) -> Path:
    """Write an image (by the ending of `out`: .png, .svg, .pdf) of train and held-out loss of up to ten trainings.

    Faint: the measured training loss. Strong: its running mean. Dashed with diamonds: held-out loss.

    Args:
        folders: label -> folder of a training result, or of one that is under way.
        out: where to; its folder is made.

    Raises:
        CurveError: a folder has no `metrics.csv`, or none with `step` and `loss`.
    """
    runs = {}
    for label, folder in folders.items():
        if not (folder / "metrics.csv").exists():
            raise CurveError(f"{folder} has no metrics.csv. Name a training result, e.g. outputs/store/train/sft-...")
        held_out = folder / "held_out.csv"
        runs[label] = read_course(folder / "metrics.csv", held_out if held_out.exists() else None)
    with styled():
        figure = new_figure(8.0, 4.2 + 0.2 * len(runs))
        axes = figure.add_subplot()
        _compare(axes, runs, None)
        figure.legend(loc="outside lower left", handlelength=1.8, ncols=2)
        out.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(out, dpi=160)
    return out


def course(name: str, run: Course, start: float | None = None) -> str:
    """Loss and held-out loss of one training, learning rate and gradient norm below; steps left out are marked.

    Args:
        name: of the plot, unique on the page.
        run: the training.
        start: loss of a model that has learned nothing.
    """
    from matplotlib.ticker import StrMethodFormatter

    below = [column for column in ("learning_rate", "gradient_norm") if column in run.train]
    with styled():
        figure, (top, *small) = _stacked([2.3] + [0.6] * len(below))
        _curve(top, run.steps, run.train["loss"], PALETTE[0], "training")
        _held_out(top, run, "loss")
        if start is not None:
            _level(top, start, f"{start:.3f}: nothing learned")
        if skipped := run.skipped:
            top.plot(skipped, [0.0] * len(skipped), "x", color=SKIPPED, ms=6, mew=1.6, clip_on=False, zorder=5,
                     transform=top.get_xaxis_transform(), label=f"left out ({len(skipped)})")  # fmt: skip
        _titled(top, "Loss")
        _clip(top, list(zip(run.train["loss"], run.steps, strict=True)))
        for axes, column in zip(small, below, strict=True):
            values = run.train[column]
            axes.plot(*_thinned(run.steps, values), color=MUTED, lw=1.1)
            if column == "gradient_norm" and _spread(values) > 30:
                axes.set_yscale("log")
                axes.minorticks_off()
            else:
                axes.set_ylim(bottom=0)
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:.3g}"))
            _titled(axes, column.replace("_", " ").capitalize(), small=True)
        return svg(figure, name, f"Training and held-out loss over {len(run.steps)} steps")


def preferences(name: str, run: Course) -> str:
    """Implicit rewards of chosen and rejected answers, their margin, and how often the chosen one is ahead.

    Args:
        name: of the plot, unique on the page.
        run: a preference training.
    """
    with styled():
        figure, (top, middle, low) = _stacked([1.7, 0.9, 0.9])
        for column, colour in (("rewards_chosen", PALETTE[2]), ("rewards_rejected", REJECTED)):
            _curve(top, run.steps, run.train[column], colour, column.removeprefix("rewards_"))
            _held_out(top, run, column, colour)
        _level(top, 0.0)
        _titled(top, "Rewards")
        for axes, column, title in ((middle, "margin", "Margin: chosen less rejected"),
                                    (low, "accuracy", "Pairs with the chosen answer ahead")):  # fmt: skip
            _curve(axes, run.steps, run.train[column], PALETTE[0])
            _held_out(axes, run, column)
            _titled(axes, title, small=True)
        _level(middle, 0.0)
        low.set_ylim(-0.03, 1.03)
        low.set_yticks([0, 0.5, 1], ["0 %", "50 %", "100 %"])
        return svg(figure, name, f"Rewards, margin and accuracy over {len(run.steps)} steps")


def likelihoods(name: str, run: Course) -> str:
    """How likely the policy makes the answers, against where it started if that is known, and their lengths.

    Args:
        name: of the plot, unique on the page.
        run: a preference training.
    """
    with styled():
        figure, (top, low) = _stacked([2.3, 1.27])
        if "drift_chosen" in run.train:
            _curve(top, run.steps, run.train["drift_chosen"], PALETTE[2], "training")
            _held_out(top, run, "drift_chosen")
            _level(top, 0.0, "as likely as at the start")
            _titled(top, "Drift of chosen answers, nats")
        else:
            for column, colour in (("logps_chosen", PALETTE[2]), ("logps_rejected", REJECTED)):
                _curve(top, run.steps, run.train[column], colour, column.removeprefix("logps_"))
                _held_out(top, run, column, colour)
            _titled(top, "Log-probability, nats")
        for column, colour in (("length_chosen", PALETTE[2]), ("length_rejected", REJECTED)):
            _curve(low, run.steps, run.train[column], colour, column.removeprefix("length_"))
        low.set_ylim(bottom=0)
        _titled(low, "Length, tokens an answer", small=True)
        return svg(figure, name, f"Log-probabilities and lengths of answers over {len(run.steps)} steps")


def _compare(axes: Any, runs: Mapping[str, Course], start: float | None) -> None:
    for (label, run), colour in zip(runs.items(), PALETTE, strict=False):
        _curve(axes, run.steps, run.train["loss"], colour, short(label.lstrip("_"), 40) or "no label")
        _held_out(axes, run, "loss", colour)
    if any("loss" in run.held_out for run in runs.values()):
        axes.plot([], [], "D", **DIAMONDS, color=MUTED, label="held out")
    if start is not None:
        _level(axes, start, f"{start:.3f}: nothing learned")
    _clip(axes, [point for run in runs.values() for point in zip(run.train["loss"], run.steps, strict=True)])
    axes.set_ylabel("loss")
    _by_step(axes)


def _curve(axes: Any, steps: Sequence[float], values: Sequence[float], colour: str, label: str = "") -> None:
    """The measured values faint, a running mean over them strong; of few steps the values themselves, with dots."""
    if len(steps) < FEW:
        axes.plot(steps, values, "o-", color=colour, lw=1.6, ms=3.5, mew=0, label=label or None)
        return
    axes.plot(*_thinned(steps, values), color=colour, lw=0.8, alpha=0.32)
    axes.plot(*_smooth(steps, values), color=colour, lw=1.8, label=label or None)


def _held_out(axes: Any, run: Course, column: str, colour: str = "") -> None:
    """Held-out values, in a colour of their own and named unless they share the one of a curve."""
    if column in run.held_out:
        label, colour = (None, colour) if colour else ("held out", HELD_OUT)
        axes.plot(run.held_out["step"], run.held_out[column], "D", **DIAMONDS, color=colour, label=label)


def _smooth(steps: Sequence[float], values: Sequence[float]) -> tuple[list[float], list[float]]:
    """Mean over the last twenty-fifth of the steps without its highest and lowest eighth, so that no spike stays in."""
    window = max(1, len(values) // 25)
    places = sorted({round(i * (len(values) - 1) / (2 * BINS)) for i in range(2 * BINS + 1)}) if values else []
    means = []
    for i in places:
        known = sorted(value for value in values[max(0, i - window) : i + 1] if math.isfinite(value))
        inner = known[len(known) // 8 : len(known) - len(known) // 8]
        means.append(math.fsum(inner) / len(inner) if inner else math.nan)
    return [steps[i] for i in places], means


def _thinned(steps: Sequence[float], values: Sequence[float]) -> tuple[list[float], list[float]]:
    """A curve that looks the same with at most two points in each of `BINS` stretches."""
    if len(steps) <= 2 * BINS:
        return list(steps), list(values)
    kept: list[int] = []
    for i in range(BINS):
        inside = range(i * len(steps) // BINS, (i + 1) * len(steps) // BINS)
        known = [j for j in inside if math.isfinite(values[j])] or [inside[0]]
        kept += sorted({min(known, key=lambda j: values[j]), max(known, key=lambda j: values[j])})
    return [steps[i] for i in kept], [values[i] for i in kept]


def _spread(values: Sequence[float]) -> float:
    """Highest over middle value."""
    known = sorted(value for value in values if math.isfinite(value))
    return known[-1] / known[len(known) // 2] if known and known[len(known) // 2] > 0 else 1.0


def _clip(axes: Any, points: Sequence[tuple[float, float]]) -> None:
    """Leave room for the ordinary values where few spikes would press them flat, and say how high the spikes are.

    Args:
        axes: what the curve is drawn on.
        points: value and step.
    """
    known = sorted(point for point in points if math.isfinite(point[0]))
    if len(known) < FEW:
        return
    low, usual, (highest, step) = known[0][0], known[int(0.98 * (len(known) - 1))][0], known[-1]
    if highest - low > 3 * (usual - low) > 0:
        axes.set_ylim(low - 0.08 * (usual - low), usual + 0.4 * (usual - low))
        axes.annotate(f"up to {highest:,.3g} at step {step:,.0f}", (1, 1), (-2, -3), xycoords="axes fraction",
                      textcoords="offset points", ha="right", va="top", color=SKIPPED, fontsize=8.5)  # fmt: skip


def _stacked(heights: Sequence[float]) -> tuple[Figure, list[Any]]:
    """A figure of axes above each other over the same steps; heights in inches, only the last axes say the step.

    Its margins are fixed, so that the axes of figures beside each other are of one width.
    """
    above, between, below = 0.3, 0.37, 0.5
    height = sum(heights) + between * (len(heights) - 1) + above + below
    figure = new_figure(5.0, height)
    figure.set_layout_engine("none")
    margins = {"left": 0.13, "right": 0.985, "top": 1 - above / height, "bottom": below / height,
               "hspace": between * len(heights) / sum(heights), "height_ratios": heights}  # fmt: skip
    stacked = figure.subplots(len(heights), 1, sharex=True, squeeze=False, gridspec_kw=margins)[:, 0]
    _by_step(stacked[-1])
    return figure, list(stacked)


def _by_step(axes: Any) -> None:
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    axes.set_xlabel("optimizer step")
    axes.margins(x=0.02)
    axes.tick_params(length=0)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


def _titled(axes: Any, title: str, small: bool = False) -> None:
    """Title at the left, the legend beside it at the right."""
    axes.set_title(title, loc="left", fontsize=9 if small else 10.5, fontweight="normal" if small else "bold",
                   color=MUTED if small else INK)  # fmt: skip
    axes.tick_params(length=0)
    if small:
        axes.locator_params(axis="y", **{"numticks" if axes.get_yscale() == "log" else "nbins": 4})
    handles, labels = axes.get_legend_handles_labels()
    if labels:
        axes.legend(handles, labels, loc="lower right", bbox_to_anchor=(1.02, 0.985), ncols=len(labels), fontsize=8.5,
                    handlelength=1.4, columnspacing=1.2, borderpad=0.2)  # fmt: skip


def _level(axes: Any, value: float, text: str = "") -> None:
    axes.axhline(value, color=FAINT, lw=1, dashes=(2, 3))
    axes.margins(y=0.12)
    axes.annotate(text, (1, value), (-2, 3), xycoords=("axes fraction", "data"), textcoords="offset points",
                  ha="right", color=MUTED, fontsize=8.5)  # fmt: skip
