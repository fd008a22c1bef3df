"""Cells of a grid as typed values: the first thing every table and plot of the report reads.

The source of truth is `<grid>/<cell>/result.json` and the stage folders that it points at; there is no database. A grid
may be half finished: what is failed, stopped, planned or gone is a value here, never an error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from matrix.jsonl import R, RowError, iter_jsonl
from matrix.progress import Usage
from matrix.store import read_manifest

NOT_SETTINGS = re.compile(
    r"(name|label|plan|until|on_error|ablation|output_dir|analysis|logger|recipe/strategy)$"
    r"|(store|logger|recipe\.strategy)\.|hydra"
)
"""Config keys that say how a cell was run, and not what it computes: never part of a label."""


class GridError(ValueError):
    """A folder is not a grid; says what was looked for and which grids are near."""


class StageRun(msgspec.Struct, frozen=True, kw_only=True):
    """One stage result that a cell made or found stored."""

    alias: str
    """Its place in the pipeline, e.g. `society`, `kept_pairs`."""
    stage: str
    name: str
    """`<stage>-<12 hex digits>`."""
    key: str = ""
    path: str = ""
    hit: bool = False
    seconds: float = 0.0
    usage: Usage = msgspec.field(default_factory=Usage)
    rows: dict[str, int] = {}
    """Rows of each JSON Lines file."""


class Benchmark(msgspec.Struct, frozen=True, kw_only=True):
    """One comparison of a model with a reference; the reference scores 50.0 by definition."""

    benchmark: str
    model: str = ""
    reference: str = ""
    judge: str = ""
    metrics: dict[str, float | None] = {}
    interval: dict[str, list[float | None]] = {}
    """Metric -> lower and upper bound of its 95 % confidence interval."""
    notice: str | None = None
    """Why the numbers may not be compared with published ones; empty when they may."""


class Scores(msgspec.Struct, frozen=True, kw_only=True):
    """What `scores.json` of an Evaluate result holds."""

    benchmarks: list[Benchmark] = []


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One resolved config of a grid and what came of it."""

    cell: str
    name: str = ""
    label: str = ""
    status: str
    """`done`, `failed`, `planned`, `stopped`; `running` without a result yet, `unreadable` with a damaged one."""
    stage: str | None = None
    error: str | None = None
    traceback: str | None = None
    until: str | None = None
    overrides: list[str] = []
    choices: dict[str, Any] = {}
    command: str | None = None
    started: str | None = None
    seconds: float | None = None
    environment: dict[str, Any] = {}
    stages: list[StageRun] = []
    scores: Scores | None = None

    @property
    def tuned(self) -> bool:
        """Whether the cell trained anything."""
        return any(s.alias in ("sft", "tuned") for s in self.stages)

    def benchmark(self, name: str) -> Benchmark | None:
        """The scores on one benchmark."""
        return next((b for b in (self.scores or Scores()).benchmarks if b.benchmark == name), None)

    def settings(self) -> dict[str, str]:
        """Config choices and overrides that decide the result, by key."""
        chosen = {key: _text(value) for key, value in self.choices.items()}
        for override in self.overrides:
            key, _, value = override.lstrip("+").partition("=")
            chosen[key] = value
        return {key: value for key, value in chosen.items() if not NOT_SETTINGS.match(key)}


@dataclass
class Group:
    """Cells that differ in nothing but the seed."""

    label: str
    cells: list[Cell] = field(default_factory=list)

    @property
    def scored(self) -> list[Cell]:
        """The cells that came to scores."""
        return [cell for cell in self.cells if cell.scores]


