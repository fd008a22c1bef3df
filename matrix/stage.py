"""Stage: one step of the experiment as a value, whose key is known before it runs.

A stage is a dataclass. Its fields are its whole identity: configs (dataclasses), a seed, and the `Result`s of the
stages that it reads. `Store.get` runs it once and hands out its `Result`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, ClassVar

from matrix.provenance import prompt_hashes


@dataclass(frozen=True, kw_only=True)
class Result:
    """A stage's place in the store; `path` exists unless only a plan was asked for."""

    stage: str
    key: str
    """64 hex digits."""
    path: Path
    hit: bool = False

    @property
    def name(self) -> str:
        """`<stage>-<12 hex digits>`: what rows and reports call this result."""
        return f"{self.stage}-{self.key[:12]}"


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a stage is expected to ask of a language model, before it runs."""

    calls: int = 0
    tokens_in: int = 0
    tokens_out: int = 0
    money: float = 0.0


@dataclass(kw_only=True)
class Stage(ABC):
    """A step of the experiment. Subclasses are dataclasses that set `name` and implement `run`."""

    name: ClassVar[str]
    version: ClassVar[int] = 1
    """Raise it when the code changes what the stage writes for the same config."""
    prompts: ClassVar[str | None] = None
    """Package whose prompt files are part of the identity, e.g. `matrix.simulation`."""

    seed: int

    @abstractmethod
    def run(self, work: Path) -> None:
        """Write the stage's files into `work`.

        `work` may hold what an interrupted run left there; the stage goes on from it. Raising keeps the folder.
        """

    def inputs(self) -> dict[str, Result]:
        """The upstream results, by field name."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Result)}

    def identity(self) -> dict[str, Any]:
        """What decides the result: configs without how-to-run fields and without defaults, prompts, inputs, seed."""
        described = identity(self)
        described.pop("seed", None)
        described.pop("type")
        return {
            "stage": self.name,
            "version": self.version,
            "config": described,
            "prompts": self._prompt_hashes(),
            "inputs": {name: result.key for name, result in self.inputs().items()},
            "seed": self.seed,
        }

    def prompt_names(self) -> list[str] | None:
        """Which prompts of the package `prompts` the stage uses, without `.jinja`; None: any of them."""
        return None

    def _prompt_hashes(self) -> dict[str, str]:
        hashes = prompt_hashes(self.prompts) if self.prompts else {}
        names = self.prompt_names()
        return hashes if names is None else {f"{name}.jinja": hashes[f"{name}.jinja"] for name in names}

    def key(self) -> str:
        """sha256 of the canonical JSON of `identity()`."""
        return hashlib.sha256(canonical(self.identity()).encode()).hexdigest()

    def estimate(self) -> Estimate:
        """Expected model calls and tokens, from the config alone; zero for a stage that asks no language model."""
        return Estimate()

    def preview(self) -> str:
        """What can be said of the result before it runs, for a plan; empty where there is nothing to say."""
        return ""

    def readable(self) -> str:
        """A short word for the folder's name; the key makes it unique."""
        return ""


def canonical(value: Any) -> str:
    """JSON with sorted keys and no spaces: equal values, equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def identity(value: Any) -> Any:
    """A config as plain data, reduced to what decides results.

    Fields with `metadata={"identity": False}` are how, not what: left out. Fields at their default are left out, so
    that a new knob does not void old results. `metadata={"identity": function}` stands for what the function says of
    the value, e.g. a file's content instead of its path.
    Dictionaries become lists of pairs: the order of a filter chain decides its result.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        described: dict[str, Any] = {"type": type(value).__name__}
        for field in dataclasses.fields(value):
            item = getattr(value, field.name)
            rule = field.metadata.get("identity", True)
            if rule is False or isinstance(item, Result) or identity(item) == identity(_default(field)):
                continue
            described[field.name] = rule(item) if callable(rule) else identity(item)
        return described
    if isinstance(value, dict):
        return [[str(key), identity(item)] for key, item in value.items()]
    if isinstance(value, list | tuple):
        return [identity(item) for item in value]
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Path):
        return str(value)
    return value


def full_config(value: Any) -> Any:
    """A config as plain data with every field, for the manifest."""
    if isinstance(value, Result):
        return value.name
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: full_config(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): full_config(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [full_config(item) for item in value]
    if isinstance(value, Enum):
        return value.value
    return str(value) if isinstance(value, Path) else value


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default is not dataclasses.MISSING:
        return field.default
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else dataclasses.MISSING
