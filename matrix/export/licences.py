"""Licences of the models behind a data set, read from what a model says of itself where it lies here; never guessed."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from matrix.engines.sources import SourceError, resolve


class Licence(NamedTuple):
    """A licence and where it was read."""

    name: str
    where: str


UNKNOWN = Licence("unknown: check", "nothing at hand says it")


def licence(model: str, revision: str | None = None) -> Licence:
    """The licence of a model as its config names it; `UNKNOWN` if neither file nor cache says it. Asks no network.

    In this order: `general.license` of a GGUF file; `license` in the header of a model card (in the model's folder, or
    in the hub's cache); the metadata of the package that carries the model.
    """
    try:
        place = resolve(model, revision)
    except SourceError:
        return UNKNOWN
    found = _cached(place, revision) if isinstance(place, str) else next(_told(place), None)
    if not found and model.startswith("package:"):
        found = _packaged(model.removeprefix("package:").partition("/")[0])
    return found or UNKNOWN


def agreement(model: str, revision: str | None = None) -> Path | None:
    """The file LICENSE that lies with a model, in its folder or in the hub's cache; asks no network."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        place = resolve(model, revision)
        cached = try_to_load_from_cache(place, "LICENSE", revision=revision) if isinstance(place, str) else None
    except (SourceError, HFValidationError):
        return None
    if isinstance(place, Path):
        return next((file for file in sorted(place.glob("LICENSE*")) if file.is_file()), None)
    return Path(cached) if isinstance(cached, str) else None


def _told(path: Path) -> Iterator[Licence]:
    """What the files of a model say, the most particular first."""
    for card in (path / "README.md", path / "hf" / "README.md"):
        if card.is_file() and (name := _card(card)):
            yield Licence(name, f"model card {card.name}")
    for file in [path] if path.suffix == ".gguf" else sorted(path.glob("*.gguf")):
        if name := _gguf(file):
            yield Licence(name, f"general.license of {file.name}")
    if (path / "reference.json").is_file():  # an imported model stands for another one
        reference = json.loads((path / "reference.json").read_text())
        if (found := licence(reference["model"], reference.get("revision"))) != UNKNOWN:
            yield found


def _cached(repository: str, revision: str | None) -> Licence | None:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        card = try_to_load_from_cache(repository, "README.md", revision=revision)
    except HFValidationError:  # the name of a model behind an endpoint need not be one of the hub
        return None
    found = _card(Path(card)) if isinstance(card, str) else None
    return Licence(found, f"model card of {repository} in the hub's cache") if found else None


def _card(path: Path) -> str | None:
    import yaml
    from huggingface_hub.repocard import metadata_load

    try:
        header = metadata_load(path) or {}
    except (ValueError, yaml.YAMLError):
        return None
    found = header.get("license")
    if found == "other":
        found = header.get("license_name") or found
    return str(found) if found else None


def _gguf(path: Path) -> str | None:
    import gguf

    field = gguf.GGUFReader(path).fields.get("general.license")
    return str(field.contents()) if field else None


def _packaged(module: str) -> Licence | None:
    (name, *_) = importlib.metadata.packages_distributions()[module]
    told = importlib.metadata.metadata(name)
    for key in ("License-Expression", "License"):
        if key in told and "\n" not in (found := told[key]):  # older packages put the whole text there
            return Licence(found, f"metadata of the package {name} {told['Version']}")
    return None
