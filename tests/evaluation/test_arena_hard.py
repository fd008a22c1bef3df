"""Arena-Hard v0.1 against real judgements and battles, and its rules for missing and double verdicts."""

import asyncio
import csv
import math

import pytest

from matrix.engines.base import Completion, ContextOverflow, EngineError
from matrix.evaluation.arena_hard import ArenaHard, parse, verdicts_of_choices
from matrix.evaluation.config import AnsweringConfig, ArenaHardConfig, Verdict
from matrix.evaluation.judge import Judge
from matrix.evaluation.questions import Pair, read_answers, read_questions
from matrix.progress import Progress
from matrix.records import Answer, Judgement, Question


def config(**changes):
    return ArenaHardConfig(answers=AnsweringConfig(temperature=0.0), **changes)


def pair(name="q1", model="M-ANSWER", reference="R-ANSWER"):
    row = {"id": name, "instruction": f"Do {name}"}
    return Pair(
        Question(**row), 0,
        Answer(**row, output=model, generator="model", tokens=10), Answer(**row, output=reference, generator="base"),
    )  # fmt: skip


class Speaker:
    """Answers each call with the next of its texts; a text that is an error is raised."""

    name, max_context = "speaker", 10**6

    def __init__(self, *texts):
        self.texts = list(texts)
        self.heard = []

    async def chat(self, messages, sampling):
        self.heard.append(messages)
        text = self.texts.pop(0)
        if isinstance(text, Exception):
            raise text
        logprobs = text if isinstance(text, dict) else {}
        return Completion(
            text=str(text), prompt_tokens=1, completion_tokens=1, finish_reason="stop", choice_logprobs=logprobs
        )


def judge_all(comparison, model, failed_calls=0):
    judge = Judge(model, Progress("test", comparison.calls), failed_calls)
    return asyncio.run(comparison.judge(judge, seed=0))


@pytest.mark.parametrize("name", ["rawjudgments_zep_athene", "rawjudgments_pen_bagel"])
def test_real_judgements_parse_to_their_stored_labels(reference_data, name):
    games = [game for row in reference_data.jsonl(f"arena_hard/{name}") for game in row["games"]]
    assert len(games) > 200
    assert [parse(game["judgment"])[0] or None for game in games] == [game["score"] for game in games]


def test_prompt_is_that_of_real_judgements(reference_data):
    """What our judge is shown is what the original's judge was shown, character by character."""
    row = reference_data.jsonl("arena_hard/rawjudgments_pen_bagel")[0]
    questions = read_questions(reference_data.path("arena_hard/question_v0.1.jsonl"))
    question = next(q for q in questions if q.id == row["question_id"])
    shown = row["games"][0]["user_prompt"]
    a, b = (shown.split(f"Assistant {x}'s Answer|>\n", 1)[1].split("\n<|The End", 1)[0] for x in "AB")
    both = Pair(
        question, 0, Answer(id="", instruction="", output=b, generator=""),
        Answer(id="", instruction="", output=a, generator=""),
    )  # fmt: skip
    comparison = ArenaHard(config(), [both], rounds=1)
    assert [comparison.messages(both, game)[1].content for game in (0, 1)] == [g["user_prompt"] for g in row["games"]]


def test_published_score_comes_out_of_real_battles(reference_data):
    """3-fold battles were written out as three rows, so every row is a game of its own here."""
    rows = reference_data.jsonl("arena_hard/battles_gpt-3.5-turbo-0125")
    points = {"model_a": 0.0, "tie": 0.5, "model_b": 1.0}
    judgements = [
        Judgement(
            id=str(i), benchmark="arena_hard_v0.1", question=r["question_id"], verdict="A>B",
            preference=points[r["winner"]],
        )
        for i, r in enumerate(rows)
    ]  # fmt: skip
    scored = ArenaHard(config(), [pair()], rounds=1000).scores(judgements, seed=0)
    assert scored["metrics"]["score"] == pytest.approx(23.338, abs=5e-4)
    low, high = scored["interval"]["score_by_battle"]
    assert (low, high) == (pytest.approx(21.3, abs=0.5), pytest.approx(25.3, abs=0.5))
    wide = scored["interval"]["score"]
    assert wide == [pytest.approx(19.9, abs=0.6), pytest.approx(26.6, abs=0.6)]


def test_answers_of_the_original_are_read(reference_data):
    questions = read_questions(reference_data.path("arena_hard/question_v0.1.jsonl"))
    answers = read_answers(reference_data.path("arena_hard/answers_v0.1_gpt-4-0314.jsonl"), questions)
    assert (len(answers), answers[0].id, answers[0].generator) == (500, questions[0].id, "gpt-4-0314")
    assert all(a.instruction == q.instruction for a, q in zip(answers, questions, strict=True))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("so [[A>>B]]", ("A>>B", False)),
        ("[[A>B]] and again [[A>B]]", ("A>B", False)),
        ("[[A>B]] or [[B>A]]", ("", False)),
        ("no label, [A>B]", ("", True)),
        ("", ("", True)),
    ],
)
def test_parse(text, found):
    assert parse(text) == found


