import json

import pytest
from rival_fakes import generated
from society_fakes import FakeModel

from matrix.engines.base import Completion, EngineName, ModelConfig
from matrix.engines.embedder import EmbedderConfig
from matrix.generation.magpie import MagpieConfig, first_turn
from matrix.generation.stage import Generate
from matrix.jsonl import read_jsonl
from matrix.prompting import Decoding, Unparsable
from matrix.records import Conversation


def talk(prompt, dice):
    return f"It is {dice.random()}." if prompt else f"How do I mend the bicycle number {dice.random()}?"


def model(**how):
    return FakeModel(response=talk, **how)


class Hearing(FakeModel):
    """Remembers whole chats."""

    heard: list[list[str]]

    async def chat(self, messages, sampling, priority=()):
        self.heard = [*getattr(self, "heard", []), [m.content for m in messages]]
        return await super().chat(messages, sampling, priority)


class Endless(FakeModel):
    """Never ends a user's turn."""

    async def chat(self, messages, sampling, priority=()):
        text = "and so on" if not messages[-1].content else "Yes."
        return Completion(text=text, prompt_tokens=1, completion_tokens=1, finish_reason="length")


def test_the_model_writes_the_question_then_answers_it():
    made = model()
    rows, asker = generated(MagpieConfig(num_rows=4), made)
    assert [row.id for row in rows] == [f"sft-{i:05}" for i in range(4)]
    for row in rows:
        assert [m.role for m in row.messages] == ["user", "assistant"]
        assert row.messages[0].content.startswith("How do I mend the bicycle")
        assert (row.kind, row.origin.model, row.origin.society, row.origin.templates) == ("magpie", "fake", "", {})
    assert asker.failures == []
    opening = next(sampling for _, prompt, sampling in made.calls if not prompt)
    assert (opening.temperature, opening.top_p, opening.stop) == (1.0, 1.0, ("\n",))


def test_several_lines_are_allowed_on_demand():
    made = model()
    generated(MagpieConfig(num_rows=1, one_line=False), made)
    assert all(sampling.stop == () for _, _, sampling in made.calls)


def test_a_system_message_steers_the_question_and_is_no_part_of_the_row():
    made = Hearing(response=talk)
    systems = {"math": "You help with sums.", "cooking": "You help cooks."}
    rows, _ = generated(MagpieConfig(num_rows=20, systems=systems), made)
    assert {row.category for row in rows} == set(systems)
    assert all(len(row.messages) == 2 for row in rows)
    assert {tuple(chat) for chat in made.heard if len(chat) > 1} == {(text, "") for text in systems.values()}
    assert all(len(chat) == 1 for chat in made.heard if chat[-1])


@pytest.mark.parametrize("how", [{"shuffle": 2}, {"concurrency": 1}], ids=str)
def test_order_of_answers_changes_nothing(how):
    config = MagpieConfig(num_rows=8)
    assert generated(config, model(**how))[0] == generated(config, model())[0]


def test_what_is_no_question_is_counted_and_another_candidate_takes_its_place():
    def now_and_then(prompt, dice):
        return "?!" if not prompt and dice.random() < 0.5 else talk(prompt, dice)

    rows, asker = generated(MagpieConfig(num_rows=6, max_tries=5), FakeModel(response=now_and_then))
    assert len(rows) == 6
    assert {(f.purpose, f.text) for f in asker.failures} == {("magpie", "?!")}


def test_a_turn_without_an_end_is_a_failure():
    rows, asker = generated(MagpieConfig(num_rows=1, instruction=Decoding(max_tokens=9)), Endless())
    assert rows == []
    assert {f.error for f in asker.failures} == {"no end within 9 tokens"}


@pytest.mark.parametrize(
    ("text", "turn"),
    [
        (" How tall is K2? ", "How tall is K2?"),
        ("How tall is K2?<|im_end|>\n<|im_start|>assistant\nVery.", "How tall is K2?"),
        ("How tall is K2?\nassistant\n\nVery.", "How tall is K2?"),
        ("How tall is K2? [/INST] Very.", "How tall is K2?"),
        ("User: How tall is K2?", "How tall is K2?"),
        ("Ask the assistant\nto be brief.", "Ask the assistant\nto be brief."),
    ],
)
def test_the_first_turn_is_taken(text, turn):
    assert first_turn(text) == turn


@pytest.mark.parametrize("text", ["", "assistant\nHello there, friend", "1 2 3 4", "OK."])
def test_what_is_no_turn_is_refused(text):
    with pytest.raises(Unparsable):
        first_turn(text)


def test_the_stage_needs_no_society(tmp_path):
    rules = [
        {"match": "user: $", "reply": "How do I bake good bread?"},
        {"match": "bread", "reply": "Slowly."},
    ]
    (tmp_path / "llm.json").write_text(json.dumps(rules))
    stage = Generate(
        generator=MagpieConfig(num_rows=1), seed=5, society=None, embedder=EmbedderConfig(model="unused"),
        llm=ModelConfig(model=str(tmp_path / "llm.json"), engine=EngineName("scripted")),
    )  # fmt: skip
    assert stage.key()
    assert stage.estimate().calls == 2
    stage.run(tmp_path)
    (row,) = read_jsonl(tmp_path / "rows.jsonl", Conversation)
    assert [m.content for m in row.messages] == ["How do I bake good bread?", "Slowly."]
