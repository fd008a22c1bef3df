"""A trained model to hand on: a folder that transformers, vLLM and the hub read, with a card and what licences ask."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from matrix.export import card
from matrix.export.folder import MARK, whole
from matrix.export.licences import Licence, agreement, licence
from matrix.export.llama import Llama, forbidden, llama, naming
from matrix.export.model_card import model_card
from matrix.export.source import ExportError, came_to, command_of, find_cell, find_result, first_of
from matrix.provenance import sha256_file
from matrix.report.cells import Benchmark
from matrix.report.curves import training_curves
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


def export_model(model: Model, folder: Path, name: str, license_id: str = "", overwrite: bool = False) -> list[str]:
    """Write weights, tokenizer and configs, README.md (the model's card), charts of its training and export.json.

    The folder is written beside its place and then renamed. A base under a Llama licence adds NOTICE, and LICENSE if
    the base has it at hand.

    Args:
        model: what `find_model` found.
        folder: where to; must not exist or be empty, unless `overwrite`.
        name: what the model is called.
        license_id: its licence, as the hub writes it; empty: the base's.
        overwrite: replace a folder that was exported before (and no other).

    Returns:
        What is left for a person to do about licences.

    Raises:
        ExportError: the folder is in use, the licence forbids the name, or the weights are not those that were made.
    """
    check_name(model, name)
    published: dict[str, Any] = model.result.manifest["outputs"]
    weights = {Path(file).relative_to("hf"): told for file, told in published.items() if file.startswith("hf/")}
    if not weights:
        raise ExportError(f"{model.result.name} has no hf/ folder: it was made by something else than training here")
    text = agreement(model.base["model"], model.base["revision"])
    todo = _todo(model, text)
    with whole(folder, overwrite) as work:
        for file, told in weights.items():
            (work / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(model.result.path / "hf" / file, work / file)
            if sha256_file(work / file) != told["sha256"]:
                raise ExportError(f"hf/{file} is not what was published. Remove {model.result.path} and make it again")
        if text:
            shutil.copyfile(text, work / "LICENSE")
        if model.llama:
            (work / "NOTICE").write_text(model.llama.notice + "\n", encoding="utf-8")
        charts = [
            training_curves({step.name: step.path}, work / f"training-{step.path.name.split('-')[0]}.png").name
            for step in model.trainings
            if (step.path / "metrics.csv").exists()
        ]
        (work / "README.md").write_text(model_card(model, name, license_id, charts, todo), encoding="utf-8")
        made = {
            "source": model.source,
            "results": {result.name: result.manifest["key"] for result in model.lineage[0]},
            "files": {
                str(file.relative_to(work)): sha256_file(file) for file in sorted(work.rglob("*")) if file.is_file()
            },
        }
        (work / MARK).write_text(json.dumps(made, indent=1))
    return todo


def _todo(model: Model, text: Path | None) -> list[str]:
    """What the licences ask for and is not done by an export."""
    todo = []
    if model.llama and not text:
        todo.append(f"a copy of the licence must go with the model: save {model.llama.agreement} as LICENSE beside it")
    if forbidden(model.llama, model.writers):
        todo.append(
            "Llama 3 wrote data for it, and the licence of Llama 3 (section 1.b.v) excludes improving other models "
            "with its output: look into it before the model is handed on"
        )
    return todo
