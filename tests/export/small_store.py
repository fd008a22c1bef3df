"""A small store for the tests of exporting: a silent society, rows, pairs, and the real filter over them."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from matrix.engines.base import HOW, EngineName, ModelConfig
from matrix.filtering.length import LengthConfig
from matrix.filtering.stage import Filter
from matrix.jsonl import write_jsonl
from matrix.records import Conversation, Message, Origin, PreferencePair, Tags
from matrix.simulation.profiles import ProfilesConfig
from matrix.stage import Result, Stage
from matrix.store import Store, StoreConfig
from matrix.training.machines import StrategyConfig
from matrix.training.recipe import DPOConfig, SFTConfig, TrainConfig

TEXT = "Knead the dough for ten minutes, let it rise until it has doubled, and bake it hot with a bowl of water below. "


def model(name: str = "someone/writer") -> ModelConfig:
    return ModelConfig(
        model=name,
        revision="abc",
        engine=EngineName.openai,
        endpoints=["http://10.1.2.3:8000/v1"],
        api_key_env="SECRET",
    )


@dataclass(kw_only=True)
class Simulate(Stage):
    name: ClassVar[str] = "simulate"
    llm: ModelConfig = field(default_factory=model)
    profiles: ProfilesConfig = field(default_factory=lambda: ProfilesConfig(dataset="someone/people", revision="v1"))

    def run(self, work: Path) -> None:
        (work / "agents.jsonl").touch()


@dataclass(kw_only=True)
class Generate(Stage):
    """Conversations of growing length; each second one has a system message."""

    name: ClassVar[str] = "generate"
    llm: ModelConfig = field(default_factory=model)
    society: Result
    rows: int = 8

    def origin(self, number: int) -> Origin:
        return Origin(
            stage=f"{self.name}-{self.key()[:12]}", model=self.llm.name, templates={"simple.jinja": "0123456789ab"},
            seed=number, society=self.society.name, scenario=f"g00-s{number:02}", agent=f"a{number:04}",
        )  # fmt: skip

    def asked(self, number: int) -> list[Message]:
        system = [Message(role="system", content="You bake.")] if number % 2 else []
        return [*system, Message(role="user", content=f"Question {number}: why is bread brown?\n“Ünïcode” | pipes")]

    def run(self, work: Path) -> None:
        rows = [
            Conversation(
                id=f"sft-{i:05}", messages=[*self.asked(i), Message(role="assistant", content=TEXT * (i + 1))],
                kind="simple", category="cooking" if i % 2 else "math", origin=self.origin(i),
            )
            for i in range(self.rows)
        ]  # fmt: skip
        write_jsonl(work / "rows.jsonl", rows)
        told = {"wanted": 9, "made": 8, "asked": 10, "lost": {"repeated instruction": 2}, "short": "max_tries: 10"}
        (work / "generation.json").write_text(json.dumps(told))


@dataclass(kw_only=True)
class Import(Stage):
    name: ClassVar[str] = "import"
    model: ModelConfig

    def run(self, work: Path) -> None:
        (work / "reference.json").write_text(json.dumps({"model": self.model.model, "revision": self.model.revision}))


@dataclass(kw_only=True)
class Train(Stage):
    """Weights of four bytes, and what a training writes down."""

    name: ClassVar[str] = "train"
    recipe: TrainConfig
    strategy: StrategyConfig = field(
        default_factory=lambda: StrategyConfig(launcher=["srun-on-10.1.2.3"]), metadata=HOW
    )
    base: Result
    data: Result
    model: ModelConfig

    def run(self, work: Path) -> None:
        (work / "hf").mkdir()
        (work / "hf" / "config.json").write_text("{}")
        (work / "hf" / "model.safetensors").write_bytes(b"\1\2\3\4")
        (work / "model.gguf").write_bytes(b"GGUF")
        (work / "metrics.csv").write_text("step,loss\n1,2.5\n2,1.5\n")
        (work / "held_out.csv").write_text("step,loss\n1,2.25\n2,1.75\n")
        summary = {
            "held_out": 1,
            "steps": 2,
            "tokens": 4101,
            "first_loss": 2.5,
            "last_loss": 1.5,
            "precision": "32-true",
        }
        (work / "summary.json").write_text(json.dumps(summary))
        (work / "doctor.json").write_text(json.dumps({"warnings": ["only 2 optimizer steps: lower batch_size=8"]}))

    def readable(self) -> str:
        return "dpo" if isinstance(self.recipe, DPOConfig) else "sft"


@dataclass(kw_only=True)
class Prefer(Generate):
    name: ClassVar[str] = "prefer"
    sft: Result

    def run(self, work: Path) -> None:
        rows = [
            PreferencePair(
                id=f"pair-{i:05}", prompt=self.asked(i), chosen=TEXT * 2, rejected="No idea, ask somebody else.",
                origin=self.origin(i), rejected_model=self.sft.name,
            )
            for i in range(self.rows)
        ]  # fmt: skip
        write_jsonl(work / "rows.jsonl", rows)


@dataclass(kw_only=True)
class Tag(Stage):
    name: ClassVar[str] = "tag"
    rows: Result

    def run(self, work: Path) -> None:
        tags = [
            Tags(id=f"sft-{i:05}", category="advice", language="de" if i else "fr", quality="good") for i in range(7)
        ]
        write_jsonl(work / "tags.jsonl", tags)


@dataclass
class Small:
    """The results, and a cell `outputs/grids/bread/one` that made them."""

    outputs: Path
    based_on: ModelConfig = field(default_factory=lambda: ModelConfig(model="someone/base", revision="def"))
    writer: ModelConfig = field(default_factory=model)

    def __post_init__(self) -> None:
        self.store = Store(StoreConfig(root=str(self.outputs / "store")))
        self.society = self.store.get(Simulate(seed=3, llm=self.writer))
        self.rows = self.store.get(Generate(seed=3, society=self.society, llm=self.writer))
        self.kept = self.filtered(self.rows, LengthConfig(max_response=len(TEXT) * 6))
        self.base = self.store.get(Import(seed=3, model=self.based_on))
        self.sft = self.trained(SFTConfig(), self.base, self.kept)
        self.pairs = self.store.get(Prefer(seed=3, society=self.society, sft=self.sft, rows=4, llm=self.writer))
        self.kept_pairs = self.filtered(self.pairs, LengthConfig())
        self.tuned = self.trained(DPOConfig(learning_rate=5e-7), self.sft, self.kept_pairs)
        self.cell = self.grown(
            "one", society=self.society, rows=self.rows, kept=self.kept, sft=self.sft, pairs=self.pairs,
            kept_pairs=self.kept_pairs,
        )  # fmt: skip

    def trained(self, recipe: TrainConfig, base: Result, data: Result) -> Result:
        return self.store.get(Train(seed=3, recipe=recipe, base=base, data=data, model=self.based_on))

    def filtered(self, rows: Result, config: LengthConfig) -> Result:
        return self.store.get(Filter(seed=3, filters={"length": config}, rows=rows))

    def grown(self, name: str, scores: object = None, **results: Result) -> Path:
        """A cell with these results."""
        folder = self.outputs / "grids" / "bread" / name
        folder.mkdir(parents=True)
        stages = [
            {"alias": alias, "stage": r.stage, "name": r.name, "key": r.key, "path": str(r.path)}
            for alias, r in results.items()
        ]
        command = "matrix experiment=bread seed=3 'llm.endpoints=[http://10.1.2.3:8000/v1]' model.model=/home/me/m.gguf"
        told = {"cell": name, "status": "done", "command": command, "stages": stages, "scores": scores}
        (folder / "result.json").write_text(json.dumps(told))
        return folder
