"""The leaderboard: one row a group of cells, mean and spread over seeds, deltas against a pinned baseline.

The baseline is the reference of the comparison, 50.0 by definition; where the grid has a cell that trained nothing, that
cell. Published rows are shown only next to scores that may be compared with them. Written as a terminal table, Markdown
and CSV (full precision).
"""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from matrix.report.cells import Cell, Grid, Group

if TYPE_CHECKING:
    from rich.console import RenderableType

REFERENCE = 50.0
"""Win rate of the reference against itself."""


@dataclass(frozen=True)
class Column:
    """A metric of a benchmark."""

    key: str
    title: str
    short: str
    """Title where space is scarce."""
    benchmark: str
    metric: str
    score: bool = True
    """A win rate in percent: has a baseline, and more is better."""


COLUMNS = (
    Column("lc_win_rate", "AlpacaEval 2 LC win rate", "AE2 LC", "alpaca_eval2", "length_controlled_win_rate"),
    Column("win_rate", "AlpacaEval 2 win rate", "AE2 WR", "alpaca_eval2", "win_rate"),
    Column("avg_length", "Average length", "Length", "alpaca_eval2", "avg_length", score=False),
    Column("arena_hard", "Arena-Hard score", "Arena", "arena_hard_v0.1", "score"),
)


@dataclass(frozen=True)
class Entry:
    """One number of the table; over several seeds the mean, `std` then being their standard deviation."""

    value: float
    n: int = 1
    std: float | None = None
    error: float | None = None
    """Standard error of a single run."""
    low: float | None = None
    high: float | None = None
    """95 % confidence interval; over several seeds the lowest and the highest bound of any of them."""
    delta: float | None = None
    """Difference from the baseline row."""

    def main(self, column: Column) -> str:
        """The value as people read it."""
        return f"{self.value:.1f}" if column.score else f"{self.value:,.0f}"

    def spread(self) -> str:
        """What is known of its uncertainty."""
        if self.std is not None:
            return f"± {self.std:.1f}"
        if self.low is not None and self.high is not None:
            return f"{self.low:.1f}–{self.high:.1f}"
        return f"SE {self.error:.1f}" if self.error is not None else ""

    def difference(self) -> str:
        """The signed delta."""
        return "" if self.delta is None else f"{self.delta:+.1f}"


@dataclass
class Line:
    """A row of the leaderboard."""

    label: str
    kind: str
    """`reference`, `untuned`, `cell` or `published`."""
    entries: dict[str, Entry] = field(default_factory=dict)
    seed_values: dict[str, list[float]] = field(default_factory=dict)
    """The single values behind each mean."""
    seeds: int = 0
    seconds: float = 0.0
    tokens_in: int = 0
    tokens_out: int = 0
    rows_sft: int | None = None
    rows_pairs: int | None = None

    @property
    def rows(self) -> str:
        """Rows kept for SFT and pairs kept for DPO."""
        return " + ".join(f"{n:,}" for n in (self.rows_sft, self.rows_pairs) if n is not None)


@dataclass
class Leaderboard:
    """All that the table says, in the order in which it says it."""

    columns: list[Column]
    lines: list[Line]
    notices: list[str]
    unfinished: list[Cell]
    """Cells without scores; listed under the table."""
    labels: dict[str, str]
    """Label of each cell, by its folder's name."""

    def best(self, column: Column) -> float:
        """The highest score among the tuned cells, NaN unless there are several to choose from."""
        values = [
            line.entries[column.key].value for line in self.lines if line.kind == "cell" and column.key in line.entries
        ]
        return max(values) if column.score and len(values) > 1 else math.nan


def leaderboard(grid: Grid) -> Leaderboard:
    """Rank the cells of a grid: pinned baseline rows, then cells by the first score, then published rows."""
    scored = [group for group in grid.groups if group.scored]
    lines = sorted((_line(group) for group in scored), key=lambda line: (line.kind == "cell", *_rank(line)))
    columns = [c for c in COLUMNS if any(c.key in line.entries for line in lines)]
    untuned = next((line for line in lines if line.kind == "untuned"), None)
    for line in lines:
        if line is not untuned:
            line.entries = {c.key: _delta(line.entries[c.key], c, untuned) for c in columns if c.key in line.entries}
    return Leaderboard(
        columns=columns,
        lines=[*_references(grid, scored, columns), *lines, *_published(scored, columns)],
        notices=_notices(grid),
        unfinished=[cell for cell in grid.cells if cell.scores is None],
        labels={cell.cell: grid.label(cell) for cell in grid.cells},
    )


