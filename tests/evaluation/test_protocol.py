"""A run by the official protocol carries no notice; any departure from it is named."""

import dataclasses

import pytest

from matrix.engines.base import ModelConfig
from matrix.evaluation.config import AlpacaEvalConfig, AnsweringConfig, ArenaHardConfig, Verdict
from matrix.evaluation.protocol import notice
from matrix.evaluation.questions import Pair, read_answers, read_questions

OFFICIAL_JUDGE = ModelConfig(model="gpt-4-1106-preview")
FILES = {
    AlpacaEvalConfig: ("alpaca_eval/alpaca_eval_gpt4_baseline.json", "alpaca_eval/alpaca_eval_gpt4_baseline.json", 0.7),
    ArenaHardConfig: ("arena_hard/question_v0.1.jsonl", "arena_hard/answers_v0.1_gpt-4-0314.jsonl", 0.0),
}


@pytest.fixture(params=FILES, ids=lambda kind: kind.name)
def official(request, reference_data):
    """(config, pairs) of an official run."""
    file, reference, temperature = FILES[request.param]
    questions, answers = str(reference_data.path(file)), reference_data.path(reference)
    config = request.param(
        answers=AnsweringConfig(questions=questions, temperature=temperature), reference=str(answers)
    )
    asked = read_questions(reference_data.path(file))
    given = read_answers(answers, asked)
    return config, [Pair(q, i, a, a) for i, (q, a) in enumerate(zip(asked, given, strict=True))]


def test_official_run_has_no_notice(official):
    config, pairs = official
    assert notice(config, OFFICIAL_JUDGE, pairs, 50.0) == ""


def test_departures_are_named(official):
    config, pairs = official
    for judge, some, expected in [
        (ModelConfig(model="llama"), pairs, "the judge is llama, not gpt-4-1106-preview"),
        (OFFICIAL_JUDGE, pairs[:10], "the 10 questions are not the official set"),
        (OFFICIAL_JUDGE, [dataclasses.replace(p, reference=pairs[0].reference) for p in pairs], "the reference is gpt"),
    ]:
        found = notice(config, judge, some, None)
        assert found.startswith("not comparable with published numbers: ")
        assert expected in found
    config.answers.temperature = 1.0
    assert "temperature 1.0" in notice(config, OFFICIAL_JUDGE, pairs, 50.0)


def test_judge_that_looks_at_the_place_only_is_pointed_out():
    judge = ModelConfig(model="small")
    config = ArenaHardConfig(answers=AnsweringConfig(temperature=0.0))
    plain = "demo judge: not comparable with published numbers"
    assert notice(config, judge, [], 50.0) == plain
    assert notice(config, judge, [], 97.0).removeprefix(plain).startswith("; the judge preferred the answer")
    config.verdict = Verdict.choices
    assert notice(config, judge, [], 97.0) == plain
