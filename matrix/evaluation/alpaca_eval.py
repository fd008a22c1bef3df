"""AlpacaEval 2 through the alpaca-eval package: its prompt, order of answers, parser, win rates and regressions.

The package asks through us: it is run once to hear its prompts, the judge answers them through the stage's journal, and
it is run again on these answers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from matrix.engines.base import Completion, EngineError, Sampling
from matrix.evaluation.config import AlpacaEvalConfig
from matrix.evaluation.intervals import Floats, interval, percent, resamples
from matrix.evaluation.judge import Judge, gather, refused
from matrix.evaluation.length_control import MIN_ROWS, calibration, length_controlled
from matrix.evaluation.questions import Pair
from matrix.evaluation.side_effects import undone
from matrix.provenance import derive_seed
from matrix.records import Judgement, Message

ANNOTATOR = "weighted_alpaca_eval_gpt4_turbo"
FIRST, SECOND = "m", "M"
"""What the package's prompt calls the answer shown first and second; its parser compares their log-probabilities."""
CHAT_MARKS = ("<|im_start|>", "<|im_end|>")
"""Delimiters of the package's prompts, which hold a system and a user message."""
PROBE = 4
"""Calls that are made first, to learn whether the judge reports log-probabilities at all."""


class AlpacaEval:
    """One AlpacaEval 2 comparison; making it checks all inputs, so that nothing can fail after the judge is paid."""

    def __init__(self, config: AlpacaEvalConfig, pairs: Sequence[Pair], rounds: int) -> None:
        self.config = config
        self.pairs = pairs
        self.rounds = rounds
        self.calibration = calibration(config, pairs)
        self.prompts = _prompts(pairs)

    @property
    def calls(self) -> int:
        """Judge calls to be made; two identical answers are a tie without one."""
        return sum(prompt is not None for prompt in self.prompts)

    async def judge(self, judge: Judge, seed: int) -> list[Judgement]:
        """One judgement a question, in the order of the questions.

        Raises:
            EngineError: the judge reports no log-probabilities.
        """

        async def ask(prompt: str) -> Completion:
            sampling = Sampling(
                seed=derive_seed(seed, self.config.name, prompt), temperature=1.0, max_tokens=1, choices=(FIRST, SECOND)
            )  # the package's settings; only the log-probabilities are used
            if any(prompt.count(mark) != 2 for mark in CHAT_MARKS):
                completion = refused("an instruction or answer holds chat markup, which would forge or cut off a turn")
            else:
                completion = await judge.ask(_messages(prompt), sampling)
            judge.progress.advance()
            return completion

        prompts = [prompt for prompt in self.prompts if prompt is not None]
        probed = await gather(ask(prompt) for prompt in prompts[:PROBE])
        answers = [completion for completion in probed if completion.finish_reason in ("stop", "length")]
        if answers and not any(completion.choice_logprobs for completion in answers):
            raise EngineError(
                f"{judge.model.name} reports no log-probability of {FIRST} or {SECOND} (first answer: "
                f"{answers[0].text[:80]!r}). AlpacaEval 2 needs log-probabilities: an in-process engine or an "
                "endpoint with logprobs and top_logprobs. Or leave it out: evaluation.alpaca_eval2=null"
            )
        completions = probed + await gather(ask(prompt) for prompt in prompts[PROBE:])
        answered = dict(zip(prompts, completions, strict=True))
        rows = _annotate(self.pairs, lambda prompt: _completion(answered[prompt].choice_logprobs))
        return [
            _judgement(pair, row["preference"], answered[prompt] if prompt is not None else None)
            for pair, row, prompt in zip(self.pairs, rows, self.prompts, strict=True)
        ]

    def scores(self, judgements: Sequence[Judgement], seed: int) -> dict[str, Any]:
        """Metrics and intervals in percent; `n_total` counts every question, judged or not."""
        preferences = np.array([np.nan if j.preference is None else j.preference for j in judgements])
        judged = ~np.isnan(preferences)
        drawn = resamples(len(judgements), self.rounds, seed)
        metrics = win_rates(preferences)
        spread = {"win_rate": interval(percent(np.nan_to_num(preferences), judged.astype(float), drawn))}
        lengths = np.array([[len(p.reference.output), len(p.model.output)] for p in self.pairs], float)
        asked = [j for j in judgements if j.preference is not None and j.logprobs]
        metrics |= {
            "avg_length": float(lengths[:, 1].mean()),
            "reference_avg_length": float(lengths[:, 0].mean()),
            "first_preferred": 100.0 * sum(j.verdict == FIRST for j in asked) / len(asked) if asked else None,
            "n_judged": int(judged.sum()),
            "n_total": len(judgements),
        }
        same = {p.model.generator for p in self.pairs} == {p.reference.generator for p in self.pairs}
        fitted = length_controlled(
            preferences, lengths[:, 0] - lengths[:, 1], [p.index for p in self.pairs], self.config.length_control,
            self.calibration, seed,
        )  # fmt: skip
        if same:  # by construction, as the package has it
            metrics |= {"length_controlled_win_rate": 50.0, "lc_standard_error": 0.0}
            note = "not fitted: the model is its own reference"
        elif fitted is None:
            metrics |= {"length_controlled_win_rate": None, "lc_standard_error": None}
            note = f"not fitted: fewer than {MIN_ROWS} judged questions, equal lengths, or too little signal"
        else:
            metrics |= {"length_controlled_win_rate": fitted.win_rate, "lc_standard_error": fitted.standard_error}
            spread["length_controlled_win_rate"] = fitted.interval
            note = f"{self.config.length_control.value}, C={fitted.penalty:.4g}"
        return {"metrics": metrics, "interval": spread, "length_control": note}


