"""What is exported: rows of stored results, found by name, folder or cell, and the results that they grew out of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from matrix.jsonl import iter_jsonl
from matrix.provenance import sha256_file
from matrix.records import Conversation
from matrix.report.cells import Cell, Grid, read_grid
from matrix.report.library import Library, Stored
from matrix.rows import TrainingRow, row_type

ALIASES = (("kept", "rows"), ("kept_pairs", "pairs"))
"""What is exported of a cell, by the names of `matrix.pipeline`: of each line the first that the cell came to."""


class ExportError(ValueError):
    """There is nothing to export, or no place to export it to; says what there is and what to type."""


@dataclass(frozen=True)
class Part:
    """Rows of one kind: one config of the exported data set."""

    result: Stored
    rows: int

    @property
    def name(self) -> str:
        """`sft` for conversations, `dpo` for preference pairs."""
        return "sft" if row_type(self.result.path / "rows.jsonl") is Conversation else "dpo"

    def read(self) -> Iterator[TrainingRow]:
        """The rows, in their order."""
        file = self.result.path / "rows.jsonl"
        yield from iter_jsonl(file, row_type(file))


@dataclass(frozen=True)
class Source:
    """What a name on the command line stands for."""

    name: str
    """`<stage>-<12 hex digits>`, or `<grid>/<cell>`."""
    parts: list[Part]
    library: Library
    """The store that holds them."""
    command: str
    """What was typed to make them, as far as a grid beside the store tells."""

    def lineage(self) -> tuple[list[Stored], list[str]]:
        """All results that the parts grew out of, themselves included, earliest first; names of those that are gone."""
        return self.library.lineage([part.result for part in self.parts])


def find(source: str, store: Path) -> Source:
    """The rows that `source` names.

    Args:
        source: a result's name (or an unambiguous start of it), its folder, as it is or in the store, or the folder of
            a grid's cell.
        store: where names are looked up; a folder brings its own store.

    Raises:
        ExportError: it names nothing, several results, no rows, or rows that are not those that were published.
        GridError: a cell lies in a folder that is not a grid.
    """
    if cell := find_cell(source, store):
        return _of_cell(*cell)
    library, result = find_result(source, store)
    part = _part(result)
    if part is None:
        if (result.path / "hf").is_dir():
            raise ExportError(f"{result.name} is a model. To export it type: matrix-export {result.name} --to FOLDER")
        exportable = ", ".join(n for n, r in library.results.items() if (r.path / "rows.jsonl").exists())
        raise ExportError(f"{result.name} holds no rows. Results with rows: {exportable or 'none'}")
    return Source(result.name, [part], library, command_of(library, result))


def find_cell(source: str, store: Path) -> tuple[Grid, Cell] | None:
    """The cell whose folder `source` is.

    Raises:
        GridError: it lies in a folder that is not a grid.
    """
    path = _place(source, store)
    if not (path / "result.json").exists():
        return None
    grid = read_grid(path.parent)
    return grid, next(cell for cell in grid.cells if cell.cell == path.resolve().name)


def find_result(source: str, store: Path) -> tuple[Library, Stored]:
    """The stage result that `source` names, and the store that holds it.

    Raises:
        ExportError: it names nothing, several results, or a grid.
    """
    path = _place(source, store)
    if (path / "manifest.json").exists() and path.suffix != ".partial":
        library = Library(path.resolve().parents[1])
        return library, next(r for r in library.results.values() if r.path == path.resolve())
    if cells := sorted(file.parent for file in path.glob("*/result.json")):
        raise ExportError(f"{source} is a grid. Name one of its cells: {', '.join(map(str, cells[:10]))}")
    library = Library(store.resolve())
    return library, _named(library, source, store)


def _place(source: str, store: Path) -> Path:
    return next((p for p in (Path(source), store / source) if source and p.is_dir()), Path(source))


def _named(library: Library, name: str, store: Path) -> Stored:
    matching = [
        result
        for key, result in library.results.items()
        if key == name or (name and (key.startswith(name) or result.path.name.startswith(name)))
    ]
    if len(matching) == 1:
        return matching[0]
    if matching:
        raise ExportError(f"{name} is {len(matching)} results: {', '.join(r.name for r in matching)}. Name one")
    if not library.results:
        raise ExportError(f"no folder {name}, and no stage results in {store}. Name the store with --store")
    near = get_close_matches(name, library.results, n=5, cutoff=0.4)
    raise ExportError(
        f"no result {name} in {store}, and no such folder. " + (f"Nearest: {', '.join(near)}" if near else "")
        or f"There are: {', '.join(library.results)}"
    )


def _of_cell(grid: Grid, cell: Cell) -> Source:
    results = [result for aliases in ALIASES if (result := first_of(grid, cell, aliases))]
    if not results:
        raise ExportError(f"{cell.cell} has no rows in the store: {came_to(cell)}")
    parts = [part for result in results if (part := _part(result))]
    if not parts:
        raise ExportError(
            f"{' and '.join(r.name for r in results)} of {cell.cell} hold no rows: the filters dropped all"
        )
    return Source(f"{grid.name}/{cell.cell}", parts, Library(parts[0].result.path.parents[1]), cell.command or "")


def came_to(cell: Cell) -> str:
    """How far a cell came, in words."""
    made = ", ".join(f"{run.alias} ({run.name})" for run in cell.stages) or "nothing"
    return f"its status is {cell.status}, it made {made}"


def first_of(grid: Grid, cell: Cell, aliases: Sequence[str]) -> Stored | None:
    """The result that a cell knows by the first of `aliases` that it came to and that is still there."""
    for alias in aliases:
        for run in cell.stages:
            if run.alias == alias and (folder := grid.folder(run)):
                return Stored(folder.resolve(), grid.manifest(run))
    return None


def _part(result: Stored) -> Part | None:
    file = result.path / "rows.jsonl"
    published = result.manifest["outputs"].get("rows.jsonl")
    if not published or not published["rows"]:
        return None
    if not file.exists() or sha256_file(file) != published["sha256"]:
        raise ExportError(f"{file} is not what was published. Remove {result.path} and make it again")
    return Part(result, published["rows"])


def command_of(library: Library, result: Stored) -> str:
    """The command of a cell that has the result, out of the grids beside the store; the shortest one."""
    grids = {file.parents[1] for file in result.path.parents[2].glob("grids/*/*/result.json")}
    cells = [cell for grid in sorted(grids) for cell in read_grid(grid).cells]
    commands = [c.command for c in cells if c.command and any(run.name == result.name for run in c.stages)]
    return min(commands, key=lambda command: (len(command), command), default="")
