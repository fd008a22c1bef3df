"""A trained model as a folder that transformers, vLLM and the hub read, with a card and what licences ask for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from matrix.export.folder import MARK, whole
from matrix.export.licences import agreement
from matrix.export.llama import forbidden
from matrix.export.model import Model, check_name
from matrix.export.model_card import model_card
from matrix.export.source import ExportError
from matrix.provenance import sha256_file
from matrix.report.curves import training_curves


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
