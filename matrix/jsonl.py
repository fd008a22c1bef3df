"""Files of typed rows: JSON Lines in and out, Parquet out. Same rows, same bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import msgspec

R = TypeVar("R", bound=msgspec.Struct)


class RowError(ValueError):
    """A row that is not what its file should hold; names file, line and field."""


class RowWriter:
    """Writes rows to a file as they come, one JSON object a line. Same rows, same bytes."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._encode = msgspec.json.Encoder(order="deterministic").encode

    def write(self, row: msgspec.Struct) -> None:
        """Append one row."""
        self._file.write(self._encode(row) + b"\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()


def write_jsonl(path: Path, rows: Iterable[msgspec.Struct]) -> int:
    """Write rows to `path`, one JSON object a line, and return their number. Same rows, same bytes."""
    count = 0
    with RowWriter(path) as writer:
        for count, row in enumerate(rows, 1):  # noqa: B007
            writer.write(row)
    return count


def iter_jsonl(path: Path, kind: type[R]) -> Iterator[R]:
    """Stream rows of `kind` from a JSON Lines file.

    Raises:
        RowError: a line is not a `kind`; the message names file, line and field.
    """
    decode = msgspec.json.Decoder(kind).decode
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                yield decode(line)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                fields = ", ".join(f.name for f in msgspec.structs.fields(kind))
                raise RowError(f"{path}:{number}: {error}. Expected one {kind.__name__} as JSON: {fields}") from error


def read_jsonl(path: Path, kind: type[R]) -> list[R]:
    """All rows of `iter_jsonl`."""
    return list(iter_jsonl(path, kind))


def write_parquet(path: Path, rows: Iterable[msgspec.Struct]) -> None:
    """Write rows as one Parquet file, nested fields kept (readable by `datasets.load_dataset("parquet", ...)`)."""
    import pyarrow
    import pyarrow.parquet

    table: list[dict[str, Any]] = [msgspec.to_builtins(_full(row)) for row in rows]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(table), path)


def _full(value: Any) -> Any:
    """A row as nested dictionaries with defaults written out, so that every Parquet row has the same columns."""
    if isinstance(value, msgspec.Struct):
        return {field: _full(getattr(value, field)) for field in value.__struct_fields__}
    if isinstance(value, list):
        return [_full(item) for item in value]
    if isinstance(value, dict):
        return [{"key": key, "value": _full(item)} for key, item in value.items()]
    return value
