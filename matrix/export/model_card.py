"""The card of an exported model: base, data, recipe, losses, scores with their judge, licences, how to repeat it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from matrix.export import card
from matrix.export.formats import public_name
from matrix.export.licences import UNKNOWN
from matrix.report.course import read_course
from matrix.report.library import Stored

if TYPE_CHECKING:
    from matrix.export.model import Model

HUB = re.compile(
    r"apache-2\.0|mit|bsd(-.*)?|cc0-1\.0|cc-by(-.*)?|gemma|llama(2|3|3\.[123]|4)|(big.*)?open-?rail.*|unknown"
)
"""Licences that the hub knows by these names, among those that models have; any other is `other` with its name."""


def model_card(model: Model, name: str, license_id: str, charts: Sequence[str], todo: Sequence[str]) -> str:
    """The text of README.md, with the header that the hub reads.

    Args:
        model: what was exported.
        name: what it is called.
        license_id: licence of the model; empty: the base's.
        charts: images of its training in the folder.
        todo: what the licences still ask for.
    """
    results, gone = model.lineage
    manifest = model.result.manifest
    base = public_name(model.base["model"])
    return card.fill(
        "model_card.md.jinja",
        header=_header(model, license_id),
        name=name,
        base=base + (f"@{model.base['revision']}" if model.base["revision"] else ""),
        base_licence=model.base_licence,
        license_id=license_id,
        llama=model.llama,
        society=any(result.stage == "simulate" for result in results),
        steps=[_step(model, step) for step in model.trainings],
        charts=charts,
        data=[(result, _counts(result)) for result in results if _counts(result)],
        funnels={r.name: funnel for r in results if (funnel := card.read_json(r, "funnel.json"))},
        benchmarks=model.benchmarks,
        public=public_name,
        reference=lambda name: f"{base}, untuned" if name.startswith("import-") else public_name(name),
        models=model.models,
        todo=todo,
        results=results,
        gone=gone,
        command=card.shown_command(model.command),
        export_command=f"matrix-export {card.place(model.source)} --to FOLDER",
        settings=card.settings(results),
        environment=manifest["environment"],
        versions=card.versions(manifest),
    )


def _header(model: Model, license_id: str) -> dict[str, Any]:
    known, base = license_id or model.base_licence.name.lower(), model.base["model"]
    if model.base_licence == UNKNOWN and not license_id:
        licence = {"license": "unknown"}
    elif license_id or HUB.fullmatch(known):
        licence = {"license": known}
    else:
        licence = {"license": "other", "license_name": re.sub(r"[^a-z0-9.]+", "-", known)}
    return {
        **licence,
        **({"base_model": base, "base_model_relation": "finetune"} if re.fullmatch(r"[\w.-]+/[\w.-]+", base) else {}),
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["matrix-gen", *dict.fromkeys(_kind(step) for step in model.trainings)],
    }


def _kind(step: Stored) -> str:
    """`sft`, or the preference loss; DPO's own is called `dpo`."""
    recipe = step.manifest["config"]["recipe"]
    loss = str(recipe.get("loss", "sigmoid"))
    return "sft" if "beta" not in recipe else "dpo" if loss == "sigmoid" else loss


def _step(model: Model, step: Stored) -> dict[str, Any]:
    """What one training says of itself."""
    summary = card.read_json(step, "summary.json") or {}
    config = step.manifest["config"]
    data = model.library.results.get(config["data"])
    held_out = step.path / "held_out.csv"
    lowest = None
    if (step.path / "metrics.csv").exists():
        lowest = read_course(step.path / "metrics.csv", held_out if held_out.exists() else None).lowest()
    return {
        "name": step.name,
        "kind": _kind(step),
        "key": step.manifest["key"],
        "seed": config["seed"],
        "data": config["data"],
        "rows": data.manifest["outputs"].get("rows.jsonl", {}).get("rows") if data else None,
        "summary": summary,
        "lowest": lowest,
        "recipe": {name: json.dumps(value, ensure_ascii=False) for name, value in config["recipe"].items()},
        "lora": (config["recipe"].get("lora") or {}).get("rank", 0) > 0,
        "warnings": (card.read_json(step, "doctor.json") or {}).get("warnings", []),
    }


def _counts(result: Stored) -> int | None:
    """Rows of a result that holds training rows."""
    told = result.manifest["outputs"].get("rows.jsonl")
    return told["rows"] if told else None
