import pytest
from society_fakes import FakeModel, rows_of

from matrix.generation.reasoning import LEVELS, ReasoningConfig, split_thinking
from matrix.prompting import Unparsable

THOUGHT = "<think>\nHalf of ten is five.\n</think>\n\nFive loaves are left."


def made(lives, text=THOUGHT, **config):
    model, responder = FakeModel(), FakeModel(response=text)
    rows, failures = rows_of(
        ReasoningConfig(**({"num_rows": 4, "max_tries": 1} | config)), lives, model, responder
    )  # fmt: skip
    return rows, failures, model


def test_levels_are_drawn_and_told(lives):
    rows, _, model = made(lives, num_rows=40)
    assert {row.complexity for row in rows} == set(LEVELS)
    asked = dict(zip((f"row-{n:05}" for n in range(40)), (p for k, p, _ in model.calls if k == "reason"), strict=True))
    assert any("Level: PhD\n" in prompt for prompt in asked.values())
    assert {r.complexity for r in made(lives, levels=["PhD"])[0]} == {"PhD"}


@pytest.mark.parametrize(
    ("keep", "content"),
    [(True, "<think>\nHalf of ten is five.\n</think>\n\nFive loaves are left."), (False, "Five loaves are left.")],
)
def test_thought_is_kept_apart_and_in_the_message_if_wanted(lives, keep, content):
    rows, failures, _ = made(lives, keep_thinking=keep)
    assert {(r.thinking, r.messages[-1].content) for r in rows} == {("Half of ten is five.", content)}
    assert len(rows) == 4
    assert failures == []


@pytest.mark.parametrize(
    ("text", "thoughts", "said"),
    [
        ("<think>a b</think>c", ["a b"], "c"),
        ("a b\n</think>\nc", ["a b"], "c"),  # the chat template wrote the first tag
        ("c", [], "c"),
        ("<think>\n\n</think>\n\nc", [], "c"),
        ("<think>a</think>perhaps<think>b</think>c", ["a", "perhaps", "b"], "c"),
        ("<think>the tag <think> opens it</think>c", ["the tag", "opens it"], "c"),
    ],
)
def test_splitting(text, thoughts, said):
    assert split_thinking(text) == (thoughts, said)


@pytest.mark.parametrize(
    ("text", "why"),
    [("<think>a", "does not end"), ("<think>a</think>b<think>c", "does not end"), ("<think>a</think> ", "no answer")],
)
def test_what_cannot_be_split_is_a_failure(lives, text, why):
    with pytest.raises(Unparsable, match=why):
        split_thinking(text)
    rows, failures, _ = made(lives, text)
    assert rows == []
    assert [f.text for f in failures] == [text.strip()] * 4
    assert all(why in f.error for f in failures)


def test_several_blocks_are_joined_and_counted(lives):
    rows, failures, _ = made(lives, "<think>a b</think>\n<think>c d</think>\nFive.", keep_thinking=False)
    assert {(r.thinking, r.messages[-1].content) for r in rows} == {("a b\n\nc d", "Five.")}
    assert [f.error for f in failures] == ["2 blocks of thought were joined"] * 4


@pytest.mark.parametrize(
    ("limits", "why"),
    [
        ({"min_think": 5}, None), ({"min_think": 6}, "5 tokens of thought, min_think=6"),
        ({"max_think": 5}, None), ({"max_think": 4}, "5 tokens of thought, max_think=4"), ({"max_think": None}, None),
    ],
    ids=str,
)  # fmt: skip
def test_rows_are_filtered_by_length_of_thought(lives, limits, why):
    rows, failures, _ = made(lives, **limits)
    assert len(rows) == (0 if why else 4)
    assert {f.error for f in failures} == ({why} if why else set())


def test_an_answer_without_thought_is_a_failure_unless_it_is_wanted(lives):
    rows, failures, _ = made(lives, "Five.")
    assert rows == []
    assert {f.error for f in failures} == {"0 tokens of thought, min_think=1"}
    rows, failures, _ = made(lives, "Five.", min_think=0)
    assert {(r.thinking, r.messages[-1].content) for r in rows} == {("", "Five.")}


@pytest.mark.parametrize("wrong", [{"levels": []}, {"min_think": -1}, {"min_think": 9, "max_think": 8}], ids=str)
def test_nonsense_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ReasoningConfig(**wrong)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("Problem: I sell 3 loaves of 9. How many are left?", "I sell 3 loaves of 9. How many are left?"),
        ("Prove that 9 loaves cannot be shared by 2 bakers.", "Prove that 9 loaves cannot be shared by 2 bakers."),
        ("I like to bake bread with my family.", None),
        ("I sell 3 loaves of 9. How many are left?\n\nThe answer is: 6", None),
    ],
)
def test_a_problem_asks_something(lives, text, kept):
    rows, failures = rows_of(
        ReasoningConfig(num_rows=1, max_tries=1), lives, FakeModel(reason=text), FakeModel(response=THOUGHT)
    )
    assert [r.messages[0].content for r in rows] == [kept] * bool(kept)
    assert bool(failures) is not bool(kept)