def test_clear_wins_count_thrice_and_sides_are_exchanged():
    model = Speaker("[[B>>A]]", "[[A=B]]")
    comparison = ArenaHard(config(), [pair()], rounds=10)
    judgements = judge_all(comparison, model)
    assert [(j.game, j.swapped, j.verdict, j.preference) for j in judgements] == [
        (0, False, "B>>A", 1.0),
        (1, True, "A=B", 0.5),
    ]
    first, second = (messages[1].content for messages in model.heard)
    assert first.index("R-ANSWER") < first.index("M-ANSWER")
    assert second.index("M-ANSWER") < second.index("R-ANSWER")
    assert comparison.scores(judgements, 0)["metrics"]["score"] == pytest.approx(100 * 3.5 / 4)


def test_no_verdict_is_asked_for_once_more():
    model = Speaker("I like both.", "[[A>B]] or [[B>A]]", "Finally: [[B>A]]")
    comparison = ArenaHard(config(), [pair()], rounds=10)
    judgements = judge_all(comparison, model)
    assert sorted(j.verdict for j in judgements) == ["", "B>A"]  # two labels are no verdict and are not asked again
    again = next(messages for messages in model.heard if len(messages) == 4)
    assert [m.role for m in again] == ["system", "user", "assistant", "user"]
    assert again[-1].content == "continue your judgment and finish by outputting a final verdict label"
    metrics = comparison.scores(judgements, 0)["metrics"]
    assert (metrics["n_judged"], metrics["n_total"]) == (1, 2)


def test_label_outside_the_table_is_no_verdict():
    judgements = judge_all(ArenaHard(config(), [pair()], rounds=10), Speaker("[[A<B]]", "[[A>B]]"))
    assert [j.preference for j in judgements] == [None, 1.0]


def test_nothing_judged_is_no_score():
    comparison = ArenaHard(config(), [pair()], rounds=10)
    scored = comparison.scores(judge_all(comparison, Speaker(*[""] * 4)), 0)
    assert (scored["metrics"]["score"], scored["interval"], scored["metrics"]["n_judged"]) == (None, {}, 0)


def test_too_long_a_game_is_unjudged_and_says_so():
    judgements = judge_all(ArenaHard(config(), [pair()], rounds=10), Speaker(ContextOverflow("9000 tokens"), "[[A>B]]"))
    assert judgements[0].preference is None
    assert judgements[0].text == "ContextOverflow: 9000 tokens"


def test_failed_calls_stop_the_stage_beyond_what_is_allowed():
    comparison = ArenaHard(config(), [pair()], rounds=10)
    with pytest.raises(EngineError, match="refused"):
        judge_all(comparison, Speaker(EngineError("refused"), "[[A>B]]"))
    judgements = judge_all(comparison, Speaker(EngineError("refused"), "[[A>B]]"), failed_calls=1)
    assert [j.preference for j in judgements] == [None, 1.0]


def test_choices_cancel_a_liking_for_the_first_answer():
    """In both games A is likelier, but less so when A is the reference: the model wins both."""
    model = Speaker({"A": math.log(0.6), "B": math.log(0.4)}, {"A": math.log(0.9), "B": math.log(0.1)})
    comparison = ArenaHard(config(verdict=Verdict.choices), [pair()], rounds=10)
    judgements = judge_all(comparison, model)
    assert [(j.verdict, j.preference) for j in judgements] == [("B>A", 1.0), ("A>B", 1.0)]
    assert comparison.scores(judgements, 0)["metrics"]["first_preferred"] == 100


def test_choices_within_the_band_are_a_tie_and_half_a_pair_is_none():
    same = {"A": -0.1, "B": -2.0}
    assert verdicts_of_choices([same, same], 0.02) == ["A=B", "A=B"]
    assert verdicts_of_choices([same, {"A": -0.1}], 0.02) == ["", ""]


def test_choices_need_log_probabilities():
    with pytest.raises(EngineError, match="verdict=choices needs"):
        judge_all(ArenaHard(config(verdict=Verdict.choices), [pair()], rounds=10), Speaker("A", "A"))


def test_leaderboard_row_agrees_with_the_published_table(reference_data):
    """Guards the reference data that the tests above rely on."""
    with (reference_data.root / "arena_hard" / "arena_hard_leaderboard_20240731.csv").open(newline="") as file:
        rows = {row["model"]: float(row["score"]) for row in csv.DictReader(file)}
    assert rows["gpt-3.5-turbo-0125"] == pytest.approx(23.34, abs=0.01)
