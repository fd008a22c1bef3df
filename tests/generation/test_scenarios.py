import asyncio
import re
from collections import Counter

import pytest
from society_fakes import FakeModel, HashedWords

from matrix.engines.base import Completion
from matrix.generation.base import Materials, answer
from matrix.generation.scenarios import Kind, ScenarioConfig, parse_instruction
from matrix.generation.stream import Stream
from matrix.progress import Progress
from matrix.prompting import Asker, Decoding, Unparsable
from matrix.records import Message
from matrix.stage import Result


def generated(lives, model, seed=1, prefix="sft", **config):
    asker = Asker("matrix.generation", model, "generate-test")
    made = ScenarioConfig(**({"num_rows": 8, "max_tries": 1} | config))
    materials = Materials(
        asker=asker, responder=model, embedder=HashedWords(), society=lives, seed=seed, prefix=prefix
    )  # fmt: skip
    return asyncio.run(Stream(made, materials, made.build(materials), Progress("test", 1), 16).rows()), asker


class Cutting:
    """Says one thing, and how it ended."""

    def __init__(self, text, finish_reason):
        self.completion = Completion(text=text, prompt_tokens=1, completion_tokens=1, finish_reason=finish_reason)

    async def chat(self, messages, sampling, priority=()):
        return self.completion


def answered(text, finish_reason="length"):
    return asyncio.run(answer(Cutting(text, finish_reason), [Message(role="user", content="?")], 1, Decoding()))


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("It is blue. It is gre", "It is blue."),
        ("It is blue! It costs 3.50 and th", "It is blue!"),
        ("Do this:\n\n1. Knead.\n2. Ba", "Do this:\n\n1. Knead."),
        ("Do this:\n\n1. Knead it\n2. Ba", "Do this:\n\n1. Knead it"),
        ("def f():\n    return 1\n\ndef g", "def f():\n    return 1"),
        ("no end in sight", "no end in sight"),
        ("1. Knead the dou", "1. Knead the dou"),
        ("It is done.", "It is done."),
    ],
)
def test_an_answer_at_the_length_limit_is_cut_at_a_sentence_or_line(text, kept):
    assert answered(text) == kept


def test_an_answer_that_ended_by_itself_is_left_alone():
    assert answered("  It is blue. It is gre\n", "stop") == "It is blue. It is gre"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("Please help me.", "Please help me."),
        ('Message: "Please help me."', "Please help me."),
        ("**Instruction:** Please help me.", "Please help me."),
        ("“Please help me.”", "Please help me."),
        ('"Please help me with', "Please help me with"),
        ('Please translate "good day"', 'Please translate "good day"'),
        ('"Bread" or "loaf"', '"Bread" or "loaf"'),
        ("The question: which of these is the task?", "The question: which of these is the task?"),
    ],
)
def test_an_instruction_loses_label_and_quotes(text, wanted):
    assert parse_instruction(text) == wanted


@pytest.mark.parametrize("text", ["", "Help me", "Message:", '""'])
def test_an_instruction_has_three_words(text):
    with pytest.raises(Unparsable):
        parse_instruction(text)


@pytest.mark.parametrize("kind", ["simple", "complex"])
def test_a_prompt_carries_persona_actions_requirement_category_and_style(lives, kind):
    model = FakeModel()
    rows, _ = generated(
        lives, model, kind=Kind(kind), requirement="questions about trades", categories=["planning"], styles=["terse"]
    )
    prompts = [prompt for purpose, prompt, _ in model.calls if purpose == kind]
    assert len(prompts) == len(rows) == 8
    first = min(prompts, key=lambda p: "burnt the rye" not in p or "Miller." in p)
    for part in (
        "Baker. A baker from the north. Stubborn but fair.", "The baker burnt the rye bread.",
        "The miller ground new flour.", "questions about trades", "planning", "terse",
    ):  # fmt: skip
        assert part in first
    assert "sailor" not in first
    assert {(r.kind, r.complexity, r.category, r.style, r.requirement) for r in rows} == {
        (kind, kind, "planning", "terse", "questions about trades")
    }


