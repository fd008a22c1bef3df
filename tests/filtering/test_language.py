import pytest

from matrix.filtering.base import Facts
from matrix.filtering.language import LanguageConfig
from matrix.records import Conversation, Message, Origin, PreferencePair

ORIGIN = Origin(stage="generate-test")
PROSE = "Certainly, here is how you could go about it over the next few weeks."

KEPT = [
    "Hi",
    "",
    "42",
    "E = mc^2",
    "Paris",
    "Explain photosynthesis",
    "What is 2+2?",
    "Translate 'good morning' to French: Bonjour",
    "Name three Italian dishes: Lasagna, Risotto, Gnocchi, Ossobuco.",
    "Fix: TypeError: 'int' object is not iterable",
    "def f(x):\n    return x + 1\n\nfor i in range(10):\n    print(f(i))",
    "SELECT name FROM users WHERE id = 3;",
    '#include <stdio.h>\nint main(void) {\n  printf("%d\\n", 3);\n  return 0;\n}',
    "Why does this fail?\n```python\nübergröße = größe_der_straße(länge, höhe)  # berechnet die Größe der Straße\n```",
    "What does this print?\n```\nconsole.log('El perro corre por la calle y la casa es muy grande')",
    r"Show that $$\int_0^\infty e^{-x^2} dx = \frac{\sqrt{\pi}}{2}$$ holds.",
    "yo im tryna make a budget for my shop n i dont know where to start lol, any tips?",
    "Ward handover: bed 4 post-op, obs stable, IV abx due at 18:00, family informed.",
    "| item | price |\n|---|---|\n| flour | 3.20 |\n| yeast | 1.10 |",
    "1. Apples\n2. Bananas\n3. Cherries",
    "What is the meaning of the Spanish proverb 'Más vale tarde que nunca' and when would I use it?",
]
DROPPED = {
    "Wie kann ich meine Steuererklärung am schnellsten fertig machen?": "de",
    "Bonjour, comment puis-je organiser la réunion de demain ?": "fr",
    "¿Puedes ayudarme con mi tarea de matemáticas, por favor?": "es",
    "你好，请帮我写一封信给我的房东。": "zh",
    "Помогите мне составить план тренировок на неделю.": "ru",
    "Não sei como começar o meu negócio de bolos caseiros.": "pt",
}


def ask(instruction: str, response: str = PROSE) -> Conversation:
    messages = [Message(role="user", content=instruction), Message(role="assistant", content=response)]
    return Conversation(id="row", messages=messages, origin=ORIGIN)


@pytest.fixture(scope="module")
def judge():
    return LanguageConfig().build(Facts()).judge


@pytest.mark.parametrize("text", KEPT)
def test_english_short_and_code_texts_stay(judge, text):
    assert judge([ask(text)]) == [None]
    assert judge([ask(PROSE, text)]) == [None]


@pytest.mark.parametrize(("text", "language"), DROPPED.items())
def test_foreign_texts_go_and_say_where(judge, text, language):
    (instruction,) = judge([ask(text)])
    assert instruction.reason == "instruction in another language"
    assert instruction.value.startswith(language)
    (response,) = judge([ask(PROSE, text)])
    assert response.reason == "response in another language"


def test_other_languages_can_be_asked_for():
    judge = LanguageConfig(languages=["de", "fr"]).build(Facts()).judge
    german, french, spanish = list(DROPPED)[:3]
    assert [bool(v) for v in judge([ask(german, french), ask(spanish, german)])] == [False, True]


def test_a_rejected_answer_may_be_in_the_wrong_language(judge):
    foreign = next(iter(DROPPED))
    prompt = [Message(role="user", content=PROSE)]
    good = PreferencePair(id="p", prompt=prompt, chosen=PROSE, rejected=foreign, origin=ORIGIN)
    bad = PreferencePair(id="q", prompt=prompt, chosen=foreign, rejected=PROSE, origin=ORIGIN)
    assert [bool(verdict) for verdict in judge([good, bad])] == [False, True]


def test_an_unknown_code_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"no such code: english.*Known: .*\ben\b"):
        LanguageConfig(languages=["english"]).build(Facts())


@pytest.mark.parametrize("wrong", [{"languages": []}, {"min_confidence": 0.0}, {"min_confidence": 1.5}])
def test_senseless_knobs_are_refused(wrong):
    with pytest.raises(ValueError, match=r"languages|min_confidence"):
        LanguageConfig(**wrong)
