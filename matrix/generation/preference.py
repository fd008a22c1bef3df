"""Preference pairs: how the chosen and the rejected answer of a prompt come about (paper section 4.1)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import ClassVar, NamedTuple

from matrix.filtering.rollouts import RolloutConfig
from matrix.generation.base import GeneratorConfig
from matrix.jsonl import iter_jsonl, read_jsonl, write_jsonl, write_parquet
from matrix.prompting import Decoding
from matrix.records import Conversation, Failure, PreferencePair, Rollout, Score
from matrix.stage import Result, Stage


@dataclass(kw_only=True)
class PreferenceConfig(ABC):
    """Base of the ways to make pairs."""

    @property
    @abstractmethod
    def num_pairs(self) -> int:
        """Pairs wanted."""

    def writes(self) -> list[GeneratorConfig]:
        """The generator of the prompts, for those that write them."""
        return []


@dataclass(kw_only=True)
class WrittenPairsConfig(PreferenceConfig, ABC):
    """Pairs over prompts that a generator writes."""

    generator: GeneratorConfig
    """Where the prompts come from; `generator.response` samples the aligned LLM's answer."""

    @property
    def num_pairs(self) -> int:
        """One for every row of the generator."""
        return self.generator.num_rows

    def writes(self) -> list[GeneratorConfig]:
        """See `PreferenceConfig.writes`."""
        return [self.generator]


@dataclass(kw_only=True)
class PolicyPairsConfig(WrittenPairsConfig):
    """Chosen by the aligned LLM, rejected by the SFT model just trained: the paper's MATRIX-Gen-DPO."""

    rejected: Decoding = field(default_factory=lambda: Decoding(temperature=0.7, max_tokens=2048))
    """Sampling of the SFT model (paper: not stated)."""


class Rejected(StrEnum):
    """Which of the samples is the rejected answer."""

    worst = "worst"
    """The lowest reward, as in Magpie's pairs."""
    sigma = "sigma"
    """The reward nearest to mean - 2 standard deviations; better than the worst one (arXiv 2502.16825)."""


@dataclass(kw_only=True)
class BestOfNConfig(WrittenPairsConfig):
    """The SFT model answers a prompt n times, and rewards pick both answers."""

    rollouts: RolloutConfig = field(
        default_factory=lambda: RolloutConfig(samples=5, decoding=Decoding(temperature=0.8, max_tokens=2048))
    )
    """The n samples. Magpie takes 5 at temperature 0.8."""
    include_response: bool = True
    """Whether the aligned LLM's answer may be picked too."""
    rejected: Rejected = Rejected.worst
    min_gap: float = 1e-6
    """Gap in reward below which a prompt gives no pair."""


class Candidate(NamedTuple):
    """One answer and what it is worth."""

    reward: float
    text: str


@dataclass(kw_only=True)
class Pick(Stage):
    """Best of n: writes rows.jsonl (PreferencePair), rows.parquet and failures.jsonl."""

    name: ClassVar[str] = "pick"

    preference: BestOfNConfig
    rows: Result
    rewards: Result
    rollouts: Result
    rollout_rewards: Result

    def readable(self) -> str:
        """How the rejected answer is picked."""
        return str(self.preference.rejected)

    def run(self, work: Path) -> None:
        """Pick two answers for every prompt; a prompt whose answers are all worth the same is a failure."""
        c = self.preference
        candidates: dict[str, list[Candidate]] = {}
        rows = read_jsonl(self.rows.path / "rows.jsonl", Conversation)
        texts = {row.id: row.messages[-1].content for row in rows}
        if c.include_response:
            for score in iter_jsonl(self.rewards.path / "rewards.jsonl", Score):
                candidates[score.row] = [Candidate(score.reward, texts[score.row])]
        sampled = {(r.row, r.index): r.text for r in iter_jsonl(self.rollouts.path / "rollouts.jsonl", Rollout)}
        for score in iter_jsonl(self.rollout_rewards.path / "rewards.jsonl", Score):
            answer = Candidate(score.reward, sampled[score.row, score.index])
            candidates.setdefault(score.row, []).append(answer)
        pairs, failures = [], []
        for row in rows:
            chosen, rejected = picked([a for a in candidates.get(row.id, []) if a.text], c.rejected)
            if chosen.reward - rejected.reward < c.min_gap:
                failures.append(Failure(id=row.id, purpose="pick", text="", error=f"no gap over {c.min_gap} in reward"))
                continue
            pairs.append(pair_of(row, chosen.text, rejected.text, self.rollouts.name))
        write_jsonl(work / "rows.jsonl", pairs)
        write_parquet(work / "rows.parquet", pairs)
        write_jsonl(work / "failures.jsonl", failures)


def picked(candidates: Sequence[Candidate], rule: Rejected) -> tuple[Candidate, Candidate]:
    """Chosen and rejected answer; the first of equals. One answer, or none, is both."""
    if not candidates:
        return Candidate(0.0, ""), Candidate(0.0, "")
    best = max(candidates, key=lambda a: a.reward)
    target = min(a.reward for a in candidates)
    if rule is Rejected.sigma:
        mean = sum(a.reward for a in candidates) / len(candidates)
        variance = sum((a.reward - mean) ** 2 for a in candidates) / max(len(candidates) - 1, 1)
        target = mean - 2 * variance**0.5
    return best, min(candidates, key=lambda a: abs(a.reward - target))


def pair_of(row: Conversation, chosen: str, rejected: str, rejected_model: str) -> PreferencePair:
    """The pair of two answers to a row's prompt."""
    return PreferencePair(
        id=row.id, prompt=row.messages[:-1], chosen=chosen, rejected=rejected, kind=row.kind,
        requirement=row.requirement, category=row.category, complexity=row.complexity, style=row.style,
        origin=row.origin, rejected_model=rejected_model,
    )  # fmt: skip
