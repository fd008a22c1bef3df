import re

import pytest
from rival_fakes import asked, generated
from society_fakes import FakeModel

from matrix.generation.seeds import read_seeds
from matrix.generation.self_instruct import SelfInstructConfig, parse_task
from matrix.prompting import Unparsable

SEEDS = {seed.instruction for seed in read_seeds(None)}
WORDS = ["bake", "rye", "loaf", "oven", "salt", "slow", "warm", "crust", "flour", "sieve"]


def invented(_, dice):
    return "Explain " + " ".join(dice.choices(WORDS, k=9)) + "."


def model(shuffle=0, concurrency=64, **replies):
    return FakeModel(shuffle, concurrency, **({"self_instruct": invented} | replies))


def examples(prompt):
    return re.findall(r"^Task \d+: (.+)$", prompt, re.MULTILINE)


def test_the_first_wave_sees_tasks_by_people_alone_then_two_of_its_own():
    made = model()
    rows, _ = generated(SelfInstructConfig(num_rows=12, wave=4), made)
    prompts = asked(made, "self_instruct")
    tasks = {row.messages[0].content for row in rows}
    shown = sorted((sum(e in SEEDS for e in examples(p)), sum(e in tasks for e in examples(p))) for p in prompts)
    assert shown == [(6, 2)] * 8 + [(8, 0)] * 4
    assert all(prompt.endswith("Task 9:") for prompt in prompts)


def test_a_wave_shows_what_was_made_before_it():
    made = model()
    rows, _ = generated(SelfInstructConfig(num_rows=12, wave=4), made)
    number = {row.messages[0].content: int(row.id[-5:]) for row in rows}
    shown = [e for prompt in asked(made, "self_instruct") for e in examples(prompt) if e in number]
    assert shown
    assert max(number[text] for text in shown) < 8


@pytest.mark.parametrize("how", [{"shuffle": 1}, {"shuffle": 2, "concurrency": 3}], ids=str)
@pytest.mark.parametrize("window", [1, 7, 64])
def test_order_of_answers_and_concurrency_change_nothing(how, window):
    config = SelfInstructConfig(num_rows=20, wave=4)
    assert generated(config, model(**how), window=window)[0] == generated(config, model())[0]


def test_repeated_tasks_are_never_shown_and_replaced():
    def often_the_same(_, dice):
        return "Explain the oven once more." if dice.random() < 0.4 else invented(_, dice)

    made = model(self_instruct=often_the_same)
    rows, asker = generated(SelfInstructConfig(num_rows=12, wave=4), made)
    assert len(rows) == 12
    assert any("repeats" in failure.error for failure in asker.failures)
    shown = [e for prompt in asked(made, "self_instruct") for e in examples(prompt)]
    assert all(shown.count(e) < len(shown) / 4 for e in set(shown))


@pytest.mark.parametrize("added", ["", " The answer to this one is: none of them, in my view."])
def test_a_copied_example_is_no_task(added):
    rows, asker = generated(
        SelfInstructConfig(num_rows=2, max_tries=1, near_duplicate=0.5),
        model(self_instruct=lambda prompt, _: max(examples(prompt), key=len) + added),
    )
    assert rows == []
    assert len(asker.failures) == 4
    assert "copies an example" in {failure.error for failure in asker.failures}


def test_words_of_the_prompt_are_no_task():
    text = "Write only the next one on the list."
    _, asker = generated(SelfInstructConfig(num_rows=1, max_tries=1), model(self_instruct=text))
    assert all("words of the prompt" in failure.error for failure in asker.failures)


@pytest.mark.parametrize(
    ("text", "task"),
    [
        ("Name three rivers of Asia.", "Name three rivers of Asia."),
        ("Task 9: Name three rivers of Asia.", "Name three rivers of Asia."),
        ("9. Name three rivers of Asia.\nTask 10: Name a lake.", "Name three rivers of Asia."),
        ('"Name three rivers of Asia."', "Name three rivers of Asia."),
    ],
)
def test_the_first_task_of_an_answer_is_taken(text, task):
    assert parse_task(text) == task


@pytest.mark.parametrize(
    "text",
    ["Sing.", "word " * 151, "Draw a picture of a river.", "Describe this image in words.", "! Name three rivers."],
)
def test_what_a_language_model_cannot_do_is_refused(text):
    with pytest.raises(Unparsable):
        parse_task(text)


def test_examples_need_seeds(tmp_path):
    (tmp_path / "few.jsonl").write_text('{"instruction": "Name three rivers."}\n')
    with pytest.raises(ValueError, match="examples=8"):
        generated(SelfInstructConfig(num_rows=1, seeds=str(tmp_path / "few.jsonl")), model())


@pytest.mark.parametrize("wrong", [{"wave": 0}, {"made": 9}], ids=str)
def test_nonsense_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SelfInstructConfig(**wrong)
