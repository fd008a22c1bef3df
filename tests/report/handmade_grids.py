"""Writes small grids by hand, through the real store and the real rows, for the tests of the report."""

from __future__ import annotations

import json
import math
import random
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from matrix.analysis.stage import Analyse
from matrix.engines.base import ModelConfig
from matrix.jsonl import read_jsonl, write_jsonl
from matrix.records import (
    Action,
    Agent,
    Answer,
    Conversation,
    Drop,
    Failure,
    Judgement,
    Message,
    Origin,
    PreferencePair,
    Profile,
    Rollout,
    Row,
    Scenario,
    Score,
    Tags,
)
from matrix.stage import Result, Stage
from matrix.store import Store, StoreConfig
from matrix.training.recipe import DPOConfig, SFTConfig, TrainConfig

ROLES = ["Pharmacist", "Chess Coach", "Sound Engineer", "Night Nurse", "Urban Gardener", "Tax Adviser", "Ferry Captain"]
LONG = (
    "Start with a small trial before you change the whole routine. Write down what you expect, measure it for two "
    "weeks, and compare. If the numbers do not move, change one thing only, so that you know what made the difference. "
)

PREFERENCE = (
    "loss", "rewards_chosen", "rewards_rejected", "accuracy", "margin", "logps_chosen", "logps_rejected",
    "drift_chosen", "length_chosen", "length_rejected",
)  # fmt: skip


@dataclass(kw_only=True)
class Handmade(Stage):
    """A stage whose files are given; `inputs` and manifest are the real ones."""

    variant: str = "plain"
    files = None

    def run(self, work: Path) -> None:
        for name, content in (self.files or {}).items():
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, str):
                (work / name).write_text(content)
            elif content and not isinstance(content[0], Row):
                (work / name).write_text(json.dumps(content))
            else:
                write_jsonl(work / name, content)


@dataclass(kw_only=True)
class Import(Handmade):
    name: ClassVar[str] = "import"
    model: ModelConfig


@dataclass(kw_only=True)
class Simulate(Handmade):
    name: ClassVar[str] = "simulate"


@dataclass(kw_only=True)
class Generate(Handmade):
    name: ClassVar[str] = "generate"
    society: Result


@dataclass(kw_only=True)
class Tag(Handmade):
    name: ClassVar[str] = "tag"
    rows: Result


@dataclass(kw_only=True)
class Roll(Handmade):
    name: ClassVar[str] = "rollout"
    rows: Result


@dataclass(kw_only=True)
class Reward(Handmade):
    name: ClassVar[str] = "reward"
    rows: Result
    rollouts: Result | None = None


@dataclass(kw_only=True)
class Sanity(Handmade):
    name: ClassVar[str] = "sanity"


@dataclass(kw_only=True)
class Filter(Handmade):
    name: ClassVar[str] = "filter"
    rows: Result


@dataclass(kw_only=True)
class Train(Handmade):
    name: ClassVar[str] = "train"
    recipe: TrainConfig
    base: Result
    data: Result


@dataclass(kw_only=True)
class Prefer(Handmade):
    name: ClassVar[str] = "prefer"
    society: Result
    sft: Result


@dataclass(kw_only=True)
class AnswerStage(Handmade):
    name: ClassVar[str] = "answer"
    checkpoint: Result


@dataclass(kw_only=True)
class Evaluate(Handmade):
    name: ClassVar[str] = "evaluate"
    answers: Result
    reference: Result


