"""The published results of a store, and which of them read which: what `matrix-explain` walks through."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from matrix.records import Action, Agent, Profile, Row, Scenario
from matrix.report.samples import TrainingRow
from matrix.store import read_manifest

T = TypeVar("T", bound=Row)
KINDS: dict[str, type[Row]] = {
    "rows.jsonl": TrainingRow,
    "agents.jsonl": Agent,
    "scenarios.jsonl": Scenario,
    "actions.jsonl": Action,
    "profiles.jsonl": Profile,
}
"""Files whose rows can be asked for."""


@dataclass(frozen=True)
class Stored:
    """A published stage result."""

    path: Path
    manifest: dict[str, Any]

    @property
    def name(self) -> str:
        """`<stage>-<12 hex digits>`, as rows call it."""
        return f"{self.stage}-{self.manifest['key'][:12]}"

    @property
    def stage(self) -> str:
        """The stage's name."""
        return str(self.manifest["identity"]["stage"])

    def mentions(self, file: str, word: str, kind: type[T]) -> list[T]:
        """Rows of a file that hold `word` as a value somewhere; only their lines are decoded."""
        if not (self.path / file).exists():
            return []
        needle = json.dumps(word, ensure_ascii=False).encode()
        with (self.path / file).open("rb") as lines:
            return [msgspec.json.decode(line, type=kind) for line in lines if needle in line]

    def one(self, file: str, row: str, kind: type[T]) -> T | None:
        """The row with this id."""
        return next((item for item in self.mentions(file, row, kind) if getattr(item, "id", "") == row), None)


class Library:
    """All published results of a store, and which of them read which."""

    def __init__(self, root: Path) -> None:
        manifests = [file for file in sorted(root.glob("*/*/manifest.json")) if file.parent.suffix != ".partial"]
        self.results = {r.name: r for r in (Stored(file.parent, read_manifest(file.parent)) for file in manifests)}

    @cached_property
    def _readers(self) -> dict[str, list[Stored]]:
        readers: dict[str, list[Stored]] = {}
        for result in self.results.values():
            for key in result.manifest["identity"]["inputs"].values():
                readers.setdefault(key, []).append(result)
        return readers

    def read_by(self, result: Stored, stage: str) -> list[Stored]:
        """The results of `stage` that read `result`."""
        return [reader for reader in self._readers.get(result.manifest["key"], []) if reader.stage == stage]

    def lineage(self, results: Sequence[Stored]) -> tuple[list[Stored], list[str]]:
        """All that `results` grew out of, themselves included, earliest first; names of results that are gone."""
        found: dict[str, Stored] = {}
        gone: dict[str, None] = {}

        def visit(result: Stored) -> None:
            for field in result.manifest["identity"]["inputs"]:
                name = result.manifest["config"][field]
                if name not in self.results:
                    gone[name] = None
                elif name not in found:
                    visit(self.results[name])
            found[result.name] = result

        for result in results:
            if result.name not in found:
                visit(result)
        return list(found.values()), list(gone)

    def holders(self, row: str) -> list[tuple[Stored, Row]]:
        """The rows of this id and where each was written; filters, which only hand rows on, are left out."""
        made = [result for result in self.results.values() if result.stage != "filter"]
        found = [(result, result.one(file, row, kind)) for result in made for file, kind in KINDS.items()]
        return [(result, item) for result, item in found if item]

    def nearest(self, row: str) -> list[str]:
        """Ids most like one that is not there."""
        ids: dict[str, None] = {}
        for result in self.results.values():
            for file in KINDS:
                if (result.path / file).exists():
                    text = (result.path / file).read_text(encoding="utf-8")
                    ids |= dict.fromkeys(re.findall(r'^\{"id":"([^"]+)"', text, re.MULTILINE))
        start = re.match(r"[a-zA-Z]*", row)
        alike = [name for name in ids if start and name.startswith(start[0])]
        return get_close_matches(row, alike or list(ids), n=5, cutoff=0.4)
