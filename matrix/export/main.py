"""`matrix-export SOURCE FOLDER`: rows of the store as a data set that other tools read, with its card.

`matrix-export SOURCE --to FOLDER`: a trained model instead.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from matrix.export.folder import check_free, export
from matrix.export.formats import Format
from matrix.export.hub import Kind, PushError, push
from matrix.export.model import find_model
from matrix.export.source import ExportError, find
from matrix.export.weights import export_model
from matrix.report.cells import GridError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; 0, 2 where nothing could be written, 1 where it was written but not pushed."""
    parser = argparse.ArgumentParser(
        prog="matrix-export",
        description="Write rows of the store as a data set: a folder for datasets.load_dataset with every format and a "
        "card (README.md) that says what the rows are and where they came from. With --to, write a trained model: a "
        "folder for transformers and vLLM with a card of base, data, recipe, losses, scores and licences.",
    )
    parser.add_argument(
        "source", metavar="SOURCE",
        help="a result (generate-1a2b3c4d5e6f, filter-..., prefer-..., or its folder), or the folder of a grid's cell: "
        "its kept rows and pairs; with --to a training result (train-...), or a cell: its last model",
    )  # fmt: skip
    parser.add_argument(
        "folder", type=Path, nargs="?", metavar="FOLDER", help="where to write rows; must not exist or be empty"
    )
    parser.add_argument("--to", type=Path, metavar="FOLDER", help="where to write the trained model instead of rows")
    parser.add_argument(
        "--format", nargs="+", action="extend", choices=[kind.value for kind in Format], metavar="FORMAT",
        help=f"only these: {', '.join(Format)} (default: all)",
    )  # fmt: skip
    parser.add_argument("--store", type=Path, default=Path("outputs/store"), help="default: %(default)s")
    parser.add_argument("--overwrite", action="store_true", help="replace FOLDER if it is an earlier export")
    parser.add_argument(
        "--license", default="", metavar="ID", help="its licence, e.g. cc-by-4.0 (of a model, default: the base's)"
    )
    parser.add_argument("--push", default="", metavar="OWNER/NAME", help="upload it to the Hugging Face hub, private")
    parser.add_argument("--public", action="store_true", help="with --push: let everybody read it")
    arguments = parser.parse_args(argv)
    if arguments.public and not arguments.push:
        parser.error("--public goes with --push OWNER/NAME")
    if arguments.push and not re.fullmatch(r"[\w.-]+/[\w.-]+", arguments.push):
        parser.error(f"--push {arguments.push}: need OWNER/NAME, e.g. --push me/matrix-sft")
    if (arguments.folder is None) is (arguments.to is None):
        parser.error("name one folder: FOLDER for rows, or --to FOLDER for a trained model")
    if arguments.to and arguments.format:
        parser.error("--format is for rows; a model has one format")
    folder: Path = arguments.folder or arguments.to
    try:
        check_free(folder, arguments.overwrite)
        told = _model(arguments) if arguments.to else _rows(arguments)
    except (ExportError, GridError) as error:
        print(f"matrix-export: {error}", file=sys.stderr)
        return 2
    print(f"{folder}: {told}")
    if not arguments.push:
        return 0
    kind = Kind.model if arguments.to else Kind.dataset
    try:
        print(f"Pushed: {push(folder, arguments.push, kind, arguments.public)}")
    except PushError as error:
        again = "After that, the same command with --overwrite tries again"
        print(f"matrix-export: {folder} is written; pushing it failed: {error}. {again}", file=sys.stderr)
        return 1
    return 0


def _rows(arguments: argparse.Namespace) -> str:
    """Export rows; returns what was exported, in words."""
    source = find(arguments.source, arguments.store)
    formats = [Format(word) for word in arguments.format or Format]
    export(source, arguments.folder, formats, arguments.license, arguments.overwrite)
    return ", ".join(f"{part.rows:,} {part.name} rows of {part.result.name}" for part in source.parts)


def _model(arguments: argparse.Namespace) -> str:
    """Export a trained model; returns what was exported and what is left to do, in words."""
    model = find_model(arguments.source, arguments.store)
    name = arguments.push.rpartition("/")[2] or arguments.to.resolve().name
    todo = export_model(model, arguments.to, name, arguments.license, arguments.overwrite)
    return "\n".join([f"{name}, the model {model.result.name}", *(f"To do: {item}" for item in todo)])
