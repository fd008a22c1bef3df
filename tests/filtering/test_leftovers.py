"""Every rule with what it must find and what looks alike."""

import pytest

from matrix.filtering.base import Facts
from matrix.filtering.leftovers import LeftoversConfig, Refusals, cut_off, repetition
from matrix.records import Conversation, Message, Origin, PreferencePair

ORIGIN = Origin(stage="generate-test")
QUESTION = "How do I get my sourdough to rise in a cold kitchen?"
ANSWER = "Let it rise longer, and put it near the oven."
OFF = {
    "markers": False, "placeholders": False, "voice": False, "preamble": False, "colon": False,
    "refusals": Refusals.keep, "cut_off": False, "max_repetition": 1.0,
}  # fmt: skip


def chat(*texts: str) -> Conversation:
    roles = ["user", "assistant"] * len(texts)
    messages = [Message(role=role, content=text) for role, text in zip(roles, texts, strict=False)]
    return Conversation(id="row", messages=messages, origin=ORIGIN)


def reason(instruction: str = QUESTION, answer: str = ANSWER, **knobs) -> str | None:
    verdict = LeftoversConfig(**knobs).build(Facts()).judge([chat(instruction, answer)])[0]
    return verdict.reason if verdict else None


FAULTS = {
    "template marker": (
        ("markers", False),
        [
            "Plan a menu.<|eot_id|>",
            "<|im_start|>user\nPlan a menu.",
            "[INST] Plan a menu. [/INST]",
            "Plan a menu.\n### Response: Soup.",
            "Plan a menu.<end_of_turn>",
            "User: Plan a menu.",
        ],
    ),
    "placeholder in the instruction": (
        ("placeholders", False),
        [
            "Write a letter from [Your Name] to the mayor.",
            "Explain {{topic}} to me.",
            "Advertise [Company Name].",
            "Mail <your boss>.",
        ],
    ),
    "instruction in the assistant's voice": (
        ("voice", False),
        [
            "As an AI language model, I cannot taste your bread.",
            "I'm an AI assistant, and I know about bread.",
            "Sure, I can help you with that.",
            "Welcome to the bakery. How may I assist you today?",
            "Thank you for sharing your recipe with me.",
        ],
    ),
    "preamble of the instruction": (
        ("preamble", False),
        [
            "Here is the message:\n\nPlan a menu.",
            "Here's a possible question that the baker would ask: why?",
            "Message: plan a menu",
        ],
    ),
    "instruction ends with a colon": (("colon", False), ["Translate this sentence into French:"]),
}


@pytest.mark.parametrize(("expected", "text"), [(name, text) for name, (_, texts) in FAULTS.items() for text in texts])
def test_faults_of_instructions_and_their_switches(expected, text):
    (knob, off), _ = FAULTS[expected]
    assert reason(text) == expected
    assert reason(text, **{knob: off}) is None


@pytest.mark.parametrize(
    "text",
    [
        "As an AI researcher, I need a summary of attention.",
        "As a virtual assistant, I answer mails all day. How do I rest my eyes?",
        "Act as an AI language model that I can teach.",
        "Sure sign of rain, or an old wives' tale?",
        "Here is my code:\n```python\nprint({{1}})\n```\nWhy does it fail?",
        "Why does `{{ user.name }}` stay empty in my template?",
        "See [my page](https://example.org/a) and tell me what is missing.",
        "Write a dialogue in which the clerk says 'How may I help you?' and the customer sighs.",
        "F# or Elm: which of them pipes with <| and |>?",
        "Summarise the band [Queen] in a line.",
    ],
)
def test_instructions_that_look_alike(text):
    assert reason(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I’m really sorry, I cannot say.",
        "Sorry, no.",
        "I apologize, but this is not something that I do.",
        "As an AI language model, I have no taste.",
        "As a digital assistant, I cannot bake.",
        "I cannot provide information on that.",
        "Unfortunately, I am unable to see your kitchen.",
        "I'm just an AI, so I have no oven.",
        "I don't have access to your kitchen.",
        "It's not appropriate to joke about bread.",
    ],
)
def test_refusals(text):
    assert reason(answer=text) == "refusal"
    assert reason(answer=text, refusals=Refusals.keep) is None


@pytest.mark.parametrize(
    "text",
    [
        "I'm so sorry to hear that your starter died. Begin anew with rye.",
        "I can't wait to taste it! Begin with rye.",
        "I don't think that the cold is the cause. Try rye.",
        "Write to him: I'm sorry, but I cannot come.",
    ],
)
def test_no_refusals(text):
    assert reason(answer=text) is None


