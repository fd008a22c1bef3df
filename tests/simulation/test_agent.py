import asyncio
import json
import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from planting import left, planted_profile
from society_fakes import PEOPLE, FakeModel

from matrix.prompting import Asker, Decoding, Unparsable
from matrix.records import Origin, Profile
from matrix.simulation.agent import (
    Life,
    brief,
    bring_to_life,
    fallback_role,
    parse_plan,
    parse_role,
    unique_names,
)
from matrix.simulation.privacy import find, mask

LETTERS = r"[^\W\d_]"


def born(model, number=0, profile=PEOPLE[0], seed=1, steps=3, max_posts=2):
    asker = Asker("matrix.simulation", model, "simulate-test")
    return asyncio.run(bring_to_life(asker, number, profile, seed, steps, max_posts, Decoding(max_tokens=99))), asker


def leaks(name, text):
    """Words of a name, of three letters or more, that stand in a text."""
    words = {word.lower() for word in re.findall(rf"{LETTERS}{{3,}}", name)}
    return words & {word.lower() for word in re.findall(f"{LETTERS}+", text)}


def test_role_and_description_come_from_json_wherever_it_stands():
    text = 'Sure:\n{"role": "**Night Baker**", "description": "Ann bakes.\\n\\nMore."} Done.'
    assert parse_role(text, "Ann Lee") == ("Night Baker", "someone bakes.", {"name": 1})


def test_an_identifier_is_masked_that_two_lines_or_the_cut_would_hide():
    lines = json.dumps({"role": "Baker", "description": "Call 020 7946\n0958 at night."})
    assert parse_role(lines, "Ann Lee")[1:] == ("Call a phone number at night.", {"phone": 1})
    long = json.dumps({"role": "Baker", "description": "word " * 43 + "baker (at) host dot com"})
    assert parse_role(long, "Ann Lee")[1:] == ("word " * 43 + "an e-mail", {"email": 1})


@pytest.mark.parametrize(
    "answer",
    [
        "Night Baker", "[1]", "{}", '{"role": "", "description": "Bakes."}', '{"role": "Ann", "description": "Bakes."}',
        '{"role": "Ann_Lee", "description": "Bakes."}', '{"role": "Baker @oven7", "description": "Bakes."}',
        '{"role": "Baker 555-0199", "description": "Bakes."}', '{"role": "Baker", "description": ""}',
        '{"role": "a b c d e f g h i", "description": "Bakes."}', '{"role": "Baker \\ud83d", "description": "Bakes."}',
        '{"role": ' + "[" * 20_000,
    ],
)  # fmt: skip
def test_a_role_that_cannot_be_used_is_refused(answer):
    with pytest.raises(Unparsable):
        parse_role(answer, "Ann Lee")


@given(st.text(st.sampled_from('{}[]",:\\ud83"role description steps 1.2)\n*-')))
def test_any_answer_is_parsed_or_refused(text):
    for parse in (lambda t: parse_role(t, "Ann Lee"), lambda t: parse_plan(t, 3), brief):
        try:
            parse(text)
        except Unparsable:
            continue


def test_the_fallback_role_is_the_descriptions_first_words():
    profile = Profile(id="p", name="Ann Lee", description="Ann is a night baker, mother of two. Loves Lee county.")
    text = "someone is a night baker, mother of two. Loves someone county."
    assert fallback_role(profile) == ("Night baker", text, {"name": 2})
    assert fallback_role(Profile(id="p", name="Ann Lee", description=""))[0] == "Person"


@pytest.mark.parametrize(
    "text",
    [
        "1. Buy the flour.\n2. Heat the **oven**.\n3. Sell the bread.\n4. Rest a day.",
        "Here is the plan:\n\n1) Buy the flour.\n2) Heat the oven.\n3) Sell the bread.",
        "**Step 1: Buy the flour.**\n**Step 2: Heat the oven.**\nStep 3: Sell the bread.",
        "1. Buy the flour.\n2.\n3. **\n2. Heat the oven.\n3. Sell the bread.",
    ],
)
def test_a_plan_is_numbered_lines(text):
    assert parse_plan(text, 3) == ["Buy the flour.", "Heat the oven.", "Sell the bread."]


def test_a_plan_of_one_step_may_have_one_and_a_longer_one_needs_two():
    assert parse_plan("1. Buy the flour.", 1) == ["Buy the flour."]
    for text in ("1. Buy the flour.", "I would buy flour.", ""):
        with pytest.raises(Unparsable, match="8"):
            parse_plan(text, 8)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("She is calm. She pays 3.50 for tea.", "She is calm. She pays 3.50 for tea."),
        ("She drinks 2.5 litres", "She drinks 2.5 litres"),
        ("She is calm. She is al", "She is calm."),
        ('He says "Go."', 'He says "Go."'),
        ('"She is calm."', "She is calm."),
        ('He says "Go." and goes', 'He says "Go."'),
        ("Personality:\n\nCalm and kind.\n\nMore.", "Calm and kind."),
        ("# Here it is:\n- Calm and kind.", "Calm and kind."),
        ("one. " + "word " * 60, "one."),
    ],
)
def test_brief_is_the_first_paragraph_in_whole_sentences(text, wanted):
    assert brief(text) == wanted


