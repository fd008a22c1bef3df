"""Scripted answers follow the rules, and are the same every time."""

import math
from pathlib import Path

import pytest
from chat_server import ask

from matrix.engines.base import ContextOverflow, EngineError, EngineName, ModelConfig, Sampling
from matrix.engines.scripted import ScriptedEngine


def engine(path: Path, text: str, **fields: int) -> ScriptedEngine:
    path.write_text(text)
    return ScriptedEngine(ModelConfig(model=str(path), engine=EngineName.scripted, **fields))


@pytest.mark.parametrize(
    "script",
    [
        '[{"match": "name is (\\\\w+)", "reply": "hi \\\\1"}, {"match": "user: b", "reply": "B"}]',
        '{"match": "name is (\\\\w+)", "reply": "hi \\\\1"}\n{"match": "user: b", "reply": "B"}\n',
    ],
)
async def test_first_matching_rule_answers(tmp_path: Path, script: str) -> None:
    model = engine(tmp_path / "s.json", script)
    assert (await model.chat(ask("my name is Ada"), Sampling(seed=1))).text == "hi Ada"
    assert (await model.chat(ask("b"), Sampling(seed=1))).text == "B"


async def test_fallback_depends_on_chat_and_seed(tmp_path: Path) -> None:
    model = engine(tmp_path / "s.json", "[]")
    texts = [(await model.chat(ask(q), Sampling(seed=s))).text for q, s in (("a", 1), ("a", 1), ("a", 2), ("b", 1))]
    assert texts[0] == texts[1]
    assert len(set(texts)) == 3


async def test_a_rule_may_write_the_users_turn(tmp_path: Path) -> None:
    model = engine(tmp_path / "s.json", '[{"match": "user: $", "reply": "How do I bake bread?"}]')
    assert (await model.chat(ask(""), Sampling(seed=1))).text == "How do I bake bread?"
    assert (await model.chat(ask("Hi"), Sampling(seed=1))).text != "How do I bake bread?"


async def test_choices(tmp_path: Path) -> None:
    model = engine(tmp_path / "s.json", '[{"match": "better", "reply": "M"}]')
    answer = await model.chat(ask("which is better?"), Sampling(seed=1, choices=("m", "M")))
    assert answer.text == "M"
    assert sum(map(math.exp, answer.choice_logprobs.values())) == pytest.approx(1)


async def test_context(tmp_path: Path) -> None:
    with pytest.raises(ContextOverflow):
        await engine(tmp_path / "s.json", "[]", max_context=300).chat(ask("word " * 100), Sampling(seed=1))


def test_broken_script(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="Expected rules like"):
        engine(tmp_path / "s.json", '[{"match": "("}]')
