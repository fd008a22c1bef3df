"""Cell: a resolved config and its result; the boundary at which a failure becomes a row of the table.

`outputs/grids/<name>/<cell id>/result.json` tells everything about a cell: status, scores, stage results, environment.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import re
import shlex
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matrix.config import MatrixConfig, OnError, Until
from matrix.engines.base import BudgetReached
from matrix.pipeline import run
from matrix.provenance import environment
from matrix.stage import Result, canonical, identity
from matrix.store import INVOCATION, Store, Visit

log = logging.getLogger(__name__)


def cell_id(config: MatrixConfig, overrides: list[str]) -> str:
    """A folder name: what was overridden, for people, and 8 hex digits of what decides the cell's result."""
    how = {f.name for f in dataclasses.fields(MatrixConfig) if f.metadata.get("identity") is False}
    words = [o.lstrip("+~") for o in overrides]
    words = [w.split(".")[-1] for w in words if re.split(r"[.=]", w)[0] not in {*how, "hydra", "ablation"}]
    readable = re.sub(r"[^\w.+]+", "-", "-".join(words)).strip("-")[:60]
    digest = hashlib.sha256(canonical(identity(config)).encode()).hexdigest()[:8]
    return f"{readable}-{digest}" if readable else digest


def run_cell(config: MatrixConfig, folder: Path, overrides: list[str], choices: Mapping[str, str]) -> str:
    """Make the cell, write `folder/result.json` after every stage, and return its status.

    A failure is written down and not raised (unless `on_error=stop`), so that a sweep always finishes.
    """
    store = Store(config.store)
    started = time.monotonic()
    result: dict[str, Any] = {
        "name": config.name,
        "cell": folder.name,
        "label": config.label,
        "status": "running",
        "stage": None,
        "error": None,
        "traceback": None,
        "until": config.until.value,
        "overrides": overrides,
        "choices": dict(choices),
        "command": "matrix " + " ".join(shlex.quote(o) for o in overrides),
        "invocation": os.environ.get(INVOCATION, ""),
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "environment": environment(),
        "stages": [],
        "scores": None,
    }
    done: dict[str, Result] = {}

    def write(status: str) -> str:
        result["status"] = status
        result["seconds"] = round(time.monotonic() - started, 3)
        result["stages"] = [_described(alias, done[alias], store.visits) for alias in done]
        scratch = folder / "result.json.new"
        scratch.write_text(json.dumps(result, indent=1, ensure_ascii=False))
        scratch.replace(folder / "result.json")
        return status

    folder.mkdir(parents=True, exist_ok=True)
    try:
        if config.until is Until.evaluate:
            config.evaluation.fetch()
        for alias, made in run(config, store):
            done[alias] = made
            write("running")
        if "scores" in done:
            result["scores"] = json.loads((done["scores"].path / "scores.json").read_text())
        return write("done")
    except KeyboardInterrupt:
        result["stage"] = store.current.name if store.current else None
        write("stopped")
        raise
    except Exception as error:  # the cell boundary: the only broad except
        result["stage"] = store.current.name if store.current else None
        result["error"] = f"{type(error).__name__}: {error}"
        result["traceback"] = traceback.format_exc()
        status = write("stopped" if isinstance(error, BudgetReached) else "failed")
        if config.on_error is OnError.stop:
            error.add_note(f"In stage {result['stage']} of {folder}, stopped by on_error=stop")
            raise
        log.error("%s in %s: %s", status, result["stage"], result["error"])
        log.debug("%s", result["traceback"])
        return status


def _described(alias: str, result: Result, visits: list[Visit]) -> dict[str, Any]:
    visit = next(v for v in visits if v.result.key == result.key)
    outputs = visit.manifest.get("outputs", {})
    return {
        "alias": alias,
        "stage": result.stage,
        "name": result.name,
        "key": result.key,
        "path": str(result.path),
        "hit": result.hit,
        "seconds": visit.seconds,
        "usage": visit.manifest.get("usage", {}),
        "rows": {name: o["rows"] for name, o in outputs.items() if "rows" in o},
    }
