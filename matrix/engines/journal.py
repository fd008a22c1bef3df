"""Append-only file of finished calls: a call found in it costs nothing, so a killed stage goes on where it stopped.

One JSON object a line: key, messages, model, sampling, completion. The key is the sha256 of everything that decides the
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

KEY_DIGITS = 15
"""Hex digits of a key that are held in memory: two keys that begin alike cost a call, never a wrong answer."""

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


class _Turn(msgspec.Struct):
    content: str
    role: str


class _Call(msgspec.Struct):
    messages: list[_Turn]
    model: str
    sampling: Sampling


_decode_key = msgspec.json.Decoder(_Key).decode
_decode_entry = msgspec.json.Decoder(Entry).decode
_encode = msgspec.json.Encoder(order="deterministic").encode


def canonical_call(model: str, messages: list[Message], sampling: Sampling) -> bytes:
    """Canonical JSON of everything that decides the answer; fields at their default are written out."""
    return _encode(_Call([_Turn(m.content, m.role) for m in messages], model, sampling))


def key_of(call: bytes) -> str:
    """The key of a canonical call: 64 hex digits."""
    return hashlib.sha256(call).hexdigest()


def _head(key: str) -> int:
    return int(key[:KEY_DIGITS], 16)


def _read(path: Path) -> tuple[dict[int, int], int]:
    """Where the line of every entry starts, by the head of its key, and where the last whole line ends."""
    places: dict[int, int] = {}
    end = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                break
            try:
                places[_head(_decode_key(line).key)] = end
            except (msgspec.DecodeError, ValueError) as error:
                raise JournalError(
                    f"{path}:{number} is not a journal entry ({error}). Remove the line, or the file to "
                    "make every call again"
                ) from error
            end += len(line)
    return places, end


class Journal:
    """The finished calls of one stage. Holds their places in memory, not their texts: about 120 bytes a call.

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
        self._files = [(self._places, path.open("rb"))]
        self._files += [(_read(other)[0], other.open("rb")) for other in forked]

    def __len__(self) -> int:
        return len(self._places)

    def get(self, key: str) -> Completion | None:
        """The stored completion of a call, if it was finished before."""
        head = _head(key)
        for places, file in self._files:
            if (start := places.get(head)) is None:
                continue
            file.seek(start)
            entry = _decode_entry(line := file.readline())
            if entry.key == key:
                if places is not self._places:
                    self._append(key, line)
                return entry.completion
        return None

    def add(self, key: str, call: bytes, completion: Completion) -> None:
        """Append a finished call with one write; it survives a crash of the process from here on.

        Args:
            key: sha256 of `call`.
            call: as `canonical_call` gives it; the line holds the very bytes that were hashed.
            completion: the answer.

        Raises:
            OSError: the disk took only a part of the line, which is taken back.
        """
        self._append(key, b'{"key":"%b",%b,"completion":%b}\n' % (key.encode(), call[1:-1], _encode(completion)))

    def _append(self, key: str, line: bytes) -> None:
        if os.write(self._file, line) != len(line):
            os.ftruncate(self._file, self._end)
            raise OSError(errno.ENOSPC, "no space left to write a finished call", str(self.path))
        self._places[_head(key)] = self._end
        self._end += len(line)

    def close(self) -> None:
        """Flush to disk and let others write."""
        os.fsync(self._file)
        os.close(self._file)
        for _, file in self._files:
            file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
