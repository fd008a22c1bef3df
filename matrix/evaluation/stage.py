"""Answer and Evaluate: a checkpoint answers the questions; a judge compares its answers with a reference.

Answer reads a checkpoint and writes `answers/<benchmark>.jsonl` (Answer rows). Evaluate reads two Answer results, or
one and the reference file of the config, and writes `judgements.jsonl` (Judgement rows) and `scores.json`.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from matrix.engines.base import ContextOverflow, LanguageModel, ModelConfig, Sampling
from matrix.engines.opening import open_model
from matrix.evaluation.alpaca_eval import AlpacaEval
from matrix.evaluation.arena_hard import GAMES, ArenaHard
from matrix.evaluation.config import (
    AlpacaEvalConfig,
    AnsweringConfig,
    ArenaHardConfig,
    EvaluationConfig,
    Verdict,
)
from matrix.evaluation.judge import Judge, gather, refused
from matrix.evaluation.protocol import notice
from matrix.evaluation.questions import BASE, EvaluationError, Pair, fetch, read_answers, read_questions, select
from matrix.jsonl import read_jsonl, write_jsonl
from matrix.progress import Progress, show
from matrix.provenance import derive_seed
from matrix.records import Answer as AnswerRow
from matrix.records import Judgement, Message, Question
from matrix.stage import Estimate, Result, Stage

RESERVE = 128
"""Tokens left free for the chat template when an answer is fitted into the model's context."""
OFFICIAL_QUESTIONS = {AlpacaEvalConfig.name: 805, ArenaHardConfig.name: 500}
QUESTION_TOKENS, ANSWER_TOKENS, JUDGE_PROMPT_TOKENS, JUDGEMENT_TOKENS = 60, 450, 400, 700
"""Typical lengths behind the plan's estimates: 52 published AlpacaEval 2 runs took 760..980 judge tokens a question."""


@dataclass(kw_only=True)
class Answer(Stage):
    """A checkpoint answers the questions of every benchmark. Evaluations that differ only in judging share it."""

    name: ClassVar[str] = "answer"

    evaluation: EvaluationConfig
    model: ModelConfig
    """How the checkpoint is served; `model.model` is replaced by it."""
    checkpoint: Result

    def __post_init__(self) -> None:
        self.evaluation = self.evaluation.answering()

    def run(self, work: Path) -> None:
        """Write `answers/<benchmark>.jsonl`."""
        sets = {b.name: b.answers for b in self.evaluation.benchmarks()}
        asked = {name: [question for _, question in _questions(config)] for name, config in sets.items()}
        (work / "answers").mkdir(exist_ok=True)
        served = self.model.serving(self.checkpoint.path)

        async def answer_all(progress: Progress) -> None:
            async with open_model(served, work / "journal.jsonl", progress, name=self.checkpoint.name) as model:
                for name, config in sets.items():  # one after the other: what both ask alike is replayed, not repeated
                    rows = await gather(_answer(model, q, config, self.seed, progress) for q in asked[name])
                    write_jsonl(work / "answers" / f"{name}.jsonl", rows)

        with show("answer", sum(map(len, asked.values())), work) as progress:
            asyncio.run(answer_all(progress))

    def estimate(self) -> Estimate:
        """One call a question."""
        sets = [benchmark.answers for benchmark in self.evaluation.benchmarks()]
        calls = [_count(benchmark) for benchmark in self.evaluation.benchmarks()]
        tokens_out = sum(n * min(config.max_tokens, ANSWER_TOKENS) for n, config in zip(calls, sets, strict=True))
        return _priced(self.model, sum(calls), sum(calls) * QUESTION_TOKENS, tokens_out)


async def _answer(
    model: LanguageModel, question: Question, config: AnsweringConfig, seed: int, progress: Progress
) -> AnswerRow:
    """The model's answer without surrounding space; cut to what the context leaves, empty where that is nothing."""
    messages = [Message(role="user", content=question.instruction)]
    sampling = Sampling(
        seed=derive_seed(seed, "answer", question.id), temperature=config.temperature, top_p=config.top_p,
        max_tokens=config.max_tokens,
    )  # fmt: skip
    try:
        completion = await model.chat(messages, sampling)
    except ContextOverflow as error:
        room = model.max_context - model.count_tokens(question.instruction) - RESERVE
        if room < 1:
            completion = refused(f"ContextOverflow: {error}")
        else:
            completion = await model.chat(messages, msgspec.structs.replace(sampling, max_tokens=room))
    progress.advance()
    return AnswerRow(
        id=question.id, instruction=question.instruction, output=completion.text.strip(), generator=model.name,
        tokens=completion.completion_tokens, finish_reason=completion.finish_reason,
    )  # fmt: skip


