"""A trained model to hand on: found in the store, and what its licences allow it to be called."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from matrix.export import card
from matrix.export.licences import Licence, licence
from matrix.export.llama import Llama, llama, naming
from matrix.export.source import ExportError, came_to, command_of, find_cell, find_result, first_of
from matrix.report.cells import Benchmark
from matrix.report.library import Library, Stored

ALIASES = ("tuned", "sft")
"""The model of a cell, by the names of `matrix.pipeline`: the first that the cell came to."""

WROTE = re.compile(r"(^|; )(llm|responder) of ")
"""Roles of models whose output is trained on."""


@dataclass(frozen=True)
class Model:
    """A trained model that was named on the command line."""

    source: str
    """`train-<12 hex digits>`, or `<grid>/<cell>`."""
    result: Stored
    library: Library
    command: str
    """What was typed to make it, as far as a grid beside the store tells."""
    benchmarks: list[Benchmark]
    """Its scores, where a cell was named that has some."""

    @cached_property
    def lineage(self) -> tuple[list[Stored], list[str]]:
        """All results behind it, earliest first; names of those that are gone."""
        return self.library.lineage([self.result])

    @property
    def trainings(self) -> list[Stored]:
        """The trainings that made it, one upon the other, itself last."""
        steps = [self.result]
        while (below := self.library.results.get(steps[0].manifest["config"]["base"])) and below.stage == "train":
            steps.insert(0, below)
        return steps

    @property
    def base(self) -> dict[str, Any]:
        """Config of the model that the first of them started from."""
        config: dict[str, Any] = self.result.manifest["config"]["model"]
        return config

    @cached_property
    def base_licence(self) -> Licence:
        """The licence of the base, as far as it is at hand."""
        return licence(self.base["model"], self.base["revision"])

    @property
    def llama(self) -> Llama | None:
        """The Llama licence that the base is under, if it is."""
        return llama(self.base["model"], self.base_licence.name)

    @cached_property
    def models(self) -> list[tuple[str, str, str, str]]:
        """Every model behind it: name and revision, used as, licence, where that was read."""
        return card.models(self.lineage[0])

    @property
    def writers(self) -> list[Llama]:
        """The Llama licences of the models that wrote its data."""
        wrote = [(name, known) for name, roles, known, _ in self.models if WROTE.search(roles)]
        return [found for name, known in wrote if (found := llama(name.partition("@")[0], known))]


def find_model(source: str, store: Path) -> Model:
    """The trained model that `source` names: a training result, or the last training of a cell.

    Args:
        source: a result's name or folder, or the folder of a grid's cell.
        store: where names are looked up; a folder brings its own store.

    Raises:
        ExportError: it names no trained model.
        GridError: a cell lies in a folder that is not a grid.
    """
    if found := find_cell(source, store):
        grid, cell = found
        result = first_of(grid, cell, ALIASES)
        if result is None:
            raise ExportError(f"{cell.cell} has no trained model in the store: {came_to(cell)}")
        library = Library(result.path.parents[1])
        scores = cell.scores.benchmarks if cell.scores else []
        return Model(f"{grid.name}/{cell.cell}", result, library, cell.command or "", scores)
    library, result = find_result(source, store)
    if result.stage != "train":
        trained = ", ".join(name for name, other in library.results.items() if other.stage == "train")
        raise ExportError(f"{result.name} is no trained model. Trained models: {trained or 'none'}")
    return Model(result.name, result, library, command_of(library, result), [])


def check_name(model: Model, name: str) -> None:
    """See that the licences allow a model of this name.

    Raises:
        ExportError: a Llama licence asks for another beginning.
    """
    for terms in naming(model.llama, model.writers):
        if not terms.allows(name):
            prefix = terms.prefix.replace(" ", "-")
            raise ExportError(
                f"{model.result.name} is made from Llama {terms.version} or from what it wrote, and its licence "
                f"({terms.agreement}, section 1.b.i) asks for a name that begins with {terms.prefix}. {name} does not; "
                f"name the folder or --push OWNER/NAME e.g. {prefix}-{name}"
            )
