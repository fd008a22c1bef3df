"""Arena-Hard v0.1: two games a question, a verdict label in the judge's text, clear wins counted thrice.

Since every battle is against the one reference, the Bradley-Terry score of the original equals the weighted win rate,
which is computed here exactly.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import jinja2
import numpy as np

from matrix.engines.base import Completion, EngineError, Sampling
from matrix.evaluation.config import ArenaHardConfig, Verdict
from matrix.evaluation.intervals import interval, percent, points, resamples, weight
from matrix.evaluation.judge import Judge, gather
from matrix.evaluation.questions import Pair
from matrix.provenance import derive_seed
from matrix.records import Judgement, Message

LABEL = re.compile(r"\[\[([AB<>=]+)\]\]")
FOR_A = {"A>>B": 1.0, "A>B": 1.0, "A=B": 0.5, "B>A": 0.0, "B>>A": 0.0}
"""Verdict -> points for the answer shown first."""
GAMES = 2


def parse(text: str) -> tuple[str, bool]:
    """(verdict label, whether to ask again) of a judgement, as the original has it.

    Exactly one distinct label is a verdict; none asks again; two different ones are no verdict and are not asked again.
    """
    labels = set(LABEL.findall(text))
    return (labels.pop(), False) if len(labels) == 1 else ("", not labels)


class ArenaHard:
    """One Arena-Hard comparison. In the first game the reference is shown first, in the second the model."""

    def __init__(self, config: ArenaHardConfig, pairs: Sequence[Pair], rounds: int) -> None:
        self.config = config
        self.pairs = pairs
        self.rounds = rounds
        prompts = jinja2.Environment(
            loader=jinja2.PackageLoader("matrix.evaluation", "prompts"), undefined=jinja2.StrictUndefined,
            trim_blocks=True, autoescape=False,  # plain text for a model, not HTML
        )  # fmt: skip
        system = "arena_hard_system" if config.verdict is Verdict.text else "arena_hard_choice_system"
        self.system = Message(role="system", content=prompts.get_template(f"{system}.jinja").render())
        self.user = prompts.get_template("arena_hard_user.jinja")
        self.again = Message(role="user", content=prompts.get_template("arena_hard_again.jinja").render())

    @property
    def calls(self) -> int:
        """Judge calls to be made, not counting questions that are asked again."""
        return GAMES * len(self.pairs)

    async def judge(self, judge: Judge, seed: int) -> list[Judgement]:
        """Two judgements a question, in the order of the questions."""
        play = self._read if self.config.verdict is Verdict.text else self._choose
        found = await gather(
            play(judge, pair, derive_seed(seed, self.config.name, pair.question.id)) for pair in self.pairs
        )
        judgements = [judgement for games in found for judgement in games]
        if judgements and self.config.verdict is Verdict.choices and not any(j.logprobs for j in judgements):
            raise EngineError(
                f"{judge.model.name} reports no log-probability of A or B, which evaluation.arena_hard.verdict=choices "
                f"needs (first answer: {judgements[0].text[:80]!r}). Use verdict=TEXT or another engine"
            )
        return judgements

    async def _read(self, judge: Judge, pair: Pair, seed: int) -> list[Judgement]:
        return await gather(self._read_game(judge, pair, game, derive_seed(seed, game)) for game in range(GAMES))

    async def _read_game(self, judge: Judge, pair: Pair, game: int, seed: int) -> Judgement:
        sampling = Sampling(
            seed=seed, temperature=self.config.judge_temperature, max_tokens=self.config.judge_max_tokens
        )
        messages = self.messages(pair, game)
        completion = await judge.ask(messages, sampling)
        text = completion.text
        verdict, again = parse(text)
        if again and text:
            more = [*messages, Message(role="assistant", content=text), self.again]
            completion = await judge.ask(more, sampling)
            text = f"{text}\n{completion.text}"
            verdict, _ = parse(text)
        judge.progress.advance()
        return _judgement(pair, game, verdict, text or completion.finish_reason)

    async def _choose(self, judge: Judge, pair: Pair, seed: int) -> list[Judgement]:
        sampling = Sampling(seed=seed, temperature=0.0, max_tokens=1, choices=("A", "B"))

        async def ask(game: int) -> Completion:
            completion = await judge.ask(self.messages(pair, game), sampling)
            judge.progress.advance()
            return completion

        games = await gather(ask(game) for game in range(GAMES))
        verdicts = verdicts_of_choices([c.choice_logprobs for c in games], self.config.tie_band)
        return [
            _judgement(pair, i, verdict, game.text or game.finish_reason, game.choice_logprobs)
            for i, (verdict, game) in enumerate(zip(verdicts, games, strict=True))
        ]

    def messages(self, pair: Pair, game: int) -> list[Message]:
        """What the judge is shown in one game."""
        shown = (pair.reference, pair.model) if game == 0 else (pair.model, pair.reference)
        text = self.user.render(question=pair.question.instruction, answer_a=shown[0].output, answer_b=shown[1].output)
        return [self.system, Message(role="user", content=text)]

    def scores(self, judgements: Sequence[Judgement], seed: int) -> dict[str, Any]:
        """Score in percent with its intervals; `n_total` counts every game, judged or not.

        `score` is resampled by question. `score_by_battle` is resampled as in the original, which takes the battles of
        one question for independent and is about 1.6 times too narrow.
        """
        won, played = np.array(list(points(judgements).values())).T
        rows = [(j.preference, weight(j)) for j in judgements if j.preference is not None]
        battles = np.array([value for value, count in rows for _ in range(count)], float)
        score, spread = None, {}
        if len(battles):
            score = float(100 * battles.mean())
            spread["score"] = interval(percent(won, played, resamples(len(won), self.rounds, seed)))
            ones = np.ones_like(battles)
            spread["score_by_battle"] = interval(percent(battles, ones, resamples(len(battles), self.rounds, seed)))
        decided = [j for j in judgements if j.preference not in (None, 0.5)]
        first = sum((j.preference == 1.0) == j.swapped for j in decided)
        if self.config.verdict is Verdict.choices:  # the liking for the first answer before it is averaged out
            decided = [j for j in judgements if len(j.logprobs) == 2]
            first = sum(j.logprobs["A"] > j.logprobs["B"] for j in decided)
        return {
            "metrics": {
                "score": score,
                "avg_tokens": float(np.mean([p.model.tokens for p in self.pairs])),
                "first_preferred": 100.0 * first / len(decided) if decided else None,
                "n_judged": len(rows),
                "n_total": len(judgements),
            },
            "interval": spread,
            "verdict": self.config.verdict.value,
        }


def verdicts_of_choices(logprobs: Sequence[dict[str, float]], tie_band: float) -> list[str]:
    """Verdict labels of the two games from the log-probabilities of A and B, free of a constant liking for a place.

    Args:
        logprobs: of the first and of the second game, where the answers stand the other way round.
        tie_band: a probability within 0.5 +- this is a tie.

    Returns:
        A label a game; empty ones where the judge did not report both letters in both games.
    """
    if any(len(game) < 2 for game in logprobs):
        return [""] * len(logprobs)
    first, second = (game["A"] - game["B"] for game in logprobs)
    probability = 1 / (1 + math.exp(-(first - second) / 2))  # of the answer that is A in the first game
    if abs(probability - 0.5) <= tie_band:
        return ["A=B", "A=B"]
    return ["A>B", "B>A"] if probability > 0.5 else ["B>A", "A>B"]


def _judgement(pair: Pair, game: int, verdict: str, text: str, logprobs: dict[str, float] | None = None) -> Judgement:
    for_a = FOR_A.get(verdict)  # a label outside the table counts as no verdict, as in the original
    swapped = game == 1
    preference = None if for_a is None else for_a if swapped else 1 - for_a
    return Judgement(
        id=f"{ArenaHardConfig.name}-{pair.question.id}-{game}",
        benchmark=ArenaHardConfig.name,
        question=pair.question.id,
        game=game,
        swapped=swapped,
        verdict=verdict,
        preference=preference,
        text=text,
        logprobs=logprobs or {},
    )
