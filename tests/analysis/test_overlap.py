"""How near instructions come to evaluation questions."""

from __future__ import annotations

import numpy as np

from matrix.analysis.overlap import by_meaning, by_words

QUESTION = "How many pairs of socks do I have to take out of a dark drawer to have a matching pair?"
OTHER = "Name the longest river of every continent and say through which countries it flows, please."


def test_shared_words_are_a_share_of_the_question():
    held = f"My teacher asked me: {QUESTION.upper()} Help!"
    half = " ".join(QUESTION.split()[:12]) + " bag?"
    found = by_words([held, half, "Plan my day.", OTHER], [OTHER, QUESTION])
    assert found[0] == (1.0, 1)
    assert 0.3 < found[1].value < 0.6
    assert found[1].question == 1
    assert found[2] == (0.0, -1)
    assert found[3] == (1.0, 0)


def test_short_questions_are_not_found_in_words():
    assert by_words(["Name a river."], ["Name a river."]) == [(0.0, -1)]


def test_the_nearest_in_meaning():
    questions = np.eye(3, dtype=np.float32)
    vectors = np.array([[0.0, 1.0, 0.0], [0.6, 0.0, 0.8]], np.float32)
    assert by_meaning(vectors, questions) == [(1.0, 1), (0.8, 2)]
    assert by_meaning(np.empty((0, 3), np.float32), questions) == []
