import itertools
from collections import Counter

import pytest
from society_fakes import FakeModel, rows_of

from matrix.engines.base import ContextOverflow
from matrix.generation.dialogue import DialogueConfig


def made(lives, model, responder=None, **config):
    return rows_of(DialogueConfig(**({"num_rows": 8, "max_tries": 1} | config)), lives, model, responder)


def turns(row):
    return len(row.messages) // 2


def user_prompts(model):
    return [prompt for kind, prompt, _ in model.calls if kind == "multi_turn"]


def later(reply):
    """A user who opens as always and then says `reply`."""
    return lambda prompt, dice: reply if "The conversation:" in prompt else f"Please help me with oven {dice.random()}."


def test_user_and_assistant_take_turns_as_many_as_were_drawn(lives):
    rows, failures = made(lives, FakeModel(), num_rows=60)
    assert set(Counter(map(turns, rows))) == {2, 3, 4, 5, 6}
    assert failures == []
    for row in rows:
        assert [m.role for m in row.messages] == ["user", "assistant"] * turns(row)
        assert len({m.content for m in row.messages}) == len(row.messages)
        assert row.kind == "multi_turn"


def test_the_number_of_turns_can_be_set(lives):
    assert {turns(r) for r in made(lives, FakeModel(), min_turns=3, max_turns=3)[0]} == {3}


def test_the_user_knows_persona_scenario_and_dialogue_and_the_assistant_the_dialogue_alone(lives):
    model, responder = FakeModel(), FakeModel()
    rows, _ = made(lives, model, responder, num_rows=1, min_turns=3, max_turns=3)
    messages = rows[0].messages
    last = max(user_prompts(model), key=len)
    assert "Baker. A baker from the north." in last
    assert "The baker burnt the rye bread." in last
    for said in messages[:4]:
        assert {"user": "Person", "assistant": "Assistant"}[said.role] + f": {said.content}" in last
    assert responder.chats == [messages[:1], messages[:3], messages[:5]]


def test_a_users_prompts_begin_alike(lives):
    model = FakeModel()
    made(lives, model, num_rows=1, min_turns=4, max_turns=4)
    prompts = sorted(user_prompts(model), key=len)
    for shorter, longer in itertools.pairwise(prompts):
        assert longer.startswith(shorter[: shorter.rindex("\n\nWrite the")].rstrip())


def test_the_user_may_end_once_there_are_enough_turns(lives):
    model = FakeModel(multi_turn=lambda p, dice: "[END]" if "[END]" in p else f"And my question {dice.random()}?")
    rows, failures = made(lives, model, min_turns=3, max_turns=9)
    assert {turns(r) for r in rows} == {3}
    assert failures == []


def test_an_end_before_its_time_is_no_message(lives):
    rows, failures = made(lives, FakeModel(multi_turn=later("[END]")), num_rows=1)
    assert rows == []
    assert [f.purpose for f in failures] == ["multi_turn"] * 3
    assert "1 turns, min_turns=2" in " ".join(f.error for f in failures)


@pytest.mark.parametrize("reply", ["And what about the flour?", "And what about the  FLOUR?"])
def test_a_user_who_repeats_himself_ends_the_dialogue(lives, reply):
    said = iter(["And what about the flour?"] + [reply] * 9)

    def user(prompt, dice):
        return next(said) if "The conversation:" in prompt else "Please help me with the oven."

    rows, failures = made(lives, FakeModel(multi_turn=user), num_rows=1, min_turns=2, max_turns=9)
    assert [turns(r) for r in rows] == [2]
    assert [f.error for f in failures] == ["the user repeats what was said before"] * 2


def test_a_user_who_parrots_the_assistant_ends_the_dialogue(lives):
    model = FakeModel(multi_turn=later("Bake it slowly in the oven."), response="Bake it slowly in the oven.")
    rows, failures = made(lives, model, num_rows=1)
    assert rows == []
    assert failures[-1].text == "user: " + model.chats[1][0].content + "\n\nassistant: Bake it slowly in the oven."


@pytest.mark.parametrize(
    ("reply", "kept"),
    [
        ("Person: What about the flour then?\n\nAssistant: Take rye.", "What about the flour then?"),
        ("What about the flour then?\n\nPerson: And the salt?", "What about the flour then?"),
        ("**Next message:** What about the flour then?", "What about the flour then?"),
        ("What about the flour then? [END]", "What about the flour then?"),
    ],
)
def test_one_message_is_taken_of_what_the_user_says(lives, reply, kept):
    rows, _ = made(lives, FakeModel(multi_turn=later(reply)), num_rows=1, max_turns=2)
    assert rows[0].messages[2].content == kept


def test_a_user_who_speaks_as_the_assistant_is_asked_again(lives):
    _, failures = made(lives, FakeModel(multi_turn=later("As an AI language model, I cannot bake.")), num_rows=1)
    assert failures[0].error == "the assistant speaks instead of the person"


class Forgetful(FakeModel):
    """Has room for so many messages."""

    def __init__(self, room):
        super().__init__()
        self.room = room

    async def chat(self, messages, sampling, priority=()):
        if len(messages) > self.room:
            raise ContextOverflow("the context is full")
        return await super().chat(messages, sampling, priority)


def test_a_full_context_ends_the_dialogue(lives):
    rows, failures = made(lives, FakeModel(), Forgetful(5), min_turns=2, max_turns=9)
    assert {turns(r) for r in rows} <= {2, 3}
    assert Counter(map(turns, rows))[3] > 3
    assert failures == []
    rows, failures = made(lives, FakeModel(), Forgetful(2))
    assert rows == []
    assert all("the context is full" in f.error for f in failures)


@pytest.mark.parametrize("shuffle", [1, 2, 3])
def test_order_and_concurrency_change_nothing(lives, shuffle):
    assert made(lives, FakeModel(shuffle, 2)) == made(lives, FakeModel())


def test_the_estimate_is_near_the_calls(lives):
    model = FakeModel()
    config = DialogueConfig(num_rows=80, max_tries=1)
    rows_of(config, lives, model)
    assert sum(c.number for c in config.calls()) == pytest.approx(len(model.calls), rel=0.1)


@pytest.mark.parametrize("wrong", [{"min_turns": 0}, {"min_turns": 5, "max_turns": 4}], ids=str)
def test_nonsense_is_refused(wrong):
    with pytest.raises(ValueError, match="min_turns"):
        DialogueConfig(**wrong)
