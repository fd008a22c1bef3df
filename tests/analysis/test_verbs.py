"""What instructions ask for, read by rule."""

from __future__ import annotations

import pytest

from matrix.analysis.verbs import imperatives, request, top_requests


@pytest.mark.parametrize(
    ("text", "verb", "noun"),
    [
        ("Write a short poem about the sea.", "write", "poem"),
        ("I run a pharmacy. Could you please help me design a safety checklist for new staff?", "design", "checklist"),
        ("As a coach, I want to plan training sessions that fit my week.", "plan", "session"),
        ("How do I fix the leaking pipe under my sink?", "fix", "pipe"),
        ("What is the best way to organise my sales data using Python?", "organise", "data"),
        ("Please briefly explain how vaccines work.", "explain", ""),
        ("Tell me about it.", "tell", ""),
        ("I need a python script that sorts files.", "need", "script"),
        ("Draft a ministerial speech outlining the top five benefits of innovation.", "draft", "speech"),
        ("Make a machine learning model.", "make", "model"),
        ("Give me 5 tips for a dry balcony!", "give", "tip"),
        ("Convert the given classes.", "convert", "class"),
        ("Summarise the company's strategies", "summarise", "strategy"),
        ("What is the capital of France?", "", ""),
        ("Wie plane ich das Budget?", "", ""),
        ("", "", ""),
        ("😀 ... ###", "", ""),
    ],
)
def test_the_first_request_is_read(text: str, verb: str, noun: str):
    assert request(text) == (verb, noun)


def test_a_long_text_is_no_burden():
    assert request("word " * 50_000 + "\nWrite a poem.") == ("write", "poem")


def test_imperatives_are_single_lower_case_words():
    assert len(imperatives()) > 400
    assert all(word.isalpha() and word.islower() for word in imperatives())


def test_verbs_are_counted_with_their_objects():
    asked = [("write", "poem"), ("write", "code"), ("plan", "trip"), ("write", "poem"), ("explain", ""), ("", "")]
    found = top_requests(asked, verbs=2, nouns=1)
    assert (found["rows"], found["read"], found["with_object"]) == (6, 5, 4)
    assert found["verbs"] == [
        {"verb": "write", "rows": 3, "objects": [["poem", 2]]},
        {"verb": "explain", "rows": 1, "objects": []},
    ]
