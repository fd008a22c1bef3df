import contextlib
from functools import partial
from pathlib import Path

import jinja2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from society_fakes import FakeModel

import matrix.simulation
from matrix.engines.base import Completion, ContextOverflow
from matrix.engines.limits import estimate_tokens
from matrix.prompting import (
    TEMPLATE_TOKENS,
    Asker,
    Decoding,
    Unparsable,
    fields_schema,
    first_paragraph,
    json_fields,
    shortened,
)
from matrix.provenance import derive_seed, prompt_hashes
from matrix.records import Failure

DECODING = Decoding(temperature=0.3, frequency_penalty=0.4, max_tokens=72)
PERSON = {"persona": "Baker. Bakes bread.", "goal": "To own a mill."}


class Replies:
    """A model that gives the listed answers one after another and keeps what it was asked."""

    name = "replies@1"
    max_context = 8192

    def __init__(self, *texts):
        self.texts = list(texts)
        self.calls = []
        self.finish_reason = "stop"

    async def chat(self, messages, sampling, priority=()):
        self.urgency = priority
        self.calls.append((messages, sampling))
        return Completion(
            text=self.texts.pop(0), prompt_tokens=1, completion_tokens=1, finish_reason=self.finish_reason
        )


def whole_number(text):
    if not text.isdigit():
        raise Unparsable("expected a number")
    return int(text)


def asker(*texts):
    return Asker("matrix.simulation", Replies(*texts), "simulate-0123456789ab")


