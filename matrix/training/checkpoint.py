"""Where a checkpoint result keeps its model: `hf/` in the folder itself, or `reference.json` that points elsewhere."""

from __future__ import annotations

import json
from pathlib import Path


class TrainingError(RuntimeError):
    """Training cannot start or go on; says why and what to do."""


def weights(checkpoint: Path) -> tuple[str, str | None]:
    """Path or hub id of a checkpoint's model, and its revision, as `from_pretrained` takes them.

    Raises:
        TrainingError: the folder holds neither.
    """
    if (checkpoint / "hf" / "config.json").exists():
        return str(checkpoint / "hf"), None
    reference = checkpoint / "reference.json"
    if not reference.exists():
        raise TrainingError(f"{checkpoint} is no checkpoint: it has neither hf/config.json nor reference.json")
    pointed = json.loads(reference.read_text())
    return pointed["model"], pointed["revision"]


def template_file(name: str) -> Path:
    """The Jinja file of a chat template: `name` in `matrix/training/templates/`, or a path.

    Raises:
        TrainingError: there is neither.
    """
    folder = Path(__file__).parent / "templates"
    for candidate in (folder / f"{name}.jinja", folder / name, Path(name)):
        if candidate.is_file():
            return candidate
    known = ", ".join(sorted(path.stem for path in folder.glob("*.jinja")))
    raise TrainingError(f"no chat template {name!r}: not a file, and not one of the shipped ones ({known})")
