"""What makes a score comparable with published ones, and the notice that says where a run departs from it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from matrix.engines.base import ModelConfig
from matrix.evaluation.config import AlpacaEvalConfig, ArenaHardConfig, LengthControl, Verdict
from matrix.evaluation.questions import EMBEDDED, Pair

JUDGE = "gpt-4-1106-preview"
"""Judge of both benchmarks in the paper (section 4.1)."""
QUESTIONS = {
    AlpacaEvalConfig.name: "da91180dbbce5b5ee5f589e94a1a5f748a1d9e5399115c85754f7c79039cab62",
    ArenaHardConfig.name: "b89dd9160ea672db76e244917b8272c1e807f95162426eb72c96c4bf894db781",
}
"""sha256 of the sorted official instructions (805 and 500)."""
REFERENCES = {
    AlpacaEvalConfig.name: ("gpt4_1106_preview", "f0d20429cf6b4f1a68c07a79b723e5c59e6867b9984d0c872691e591bdac0ba1"),
    ArenaHardConfig.name: ("gpt-4-0314", "c228706a39ee36510e807415b05f9f3b3853d7f4d83a7271570b685d3c1c28e0"),
}
"""Model and sha256 of its sorted answers."""
TEMPERATURES = {AlpacaEvalConfig.name: 0.7, ArenaHardConfig.name: 0.0}
ONE_SIDED = 5.0
"""Percent of judgements for one place, or against it, at which a judge is taken to be blind to the answers."""
NOT_COMPARABLE = "not comparable with published numbers"


def notice(
    config: AlpacaEvalConfig | ArenaHardConfig, judge: ModelConfig, pairs: Sequence[Pair], first_preferred: float | None
) -> str:
    """Empty for a run by the official protocol; else that it is not comparable, and why.

    Args:
        first_preferred: percent of judgements for the answer shown first; a judge that nearly always takes the same
            place is pointed out, unless both orders are averaged (`verdict=choices`).
    """
    if config.answers.questions == EMBEDDED:
        text = f"demo judge: {NOT_COMPARABLE}"
    else:
        reasons = departures(config, judge, pairs)
        text = f"{NOT_COMPARABLE}: {'; '.join(reasons)}" if reasons else ""
    averaged = isinstance(config, ArenaHardConfig) and config.verdict is Verdict.choices
    if first_preferred is None or averaged or ONE_SIDED < first_preferred < 100 - ONE_SIDED:
        return text
    blind = f"the judge preferred the answer shown first in {first_preferred:.0f}% of its judgements, whatever it was"
    return f"{text}; {blind}" if text else blind


def departures(config: AlpacaEvalConfig | ArenaHardConfig, judge: ModelConfig, pairs: Sequence[Pair]) -> list[str]:
    """Where a run departs from the official protocol of its benchmark."""
    answers = config.answers
    model, digest = REFERENCES[config.name]
    found = []
    if judge.model != JUDGE:
        found.append(f"the judge is {judge.name}, not {JUDGE}")
    if _digest(p.question.instruction for p in pairs) != QUESTIONS[config.name]:
        found.append(f"the {len(pairs)} questions are not the official set")
    elif _digest(p.reference.output for p in pairs) != digest:
        found.append(f"the reference is {pairs[0].reference.generator}, not the official answers of {model}")
    if (answers.temperature, answers.top_p, answers.max_tokens) != (TEMPERATURES[config.name], 1.0, 4096):
        found.append(
            f"answers were sampled at temperature {answers.temperature}, top_p {answers.top_p}, at most "
            f"{answers.max_tokens} tokens, not {TEMPERATURES[config.name]}, 1.0 and 4096"
        )
    if isinstance(config, AlpacaEvalConfig) and config.length_control is not LengthControl.length_controlled_v1:
        found.append(f"the length-controlled win rate is {config.length_control.value}")
    if isinstance(config, ArenaHardConfig):
        if config.verdict is not Verdict.text:
            found.append(f"verdict={config.verdict.value}")
        elif (config.judge_temperature, config.judge_max_tokens) != (0.0, 4096):
            found.append(
                f"the judge wrote at temperature {config.judge_temperature}, at most {config.judge_max_tokens} tokens"
            )
    return found


def _digest(texts: Iterable[str]) -> str:
    return hashlib.sha256("\x1f".join(sorted(texts)).encode()).hexdigest()