class TestAsk:
    @pytest.mark.parametrize(
        ("reason", "whole", "wanted"),
        [
            ("length", True, "Bake it."),
            ("length", False, "Bake it. And th"),
            ("stop", True, "Bake it. And th"),
        ],
    )
    async def test_an_answer_at_the_length_limit_is_cut_where_that_is_asked_for(self, reason, whole, wanted):
        a = asker("Bake it. And th")
        a.model.finish_reason = reason
        assert await a.ask("goal", "a0001", 5, DECODING, str, whole=whole, persona=PERSON["persona"]) == wanted

    async def test_renders_the_prompt_and_parses_the_answer(self):
        a = asker("7")
        assert await a.ask("goal", "a0001", 5, DECODING, whole_number, persona=PERSON["persona"]) == 7
        ((message,), sampling) = a.model.calls[0]
        assert message.role == "user"
        assert PERSON["persona"] in message.content
        assert message.content == message.content.strip()
        assert (sampling.seed, sampling.temperature, sampling.max_tokens) == (5, 0.3, 72)
        assert sampling.frequency_penalty == 0.4
        assert sampling.json_schema is None
        assert a.failures == []

    async def test_asks_once_more_with_another_seed(self):
        a = asker("seven", "7")
        assert await a.ask("goal", "a0001", 5, DECODING, whole_number, persona="x") == 7
        (first, one), (second, two) = a.model.calls
        assert first == second
        assert (one.seed, two.seed) == (5, derive_seed(5, "retry"))
        assert a.failures == [Failure(id="a0001", purpose="goal", text="seven", error="expected a number")]

    async def test_keeps_both_answers_that_cannot_be_parsed(self):
        a = asker("seven", "eight", "9")
        assert await a.ask("goal", "a0001", 5, DECODING, whole_number, persona="x") is None
        assert [failure.text for failure in a.failures] == ["seven", "eight"]
        assert a.model.texts == ["9"]

    async def test_other_errors_of_a_parser_are_not_hidden(self):
        with pytest.raises(ZeroDivisionError):
            await asker("0").ask("goal", "a0001", 5, DECODING, lambda text: 1 // int(text), persona="x")

    async def test_hands_the_schema_on(self):
        a = asker("7")
        schema = fields_schema(number={"type": "integer"})
        await a.ask("goal", "a0001", 5, DECODING, whole_number, schema, persona="x")
        assert a.model.calls[0][1].json_schema == {
            "type": "object",
            "properties": {"number": {"type": "integer"}},
            "required": ["number"],
            "additionalProperties": False,
        }

    async def test_hands_the_urgency_on(self):
        a = asker("seven", "7")
        assert await a.ask("goal", "a0001", 5, DECODING, whole_number, priority=(3, -1), persona="x") == 7
        assert a.model.urgency == (3, -1)

    async def test_a_missing_value_is_an_error_before_any_call(self):
        a = asker("7")
        with pytest.raises(jinja2.UndefinedError, match="'goal' is undefined"):
            await a.ask("plan", "a0001", 5, DECODING, whole_number, persona="x", steps=3)
        assert a.model.calls == []

    async def test_a_missing_prompt_is_named(self):
        with pytest.raises(jinja2.TemplateNotFound, match=r"sing\.jinja"):
            await asker().ask("sing", "a0001", 5, DECODING, whole_number)

    async def test_text_is_not_escaped(self):
        a = asker("7")
        await a.ask("goal", "a0001", 5, DECODING, whole_number, persona="Ann & Bo <3 'bread' {{ x }}")
        assert "Ann & Bo <3 'bread' {{ x }}" in a.model.calls[0][0][0].content

    def test_failures_are_sorted_whatever_came_first(self):
        a = asker()
        rows = [Failure(id=i, purpose=p, text=t, error="") for i, p, t in ("bxy", "azz", "axz", "axy")]
        a.failures.extend(rows)
        assert a.sorted_failures() == rows[:0:-1] + rows[:1]


class Room:
    """A model of a given context and tokenizer."""

    name = "room"

    def __init__(self, max_context, count_tokens):
        self.max_context, self.count_tokens = max_context, count_tokens


TOKENIZERS = {
    "bytes": lambda text: len(text.encode()),
    "estimate": estimate_tokens,
    "words": lambda text: len(text.split()),
}
PURPOSES = sorted(
    path.stem
    for path in (Path(matrix.simulation.__file__).parent / "prompts").glob("*.jinja")
    if path.stem != "agent"  # a part of others
)
TEXTS = ("persona", "goal", "name", "step", "circle", "actor", "action", "description")
LISTS = ("plan", "memories", "observations", "posts", "members", "groups", "actions")
WORDS = st.text(st.sampled_from("aé☂😀 \n{}"), max_size=40) | st.text(max_size=20)
VALUE = st.builds(lambda text, times: text * times, WORDS, st.integers(0, 120))
VALUES = st.fixed_dictionaries(
    dict.fromkeys(TEXTS, VALUE) | dict.fromkeys(LISTS, st.lists(VALUE, max_size=5)) | {"steps": st.integers(1, 12)}
)
SHORT = (
    {name: f"The {name} of a cook." for name in TEXTS} | {name: [f"A {name}.", "Two."] for name in LISTS} | {"steps": 3}
)


class TestRender:
    @pytest.mark.parametrize("tokenizer", TOKENIZERS)
    @pytest.mark.parametrize("prompt", PURPOSES)
    @settings(deadline=None, max_examples=25)
    @given(values=VALUES, context=st.integers(700, 3000), answer=st.integers(1, 100))
    def test_every_prompt_leaves_room_for_its_answer(self, tokenizer, prompt, values, context, answer):
        model = Room(context, TOKENIZERS[tokenizer])
        text = Asker("matrix.simulation", model, "s").render(prompt, answer, values)
        assert model.count_tokens(text) + TEMPLATE_TOKENS + answer <= context
        whole = Asker("matrix.simulation", Room(10**9, len), "s").render(prompt, answer, values)
        if model.count_tokens(whole) + TEMPLATE_TOKENS + answer <= context:
            assert text == whole

    @pytest.mark.parametrize("prompt", PURPOSES)
    @pytest.mark.parametrize("long", ["word " * 3000, "x" * 9000, "☂" * 4000])
    def test_what_is_short_stays_whole_and_what_is_long_fills_the_room(self, prompt, long):
        render = Asker("matrix.simulation", Room(2500, TOKENIZERS["bytes"]), "s").render
        whole = render(prompt, 50, SHORT)
        shown = {name for name in SHORT if render(prompt, 50, SHORT | {name: type(SHORT[name])()}) != whole} - {"steps"}
        for name in shown:
            text = render(prompt, 50, SHORT | {name: [long, "Two."] if isinstance(SHORT[name], list) else long})
            assert len(text.encode()) > 2500 - 50 - TEMPLATE_TOKENS - 2 * 10
            for other in shown - {name}:
                assert all(
                    value in text for value in ([SHORT[other]] if isinstance(SHORT[other], str) else SHORT[other])
                )

    def test_the_fixed_text_has_to_fit(self):
        render = partial(Asker("matrix.simulation", Room(300, TOKENIZERS["bytes"]), "s").render, "share")
        with pytest.raises(ContextOverflow, match=r"room: prompt share\.jinja .* max_tokens=40 .* max_context=300"):
            render(40, {"groups": ["They met."] * 3, "action": "She sang."})
        with pytest.raises(ContextOverflow, match="raise max_context"):
            Asker("matrix.simulation", Room(300, len), "s").render("goal", 400, {"persona": "x"})

    async def test_a_prompt_that_cannot_fit_is_not_sent(self):
        a = asker("7")
        a.model.max_context, a.model.count_tokens = 100, len
        with pytest.raises(ContextOverflow):
            await a.ask("goal", "a0001", 5, DECODING, whole_number, persona="x")
        assert a.model.calls == []


NESTED = st.recursive(
    VALUE | st.integers(), lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner), max_leaves=6
)


@given(NESTED, st.integers(0, 50))
def test_texts_are_cut_wherever_they_are(value, limit):
    def check(long, short):
        if isinstance(long, str):
            assert long.startswith(short)
            assert len(short) <= limit
            assert short == long or len(long) > limit
        elif isinstance(long, list):
            for pair in zip(long, short, strict=True):
                check(*pair)
        elif isinstance(long, dict):
            assert list(long) == list(short)
            check(list(long.values()), list(short.values()))
        else:
            assert long == short

    check(value, shortened(value, limit))