def _notices(grid: Grid) -> list[str]:
    """Each notice once, with the benchmark's title where it does not hold for all."""
    found: dict[str, dict[str, None]] = {}
    titles = {c.benchmark: c.title.rsplit(" ", 1)[0].removesuffix(" win") for c in COLUMNS if c.score}
    benchmarks = [b for cell in grid.cells if cell.scores for b in cell.scores.benchmarks]
    for b in benchmarks:
        if b.notice:
            found.setdefault(b.notice, {})[titles.get(b.benchmark, b.benchmark)] = None
    everywhere = len({b.benchmark for b in benchmarks})
    return [text if len(names) == everywhere else f"{', '.join(names)}: {text}" for text, names in found.items()]


def _rank(line: Line) -> tuple[float, str]:
    values = [line.entries[c.key].value for c in COLUMNS if c.score and c.key in line.entries]
    return (-values[0] if values else math.inf, line.label)


def _line(group: Group) -> Line:
    line = Line(group.label, "cell" if group.scored[0].tuned else "untuned", seeds=len(group.scored))
    for column in COLUMNS:
        if values := _values(group.scored, column):
            line.seed_values[column.key] = values
            line.entries[column.key] = _entry(group.scored, column, values)
    stages = {run.name: run for cell in group.scored for run in cell.stages}
    line.seconds = sum(run.seconds for run in stages.values())
    line.tokens_in = sum(run.usage.tokens_in for run in stages.values())
    line.tokens_out = sum(run.usage.tokens_out for run in stages.values())
    line.rows_sft = _rows(group, "kept", "rows")
    line.rows_pairs = _rows(group, "kept_pairs", "pairs")
    return line


def _rows(group: Group, *aliases: str) -> int | None:
    """Rows that were trained on, the mean over seeds: those kept by the filters, all where there is no filter stage."""
    counts = []
    for cell in group.scored:
        runs = {run.alias: run for run in cell.stages}
        if run := next((runs[alias] for alias in aliases if alias in runs), None):
            counts.append(run.rows.get("rows.jsonl", 0))
    return round(statistics.fmean(counts)) if counts else None


def _values(cells: Sequence[Cell], column: Column) -> list[float]:
    found = [b.metrics.get(column.metric) for cell in cells if (b := cell.benchmark(column.benchmark))]
    return [value for value in found if value is not None and math.isfinite(value)]


def _entry(cells: Sequence[Cell], column: Column, values: Sequence[float]) -> Entry:
    found = [b for cell in cells if (b := cell.benchmark(column.benchmark))]
    bounds = [bound for b in found for bound in b.interval.get(column.metric, []) if bound is not None]
    low, high = (min(bounds), max(bounds)) if bounds else (None, None)
    if len(values) > 1:
        return Entry(statistics.fmean(values), len(values), statistics.stdev(values), low=low, high=high)
    error = found[0].metrics.get("standard_error") if column.metric == "win_rate" else None
    return Entry(values[0], error=error, low=low, high=high)


def _delta(entry: Entry, column: Column, untuned: Line | None) -> Entry:
    if untuned:
        base = untuned.entries[column.key].value if column.key in untuned.entries else None
    else:
        base = REFERENCE if column.score else None
    delta = None if base is None else entry.value - base
    return Entry(entry.value, entry.n, entry.std, entry.error, entry.low, entry.high, delta)


def _references(grid: Grid, groups: Sequence[Group], columns: Sequence[Column]) -> list[Line]:
    lines: dict[str, Line] = {}
    for column in columns:
        for cell in (cell for group in groups for cell in group.scored):
            if benchmark := cell.benchmark(column.benchmark):
                label = reference_label(grid, benchmark.reference)
                line = lines.setdefault(label, Line(label, "reference"))
                value = REFERENCE if column.score else benchmark.metrics.get(f"reference_{column.metric}")
                if value is not None:
                    line.entries[column.key] = Entry(value)
    return list(lines.values())


def reference_label(grid: Grid, reference: str) -> str:
    """What people call the reference: the model's own name where it is the untuned model of this grid."""
    run = grid.results().get(reference)
    if run is None:
        return reference
    model = grid.manifest(run).get("config", {}).get("model", {})
    name = str(model.get("model", run.name)) if isinstance(model, dict) else str(model)
    return f"untuned {name.rsplit('/', 1)[-1].removesuffix('.gguf')}"


def _published(groups: Sequence[Group], columns: Sequence[Column]) -> list[Line]:
    """The paper's rows, for benchmarks that every cell ran by the official protocol (its notice is empty)."""
    from matrix.evaluation.published import published

    lines: dict[str, Line] = {}
    for column in (c for c in columns if c.score):
        found = [b for group in groups for cell in group.scored if (b := cell.benchmark(column.benchmark))]
        for row in [] if any(b.notice for b in found) else published(column.benchmark):
            value = getattr(row, column.metric)
            if value is not None:
                error = row.standard_error if column.metric == "win_rate" else None
                label = f"{row.label}, {row.table}"
                lines.setdefault(label, Line(label, "published")).entries[column.key] = Entry(value, error=error)
    return list(lines.values())


