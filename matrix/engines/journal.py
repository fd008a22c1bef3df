"""Append-only file of finished calls: a call found in it costs nothing, so a killed stage goes on where it stopped.

One JSON object a line: key, model, messages, sampling, completion. The key is the sha256 of everything that decides the
answer. A line that a crash cut short can only be the last; it is taken off when the file is opened.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from matrix.engines.base import Completion, Sampling
from matrix.records import Message, Row

log = logging.getLogger(__name__)


class JournalError(RuntimeError):
    """A journal that is damaged or in use; says where and what to do."""


class Entry(Row, frozen=True, kw_only=True):
    """One line of a journal."""

    key: str
    model: str
    messages: list[Message]
    sampling: Sampling
    completion: Completion


class _Key(msgspec.Struct):
    key: str


_decode_key = msgspec.json.Decoder(_Key).decode
_decode_entry = msgspec.json.Decoder(Entry).decode
_encode = msgspec.json.Encoder(order="deterministic").encode


def call_key(model: str, messages: list[Message], sampling: Sampling) -> str:
    """sha256 of the canonical JSON of a call, as 64 hex digits; fields at their default are written out."""
    call = {
        "model": model,
        "messages": [{"role": m.role, "content": m.content} for m in messages],
        "sampling": sampling,
    }
    return hashlib.sha256(_encode(call)).hexdigest()


def _read(path: Path) -> tuple[dict[bytes, tuple[int, int]], int]:
    """Place and length of every entry by its key, and where the last whole line ends."""
    places: dict[bytes, tuple[int, int]] = {}
    end = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                break
            try:
                places[bytes.fromhex(_decode_key(line).key)] = (end, len(line))
            except (msgspec.DecodeError, ValueError) as error:
                raise JournalError(
                    f"{path}:{number} is not a journal entry ({error}). Remove the line, or the file to "
                    "make every call again"
                ) from error
            end += len(line)
    return places, end


class Journal:
    """The finished calls of one stage. Holds their places in memory, not their texts: about 250 bytes a call.

    Args:
        path: the file.
        forked: journals of other stages; a call that is found in one of them is copied from there.

    Raises:
        JournalError: another process writes the file, or a line before the last is not an entry.
    """

    def __init__(self, path: Path, forked: Sequence[Path] = ()) -> None:
        self.path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._places, self._end = _read(path)
            if self._end < path.stat().st_size:
                log.warning("%s: took off an unfinished last line", path)
                os.ftruncate(self._file, self._end)
        except BlockingIOError:
            os.close(self._file)
            raise JournalError(f"{path} is being written by another run. Wait for it, or end it") from None
        except JournalError:
            os.close(self._file)
            raise
        self._forked = [(os.open(other, os.O_RDONLY), _read(other)[0]) for other in forked]

    def __len__(self) -> int:
        return len(self._places)

    def get(self, key: str) -> Completion | None:
        """The stored completion of a call, if it was finished before."""
        name = bytes.fromhex(key)
        if place := self._places.get(name):
            return _decode_entry(os.pread(self._file, place[1], place[0])).completion
        for file, places in self._forked:
            if place := places.get(name):
                entry = _decode_entry(os.pread(file, place[1], place[0]))
                self.add(entry)
                return entry.completion
        return None

    def add(self, entry: Entry) -> None:
        """Append a finished call with one write; it survives a crash of the process from here on.

        Raises:
            OSError: the disk took only a part of the line, which is taken back.
        """
        line = _encode(entry) + b"\n"
        if os.write(self._file, line) != len(line):
            os.ftruncate(self._file, self._end)
            raise OSError(errno.ENOSPC, "no space left to write a finished call", str(self.path))
        self._places[bytes.fromhex(entry.key)] = (self._end, len(line))
        self._end += len(line)

    def close(self) -> None:
        """Flush to disk and let others write."""
        os.fsync(self._file)
        for file in (self._file, *(file for file, _ in self._forked)):
            os.close(file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