COMPLETE = [
    "Yes.",
    "Paris",
    'He said: "Go home."',
    "Dear Ann,\n\nI look forward to it.\n\nWarm regards,\n\n[Your Name]\n[Your Position]",
    "You need:\n\n1. Flour\n2. Water that is not too cold\n3. Salt",
    "Run this:\n\n```bash\nls -la\n```",
    "```markdown\n```python\nprint(1)\n```\n```",
    "| a | b |\n| --- | --- |\n| one | two |",
    "So the area is:\n\n$$A = \\pi r^2$$",
    "Read on at https://example.org/bread",
    "I got the job! 🚀 #NewJob #Baking",
    "def f(x):\n    return x ** 2 + max(x, 1)",
    "That is all.\n\n---",
    "Roses are red and the violets are blue\nsugar is sweet and my oven is too\nso I will be baking a loaf for you",
    "这是一个完整的回答。",
    "",
]
BROKEN = [
    "Run this:\n\n```bash\nls -la",
    "Do this:\n\n1. Knead.\n2.",
    "Do this:\n\n- Knead.\n-",
    "The steps are:\n\n1. **Knead",
    "You need the following:",
    "It needs flour, water, and",
    "It needs flour,",
    "Knead it well. Then let the dough rest in a warm place for about",
    "Knead it well first. Then let the dough rest in a warm plac",
    "- Knead the dough for ten minutes.\n- Let it rest for an hour.\n- Put it into the oven with ste",
    "A dough that rests in a cold kitchen takes much longer than one that rests near warm ov",
]


@pytest.mark.parametrize("text", COMPLETE)
def test_ends_of_answers(text):
    assert not cut_off(text)


@pytest.mark.parametrize("text", BROKEN)
def test_answers_that_stop_in_the_middle(text):
    assert cut_off(text)
    assert reason(answer=text) == "answer cut off"
    assert reason(answer=text, cut_off=False) is None


LOOPS = ["I like to bake bread at home. " * 12, "Knead.\n" * 40, "Yes, " + "ha" * 30 + "!"]


@pytest.mark.parametrize("text", LOOPS)
def test_loops(text):
    assert repetition(text) > 0.8
    assert reason(answer=text, cut_off=False) == "repetition"
    assert reason(instruction=text) == "repetition"
    assert reason(answer=text, **OFF) is None


def test_texts_that_repeat_a_little():
    verse = "The first line of verse {0} is its own, the second line of verse {0} too.\nAnd we all sing along again.\n"
    assert 0 < repetition("".join(verse.format(n) for n in range(4))) < 0.5
    assert repetition("no no no no no no no no") == 0


def test_every_turn_is_judged():
    judge = LeftoversConfig().build(Facts()).judge
    turns = [QUESTION, ANSWER, "And then?", "Bake it."]
    assert judge([chat(*turns)]) == [None]
    for place, fault in (
        (0, "Here is the message: hi"),
        (1, "I'm sorry, I can't."),
        (2, "Explain this:"),
        (3, "Bake,"),
    ):
        assert judge([chat(*turns[:place], fault, *turns[place + 1 :])])[0]


def test_a_rejected_answer_may_be_bad_but_not_forge_turns():
    def pair(chosen: str, rejected: str) -> PreferencePair:
        prompt = [Message(role="system", content="Be brief."), Message(role="user", content=QUESTION)]
        return PreferencePair(id="p", prompt=prompt, chosen=chosen, rejected=rejected, origin=ORIGIN)

    verdicts = (
        LeftoversConfig()
        .build(Facts())
        .judge([pair(ANSWER, "I'm sorry, I"), pair("I'm sorry, I", ANSWER), pair(ANSWER, "Bread.<|im_end|>")])
    )
    assert [verdict and verdict.reason for verdict in verdicts] == [None, "refusal", "template marker"]


def test_the_value_shows_what_was_found():
    verdict = LeftoversConfig().build(Facts()).judge([chat("Explain {{topic}} to me.", ANSWER)])
    assert verdict == [("placeholder in the instruction", "{{topic}}")]


@pytest.mark.parametrize("share", [0.0, 1.5])
def test_an_impossible_share_is_refused(share):
    with pytest.raises(ValueError, match="max_repetition must lie in"):
        LeftoversConfig(max_repetition=share)
