from collections import Counter

import pytest
from society_fakes import FakeModel, rows_of

from matrix.generation.code import FUNCTION, STRUCTURE, STUB, CodeConfig, code_fault

SOLVED = "Here it is:\n\n```python\ndef loaves(n):\n    return n\n```\nCall it with a number."


def made(lives, model, **config):
    return rows_of(CodeConfig(**({"num_rows": 8, "max_tries": 1} | config)), lives, model)


def task(prompt, dice):
    name = f"f{dice.randint(0, 10**9)}"
    if STUB not in prompt:
        return f"Write a Python function named {name} for {dice.random()} loaves."
    return f"Complete {name}:\n\n```python\ndef {name}(n):\n    '''Loaves of {dice.random()}.'''\n```"


def test_a_row_says_its_form_and_is_asked_for_in_it(lives):
    model = FakeModel(code=task, response=SOLVED)
    rows, _ = made(lives, model, num_rows=40)
    assert set(Counter(row.category for row in rows)) == {FUNCTION, STRUCTURE, STUB}
    assert {row.kind for row in rows} == {"code"}
    prompts = [prompt for kind, prompt, _ in model.calls if kind == "code"]
    assert {("class" in p, "two test cases" in p) for p in prompts} == {(False, False), (True, False), (False, True)}
    assert all("Baker" in p or "Miller" in p or "Sailor" in p for p in prompts)
    assert all("```python\ndef" in r.messages[0].content for r in rows if r.category == STUB)


def test_other_forms_and_languages_are_taken_as_they_are(lives):
    model = FakeModel(
        code=lambda _, dice: f"Find the fault in this Rust program {dice.random()}.", response="```\nx\n```"
    )
    rows, _ = made(lives, model, categories=["bug to be found"], programming_language="Rust")
    assert {row.category for row in rows} == {"bug to be found"}
    assert all("bug to be found" in p and "Rust" in p for kind, p, _ in model.calls if kind == "code")


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        ("Sort them by hand.", "no code block"),
        ("```python\ndef f(:\n    pass\n```", "the code does not parse"),
        ("```python\ndef f():\n    pass\n```\nand\n```python\nf()", "not closed"),
    ],
)
def test_an_answer_without_good_code_is_a_failure_with_its_reason(lives, answer, fault):
    rows, failures = made(lives, FakeModel(code=task, response=answer), num_rows=2)
    assert rows == []
    assert [(f.purpose, f.text) for f in failures] == [("response", answer)] * 2
    assert all(fault in f.error for f in failures)


def test_the_check_can_be_switched_off(lives):
    rows, failures = made(lives, FakeModel(code=task, response="By hand."), check_code=False)
    assert len(rows) == 8
    assert failures == []


@pytest.mark.parametrize(
    ("text", "language"),
    [
        (SOLVED, "Python"),
        ("```\nprint(1)\n```", "python"),
        ("1. Do:\n   ```py\n   x = 1\n   ```", "Python"),
        (
            "```python\ndef f(n):\n    return n\n```\n```bash\n$ python f.py | less; a longer line than the code\n```",
            "Python",
        ),
        ("```python\nx = '\\d'\n```", "Python"),
        ("```rust\nfn main() {}\n```", "Rust"),
    ],
)
def test_good_code(text, language):
    assert code_fault(text, language) == ""


@pytest.mark.parametrize("text", ["", "`x = 1`", "```python\n```", "```python x = 1```"])
def test_no_code(text):
    assert code_fault(text, "Python") == "no code block"


def test_code_that_would_break_the_parser_is_only_a_fault():
    assert "parse" in code_fault("```python\n" + "(" * 5000 + "\n```", "Python")
    assert "parse" in code_fault("```python\nx = '\0'\n```", "Python")


@pytest.mark.parametrize(
    "text",
    ["Count the loaves of a day.", "Write a Python function:\n```python\ndef f():"],
    ids=["language", "open block"],
)
def test_a_task_that_cannot_be_answered_is_asked_for_again(lives, text):
    rows, failures = made(lives, FakeModel(code=text, response=SOLVED), num_rows=1, categories=[FUNCTION])
    assert rows == []
    assert [f.purpose for f in failures] == ["code", "code"]


def test_a_stub_is_code(lives):
    words = "Write a Python function that counts the loaves."
    assert made(lives, FakeModel(code=words, response=SOLVED), num_rows=1, categories=[STUB])[0] == []
    assert len(made(lives, FakeModel(code=words, response=SOLVED), num_rows=1, categories=[FUNCTION])[0]) == 1
