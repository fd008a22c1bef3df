"""Content-addressed stage results: every result is computed once, verified on reuse, and never mixed in silence.

Layout: `<root>/<stage>/<readable>-<12 hex>/` with the stage's files and a `manifest.json` that is written last. A stage
works in `<that>.partial/`; publishing is one rename, and the first writer wins.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
import shutil
import time
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from filelock import FileLock

from matrix.engines.base import HOW
from matrix.provenance import environment, sha256_file
from matrix.stage import Result, Stage, full_config

log = logging.getLogger(__name__)

INVOCATION = "MATRIX_INVOCATION"
"""Environment variable that marks all cells of one command, in whatever process they run."""


class Mode(StrEnum):
    """`reuse`: run what is missing. `refresh`: run again. `offline`: fail on what is missing. `plan`: run nothing."""

    reuse = "reuse"
    refresh = "refresh"
    offline = "offline"
    plan = "plan"


@dataclass(kw_only=True)
class StoreConfig:
    """Where results live and whether stored ones are used."""

    root: str = field(default="outputs/store", metadata=HOW)
    mode: Mode = field(default=Mode.reuse, metadata=HOW)
    stages: list[str] = field(default_factory=list, metadata=HOW)
    """Stages that `mode=refresh` runs again, e.g. `[train]`; empty: all."""


class StoreError(RuntimeError):
    """A stored result is missing, damaged or made from something else; says which and what to do."""


@dataclass
class Visit:
    """What `Store.get` did for one stage; cells and plans are told from these."""

    stage: Stage
    result: Result
    seconds: float = 0.0
    manifest: dict[str, Any] = field(default_factory=dict)
    why: str = ""
    """For a planned miss: the nearest stored result and the fields that differ."""


class Store:
    """Runs stages once and keeps what they wrote."""

    def __init__(self, config: StoreConfig) -> None:
        self.config = config
        self.root = Path(config.root).absolute()
        self.visits: list[Visit] = []
        self.current: Stage | None = None
        """The stage that is running, for the report of a failure."""

    def get(self, stage: Stage) -> Result:
        """The result of `stage`: from the store if it is there, by running it otherwise.

        Raises:
            StoreError: the stored result is damaged or was made from other inputs, or `mode=offline` misses.
        """
        self.current = stage
        key = stage.key()
        word = stage.readable()
        path = self.root / stage.name / (f"{word}-{key[:12]}" if word else key[:12])
        result = Result(stage=stage.name, key=key, path=path)
        if self.config.mode is Mode.plan:
            return self._plan(stage, result)
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if hit := (path / "manifest.json").exists() and not self._is_stale(stage, path):
                manifest = self._verify(stage, path)
            elif self.config.mode is Mode.offline:
                raise StoreError(
                    f"store.mode=offline, and {path} is not there. {self._nearest(stage) or 'Nothing is stored'}"
                )
            else:
                manifest = self._run(stage, result)
        result = dataclasses.replace(result, hit=hit)
        self.visits.append(Visit(stage, result, manifest["seconds"], manifest))
        log.info("%s %s (%s)", "stored" if hit else "made", result.name, path)
        self.current = None
        return result

    def _is_stale(self, stage: Stage, path: Path) -> bool:
        """Whether `mode=refresh` asks for another result; one that this command made, in whatever cell, is fresh."""
        if self.config.mode is not Mode.refresh or stage.name not in (self.config.stages or [stage.name]):
            return False
        if any(v.result.path == path for v in self.visits):
            return False
        command = os.environ.get(INVOCATION)
        return not (command and read_manifest(path)["command"] == command)

    def _run(self, stage: Stage, result: Result) -> dict[str, Any]:
        work = result.path.with_name(result.path.name + ".partial")
        work.mkdir(exist_ok=True)
        (work / "manifest.json").unlink(missing_ok=True)  # a crash between writing and publishing it
        log.info("running %s in %s", result.name, work)
        start = time.monotonic()
        before = _seconds_so_far(work)
        try:
            stage.run(work)
        finally:
            seconds = before + time.monotonic() - start
            (work / ".seconds").write_text(str(seconds))
        (work / ".seconds").unlink()
        outputs = {str(p.relative_to(work)): _describe(p) for p in sorted(work.rglob("*")) if p.is_file()}
        usage = work / "usage.json"
        manifest = {
            "identity": stage.identity(),
            "key": result.key,
            "config": full_config(stage),
            "inputs": {name: fingerprints(r.path) for name, r in stage.inputs().items()},
            "outputs": outputs,
            "usage": json.loads(usage.read_text()) if usage.exists() else {},
            "seconds": round(seconds, 3),
            "command": os.environ.get(INVOCATION),
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "environment": environment(),
        }
        _write_json(work / "manifest.json", manifest)
        self._publish(stage, work, result.path)
        return read_manifest(result.path)

    def _publish(self, stage: Stage, work: Path, path: Path) -> None:
        old = path.with_name(path.name + ".old")
        if (path / "manifest.json").exists() and self._is_stale(stage, path):
            shutil.rmtree(old, ignore_errors=True)
            path.rename(old)  # what mode=refresh replaces stays until its successor is whole
        try:
            work.replace(path)
        except OSError:
            if not (path / "manifest.json").exists():
                raise
            shutil.rmtree(work)  # another writer published first (a lock is not honoured on every network disk)
        shutil.rmtree(old, ignore_errors=True)

    def _verify(self, stage: Stage, path: Path) -> dict[str, Any]:
        manifest = read_manifest(path)
        for name, stored in manifest["outputs"].items():
            file = path / name
            if not file.exists() or file.stat().st_size != stored["bytes"]:
                raise StoreError(f"{file} is not what {path.name} was published with. Remove {path} to make it again")
            if file.stat().st_mtime_ns != stored["modified"] and sha256_file(file) != stored["sha256"]:
                raise StoreError(f"{file} was changed after it was published. Remove {path} to make it again")
        for name, upstream in stage.inputs().items():
            if (now := fingerprints(upstream.path)) != manifest["inputs"].get(name):
                changed = [f for f in now if now[f] != manifest["inputs"].get(name, {}).get(f)]
                raise StoreError(
                    f"{path} was made from another {name} than {upstream.path} holds now (files that differ: "
                    f"{', '.join(changed) or 'some are gone'}). Remove {path} or run with store.mode=refresh"
                )
        # Identity leaves out fields at their default, so a default that moved would go unseen without this.
        differing = _differences(manifest["config"], full_config(stage), stage)
        if differing:
            raise StoreError(
                f"{path} was made with other defaults: {'; '.join(differing)}. Set the old values or remove the folder"
            )
        return manifest

    def _plan(self, stage: Stage, result: Result) -> Result:
        hit = (result.path / "manifest.json").exists() or any(v.result.key == result.key for v in self.visits)
        manifest = read_manifest(result.path) if (result.path / "manifest.json").exists() else {}
        result = dataclasses.replace(result, hit=hit)
        why = "" if hit else self._nearest(stage)
        if not hit and result.path.with_name(result.path.name + ".partial").exists():
            why = "interrupted: goes on where it stopped"
        self.visits.append(Visit(stage, result, manifest.get("seconds", 0.0), manifest, why))
        return result

    def _nearest(self, stage: Stage) -> str:
        """The stored result of this stage that differs least, and in what."""
        mine = _flat(stage.identity())
        found: list[tuple[int, str, list[str]]] = []
        for file in sorted((self.root / stage.name).glob("*/manifest.json")):
            theirs = _flat(json.loads(file.read_text())["identity"])
            names = sorted(n for n in mine.keys() | theirs.keys() if mine.get(n) != theirs.get(n))
            found.append((len(names), file.parent.name, [f"{n}: {theirs.get(n)} -> {mine.get(n)}" for n in names]))
        if not found:
            return ""
        _, name, fields = min(found)
        shown = [re.sub(r"\b([0-9a-f]{12})[0-9a-f]{52}\b", r"\1", field) for field in fields[:4]]
        return f"nearest is {name}, differs in {', '.join(shown)}" + (" ..." if len(fields) > 4 else "")


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a published result."""
    manifest: dict[str, Any] = json.loads((path / "manifest.json").read_text())
    return manifest


