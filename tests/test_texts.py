import pytest
from hypothesis import given
from hypothesis import strategies as st

from matrix.texts import ASSISTANT_VOICE, REFUSAL, TOKEN, bands, folded, grams, jaccard, ngrams, normalised


def test_n_grams_are_of_words_and_marks_whatever_case_and_space():
    assert ngrams("Bake  the\nBread, now!", 3) == {"bake the bread", "the bread ,", "bread , now", ", now !"}
    assert ngrams("Bread", 3) == {"bread"}
    assert ngrams("bake bread now", 3) == {"bake bread now"}
    assert ngrams("", 3) == {""}


@given(st.text(max_size=60), st.integers(1, 5))
def test_n_grams_by_their_definition(text, size):
    tokens = TOKEN.findall(normalised(text))
    assert ngrams(text, size) == {" ".join(tokens[i : i + size]) for i in range(max(len(tokens) - size + 1, 1))}


def test_likeness_is_shared_over_all():
    assert jaccard(frozenset("abc"), frozenset("bcd")) == 0.5
    assert list(grams(("a", "b", "c"), 2)) == [("a", "b"), ("b", "c")]
    assert folded("ＡB\nc") == "ab\nc"


@given(st.floats(0.3, 1.0), st.sampled_from([16, 64, 128]))
def test_bands_find_a_pair_at_the_threshold(threshold, hashes):
    count = bands(threshold, hashes)
    assert count == hashes or 1 - (1 - threshold ** (hashes // count)) ** count >= 0.999


@pytest.mark.parametrize(
    "text", ["I'm sorry, but I can't help.", "As an AI language model, I", "Unfortunately, I cannot"]
)
def test_refusals(text):
    assert REFUSAL.match(text)


@pytest.mark.parametrize("text", ["I'm sorry to hear that.", "I can't wait to see it.", "Here is how."])
def test_no_refusals(text):
    assert not REFUSAL.match(text)


def test_an_assistants_voice():
    assert ASSISTANT_VOICE.search("I'd be happy to help you bake.")
    assert not ASSISTANT_VOICE.search("I'd be happy if you helped me bake.")