@dataclass
class Grid:
    """All cells of a grid folder and their stage results, each result once."""

    path: Path
    cells: list[Cell]
    problems: list[str] = field(default_factory=list)
    """What was to be read and could not be: missing stage folders, damaged files."""

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.resolve().name

    @property
    def groups(self) -> list[Group]:
        """Cells by everything but the seed, in order of first appearance."""
        labels, groups = _labels(self.cells), dict[tuple[tuple[str, str], ...], Group]()
        for cell, label in zip(self.cells, labels, strict=True):
            settings = cell.settings() or {"cell": cell.cell}
            settings.pop("seed", None)
            groups.setdefault(tuple(sorted(settings.items())), Group(label)).cells.append(cell)
        return list(groups.values())

    def label(self, cell: Cell) -> str:
        """The cell's varying settings, the seed among them."""
        return _labels(self.cells, seed=True)[self.cells.index(cell)]

    def varying(self) -> list[str]:
        """Config keys whose value differs between cells, the seed apart."""
        return [key for key in _varying(self.cells) if key != "seed"]

    def results(self, *aliases: str) -> dict[str, StageRun]:
        """Stage results by name, each once, that some cell knows by one of `aliases` (all results without any)."""
        found: dict[str, StageRun] = {}
        for run in (run for cell in self.cells for run in cell.stages):
            if not aliases or run.alias in aliases:
                found.setdefault(run.name, run)
        return found

    def users(self, name: str) -> list[Cell]:
        """The cells that used a stage result."""
        return [cell for cell in self.cells if any(run.name == name for run in cell.stages)]

    def named(self, run: StageRun) -> str:
        """The cells that a stage result belongs to."""
        labels = list(dict.fromkeys(self.label(cell) for cell in self.users(run.name)))
        return labels[0] if len(labels) == 1 else f"{labels[0]} and {len(labels) - 1} more"

    def beside(self, run: StageRun, *aliases: str) -> StageRun | None:
        """What a cell that used `run` knows by the first of `aliases` that any of them knows."""
        known = [(stage.alias, stage) for cell in self.users(run.name) for stage in cell.stages]
        return next((stage for alias in aliases for name, stage in known if name == alias), None)

    def folder(self, run: StageRun) -> Path | None:
        """Where a stage result lies: where it was written, or in `../../store` if the outputs were moved; else None."""
        moved = self.path.resolve().parents[1] / "store" / run.stage / Path(run.path).name
        return next((path for path in (Path(run.path), moved) if (path / "manifest.json").exists()), None)

    def file(self, run: StageRun, name: str) -> Path | None:
        """A file of a stage result, None where the result has none or is gone; the latter is noted in `problems`."""
        folder = self.folder(run)
        if folder is None:
            self.note(f"{run.name} ({run.alias}) is not at {run.path}")
        return folder / name if folder and (folder / name).exists() else None

    def rows(self, run: StageRun, name: str, kind: type[R]) -> list[R]:
        """All rows of `stream`."""
        return list(self.stream(run, name, kind))

    def stream(self, run: StageRun, name: str, kind: type[R]) -> Iterator[R]:
        """Rows of a stage result's file, up to one that cannot be read, which is noted in `problems`."""
        try:
            if file := self.file(run, name):
                yield from iter_jsonl(file, kind)
        except RowError as error:
            self.note(str(error))

    def json(self, run: StageRun, name: str) -> Any:
        """A JSON file of a stage result; None where it cannot be read, which is noted in `problems`."""
        try:
            return json.loads(file.read_text()) if (file := self.file(run, name)) else None
        except ValueError as error:
            self.note(f"{run.name}/{name}: {error}")
            return None

    def note(self, problem: str) -> None:
        """Remember what could not be read, once."""
        if problem not in self.problems:
            self.problems.append(problem)

    def manifest(self, run: StageRun) -> dict[str, Any]:
        """The manifest of a stage result, empty where there is none."""
        folder = self.folder(run)
        return read_manifest(folder) if folder else {}


def read_grid(path: Path) -> Grid:
    """Read a grid folder, e.g. `outputs/grids/demo`.

    Raises:
        GridError: there is no such folder, or no cell in it; the message lists grids near it.
    """
    if not path.is_dir():
        raise GridError(f"no such folder: {path}. {_near(path)}")
    if (path / "result.json").exists():
        raise GridError(f"{path} is one cell of a grid. The grid is {path.parent}")
    cells = [cell for folder in sorted(path.iterdir()) if folder.is_dir() and (cell := _read_cell(folder))]
    if not cells:
        raise GridError(f"not a grid folder: {path} has no <cell>/result.json. {_near(path)}")
    return Grid(path, cells)


def _read_cell(folder: Path) -> Cell | None:
    file = folder / "result.json"
    if not file.exists():
        typed = folder / ".hydra" / "overrides.yaml"
        if typed.exists() and "- plan=true" in typed.read_text().splitlines():
            return None  # it was only looked at
        started = typed.parent.is_dir() or any(folder.glob("*.log"))
        return Cell(cell=folder.name, status="running") if started else None
    try:
        # json, not msgspec: a metric that could not be computed is written as NaN
        return msgspec.convert({"cell": folder.name, **json.loads(file.read_text())}, Cell)
    except (ValueError, TypeError) as error:
        return Cell(cell=folder.name, status="unreadable", error=f"{file}: {error}")


def _near(path: Path) -> str:
    places = [path, path.parent, path.parent / "grids", Path("outputs/grids")]
    found = dict.fromkeys(file.parents[1] for place in places for file in sorted(place.glob("*/*/result.json")))
    if not found:
        return "A grid is a folder that `matrix` made, usually outputs/grids/<name>; none was found near here"
    return "Grids near it: " + ", ".join(str(grid) for grid in list(found)[:10])


def _text(value: Any) -> str:
    return f"[{','.join(map(str, value))}]" if isinstance(value, list) else str(value)


def _varying(cells: Sequence[Cell]) -> list[str]:
    """Keys of settings that differ between cells, in order of first appearance."""
    settings = [cell.settings() for cell in cells if cell.settings()]
    keys = dict.fromkeys(key for one in settings for key in one)

    def values(*names: str) -> int:
        return len({tuple(one.get(name) for name in names) for one in settings})

    varying = [key for key in keys if values(key) > 1]
    if "experiment" in varying:  # a preset's name says all that the preset decides
        varying = [key for key in varying if key == "experiment" or values("experiment", key) > values("experiment")]
    return varying


def _labels(cells: Sequence[Cell], seed: bool = False) -> list[str]:
    """A label for each cell that shows only what varies, with the shortest key that is still clear."""
    keys = [key for key in _varying(cells) if seed or key != "seed"]
    last = [key.split(".")[-1] for key in keys]
    short = {key: word if last.count(word) == 1 else key for key, word in zip(keys, last, strict=True)}
    labels = []
    for cell in cells:
        settings = cell.settings()
        if not settings or not keys:
            labels.append(((cell.label if len(cells) == 1 else "") or cell.name if settings else "") or cell.cell)
            continue
        words = [f"{short[key]}={settings[key]}" for key in keys if key in settings and key != "experiment"]
        preset = cell.label or (settings.get("experiment", "") if "experiment" in keys else "")
        labels.append(", ".join([preset, *words] if preset else words) or "default")
    return labels
