"""What can score an answer: a trained reward model, a language model that is asked, or two models' likelihoods."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matrix.engines.base import HOW, LanguageModel, ModelConfig, Sampling
from matrix.engines.opening import open_model
from matrix.filtering.reward import RewardConfig
from matrix.filtering.scorer import Head, Measured, Scorer, ScorerConfig, chat_key
from matrix.progress import Progress
from matrix.prompting import Asker, Decoding, Unparsable
from matrix.provenance import derive_seed
from matrix.records import Failure, Message


@dataclass(kw_only=True)
class ClassifierReward(RewardConfig):
    """A sequence classifier with one output, trained on preferences, e.g. Skywork-Reward-V2 (arXiv 2507.01352).

    A chat beyond `model.max_context` loses the beginning of its prompt, never the end of its answer; counts.json says
    how many did.
    """

    model: ModelConfig
    """Hub id or folder. `engine` and its knobs are not looked at."""
    scorer: ScorerConfig = field(default_factory=ScorerConfig, metadata=HOW)

    @asynccontextmanager
    async def open(
        self, llm: ModelConfig | None, seed: int, work: Path, progress: Progress
    ) -> AsyncIterator[Classified]:
        """The classifier, in a process of its own."""
        async with Scorer(self.model, self.scorer, Head.reward, work / "classifier.jsonl", progress) as scorer:
            yield Classified(scorer)


@dataclass(kw_only=True)
class ImplicitReward(RewardConfig):
    """What DPO's derivation makes of two language models: beta (log pi(y|x) - log pi_ref(y|x)).

    It is equation 5 of arXiv 2305.18290 without the term that depends on the prompt alone.

    Without a reference it is the policy itself that does not see the prompt: log pi(y|x) - log pi(y), the pointwise
    mutual information of prompt and answer. Any instruction-tuned model gives it; what does not fit the prompt scores
    low. Sums grow with length, so compare answers to one prompt, or set `length_normalised`.
    """

    policy: ModelConfig
    """Folder, hub id, or GGUF file. `engine` and its knobs are not looked at."""
    reference: ModelConfig | None = None
    """What the policy was tuned from, e.g. by DPO; null: the policy after an empty user turn."""
    beta: float = 0.1
    length_normalised: bool = False
    """Divide by the number of the answer's tokens."""
    scorer: ScorerConfig = field(default_factory=ScorerConfig, metadata=HOW)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta <= 0:
            raise ValueError(f"reward.beta must be positive, not {self.beta}: it would turn the order round")

    @asynccontextmanager
    async def open(self, llm: ModelConfig | None, seed: int, work: Path, progress: Progress) -> AsyncIterator[Implied]:
        """Both models, each in a process of its own."""
        async with AsyncExitStack() as stack:

            async def scorer(model: ModelConfig, file: str) -> Scorer:
                return await stack.enter_async_context(Scorer(model, self.scorer, Head.language, work / file, progress))

            policy = await scorer(self.policy, "policy.jsonl")
            reference = await scorer(self.reference, "reference.jsonl") if self.reference else None
            yield Implied(self, policy, reference)


@dataclass(kw_only=True)
class JudgeReward(RewardConfig):
    """A language model rates the answer from 1 to `scale`; the reward is the expected rating.

    The expectation is over the log-probabilities of the numbers as first token of the judge's answer, as in G-Eval
    (arXiv 2303.16634, section 2). An engine that reports none is read: the number that it writes is the reward.
    """

    llm: ModelConfig | None = None
    """The judge; null: the run's own."""
    scale: int = 5
    """Highest rating. Above 9 only for tokenizers that have 10 as one token (Llama 3 has, SmolLM2 has not)."""
    logprobs: bool = True
    """Ask for log-probabilities; false for endpoints that refuse a call which does."""
    decoding: Decoding = field(default_factory=lambda: Decoding(temperature=0.7, max_tokens=8))
    """Of a written rating."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 2 <= self.scale <= 10:
            raise ValueError(f"reward.scale must be 2 to 10, not {self.scale}")

    @property
    def needs_llm(self) -> bool:
        """Where it names none of its own."""
        return self.llm is None

    @property
    def prompts(self) -> tuple[str, ...]:
        """The judge's."""
        return ("reward",)

    @asynccontextmanager
    async def open(self, llm: ModelConfig | None, seed: int, work: Path, progress: Progress) -> AsyncIterator[Judged]:
        """The judge, behind the journal of the stage."""
        config = self.llm or llm
        assert config is not None
        async with open_model(config, work / "journal.jsonl", progress) as model:
            yield Judged(self, model, seed, progress)


