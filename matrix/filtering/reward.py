"""Reward: the stage that scores answers, and the contract of what scores them (`matrix.filtering.reward_models`).

Before a run trusts a reward, it has to tell good from bad answers where everybody can (`matrix.filtering.sanity`).
"""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
from abc import ABC, abstractmethod
from collections import defaultdict
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from matrix.engines.base import HOW, ModelConfig
from matrix.filtering.scorer import chat_key
from matrix.jsonl import read_jsonl, write_jsonl
from matrix.progress import Progress, show
from matrix.prompting import expected
from matrix.provenance import derive_seed
from matrix.records import Failure, Message, Rollout, Score
from matrix.rows import answers, count_rows, prompt, read_rows
from matrix.stage import Estimate, Result, Stage

log = logging.getLogger(__name__)

PROMPT_TOKENS = 600
"""Behind the plan's estimates: a judge's prompt with a typical instruction and response."""


class RewardError(RuntimeError):
    """A reward that cannot be trusted or asked; says what was measured and what to type."""


class RewardModel(Protocol):
    """Scores chats that end with an answer; higher is better, and scales differ."""

    cut: set[str]
    """Names of chats that did not fit the context whole."""
    failures: list[Failure]
    """What a judge said that could not be understood."""

    async def rewards(self, chats: dict[str, list[Message]]) -> dict[str, float]:
        """Name -> reward; a name is missing where there is none. What is finished is on disk at once."""
        ...


@dataclass(kw_only=True)
class RewardConfig(ABC):
    """Base of the variants in `matrix.filtering.reward_models`."""

    min_accuracy: float = 0.8
    """Least share of obvious pairs whose better answer must be ahead, or the stage refuses to go on; 0: any."""

    def __post_init__(self) -> None:
        if not 0 <= self.min_accuracy <= 1:
            raise ValueError(f"reward.min_accuracy is a share in [0, 1], not {self.min_accuracy}")

    @property
    def needs_llm(self) -> bool:
        """Whether the stage must be given a language model."""
        return False

    @property
    def prompts(self) -> tuple[str, ...]:
        """Names of the prompt files that it uses."""
        return ()

    @abstractmethod
    def open(
        self, llm: ModelConfig | None, seed: int, work: Path, progress: Progress
    ) -> AbstractAsyncContextManager[RewardModel]:
        """A reward model; it keeps finished scores in files of `work` and gives its memory back at the end."""


@dataclass(kw_only=True)
class RewardStage(Stage, ABC):
    """What the stages that ask a reward have in common."""

    prompts: ClassVar[str | None] = "matrix.filtering"

    reward: RewardConfig
    llm: ModelConfig | None = None
    """The judge of a `JudgeReward` that names none; dropped where it is not needed."""

    def __post_init__(self) -> None:
        if not self.reward.needs_llm:
            self.llm = None
        elif self.llm is None:
            raise ValueError(f"{type(self.reward).__name__} asks a language model; set reward.llm")

    def prompt_names(self) -> list[str]:
        """Those of the reward."""
        return list(self.reward.prompts)

    def readable(self) -> str:
        """Kind of the reward."""
        return type(self.reward).__name__.removesuffix("Reward").lower()

    def asked(self, calls: int) -> Estimate:
        """What so many answers cost, where a language model is asked."""
        llm = self.llm or getattr(self.reward, "llm", None)
        return expected((llm, calls, PROMPT_TOKENS, 1)) if llm else Estimate()


@dataclass(kw_only=True)
class Reward(RewardStage):
    """Scores the answers of rows, or the rollouts of their prompts.

    Writes rewards.jsonl (`Score`, in the order of the rows; an answer without a reward has none), counts.json and
    failures.jsonl. Equal answers to equal prompts are scored once.
    """

    name: ClassVar[str] = "reward"

    rows: Result
    """A result with `rows.jsonl` of `Conversation` or `PreferencePair`."""
    rollouts: Result | None = None
    """A result with `rollouts.jsonl`: they are scored in place of the rows' own answers."""
    expected_answers: int = field(default=0, metadata=HOW)
    """For the plan, as long as the upstream rows are not there to be counted."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.reward = dataclasses.replace(self.reward, min_accuracy=0.0)  # what is enough decides no score

    def readable(self) -> str:
        """Kind of the reward, and what it scores."""
        return super().readable() + ("-rollouts" if self.rollouts else "")

    def estimate(self) -> Estimate:
        """A call for every answer."""
        file = self.rollouts.path / "rollouts.jsonl" if self.rollouts else self.rows.path / "rows.jsonl"
        return self.asked(count_rows(file, self.expected_answers))

    def run(self, work: Path) -> None:
        """Score the answers.

        Raises:
            EngineError: a model failed; finished scores are kept.
        """
        asyncio.run(self._run(work))

    async def _run(self, work: Path) -> None:
        wanted = self.wanted()
        first: dict[str, str] = {}
        distinct: dict[str, list[Message]] = {}
        for name, _, chat in wanted:
            if first.setdefault(chat_key(chat), name) == name:
                distinct[name] = chat
        seed = derive_seed(self.seed, self.name)
        with show("reward", 0, work) as progress:
            async with self.reward.open(self.llm, seed, work, progress) as model:
                rewards = await model.rewards(distinct)
        scores = [
            Score(**place, reward=rewards[known])
            for _, place, chat in wanted
            if (known := first[chat_key(chat)]) in rewards
        ]
        counts = {
            "answers": len(wanted),
            "distinct": len(distinct),
            "cut": len(model.cut & distinct.keys()),
            "without_reward": len(wanted) - len(scores),
        }
        if counts["cut"]:
            log.warning("%d of %d chats were cut to fit the context of the reward model", counts["cut"], len(distinct))
        write_jsonl(work / "rewards.jsonl", scores)
        failures = sorted(model.failures, key=lambda failure: (failure.id, failure.text))
        write_jsonl(work / "failures.jsonl", failures)
        (work / "counts.json").write_text(json.dumps(counts, indent=1))

    def wanted(self) -> list[tuple[str, dict[str, Any], list[Message]]]:
        """Every answer to score: its name, its fields of a `Score`, and the chat that it ends."""
        rows = read_rows(self.rows.path / "rows.jsonl")
        texts: dict[str, list[tuple[str, int, str]]] = defaultdict(list)
        if self.rollouts:
            for rollout in read_jsonl(self.rollouts.path / "rollouts.jsonl", Rollout):
                texts[rollout.row].append(("rollout", rollout.index, rollout.text))
        else:
            for row in rows:
                texts[row.id] += [(part, 0, text) for part, text in answers(row).items()]
        return [
            (
                f"{row.id}/{part}-{index}",
                {"row": row.id, "part": part, "index": index},
                [*prompt(row), Message(role="assistant", content=text)],
            )
            for row in rows
            for part, index, text in texts[row.id]
        ]
