import random

import pytest

from matrix.filtering.base import Facts
from matrix.filtering.decontaminate import ContaminationError, DecontaminateConfig
from matrix.filtering.dedup import Part
from matrix.records import Conversation, Message, Origin
from matrix.texts import WORD, folded

ORIGIN = Origin(stage="generate-test")
TRAM = (
    "A tram leaves every 12 minutes and a bus every 18 minutes. Both leave at 7:00. When do they next leave together?"
)
BREAD = "Explain to a ten-year-old why bread rises in the oven."
QUESTIONS = {"maths": [TRAM], "demo": [BREAD, "Who made Berlin?", "Hm."]}


def ask(instruction: str, answer: str = "Yes.") -> Conversation:
    messages = [Message(role="user", content=instruction), Message(role="assistant", content=answer)]
    return Conversation(id="row", messages=messages, origin=ORIGIN)


def verdicts(*rows: Conversation, questions=QUESTIONS, **knobs):
    config = DecontaminateConfig(**{"max_contamination": 1.0, **knobs})
    found = config.build(Facts(questions=questions)).judge(rows)
    config.check(found)
    return found


def test_a_question_is_found_whatever_its_dress():
    found = verdicts(
        ask(f"Hello! I have a task for you: {TRAM} Thanks."),
        ask(BREAD.upper().replace(" ", "  ").replace("-", " - ")),
        ask("Which tram leaves every 12 minutes from here, and is there a bus?"),
    )
    assert found[0] == ("question of maths", f"100% of: {TRAM[:80]}")
    assert found[1] == ("question of demo", f"100% of: {BREAD}")
    assert found[2] is None


def test_half_of_a_question_is_enough():
    words = TRAM.split()
    half, less = (" ".join(words[:count]) for count in (13, 9))
    assert [bool(v) for v in verdicts(ask(half), ask(less))] == [True, False]
    assert [bool(v) for v in verdicts(ask(half), ask(less), threshold=0.3)] == [True, True]
    assert [bool(v) for v in verdicts(ask(half), ask(TRAM), threshold=0.9)] == [False, True]


def test_two_passages_add_up():
    words = TRAM.split()
    pieces = " ".join([*words[:9], "or so I was told, and", *words[12:]])
    assert verdicts(ask(" ".join(words[12:])), threshold=0.7) == [None]
    assert verdicts(ask(pieces), threshold=0.7)[0].reason == "question of maths"


def test_a_short_question_is_a_whole_sentence_or_line():
    rows = [ask("Who made Berlin"), ask("Hi! Who made Berlin? Thanks."), ask("I ask myself\nwho made Berlin")]
    assert [bool(v) for v in verdicts(*rows, ask("Do you know who made Berlin so flat?"))] == [True] * 3 + [False]


def test_answers_are_searched_on_demand():
    row = ask("Give me a riddle.", TRAM)
    assert verdicts(row) == [None]
    assert verdicts(row, part=Part.row)[0].reason == "question of maths"
    assert verdicts(row, part=Part.response)[0].reason == "question of maths"


def test_the_question_that_is_covered_most_is_named():
    questions = {"short": [TRAM], "long": [f"{TRAM} And why does the tram not wait for the bus?"]}
    assert verdicts(ask(TRAM), questions=questions)[0].reason == "question of short"


def test_other_scripts():
    question = "请写一首关于春天的诗并解释每一行的意思"
    assert verdicts(ask(f"你好。{question}谢谢"), questions={"zh": [question]})[0].reason == "question of zh"


WORDS = [f"w{n}" for n in range(40)]


@pytest.mark.parametrize("ngram", [3, 5])
def test_every_verdict_agrees_with_a_plain_scan(ngram):
    draw = random.Random(ngram)
    questions = [" ".join(draw.choices(WORDS, k=draw.randint(ngram, 20))) for _ in range(30)]
    texts = []
    for _ in range(200):
        passage = draw.choice(questions).split()
        texts.append(" ".join(draw.choices(WORDS, k=8) + passage[draw.randrange(len(passage)) :]))

    def share(text: str, question: str) -> float:
        words, covered = question.split(), set()
        for start in range(len(words) - ngram + 1):
            if f" {' '.join(words[start : start + ngram])} " in f" {text} ":
                covered.update(range(start, start + ngram))
        return len(covered) / len(words)

    expected = [max(share(text, question) for question in questions) >= 0.5 for text in texts]
    found = verdicts(*map(ask, texts), questions={"set": questions}, ngram=ngram)
    assert [bool(verdict) for verdict in found] == expected
    assert 20 < sum(expected) < 180


def test_too_many_contaminated_rows_fail_the_run():
    clean = [ask(f"What should I cook on day {n} of my holiday?") for n in range(97)]
    dirty = [ask(TRAM), ask(TRAM), ask(BREAD)]
    assert sum(map(bool, verdicts(*clean, *dirty, max_contamination=0.03))) == 3
    with pytest.raises(
        ContaminationError,
        match=r"3 of 100 rows .* 2 x question of maths, 1 x question of demo; .*max_contamination=1 to",
    ):
        verdicts(*clean, *dirty, max_contamination=0.02)


def test_one_row_fails_no_run_unless_none_is_allowed():
    assert verdicts(ask(TRAM), ask("Plan a menu for us."), max_contamination=0.02)[0]
    with pytest.raises(ContaminationError):
        verdicts(ask(TRAM), ask("Plan a menu for us."), max_contamination=0.0)


def test_nothing_to_look_for_is_an_error():
    with pytest.raises(ValueError, match="no evaluation set has questions"):
        DecontaminateConfig().build(Facts(questions={"demo": []}))


@pytest.mark.parametrize("knob", [{"ngram": 1}, {"threshold": 0.0}, {"max_contamination": 2.0}])
def test_impossible_knobs_are_refused(knob):
    with pytest.raises(ValueError, match=next(iter(knob))):
        DecontaminateConfig(**knob)


def test_words():
    assert WORD.findall(folded("Ｔｅｎ-year_old's\n3.5 %")) == ["ten", "year", "old", "s", "3", "5"]