def fingerprints(path: Path) -> dict[str, str]:
    """File name -> sha256 of what a published result holds; journals and timings are not part of the result."""
    return {n: o["sha256"] for n, o in read_manifest(path)["outputs"].items() if not n.startswith(INCIDENTAL)}


INCIDENTAL = (
    "journal", "usage.json", "logs/", "metrics.csv", "held_out.csv", "samples.jsonl", "doctor.", "summary.json",
)  # fmt: skip
"""Outputs that depend on how a stage ran (order of answers, timing) and not on what it computed."""


def _describe(path: Path) -> dict[str, Any]:
    stat = path.stat()
    described: dict[str, Any] = {"bytes": stat.st_size, "modified": stat.st_mtime_ns, "sha256": sha256_file(path)}
    if path.suffix == ".jsonl":
        with path.open("rb") as file:
            described["rows"] = sum(1 for _ in file)
    return described


def _seconds_so_far(work: Path) -> float:
    try:
        return float((work / ".seconds").read_text())
    except (FileNotFoundError, ValueError):
        return 0.0


def _write_json(path: Path, value: Any) -> None:
    with path.open("w") as file:
        json.dump(value, file, indent=1, ensure_ascii=False)
        file.flush()
        os.fsync(file.fileno())


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        items: dict[str, Any] = {}
        for name, item in value.items():
            items.update(_flat(item, f"{prefix}.{name}" if prefix else str(name)))
        return items
    return {prefix: value}


def _differences(stored: dict[str, Any], now: dict[str, Any], stage: Stage) -> list[str]:
    """Fields of the stored config that had another value, among those that decide results."""
    skip = _how_fields(stage)
    old, new = _flat(stored), _flat(now)
    return [
        f"{name} was {old[name]}, is {new[name]}"
        for name in old.keys() & new.keys()
        if old[name] != new[name] and name not in skip
    ]


def _how_fields(value: Any, prefix: str = "") -> set[str]:
    """Dotted names of fields whose value may differ between two runs with one key."""
    names: set[str] = set()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        for f in dataclasses.fields(value):
            item, name = getattr(value, f.name), f"{prefix}.{f.name}" if prefix else f.name
            if f.metadata.get("identity", True) is not True or isinstance(item, Result):
                names |= {name} | _flat(full_config(item), name).keys()
            else:
                names |= _how_fields(item, name)
    elif isinstance(value, dict):
        for key, item in value.items():
            names |= _how_fields(item, f"{prefix}.{key}")
    return names
