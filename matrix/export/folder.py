"""Writes exported data sets, folders that `datasets.load_dataset` reads, and any exported folder whole or not."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from matrix.export.card import card, tags_of
from matrix.export.formats import FILES, Format, config_name, write_part
from matrix.export.source import ExportError, Source
from matrix.provenance import sha256_file

MARK = "export.json"
"""What a folder of ours is known by; says what it was made from and the sha256 of its files."""


def export(
    source: Source, folder: Path, formats: Sequence[Format] = tuple(Format), licence: str = "", overwrite: bool = False
) -> Path:
    """Write the rows of a source in every format, README.md (the data set's card) and export.json.

    The folder is written beside its place and then renamed. Same results, same bytes.

    Args:
        source: what `matrix.export.source.find` found.
        folder: where to; must not exist or be empty, unless `overwrite`.
        formats: which formats.
        licence: licence of the data set, as the hub writes it, e.g. `cc-by-4.0`; empty: unknown.
        overwrite: replace a folder that was exported before (and no other).

    Raises:
        ExportError: the folder is in use.
    """
    with whole(folder, overwrite) as work:
        _write(source, work, [kind for kind in Format if kind in formats], licence)
    return folder


@contextmanager
def whole(folder: Path, overwrite: bool) -> Iterator[Path]:
    """A folder to write into, which takes the place of `folder` when all is written and goes if anything is raised.

    Raises:
        ExportError: `folder` is in use.
    """
    check_free(folder, overwrite)
    target = folder.resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    work = target.with_name(f".{target.name}.{os.getpid()}.partial")
    work.mkdir()
    try:
        yield work
        if target.exists():
            old = target.with_name(f".{target.name}.{os.getpid()}.old")
            target.rename(old)
            work.rename(target)
            shutil.rmtree(old)
        else:
            work.rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def check_free(folder: Path, overwrite: bool) -> None:
    """See that an export can be written to `folder`.

    Raises:
        ExportError: something else is there.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ExportError(f"{folder} is a file. Name a folder that does not exist")
    if any(folder.iterdir()) and not overwrite:
        raise ExportError(
            f"{folder} is not empty. Name another folder, or add --overwrite to replace an earlier export"
        )
    if any(folder.iterdir()) and not (folder / MARK).exists():
        raise ExportError(f"{folder} is no earlier export (it has no {MARK}), so --overwrite does not touch it")


def _write(source: Source, work: Path, formats: Sequence[Format], licence: str) -> None:
    tags = tags_of(source)
    places = [(part, kind) for kind in formats for part in source.parts]
    files = [file for part, kind in places for file in write_part(work, kind, part.name, part.read(), tags)]
    configs = {config_name(kind, part.name): FILES[kind][0].format(part=part.name) for part, kind in places}
    first, *_ = configs.values()
    # `load_dataset` reads all configs of a folder in the format of the first one.
    configs = {name: file for name, file in configs.items() if Path(file).suffix == Path(first).suffix}
    (work / "README.md").write_text(card(source, configs, files, tags, licence), encoding="utf-8")
    made = {
        "source": source.name,
        "results": {result.name: result.manifest["key"] for result in source.lineage()[0]},
        "files": {file: sha256_file(work / file) for file in sorted([*files, "README.md"])},
    }
    (work / MARK).write_text(json.dumps(made, indent=1))