@dataclass(kw_only=True)
class Evaluate(Stage):
    """A judge compares the answers of a model with reference answers."""

    name: ClassVar[str] = "evaluate"
    prompts: ClassVar[str | None] = "matrix.evaluation"

    evaluation: EvaluationConfig
    judge: ModelConfig
    answers: Result
    reference: Result | None = None
    """Answers of the untuned model, for benchmarks with `reference=base`."""

    def run(self, work: Path) -> None:
        """Write `judgements.jsonl` and `scores.json`. All inputs are checked before the first judge call.

        Raises:
            EvaluationError: questions, answers, reference or calibration are missing or do not fit together.
            EngineError: judge calls failed for good; the finished ones are kept for the next run.
        """
        comparisons = [self._comparison(config) for config in self.evaluation.benchmarks()]

        async def judge_all(progress: Progress) -> list[list[Judgement]]:
            async with open_model(self.judge, work / "journal.jsonl", progress) as model:
                judge = Judge(model, progress, self.evaluation.failed_calls)
                return [await c.judge(judge, self.seed) for c in comparisons]

        with show("evaluate", sum(c.calls for c in comparisons), work) as progress:
            judgements = asyncio.run(judge_all(progress))
        write_jsonl(work / "judgements.jsonl", (j for one in judgements for j in one))
        scores = [self._scores(c, j) for c, j in zip(comparisons, judgements, strict=True)]
        (work / "scores.json").write_text(json.dumps({"benchmarks": scores}, indent=1, ensure_ascii=False))

    def estimate(self) -> Estimate:
        """One call a question for AlpacaEval 2, two for Arena-Hard."""
        calls = tokens_in = tokens_out = 0
        for config in self.evaluation.benchmarks():
            games = 1 if isinstance(config, AlpacaEvalConfig) else GAMES
            text = isinstance(config, ArenaHardConfig) and config.verdict is Verdict.text
            asked = games * _count(config)
            calls += asked
            tokens_in += asked * (JUDGE_PROMPT_TOKENS + 2 * min(config.answers.max_tokens, ANSWER_TOKENS))
            tokens_out += asked * (JUDGEMENT_TOKENS if text else 1)
        return _priced(self.judge, calls, tokens_in, tokens_out)

    def _comparison(self, config: AlpacaEvalConfig | ArenaHardConfig) -> AlpacaEval | ArenaHard:
        asked = _questions(config.answers)
        questions = [question for _, question in asked]
        file = self.answers.path / "answers" / f"{config.name}.jsonl"
        model = read_jsonl(file, AnswerRow)
        if [(a.id, a.instruction) for a in model] != [(q.id, q.instruction) for q in questions]:
            raise EvaluationError(
                f"{file} does not answer the {len(questions)} questions of {config.answers.questions}"
            )
        if config.reference != BASE:
            path = fetch(config.reference, config.reference_pin)
        elif self.reference:
            path = self.reference.path / "answers" / f"{config.name}.jsonl"
        else:
            raise EvaluationError(
                f"{config.name}.reference=base needs the untuned model's answers: pass them as `reference`"
            )
        reference = read_answers(path, questions)
        pairs = [Pair(q, i, m, r) for (i, q), m, r in zip(asked, model, reference, strict=True)]
        kind = AlpacaEval if isinstance(config, AlpacaEvalConfig) else ArenaHard
        return kind(config, pairs, self.evaluation.bootstrap_rounds)  # type: ignore[arg-type]

    def _scores(self, comparison: AlpacaEval | ArenaHard, judgements: Sequence[Judgement]) -> dict[str, Any]:
        pairs = comparison.pairs
        scored = comparison.scores(judgements, derive_seed(self.seed, "bootstrap"))
        scored["metrics"] |= {
            "truncated": sum(p.model.finish_reason not in ("stop", "") for p in pairs),
            "distinct_outputs": len({p.model.output for p in pairs}),
        }
        return {
            "benchmark": comparison.config.name,
            "model": pairs[0].model.generator,
            "reference": pairs[0].reference.generator,
            "judge": self.judge.name,
            **scored,
            "notice": notice(comparison.config, self.judge, pairs, scored["metrics"]["first_preferred"]),
        }


def _count(config: AlpacaEvalConfig | ArenaHardConfig) -> int:
    """Questions that will be asked; for a set that is still on the hub, as many as the official one has."""
    answers = config.answers
    whole = OFFICIAL_QUESTIONS[config.name] if answers.questions.startswith("hf:") else len(_all_questions(answers))
    return min(whole, answers.max_questions or whole)


def _priced(model: ModelConfig, calls: int, tokens_in: int, tokens_out: int) -> Estimate:
    money = (tokens_in * model.price_in + tokens_out * model.price_out) / 1e6
    return Estimate(calls=calls, tokens_in=tokens_in, tokens_out=tokens_out, money=money)


def _all_questions(config: AnsweringConfig) -> list[Question]:
    return read_questions(fetch(config.questions, config.questions_pin))


def _questions(config: AnsweringConfig) -> list[tuple[int, Question]]:
    return select(_all_questions(config), config.max_questions)