def test_every_scenario_and_agent_has_its_turn_before_any_has_two(lives):
    rows, _ = generated(lives, FakeModel(), num_rows=8)
    places = Counter((r.origin.scenario, r.origin.agent) for r in rows)
    assert places == dict.fromkeys(
        [("g000-s00", "a0000"), ("g000-s00", "a0001"), ("g000-s01", "a0000"), ("g001-s00", "a0002")], 2
    )


def test_the_same_place_gives_another_instruction_the_second_time(lives):
    rows, _ = generated(lives, FakeModel(), categories=["math"], styles=["terse"])
    assert len({r.messages[0].content for r in rows}) == 8


def test_retrieval_decides_which_scenarios_are_used(lives):
    rows, _ = generated(lives, FakeModel(), num_scenarios=1, requirement="sailor in a storm")
    assert {r.origin.scenario for r in rows} == {"g001-s00"}


def test_a_row_is_the_instruction_and_the_models_answer_to_it_alone(lives):
    model = FakeModel(simple="Message: How do I bake rye bread?", response=" Slowly. ")
    rows, _ = generated(lives, model, num_rows=1)
    assert [(m.role, m.content) for m in rows[0].messages] == [
        ("user", "How do I bake rye bread?"),
        ("assistant", "Slowly."),
    ]
    assert [prompt for purpose, prompt, _ in model.calls if purpose == "response"] == ["How do I bake rye bread?"]


def test_rows_say_where_they_come_from(lives):
    rows, _ = generated(lives, FakeModel(), prefix="pair", num_rows=3)
    assert [r.id for r in rows] == ["pair-00000", "pair-00001", "pair-00002"]
    for row in rows:
        assert (row.origin.stage, row.origin.model, row.origin.society) == ("generate-test", "fake", lives.name)
        assert list(row.origin.templates) == ["simple.jinja"]
    assert len({r.origin.seed for r in rows}) == 3


@pytest.mark.parametrize("shuffle", [0, 1, 2])
@pytest.mark.parametrize("concurrency", [1, 3, 64])
def test_order_of_answers_and_concurrency_change_nothing(lives, shuffle, concurrency):
    assert generated(lives, FakeModel(shuffle, concurrency))[0] == generated(lives, FakeModel())[0]


def test_more_rows_leave_the_first_as_they_are(lives):
    assert generated(lives, FakeModel(), num_rows=9)[0][:4] == generated(lives, FakeModel(), num_rows=4)[0]
    assert generated(lives, FakeModel(), seed=2)[0] != generated(lives, FakeModel())[0]


def test_categories_and_styles_are_drawn_from_the_config(lives):
    rows, _ = generated(lives, FakeModel(), num_rows=60, categories=["math", "planning"], styles=["terse", "kind"])
    drawn = Counter((r.category, r.style) for r in rows)
    assert len(drawn) == 4
    assert min(drawn.values()) > 5


def test_an_instruction_that_cannot_be_used_is_tried_twice_then_left_out(lives):
    model = FakeModel(simple=lambda prompt, dice: "No." if "sail" in prompt else f"Please help with {dice.random()}.")
    rows, asker = generated(lives, model)
    assert [r.id for r in rows] == [f"sft-{i:05}" for i in (0, 1, 2, 4, 5, 6)]
    assert [(f.id, f.purpose, f.text) for f in asker.sorted_failures()] == [
        (row, "simple", "No.") for row in ("sft-00003", "sft-00003", "sft-00007", "sft-00007")
    ]
    assert model.count("response") == 6


def test_an_empty_response_is_a_failure(lives):
    rows, asker = generated(lives, FakeModel(response="  "), num_rows=2)
    assert rows == []
    assert [(f.id, f.purpose) for f in asker.sorted_failures()] == [
        ("sft-00000", "response"),
        ("sft-00001", "response"),
    ]