def test_texts_are_cut_between_words():
    assert shortened(["one two three", "onetwothree", 12345678], 8) == ["one two", "onetwoth", 12345678]


def test_an_origin_names_stage_model_prompts_and_seed():
    origin = asker().origin(5, "act", "route", society="simulate-1", agent="a0001")
    assert (origin.stage, origin.model, origin.seed) == ("simulate-0123456789ab", "replies@1", 5)
    hashes = prompt_hashes("matrix.simulation")
    assert origin.templates == {name: hashes[name] for name in ("act.jinja", "route.jinja")}
    assert (origin.society, origin.agent, origin.scenario) == ("simulate-1", "a0001", "")


def test_the_fake_model_of_other_tests_can_be_asked():
    assert Asker("matrix.simulation", FakeModel(), "s").origin(1, "act").model == "fake"


@pytest.mark.parametrize("wrong", [{"temperature": -0.1}, {"top_p": 0.0}, {"top_p": 1.1}, {"max_tokens": 0}])
def test_decoding_that_cannot_be(wrong):
    (name, value) = next(iter(wrong.items()))
    with pytest.raises(ValueError, match=f"0 < top_p <= 1.*{name}={value}"):
        Decoding(**wrong)


class TestJsonFields:
    @pytest.mark.parametrize(
        "text",
        [
            '{"role": "Cook", "items": [1, 2]}',
            'Sure! Here it is:\n```json\n{"role": "Cook", "items": [1, 2]}\n```\nAnything else?',
            '{"role": "Cook", "items": [1, 2]} {"role": "Other"}',
        ],
    )
    def test_finds_the_object_whatever_stands_around_it(self, text):
        assert json_fields(text) == {"role": "Cook", "items": [1, 2]}

    @pytest.mark.parametrize(
        ("text", "kept"),
        [
            ('{"role": "Cook", "description": "Bakes br', {"role": "Cook", "description": "Bakes br"}),
            ('{"role": "Cook"', {"role": "Cook"}),
            ('{"role": "Cook",', {"role": "Cook"}),
            ('{"role": "Cook", \n', {"role": "Cook"}),
            ('{"steps": ["Buy flour.", "Heat the ov', {"steps": ["Buy flour.", "Heat the ov"]}),
            ('{"steps": ["Buy flour.",', {"steps": ["Buy flour."]}),
            ('{"indices": [1, 2', {"indices": [1, 2]}),
            ("{", {}),
        ],
    )
    def test_keeps_what_an_answer_has_that_was_cut(self, text, kept):
        assert json_fields(text) == kept

    def test_line_breaks_inside_texts_are_let_pass(self):
        assert json_fields('{"a": "one\ntwo"}') == {"a": "one\ntwo"}

    @pytest.mark.parametrize("text", ["", "no object", "[1, 2]", '{"role', "{role: Cook}", '"a": 1}'])
    def test_nothing_to_be_had(self, text):
        with pytest.raises(Unparsable, match="expected a JSON object"):
            json_fields(text)

    @given(st.text(alphabet='{}[]",:\\ a1\n\u00e9') | st.text())
    def test_any_text_is_an_object_or_unparsable(self, text):
        with contextlib.suppress(Unparsable):
            assert isinstance(json_fields(text), dict)


class TestFirstParagraph:
    @pytest.mark.parametrize(
        ("text", "kept"),
        [
            ("She bakes bread. He sells it.", "She bakes bread. He sells it."),
            ("\n\n  She bakes\nbread.\n\nAnother paragraph.", "She bakes bread."),
            ("- **She bakes bread.**", "She bakes bread."),
            ('"She bakes bread."', "She bakes bread."),
            ("She bakes bread. Then she", "She bakes bread."),
            ("She bakes bread and then she", "She bakes bread and then she"),
            ("It costs 3.50 a loaf in the shop", "It costs 3.50 a loaf in the shop"),
            ("Does she bake? Yes! And", "Does she bake? Yes!"),
        ],
    )
    def test_what_is_kept(self, text, kept):
        assert first_paragraph(text) == kept

    def test_a_long_answer_ends_with_a_sentence(self):
        text = "One two three. Four five six. Seven eight nine."
        assert first_paragraph(text, max_words=7) == "One two three. Four five six."
        assert first_paragraph("one two three four", max_words=2) == "one two"

    @pytest.mark.parametrize("text", ["", " \n ", "***", "1. 2. 3.", '""'])
    def test_nothing_is_left(self, text):
        with pytest.raises(Unparsable, match="no text"):
            first_paragraph(text)

    @given(st.text(), st.integers(1, 20))
    def test_one_line_of_words_or_unparsable(self, text, most):
        try:
            kept = first_paragraph(text, most)
        except Unparsable:
            return
        assert kept == " ".join(kept.split())
        assert 1 <= len(kept.split()) <= most