def win_rates(preferences: Floats) -> dict[str, Any]:
    """The package's raw metrics in percent for preferences 0..1, NaN where there is no judgement; None without any."""
    if np.isnan(preferences).all():
        return {"win_rate": None, "standard_error": None, "discrete_win_rate": None}
    with undone():
        from alpaca_eval.metrics.winrate import get_winrate

        found = get_winrate([{"preference": p + 1} for p in preferences])
    return {name: float(found[name]) for name in ("win_rate", "standard_error", "discrete_win_rate")}


def _annotate(pairs: Sequence[Pair], complete: Callable[[str], dict[str, Any]]) -> list[dict[str, Any]]:
    """The package's annotation of every pair, where `complete` answers its prompts."""
    with undone():
        from alpaca_eval.annotators.pairwise_evaluator import PairwiseAnnotatorLocal

        annotator = PairwiseAnnotatorLocal(annotators_config=ANNOTATOR)
        single = annotator.annotators[ANNOTATOR]
        single.fn_completions = lambda prompts: {"completions_all": [complete(prompt) for prompt in prompts]}
        single.completions_kwargs = {}
        rows = [
            {"instruction": p.question.instruction, "output_1": p.reference.output, "output_2": p.model.output}
            for p in pairs
        ]
        annotated: list[dict[str, Any]] = annotator(rows, chunksize=None)
    return annotated


def _prompts(pairs: Sequence[Pair]) -> list[str | None]:
    """The package's prompt for every pair; None for identical answers, which it does not judge."""
    heard = _annotate(pairs, lambda prompt: {**_completion({FIRST: 0.0, SECOND: 0.0}), "prompt": prompt})
    same = [pair.model.output == pair.reference.output for pair in pairs]
    return [None if s else row["preference_raw_completion"]["prompt"] for s, row in zip(same, heard, strict=True)]


def _judgement(pair: Pair, preference: float | None, completion: Completion | None) -> Judgement:
    """The package's preference 1..2 as ours, 0..1; identical answers have no completion."""
    with undone():
        from alpaca_eval.utils import random_seeded_choice

        seed = f"is_switched_outputs{pair.question.instruction}0"
        swapped: bool = random_seeded_choice(seed=seed, choices=[False, True])
    logprobs = completion.choice_logprobs if completion else {}
    return Judgement(
        id=f"{AlpacaEvalConfig.name}-{pair.question.id}",
        benchmark=AlpacaEvalConfig.name,
        question=pair.question.id,
        swapped=swapped,
        verdict=max(logprobs, key=lambda token: logprobs[token]) if logprobs else "" if completion else "identical",
        preference=None if preference is None or np.isnan(preference) else float(preference) - 1,
        text=completion.text or completion.finish_reason if completion else "",
        logprobs=logprobs,
    )


def _messages(prompt: str) -> list[Message]:
    """The package's ChatML prompt as messages: system and user."""
    with undone():
        from alpaca_eval.utils import prompt_to_chatml

        turns = prompt_to_chatml(prompt)
    return [Message(role=turn["role"], content=turn["content"]) for turn in turns]


def _completion(logprobs: dict[str, float]) -> dict[str, Any]:
    """A completion in the form that the package's parser reads."""
    top = [{"token": token, "logprob": value} for token, value in logprobs.items()]
    return {"logprobs": {"content": [{"top_logprobs": top}]}}