class Classified:
    """See `ClassifierReward`."""

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer
        self.cut: set[str] = set()
        self.failures: list[Failure] = []

    async def rewards(self, chats: dict[str, list[Message]]) -> dict[str, float]:
        """See `RewardModel.rewards`."""
        measured = await self.scorer.measure(list(chats.values()))
        self.cut |= _cut(chats, measured)
        return {name: found.value for name, found in zip(chats, measured, strict=True)}


class Implied:
    """See `ImplicitReward`."""

    def __init__(self, config: ImplicitReward, policy: Scorer, reference: Scorer | None) -> None:
        self.config = config
        self.policy = policy
        self.reference = reference
        self.cut: set[str] = set()
        self.failures: list[Failure] = []

    async def rewards(self, chats: dict[str, list[Message]]) -> dict[str, float]:
        """See `RewardModel.rewards`."""
        whole = list(chats.values())
        policy = await self.policy.measure(whole)
        if self.reference:
            reference = await self.reference.measure(whole)
        else:
            reference = await self.policy.measure([alone(chat) for chat in whole])
        self.cut |= _cut(chats, policy) | _cut(chats, reference)
        c = self.config
        return {
            name: c.beta * (own.value - other.value) / (own.tokens if c.length_normalised else 1)
            for name, own, other in zip(chats, policy, reference, strict=True)
        }


class Judged:
    """See `JudgeReward`."""

    def __init__(self, config: JudgeReward, model: LanguageModel, seed: int, progress: Progress) -> None:
        self.config = config
        self.seed = seed
        self.progress = progress
        self.asker = Asker("matrix.filtering", model, "reward")
        self.choices = tuple(str(n) for n in range(1, config.scale + 1))
        self.cut: set[str] = set()
        self.failures = self.asker.failures

    async def rewards(self, chats: dict[str, list[Message]]) -> dict[str, float]:
        """See `RewardModel.rewards`; every call is in the journal when it is finished."""
        self.progress.total += len(chats)
        found = await asyncio.gather(*(self._rate(name, chat) for name, chat in chats.items()))
        return {name: reward for name, reward in zip(chats, found, strict=True) if reward is not None}

    async def _rate(self, name: str, chat: list[Message]) -> float | None:
        seed = derive_seed(self.seed, chat_key(chat))
        turns = [{"role": message.role, "content": message.content} for message in chat[:-1]]
        values: dict[str, Any] = {"turns": turns, "answer": chat[-1].content, "scale": self.config.scale}
        text = self.asker.render("reward", self.config.decoding.max_tokens, values)
        if not all(message.content.strip() in text for message in chat):
            self.cut.add(name)
        rating = None
        if self.config.logprobs:
            sampling = Sampling(seed=seed, temperature=1.0, max_tokens=1, choices=self.choices)
            completion = await self.asker.model.chat([Message(role="user", content=text)], sampling)
            rating = expected_rating(completion.choice_logprobs)
        if rating is None:
            rating = await self.asker.ask("reward", name, seed, self.config.decoding, self._written, **values)
        self.progress.advance()
        return rating

    def _written(self, text: str) -> float:
        number = re.search(r"\d+", text)
        if number is None or number[0] not in self.choices:
            raise Unparsable(f"expected a number from 1 to {self.config.scale}")
        return float(number[0])


def alone(chat: list[Message]) -> list[Message]:
    """The last answer without what it replies to: after one empty user turn, and nothing before it.

    An empty turn keeps the answer where the model expects answers. What a template writes by itself stays, e.g. a
    default system message.
    """
    return [Message(role="user", content=""), chat[-1]]


def expected_rating(logprobs: dict[str, float]) -> float | None:
    """Mean of the numbers under their probabilities, scaled to sum to one; None without any."""
    if not logprobs:
        return None
    highest = max(logprobs.values())
    weights = {int(number): math.exp(logprob - highest) for number, logprob in logprobs.items()}
    return sum(number * weight for number, weight in weights.items()) / sum(weights.values())


def _cut(chats: dict[str, list[Message]], measured: list[Measured]) -> set[str]:
    return {name for name, found in zip(chats, measured, strict=True) if found.cut}