def as_markdown(board: Leaderboard) -> str:
    """The leaderboard as a Markdown document."""
    heads = ["", *(c.title for c in board.columns), "Rows kept", "Tokens", "Seconds"]
    table = [heads, ["---", *["---:"] * (len(heads) - 1)]]
    for line in board.lines:
        entries = [_in_words(line.entries.get(c.key), c) for c in board.columns]
        cost = [line.rows, f"{line.tokens_in + line.tokens_out:,}", f"{line.seconds:,.0f}"] if line.seeds else [""] * 3
        table.append([_cell_text(titled(line)), *entries, *cost])
    parts = [f"> {notice}\n" for notice in board.notices]
    if any(line.seeds for line in board.lines):
        parts.append("\n".join(f"| {' | '.join(row)} |" for row in table) + "\n")
    if board.unfinished:
        parts.append("Cells without scores:\n")
        parts.append(
            "\n".join(f"- {_cell_text(board.labels[c.cell])}: {_cell_text(fate(c))}" for c in board.unfinished) + "\n"
        )
    return "\n".join(parts)


def _cell_text(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
    return " ".join(escaped.split())


def _in_words(entry: Entry | None, column: Column) -> str:
    if entry is None:
        return "–"
    delta, spread = entry.difference(), entry.spread()
    return entry.main(column) + (f" ({delta})" if delta else "") + (f" [{spread}]" if spread else "")


def titled(line: Line) -> str:
    """A row's label with what kind of row it is."""
    note = line.kind if line.kind != "cell" else f"{line.seeds} seeds" if line.seeds > 1 else ""
    return f"{line.label} ({note})" if note else line.label


def fate(cell: Cell) -> str:
    """One line that says why a cell has no scores."""
    where = f" in {cell.stage}" if cell.stage else ""
    first = (cell.error or "").strip().split("\n")[0]
    if cell.status == "done":
        return f"done up to {cell.until}" if cell.until else "done without scores"
    return f"{cell.status}{where}" + (f": {first}" if first else "")


def as_csv(board: Leaderboard) -> str:
    """The leaderboard with every digit; cells without scores follow with their status."""
    out = io.StringIO()
    parts = ("", "_std", "_standard_error", "_low", "_high", "_delta")
    scores = [f"{c.key}{part}" for c in board.columns for part in parts]
    cost = ["rows_sft", "rows_pairs", "tokens_in", "tokens_out", "seconds"]
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["label", "kind", "status", "seeds", *scores, *cost, "stage", "error"])
    for line in board.lines:
        numbers: list[float | None] = []
        for column in board.columns:
            e = line.entries.get(column.key)
            numbers += [e.value, e.std, e.error, e.low, e.high, e.delta] if e else [None] * len(parts)
        spent = [getattr(line, name) for name in cost] if line.seeds else [None] * len(cost)
        writer.writerow([line.label, line.kind, "done", line.seeds or None, *numbers, *spent, None, None])
    for cell in board.unfinished:
        empty = [None] * (len(scores) + len(cost))
        writer.writerow([board.labels[cell.cell], "cell", cell.status, None, *empty, cell.stage, cell.error])
    return out.getvalue()


def as_table(board: Leaderboard, title: str) -> RenderableType:
    """The leaderboard for a terminal."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Group as Stack
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold", box=SIMPLE_HEAD,
                  pad_edge=False, collapse_padding=True)  # fmt: skip
    table.add_column("", overflow="fold", min_width=13)
    for name in [*(c.short for c in board.columns), "Rows", "Tokens", "Time"]:
        table.add_column(name, justify="right", no_wrap=True)
    for line in board.lines:
        row = [Text(titled(line), style="" if line.kind == "cell" else "dim")]
        for column in board.columns:
            text = Text("–", style="dim")
            if entry := line.entries.get(column.key):
                style = "bold" if entry.value == board.best(column) and line.kind == "cell" else ""
                text = Text(entry.main(column), style=style)
                if delta := entry.difference():
                    good = column.score and (entry.delta or 0) > 0
                    text.append(f" {delta}", "green" if good else "red" if column.score else "dim")
                if spread := entry.spread():
                    text.append(f"\n{spread}", "dim")
            row.append(text)
        cost = (
            [line.rows, _compact(line.tokens_in + line.tokens_out), duration(line.seconds)] if line.seeds else [""] * 3
        )
        table.add_row(*row, *cost)
    notices = [Text(notice, style="yellow") for notice in board.notices]
    below = [
        Text(f"{board.labels[c.cell]}: {fate(c)}", style="red" if c.status == "failed" else "dim")
        for c in board.unfinished
    ]
    return Stack(*([table] if board.lines else []), *notices, *below)


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02} min"


def _compact(count: int) -> str:
    """A count in at most five characters."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g}{letter}" if count < 1000 * size else f"{count / size:.0f}{letter}"
    return str(count)
