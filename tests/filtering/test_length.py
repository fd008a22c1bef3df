import pytest

from matrix.filtering.base import Facts
from matrix.filtering.length import LengthConfig, LengthUnit
from matrix.records import Conversation, Message, Origin, PreferencePair

ORIGIN = Origin(stage="generate-test")


def conversation(*texts: str) -> Conversation:
    roles = ["user", "assistant"] * len(texts)
    return Conversation(
        id="c",
        messages=[Message(role=role, content=text) for role, text in zip(roles, texts, strict=False)],
        origin=ORIGIN,
    )


def pair(prompt: str, chosen: str, rejected: str) -> PreferencePair:
    return PreferencePair(
        id="p", prompt=[Message(role="user", content=prompt)], chosen=chosen, rejected=rejected, origin=ORIGIN
    )


def test_bounds_are_inclusive_and_named_in_the_reason():
    judge = LengthConfig(min_instruction=3, max_instruction=5, min_response=2, max_response=4).build(Facts()).judge
    rows = [
        conversation("abc", "ab"),
        conversation("abcde", "abcd"),
        conversation("ab", "abc"),
        conversation("abcdef", "abc"),
        conversation("abc", " a\n"),
        conversation("abc", "abcde"),
    ]
    assert judge(rows) == [
        None,
        None,
        ("instruction too short", "2 characters"),
        ("instruction too long", "6 characters"),
        ("response too short", "1 characters"),
        ("response too long", "5 characters"),
    ]


def test_words():
    judge = LengthConfig(unit=LengthUnit.words, min_instruction=2, min_response=2).build(Facts()).judge
    assert judge([conversation("one  two", "three\nfour")]) == [None]
    assert judge([conversation("internationalisation", "three four")]) == [("instruction too short", "1 words")]


def test_both_answers_of_a_pair_count():
    judge = LengthConfig(min_instruction=1, min_response=3).build(Facts()).judge
    assert judge([pair("why", "because", "no"), pair("why", "no", "because"), pair("why", "because", "maybe")]) == [
        ("response too short", "2 characters"),
        ("response too short", "2 characters"),
        None,
    ]


def test_all_turns_of_a_conversation_count():
    judge = LengthConfig(min_instruction=10, min_response=10).build(Facts()).judge
    assert judge([conversation("short", "answer", "longer", "answer too")]) == [None]


@pytest.mark.parametrize("bounds", [{"min_response": 5, "max_response": 4}, {"min_instruction": -1}])
def test_impossible_bounds_are_refused(bounds):
    with pytest.raises(ValueError, match="need 0 <= min_"):
        LengthConfig(**bounds)
