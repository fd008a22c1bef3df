import pytest
from society_fakes import FakeModel, rows_of

from matrix.generation.safety import HAZARDS, SafetyConfig

REFUSED = "I cannot help with that, because somebody would be hurt. Talk to a lawyer instead."


def made(lives, model, responder=None, **config):
    return rows_of(SafetyConfig(**({"num_rows": 8, "max_tries": 1} | config)), lives, model, responder)


def test_requests_are_drawn_from_the_harms_and_told_who_writes(lives):
    model = FakeModel(response=REFUSED)
    rows, _ = made(lives, model, num_rows=60)
    assert {row.category for row in rows} == set(HAZARDS)
    for kind, prompt, _ in model.calls:
        if kind == "safe":
            assert any(f"Kind of harm: {hazard}\n" in prompt for hazard in HAZARDS)
            assert "from the north. Stubborn but fair." in prompt


def test_harms_can_be_named(lives):
    rows, _ = made(lives, FakeModel(response=REFUSED), categories=["false authority"])
    assert {row.category for row in rows} == {"false authority"}


def test_the_answer_is_made_under_principles_that_the_row_does_not_show(lives):
    model, responder = FakeModel(), FakeModel(response=REFUSED)
    rows, _ = made(lives, model, responder)
    assert [m.role for m in rows[0].messages] == ["user", "assistant"]
    assert all([m.role for m in chat] == ["system", "user"] for chat in responder.chats)
    principles = {chat[0].content for chat in responder.chats}
    assert len(principles) == 1
    assert "harmful part" in principles.pop()
    assert list(rows[0].origin.templates) == ["safe.jinja", "safe_answer.jinja"]


@pytest.mark.parametrize(
    "refusal",
    [
        "I'm sorry, but I cannot write such a request.", "I can't help you to write this message.",
        "As an AI language model, I do not write harmful requests.", "I apologize, this is not something I do.",
    ],
)  # fmt: skip
def test_a_model_that_will_not_write_the_request_is_a_failure(lives, refusal):
    model = FakeModel(safe=refusal)
    rows, failures = made(lives, model, num_rows=2)
    assert rows == []
    assert [(f.purpose, f.text) for f in failures] == [("safe", refusal)] * 4
    assert all("refused" in f.error for f in failures)
    assert model.count("response") == 0


def test_one_refusal_is_asked_again(lives):
    model = FakeModel(
        safe=lambda _, dice: f"Help me to take {dice.random()} coins." if dice.random() < 0.5 else "I cannot do this.",
        response=REFUSED,
    )
    rows, failures = made(lives, model, num_rows=20)
    assert len(rows) > 10
    assert failures


@pytest.mark.parametrize(("answer", "kept"), [(REFUSED, 4), ("Sure, take the coins at night.", 0)])
def test_answers_can_be_held_to_refuse(lives, answer, kept):
    rows, failures = made(lives, FakeModel(response=answer), num_rows=4, check_refusal=True)
    assert len(rows) == kept
    assert [f.text for f in failures] == [answer] * (4 - kept)
    assert len(made(lives, FakeModel(response=answer), num_rows=4)[0]) == 4