class Builder:
    """Makes cells of one grid; equal stages are shared through the store, as in a real grid."""

    def __init__(
        self,
        outputs: Path,
        agents: int = 6,
        groups: int = 2,
        hostile: str = "",
        similarity: bool = False,
        measured: bool = False,
    ) -> None:
        self.outputs, self.agents, self.groups, self.hostile = outputs, agents, groups, hostile
        self.similarity, self.tagged = similarity, measured
        self.grid = outputs / "grids" / "demo"
        self.store = Store(StoreConfig(root=str(outputs / "store")))

    def get(self, stage: Handmade, files: dict) -> Result:
        stage.files = files
        return self.store.get(stage)

    def society(self) -> Result:
        stage = Simulate(seed=1)
        rng, name = random.Random(1), f"simulate-{stage.key()[:12]}"
        origin = Origin(stage=name, model="smol@1", templates={"plan.jinja": "0123456789ab"}, seed=77)
        agents, actions, scenarios = [], [], []
        for i in range(self.agents):
            group, role = i % self.groups, ROLES[i % len(ROLES)]
            angle = 2 * math.pi * group / self.groups
            agents.append(
                Agent(
                    id=f"a{i:04}",
                    name=f"{role} {i}{self.hostile}",
                    description=f"A {role.lower()} who likes order. {LONG}",
                    posts=["A post."],
                    personality="Patient, curious.",
                    goal=f"Be the best {role.lower()} in town.",
                    plan=["Learn: read a book.", "Practise: every day."],
                    group=group,
                    profile=f"p{i:04}",
                    position=[math.cos(angle) + rng.gauss(0, 0.18), math.sin(angle) + rng.gauss(0, 0.18)],
                    origin=origin,
                )
            )
        for group in range(self.groups):
            members = [a.id for a in agents if a.group == group]
            for index in range(2):
                scenario, made = f"g{group:02}-s{index:02}", []
                for step in range(3):
                    agent = members[step % len(members)]
                    others = [m for m in members if m != agent]
                    actions.append(
                        Action(
                            id=f"{scenario}-t{step}",
                            agent=agent,
                            group=group,
                            scenario=scenario,
                            step=step,
                            text=f"reorganises the shelves and writes down what is missing{self.hostile}.",
                            observations=["News."] if step else [],
                            plan_step=-1 if step else 0,
                            aware=others[: 1 + rng.randrange(len(others))] if others else [],
                            shared=[(group + 1 + rng.randrange(self.groups - 1)) % self.groups] if step == 1 else [],
                            origin=origin,
                        )
                    )
                    made.append(actions[-1].id)
                summary = f"In group {group} the shelves were put in order. {LONG}{self.hostile}"
                scenarios.append(
                    Scenario(
                        id=scenario,
                        group=group,
                        index=index,
                        agents=members[:3],
                        actions=made,
                        summary=summary,
                        origin=origin,
                    )
                )
        return self.get(
            stage,
            {
                "agents.jsonl": agents,
                "actions.jsonl": actions,
                "scenarios.jsonl": scenarios,
                "profiles.jsonl": [Profile(id=a.profile, name="Real Name", description="d") for a in agents],
                "failures.jsonl": [Failure(id="a0000", purpose="plan", text="???", error="no steps")],
                **self.measured(agents),
                "usage.json": '{"calls": 60, "replayed": 12, "tokens_in": 48000, "tokens_out": 5400}',
            },
        )

    def measured(self, agents: list[Agent]) -> dict[str, str]:
        if not self.similarity:
            return {"grouping.json": '{"goals_reached": 1}'}
        groups = sorted(a.group for a in agents)
        matrix = [
            [1.0 if i == j else 0.7 if a == b else 0.2 for j, b in enumerate(groups)] for i, a in enumerate(groups)
        ]
        similarity = {
            "agents": [a.id for a in sorted(agents, key=lambda a: a.group)],
            "groups": groups,
            "matrix": matrix,
        }
        grouping = {"within": 0.7, "across": 0.2, "pairs_within": 6, "goals_reached": 1}
        return {"grouping.json": json.dumps(grouping), "similarity.json": json.dumps(similarity)}

    def rows(self, society: Result) -> Result:
        stage = Generate(seed=1, society=society)
        rows = [self.conversation(i, f"generate-{stage.key()[:12]}", society) for i in range(12)]
        return self.get(stage, {"rows.jsonl": rows, "usage.json": '{"calls": 24}'})

    def conversation(self, i: int, stage: str, society: Result, prefix: str = "sft") -> Conversation:
        group = i % self.groups
        origin = Origin(
            stage=stage,
            model="smol@1",
            templates={"simple.jinja": "abcabcabcabc"},
            seed=100 + i,
            society=society.name,
            scenario=f"g{group:02}-s{i // self.groups % 2:02}",
            agent=f"a{group:04}",
        )
        question = f"Question {i}: how do I keep my shelves in order when time is short?{self.hostile}"
        answer = f"Answer {i}. {LONG * (1 + i % 4)}"
        messages = [Message(role="user", content=question), Message(role="assistant", content=answer)]
        return Conversation(id=f"{prefix}-{i:05}", messages=messages, kind="simple", category="advice", origin=origin)

    def filtered(self, rows: Result, kind: type, variant: str, drop: int) -> Result:
        all_rows = read_jsonl(rows.path / "rows.jsonl", kind)
        kept, dropped = all_rows[drop:], all_rows[:drop]
        drops = [
            Drop(id=r.id, filter="length", reason=("too_short", "too_long")[i % 2], value=f"{i} words")
            for i, r in enumerate(dropped)
        ]
        reasons = {r: sum(d.reason == r for d in drops) for r in sorted({d.reason for d in drops})}
        funnel = [
            {"filter": "length", "in": len(all_rows), "kept": len(kept), "dropped": reasons},
            {"filter": "dedup", "in": len(kept), "kept": len(kept), "dropped": {}},
        ]
        files = {"rows.jsonl": kept, "dropped.jsonl": dropped, "drops.jsonl": drops, "funnel.json": json.dumps(funnel)}
        alone = [{"filters": ["length"], "rows": drop}, {"filters": ["dedup"], "rows": 2}]
        if self.tagged:
            files["overlap.json"] = json.dumps([*alone, {"filters": ["length", "dedup"], "rows": 1}])
        return self.get(Filter(seed=1, rows=rows, variant=variant), files)

    def facts(self, rows: Result, kind: type) -> dict[str, Result]:
        """Tags, rewards, rollouts and their rewards; those of every second row all earn the same."""
        all_rows = read_jsonl(rows.path / "rows.jsonl", kind)
        origin = Origin(stage="rollout-handmade", model="smol@1")
        tags = [
            Tags(
                id=row.id,
                category=("Planning", "Advice seeking")[i % 2],
                quality=("good", "average", "excellent")[i % 3],
                difficulty=("easy", "medium", "hard")[i % 3],
                safety="safe",
                language="en" if i else "",
            )
            for i, row in enumerate(all_rows)
        ]
        parts = ("chosen", "rejected") if kind is PreferencePair else ("response",)
        rewards = [
            Score(row=row.id, part=part, reward=i / 4 - p)
            for i, row in enumerate(all_rows)
            for p, part in enumerate(parts)
        ]
        answers = [
            Rollout(row=row.id, index=k, text=f"Rollout {k} of {row.id}.{self.hostile}", origin=origin)
            for row in all_rows
            for k in range(4)
        ]
        rolled = [
            Score(row=row.id, part="rollout", index=k, reward=0.5 + (k * i / 8 if i % 2 else 0.0))
            for i, row in enumerate(all_rows)
            for k in range(4)
        ]
        wrong = [{"kind": "empty", "prompt": f"Why?{self.hostile}", "good": 0.5, "bad": 0.75}]
        sanity = {
            "accuracy": 0.9, "min_accuracy": 0.8, "pairs": 10, "kinds": {"empty": 0.8, "off_topic": 1.0},
            "longer_is_better": 0.5, "wrong": wrong,
        }  # fmt: skip
        rollouts = self.get(Roll(seed=1, rows=rows), {"rollouts.jsonl": answers})
        return {
            "sanity": self.get(Sanity(seed=1), {"sanity.json": json.dumps(sanity)}),
            "tags": self.get(Tag(seed=1, rows=rows), {"tags.jsonl": tags}),
            "rewards": self.get(Reward(seed=1, rows=rows), {"rewards.jsonl": rewards}),
            "rollouts": rollouts,
            "rollout_rewards": self.get(Reward(seed=1, rows=rows, rollouts=rollouts), {"rewards.jsonl": rolled}),
        }

    def refined(self, name: str, rows: Result, kind: type, drop: int) -> dict[str, Result]:
        """A filter result, with what was measured before it and analysed after it where the builder measures."""
        made = self.facts(rows, kind) if self.tagged else {}
        kept = self.filtered(rows, kind, f"drop{drop}", drop)
        aliases = {f"{name}{alias}": result for alias, result in made.items()}
        aliases["kept_pairs" if name else "kept"] = kept
        if made:
            analyse = Analyse(seed=1, rows=kept, tags=made["tags"], rewards=made["rewards"])
            aliases[f"{name}analysis"] = self.store.get(analyse)
        return aliases

    def train(self, base: Result, data: Result, recipe: TrainConfig, seed: int, steps: int = 80) -> Result:
        """A training with held-out rows, one step without a finite gradient, warnings and samples."""
        rng, pairs = random.Random(f"{seed} {data.key}"), isinstance(recipe, DPOConfig)
        columns = [*PREFERENCE] if pairs else ["loss"]
        rates = ["learning_rate", "gradient_norm", "skipped", "tokens_per_second", "targets_per_second"]
        metrics, held_out, samples = [["step", *columns, *rates]], [["step", *columns]], []
        for step in range(1, steps + 1):
            done = step / steps
            noisy = [value + rng.gauss(0, spread) for value, spread in self.measures(done, pairs)]
            rate = recipe.learning_rate * min(1, step / 4) * (0.5 + 0.5 * math.cos(math.pi * done))
            norm = math.inf if step == steps // 3 else 1 + math.exp(-4 * done) + rng.gauss(0, 0.2)
            loss = [math.nan, *noisy[1:]] if step == steps // 3 else noisy
            metrics.append([step, *loss, rate, norm, int(step >= steps // 3), 4000 + rng.gauss(0, 90), 2000])
            if step % 20 == 0:
                held_out.append([step, *(value for value, _ in self.measures(done - 0.1, pairs))])
                samples += [
                    {"step": step, "row": f"sft-{i:05}", "prompt": f"How do I sort {i} shelves?{self.hostile}",
                     "answer": f"After {step} steps: {LONG}{self.hostile}"} for i in range(2)
                ]  # fmt: skip
        tables = {name: "\n".join(",".join(map(str, line)) for line in lines) + "\n"
                  for name, lines in (("metrics.csv", metrics), ("held_out.csv", held_out))}  # fmt: skip
        warnings = [f"only {steps} optimizer steps: lower batch_size=8, e.g. to 2, or raise epochs{self.hostile}"]
        summary = {"rows": 12, "used": 9, "held_out": 2, "steps": steps, "tokens": 41_000, "precision": "bf16-mixed",
                   "peak_memory_gib": 3.8, "peak_gpu_memory_gib": 0}  # fmt: skip
        return self.get(
            Train(seed=seed, base=base, data=data, recipe=recipe),
            tables
            | {
                "doctor.txt": f"rows  9 of 12\n! {warnings[0]}\n",
                "doctor.json": json.dumps({"rows": 12, "warnings": warnings}),
                "samples.jsonl": "".join(json.dumps(sample) + "\n" for sample in samples),
                "summary.json": json.dumps(summary),
            },
        )

    def measures(self, done: float, pairs: bool) -> list[tuple[float, float]]:
        """Mean and spread of each column after a share of the steps."""
        if not pairs:
            return [(2.4 * math.exp(-1.3 * done), 0.04)]
        margin = 2 * (1 - math.exp(-3 * done))
        chosen = -0.8 * done
        return [
            (math.log(1 + math.exp(-margin)), 0.05), (chosen, 0.1), (chosen - margin, 0.1),
            (0.5 + 0.4 * (1 - math.exp(-4 * done)), 0.05), (margin, 0.2), (-210 - 20 * done, 5), (-190 - 50 * done, 5),
            (-20 * done, 2), (240, 20), (180, 20),
        ]  # fmt: skip

    def pairs(self, society: Result, sft: Result) -> Result:
        stage = Prefer(seed=1, society=society, sft=sft)
        rows = []
        for i in range(8):
            c = self.conversation(i, f"prefer-{stage.key()[:12]}", society, "pair")
            rows.append(
                PreferencePair(
                    id=c.id,
                    prompt=c.messages[:-1],
                    chosen=c.messages[-1].content,
                    rejected="Shelves shelves shelves. " * (1 + i),
                    kind="complex",
                    origin=c.origin,
                    rejected_model=sft.name,
                )
            )
        return self.get(stage, {"rows.jsonl": rows, "usage.json": '{"calls": 16}'})

    def cell(
        self,
        name: str,
        overrides: list[str],
        *,
        lc: float = 54.0,
        win: float = 52.5,
        arena: float = 51.0,
        seed: int = 0,
        drop: int = 3,
        train: bool = True,
        notice: str = "demo judge: not comparable with published numbers",
        **result: object,
    ) -> Path:
        """A finished cell with given scores; `result` replaces fields of its result.json."""
        base = self.get(Import(seed=1, model=ModelConfig(model="package:llm/Smol-135M.gguf")), {"reference.json": "{}"})
        stages = {"base": base}
        model = base
        if train:
            stages["society"] = society = self.society()
            stages["rows"] = rows = self.rows(society)
            stages |= self.refined("", rows, Conversation, drop)
            stages["sft"] = sft = self.train(base, stages["kept"], SFTConfig(), seed)
            stages["pairs"] = pairs = self.pairs(society, sft)
            stages |= self.refined("pair_", pairs, PreferencePair, min(drop, 2))
            stages["tuned"] = model = self.train(sft, stages["kept_pairs"], DPOConfig(), seed)
        for alias, checkpoint in (("answers", model), ("reference", base)):
            answers = [
                Answer(
                    id=f"q{i}",
                    instruction=f"What is {i} + {i}?{self.hostile}",
                    output=f"{2 * i}, I think. {LONG}",
                    generator=checkpoint.name,
                )
                for i in range(10)
            ]
            files = {f"answers/{b}.jsonl": answers for b in ("alpaca_eval2", "arena_hard_v0.1")}
            stages[alias] = self.get(AnswerStage(seed=1, checkpoint=checkpoint), files)
        scores = {
            "benchmarks": [
                {
                    "benchmark": "alpaca_eval2",
                    "model": model.name,
                    "reference": base.name,
                    "judge": "smol@1",
                    "metrics": {
                        "win_rate": win,
                        "length_controlled_win_rate": lc,
                        "standard_error": 1.25,
                        "avg_length": 812.5,
                        "reference_avg_length": 640.0,
                        "n_judged": 10,
                        "n_total": 10,
                    },
                    "interval": {"win_rate": [win - 6, win + 6], "length_controlled_win_rate": [lc - 5, lc + 5]},
                    "notice": notice,
                },
                {
                    "benchmark": "arena_hard_v0.1",
                    "model": model.name,
                    "reference": base.name,
                    "judge": "smol@1",
                    "metrics": {"score": arena, "n_judged": 20, "n_total": 20},
                    "interval": {"score": [arena - 8, arena + 8]},
                    "notice": notice,
                },
            ]
        }
        judgements = [
            Judgement(
                id=f"alpaca_eval2-q{i}",
                benchmark="alpaca_eval2",
                question=f"q{i}",
                verdict="mM"[i % 2],
                preference=i / 9,
            )
            for i in range(10)
        ] + [
            Judgement(
                id=f"arena-q{i}-{g}",
                benchmark="arena_hard_v0.1",
                question=f"q{i}",
                game=g,
                verdict="A>B",
                preference=None if i == 3 else 0.75,
                text=f"My final verdict is [[A>B]]. {self.hostile}",
            )
            for i in range(10)
            for g in (0, 1)
        ]
        files = {"judgements.jsonl": judgements, "scores.json": json.dumps(scores)}
        evaluate = Evaluate(
            seed=1, answers=stages["answers"], reference=stages["reference"], variant=f"{lc}-{win}-{arena}-{notice}"
        )
        stages["scores"] = self.get(evaluate, files)
        return self.write(name, overrides, {"status": "done", "stages": stages, "scores": scores, **result})

    def write(self, name: str, overrides: list[str], result: dict) -> Path:
        folder = self.grid / name
        folder.mkdir(parents=True)
        stages = result.pop("stages", {})
        described = [self.described(alias, stages[alias]) for alias in stages]
        full = {
            "name": "demo",
            "cell": name,
            "label": "",
            "status": "planned",
            "stage": None,
            "error": None,
            "traceback": None,
            "until": "evaluate",
            "overrides": overrides,
            "choices": {"model": "smol"},
            "command": f"matrix {' '.join(overrides)}",
            "started": "2026-01-01T00:00:00Z",
            "seconds": 61.5,
            "environment": {
                "python": "3.11.9",
                "platform": "Linux",
                "cpus": 2,
                "gpus": [],
                "packages": {"jinja2": "3.1.6"},
                "commit": "0" * 40,
                "changes": None,
            },
            "stages": described,
            "scores": None,
            **result,
        }
        (folder / "result.json").write_text(json.dumps(full))
        return folder

    def described(self, alias: str, result: Result) -> dict:
        manifest = json.loads((result.path / "manifest.json").read_text())
        rows = {name: o["rows"] for name, o in manifest["outputs"].items() if "rows" in o}
        return {
            "alias": alias,
            "stage": result.stage,
            "name": result.name,
            "key": result.key,
            "path": str(result.path),
            "hit": result.hit,
            "seconds": 12.5,
            "usage": manifest["usage"],
            "rows": rows,
        }
