import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from matrix.filtering.base import Facts
from matrix.filtering.dedup import DedupConfig, Method, Part
from matrix.records import Conversation, Message, Origin, PreferencePair
from matrix.texts import bands, jaccard, ngrams

ORIGIN = Origin(stage="generate-test")
WORDS = ["shop", "menu", "budget", "plan", "week", "patient", "harvest", "engine", "night", "train", "letter", "light"]


def ask(number: int, instruction: str, response: str = "A fine answer.") -> Conversation:
    messages = [Message(role="user", content=instruction), Message(role="assistant", content=response)]
    return Conversation(id=f"row{number}", messages=messages, origin=ORIGIN)


def rows(*texts: str) -> list[Conversation]:
    return [ask(number, text) for number, text in enumerate(texts)]


def test_exact_keeps_the_first_and_names_it():
    verdicts = (
        DedupConfig(method=Method.exact)
        .build(Facts())
        .judge(rows("Plan a menu", "plan\n a  MENU", "Plan a menu!", "Plan a menu"))
    )
    assert verdicts == [None, ("exact duplicate", "row0"), None, ("exact duplicate", "row0")]


def test_part_says_what_has_to_be_new():
    both = [ask(0, "Plan a menu", "Soup."), ask(1, "Plan a menu", "Salad."), ask(2, "Plan a day", "Soup.")]
    dropped = {
        part: [bool(v) for v in DedupConfig(method=Method.exact, part=part).build(Facts()).judge(both)] for part in Part
    }
    assert dropped == {
        Part.instruction: [False, True, False],
        Part.response: [False, False, True],
        Part.row: [False, False, False],
    }


def test_pairs_are_compared_too():
    prompt = [Message(role="user", content="Plan a menu")]
    pairs = [PreferencePair(id=i, prompt=prompt, chosen="yes", rejected=i, origin=ORIGIN) for i in ("p", "q")]
    assert DedupConfig(method=Method.exact).build(Facts()).judge(pairs) == [None, ("exact duplicate", "p")]
    assert DedupConfig(method=Method.exact, part=Part.row).build(Facts()).judge(pairs) == [None, None]


def test_near_duplicates_go_and_different_questions_stay():
    first = "I run a small bakery and want to lower my energy bill this winter without new ovens. Where do I start?"
    near = "I run a small bakery and want to lower my energy bill this winter without new ovens. Where should I start?"
    other = "I run a small bakery and my sourdough starter turned grey this winter. Can I still rescue it?"
    verdicts = DedupConfig().build(Facts()).judge(rows(first, other, near, "What is 2+2?", "What is 2-2?"))
    assert verdicts == [None, None, ("near duplicate", "row0"), None, None]


def test_texts_without_spaces_have_ngrams():
    assert len(ngrams("请帮我写一封信给我的房东", 3)) == 10
    assert ngrams("", 3) == {""}


def test_every_verdict_agrees_with_brute_force():
    """Against all true Jaccard similarities: no false drop, and at most one in a thousand misses expected."""
    draw = random.Random(7)
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(8, 30))) for _ in range(150)]
    for text in draw.sample(texts, 100):  # copies with a few words changed, on both sides of the threshold
        words = text.split()
        for _ in range(draw.randint(0, 3)):
            words[draw.randrange(len(words))] = draw.choice(WORDS)
        texts.append(" ".join(words))
    config = DedupConfig(threshold=0.6)
    verdicts = config.build(Facts()).judge(rows(*texts))
    kept: list[frozenset[str]] = []
    expected = []
    for text in texts:
        grams = ngrams(text, config.ngram)
        expected.append(any(jaccard(grams, other) >= config.threshold for other in kept))
        if not expected[-1]:
            kept.append(grams)
    assert [bool(verdict) for verdict in verdicts] == expected
    assert sum(expected) > 30


@settings(max_examples=40, deadline=None)
@given(st.lists(st.text(alphabet="abc .!", max_size=12), max_size=12))
def test_kept_rows_do_not_repeat_each_other_and_drops_point_at_kept_rows(texts):
    sample = rows(*texts)
    for config in (DedupConfig(method=Method.exact), DedupConfig(num_perm=32)):
        verdicts = config.build(Facts()).judge(sample)
        kept = {row.id for row, verdict in zip(sample, verdicts, strict=True) if verdict is None}
        assert all(verdict.value in kept for verdict in verdicts if verdict)
        again = config.build(Facts()).judge([row for row in sample if row.id in kept])
        assert again == [None] * len(kept)


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7, 0.8, 0.9, 1.0])
def test_bands_divide_the_signature_and_catch_the_threshold(threshold):
    count = bands(threshold, 128)
    assert 128 % count == 0
    assert count == 128 or 1 - (1 - threshold ** (128 // count)) ** count >= 0.999


@pytest.mark.parametrize("wrong", [{"threshold": 0.0}, {"ngram": 0}, {"num_perm": 100}])
def test_senseless_knobs_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        DedupConfig(**wrong)