def test_decodings_reach_the_calls(lives):
    model = FakeModel()
    generated(
        lives, model, num_rows=1,
        instruction=Decoding(temperature=0.1, max_tokens=11), response=Decoding(temperature=0.2, max_tokens=22),
    )  # fmt: skip
    assert [(c[0], c[2].temperature, c[2].max_tokens) for c in model.calls] == [
        ("simple", 0.1, 11),
        ("response", 0.2, 22),
    ]


def test_a_society_without_scenarios_is_refused(lives, tmp_path):
    for name in ("agents", "actions", "scenarios"):
        (tmp_path / f"{name}.jsonl").touch()
    with pytest.raises(ValueError, match=re.escape("simulator.num_scenarios")):
        generated(Result(stage="simulate", key="0" * 64, path=tmp_path), FakeModel())


@pytest.mark.parametrize("wrong", [{"num_rows": 0}, {"categories": []}, {"styles": []}], ids=str)
def test_nonsense_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ScenarioConfig(**wrong)


@pytest.mark.parametrize("kind", ["simple", "complex", "persona"])
def test_field_and_language_are_told_where_they_are_set(lives, kind):
    model = FakeModel()
    generated(lives, model, kind=Kind(kind), domain="medicine", language="German")
    assert all("Field: medicine\n" in p and "message: German\n" in p for k, p, _ in model.calls if k == kind)
    model = FakeModel()
    generated(lives, model, kind=Kind(kind))
    assert not any("Field:" in p or "Language" in p for k, p, _ in model.calls)


def test_the_persona_kind_hears_nothing_of_the_scenario(lives):
    model = FakeModel()
    rows, _ = generated(lives, model, kind=Kind("persona"))
    prompts = [p for k, p, _ in model.calls if k == "persona"]
    assert all("from the north. Stubborn but fair." in p and "What happened" not in p for p in prompts)
    assert not any("rye" in p or "storm" in p for p in prompts)
    assert {r.complexity for r in rows} == {"persona"}


def test_no_agent_speaks_more_often_than_the_quota(lives):
    rows, _ = generated(lives, FakeModel(), num_rows=12, max_tries=2, max_rows_per_agent=2)
    assert Counter(r.origin.agent for r in rows) == {"a0000": 2, "a0001": 2, "a0002": 2}


def test_diverse_scenarios_take_turns_with_the_nearest(lives):
    def used(diversity):
        rows, _ = generated(
            lives, FakeModel(), num_scenarios=2, diversity=diversity, requirement="the baker burnt bread"
        )
        return {r.origin.scenario for r in rows}

    assert used(0.0) == {"g000-s00", "g000-s01"}
    assert used(1.0) != used(0.0)


def test_what_only_retells_the_prompt_or_serves_is_no_instruction(lives):
    model = FakeModel(simple="The baker burnt the rye bread. The miller ground new flour.")
    rows, asker = generated(lives, model, num_rows=1)
    assert rows == []
    assert {f.error for f in asker.failures} == {"persona or actions are copied"}
    for text, error in (
        ("I'm here to help you with your bread today.", "the assistant speaks instead of the person"),
        ("Please help me.\nWhat happened: bread is burnt", "lines of the prompt are repeated"),
    ):
        _, asker = generated(lives, FakeModel(simple=text), num_rows=1)
        assert {f.error for f in asker.failures} == {error}
    asked = "The baker burnt the rye bread. How can this bread still be of use to a family of four, please?"
    assert len(generated(lives, FakeModel(simple=asked), num_rows=1)[0]) == 1


@pytest.mark.parametrize(
    "wrong", [{"diversity": 1.5}, {"num_scenarios": 0}, {"max_rows_per_agent": 0}], ids=str
)  # fmt: skip
def test_nonsense_control_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ScenarioConfig(**wrong)