@pytest.mark.parametrize("text", ["", "...", "123", "Answer:"])
def test_brief_refuses_what_says_nothing(text):
    with pytest.raises(Unparsable):
        brief(text)


@given(st.lists(st.sampled_from(["Baker", "baker", "Baker (2)", "Baker (2) (2)", "Nurse"]), max_size=12))
def test_role_names_become_unique_and_the_first_keeps_its_own(names):
    lives = [Life(id="", name=n, description="", personality="", goal="", plan=[], profile="", origin=Origin(stage="")) for n in names]  # fmt: skip # noqa: E501
    unique_names(lives)
    assert len({life.name.lower() for life in lives}) == len(names)
    assert not lives or lives[0].name == names[0]
    assert all(life.name.startswith(name) for life, name in zip(lives, names, strict=True))


def test_birth_asks_for_role_personality_goal_and_plan():
    model = FakeModel(personality="Calm.", goal="To own a mill.", plan="1. Save money.\n2. Buy stones.\n3. Grind.\n")
    life, asker = born(model, number=12)
    assert [call[0] for call in model.calls] == ["anonymise", "personality", "goal", "plan"]
    assert (life.id, life.profile) == ("a0012", "p0")
    assert (life.personality, life.goal, life.plan) == ("Calm.", "To own a mill.", ["Save money.", "Buy stones."])
    assert life.persona == f"{life.name}. {life.description} Calm."
    assert set(life.origin.templates) == {"anonymise.jinja", "personality.jinja", "goal.jinja", "plan.jinja"}
    assert asker.failures == []
    assert len({call[2].seed for call in model.calls}) == 4
    assert {call[2].max_tokens for call in model.calls} == {99}


def test_memory_begins_with_all_posts_and_prompts_show_some():
    life, _ = born(model := FakeModel(), max_posts=2)
    assert life.memory.entries == life.posts
    assert len(life.posts) == len(PEOPLE[0].posts) == 3
    assert "Rain again." not in "".join(call[1] for call in model.calls)


@pytest.mark.parametrize("profile", PEOPLE, ids=lambda p: p.name)
@pytest.mark.parametrize("usable", [True, False], ids=["answer", "fallback"])
def test_nothing_that_leaves_the_birth_has_a_word_of_the_name(profile, usable):
    """Also where the model repeats the name, or gives no usable answer at all."""

    def leaky(prompt, _):
        kept = json.dumps(
            {"role": "Shop Owner", "description": f"{profile.name}, @{profile.name.replace(' ', '_')}1, works."}
        )
        return kept if usable else profile.name

    life, _ = born(FakeModel(anonymise=leaky), profile=profile)
    for text in (
        life.name,
        life.description,
        *life.posts,
        *life.memory.entries,
        life.personality,
        life.goal,
        *life.plan,
    ):
        assert not leaks(profile.name, text)


@pytest.mark.parametrize("usable", [True, False], ids=["answers", "fallback"])
def test_no_text_of_an_agent_has_an_identifier_and_what_was_masked_is_counted(usable):
    """Also where the model repeats everything that it was shown, or makes something up."""
    profile, identifiers = planted_profile(0, 0)
    told = "Call +44 20 7946 0958 now."
    model = FakeModel(
        anonymise=json.dumps({"role": "Shop Owner", "description": profile.description}) if usable else "?",
        personality=told, goal=told, plan=f"1. {told}\n2. See www.bread.example today.\n3. Rest well.",
    )  # fmt: skip
    life, _ = born(model, profile=profile)
    texts = [life.name, life.description, *life.posts, *life.memory.entries, life.personality, life.goal, *life.plan]
    assert left(identifiers, texts).total() == 0
    assert not any(find(text, profile.name) for text in texts)
    assert life.goal == "Call a phone number now."
    assert life.plan == ["Call a phone number now.", "See a link today.", "Rest well."]
    posts = sum((mask(post, profile.name)[1] for post in profile.posts), Counter({"phone": 3, "url": 1}))
    assert life.masked >= posts
    assert life.masked.total() >= len(identifiers)


def test_only_the_first_prompt_sees_the_name():
    _, _ = born(model := FakeModel())
    first, *later = [call[1] for call in model.calls]
    assert leaks(PEOPLE[0].name, first)
    assert not leaks(PEOPLE[0].name, " ".join(later))


def test_a_model_that_never_answers_still_gives_an_agent():
    model = FakeModel(anonymise="?", personality="", goal="-", plan="no")
    life, asker = born(model)
    assert len(model.calls) == 8  # each asked for once more
    assert [(f.id, f.purpose) for f in asker.failures] == [("a0000", c[0]) for c in model.calls]
    assert life.name == "Baker from Oslo"
    assert life.goal.startswith("To do well")
    assert life.plan == [life.goal]
    assert life.personality == ""


def test_done_means_plan_finished_and_no_news():
    life, _ = born(FakeModel())
    assert not life.done
    life.next_step = 3
    assert life.done
    life.inbox.append("Baker: sold out.")
    assert not life.done
