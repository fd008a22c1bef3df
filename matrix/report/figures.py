"""Plots of training data as inline SVG: histograms, label shares, requests, maps (for all others see plots.py).

Where rows were filtered, what is kept is filled and what was there before is an outline.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from matrix.report.plots import FAINT, INK, KEPT, MUTED, PALETTE, new_figure, short, styled, svg

BEFORE = "#8a4b12"
OTHER = "further labels"
WIDTH = 4.6
"""Inches of a plot; two stand beside each other on a wide page."""


def histogram(name: str, title: str, unit: str, found: Mapping[str, Any]) -> str:
    """A histogram as `matrix.analysis.distributions.histogram` counts it.

    Args:
        name: of the plot, unique on the page.
        title: above the axes.
        unit: below them.
        found: `edges`, `log`, and for `kept` and perhaps `before` the `counts` and the `median`.
    """
    from matplotlib.ticker import MaxNLocator

    edges, sets = found["edges"], [key for key in ("kept", "before") if found.get(key, {}).get("rows")]
    with styled():
        figure = new_figure(WIDTH, 2.5)
        axes = figure.add_subplot()
        for key in sets:
            style: dict[str, Any] = {"color": KEPT, "fill": True}
            if key == "before":
                style = {"edgecolor": BEFORE, "lw": 1.1, "fill": False}
            axes.stairs(found[key]["counts"], edges, **style)
        if sets and (median := found[sets[0]]["median"]) is not None:
            place = max(median, edges[0])
            axes.axvline(place, color=INK, lw=1, dashes=(2, 2))
            axes.annotate(f"median {median:,.4g}", (place, 1), (0, 2), xycoords=("data", "axes fraction"),
                          textcoords="offset points", ha="center", color=INK, fontsize=8.5)  # fmt: skip
        if found["log"]:
            axes.set_xscale("log")
            ticks = [tick for tick in (1, 3, 10, 30, 100, 300, 1000, 3000, 10_000) if edges[0] <= tick <= edges[-1]]
            ticks = ticks if len(ticks) > 1 else [edges[0], edges[-1]]
            axes.set_xticks(ticks, [f"{tick:,.0f}" for tick in ticks])
            axes.set_xticks([], minor=True)
        axes.set_xlim(edges[0], edges[-1])
        axes.yaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
        _labelled(axes, title, unit, "rows")
        axes.grid(visible=False, axis="x")
        return svg(figure, name, f"{title}, histogram of {found[sets[0]]['rows'] if sets else 0} rows")


def shares(name: str, title: str, rows: Sequence[tuple[str, float, float | None]]) -> str:
    """Shares of labels as bars.

    Args:
        name: of the plot, unique on the page.
        title: above the axes.
        rows: label, share of the kept rows (0..1), and of the rows before the filters where that is known.
    """
    with styled():
        figure = new_figure(WIDTH, 0.55 + 0.27 * max(len(rows), 2))
        axes = figure.add_subplot()
        for y, (_, kept, before) in enumerate(rows):
            axes.barh([y], [kept], height=0.66, color=KEPT)
            if before is not None:
                axes.barh([y], [before], height=0.66, fill=False, edgecolor=BEFORE, lw=1.1)
            axes.annotate(f"{kept:.0%}", (max(kept, before or 0), y), (4, 0), textcoords="offset points", va="center",
                          color=MUTED, fontsize=8.5)  # fmt: skip
        axes.set_yticks(range(len(rows)), [short(label, 30) for label, _, _ in rows], color=INK)
        axes.set_ylim(max(len(rows), 2) - 0.5, -0.5)
        axes.set_xlim(0, 1.14 * max((max(kept, before or 0) for _, kept, before in rows), default=1) or 1)
        axes.set_xticks([])
        _labelled(axes, title)
        axes.grid(visible=False)
        axes.spines["bottom"].set_visible(False)
        return svg(figure, name, f"{title}: " + ", ".join(f"{label} {kept:.0%}" for label, kept, _ in rows[:12]))


def requests(name: str, title: str, verbs: Sequence[Mapping[str, Any]]) -> str:
    """Verbs and their commonest direct objects (paper figure 7b): a bar a verb, a part of it an object.

    Args:
        name: of the plot, unique on the page.
        title: above the axes.
        verbs: `verb`, `rows` and `objects`, as `matrix.analysis.verbs.top_requests` counts them.
    """
    widest = max((verb["rows"] for verb in verbs), default=1)
    with styled():
        figure = new_figure(WIDTH, 0.5 + 0.38 * max(len(verbs), 2))
        axes = figure.add_subplot()
        for y, verb in enumerate(verbs):
            left = 0
            for colour, (_, rows) in zip(PALETTE, verb["objects"], strict=False):
                axes.barh([y], [rows], left=left, height=0.42, color=colour, alpha=0.8)
                left += rows
            axes.barh([y], [verb["rows"] - left], left=left, height=0.42, color="#dde3e9")
            axes.annotate(f"{verb['rows']:,}", (verb["rows"], y), (4, 0), textcoords="offset points", va="center",
                          color=INK, fontsize=8.5)  # fmt: skip
            said = ", ".join(f"{noun} {rows:,}" for noun, rows in verb["objects"])
            axes.annotate(short(said, 64), (0, y), (1, -11), textcoords="offset points", va="center", color=MUTED,
                          fontsize=8)  # fmt: skip
        axes.set_yticks(range(len(verbs)), [short(verb["verb"], 16) for verb in verbs], color=INK)
        axes.set_ylim(max(len(verbs), 2) - 0.3, -0.5)
        axes.set_xlim(0, 1.12 * widest)
        axes.set_xticks([])
        _labelled(axes, title)
        axes.grid(visible=False)
        axes.spines["bottom"].set_visible(False)
        return svg(figure, name, f"{title}: " + ", ".join(verb["verb"] for verb in verbs))


def points(name: str, title: str, x: Sequence[float], y: Sequence[float], labels: Sequence[str], faint: str) -> str:
    """Rows on a plane, coloured by label; labels beyond the palette are drawn as others.

    Args:
        name: of the plot, unique on the page.
        title: above the axes.
        x: horizontal places.
        y: vertical places.
        labels: one a place.
        faint: a label that is drawn behind all others, in grey.
    """
    counts = Counter(label for label in labels if label != faint)
    named = [label for label, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[: len(PALETTE)]]
    colours = {faint: "#c9d2db", OTHER: FAINT} | dict(zip(named, PALETTE, strict=False))
    places: dict[str, list[float]] = {label: [] for label in colours}
    heights: dict[str, list[float]] = {label: [] for label in colours}
    for right, up, label in zip(x, y, labels, strict=True):
        drawn = label if label in colours else OTHER
        # A line of no length with round ends is a dot, in a third of the bytes of a marker.
        places[drawn] += [right, right, math.nan]
        heights[drawn] += [up, up, math.nan]
    from matplotlib import rc_context

    with styled(), rc_context({"path.simplify": False}):
        figure = new_figure(WIDTH, 4.0 + 0.1 * len(named))
        axes = figure.add_subplot()
        for label, colour in colours.items():
            if places[label]:
                said = f"{short(label.lstrip('_'), 26) or 'no label'} ({len(places[label]) // 3:,})"
                axes.plot(places[label], heights[label], color=colour, lw=4, alpha=0.75, solid_capstyle="round",
                          label=said)  # fmt: skip
        axes.set_xticks([])
        axes.set_yticks([])
        axes.margins(0.04)
        _labelled(axes, title)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        if labels:
            figure.legend(loc="outside lower left", fontsize=8, handlelength=0.6, ncols=2, columnspacing=1.2)
        return svg(figure, name, f"{title}: {len(labels)} rows")


def _labelled(axes: Any, title: str, below: str = "", beside: str = "") -> None:
    axes.set_title(short(title, 60), loc="left", fontsize=10.5, fontweight="bold", pad=16 if below else 6)
    axes.set_xlabel(short(below, 60))
    axes.set_ylabel(beside)
    axes.tick_params(length=0)
    axes.spines["left"].set_visible(False)
