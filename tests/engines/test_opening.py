"""A model is opened late, asked once, accounted for, and closed whatever happens."""

import asyncio
from pathlib import Path

import msgspec
import pytest
from chat_server import ChatServer, ask, refusal

from matrix.engines.base import ContextOverflow, EngineError, EngineName, ModelConfig, Sampling
from matrix.engines.opening import choose_engine, open_model
from matrix.progress import Progress


def config(server: ChatServer, **fields: object) -> ModelConfig:
    return ModelConfig(model="m", engine=EngineName.openai, endpoints=[server.url], **fields)  # type: ignore[arg-type]


async def test_replay_needs_no_engine(tmp_path: Path, server: ChatServer) -> None:
    first, second = Progress("t", 1), Progress("t", 1)
    async with open_model(config(server), tmp_path / "j", first) as model:
        answer = await model.chat(ask("hello"), Sampling(seed=1))
    gone = ModelConfig(model="m", engine=EngineName.scripted)  # there is no script: opening it would fail
    async with open_model(gone, tmp_path / "j", second) as model:
        assert await model.chat(ask("hello"), Sampling(seed=1)) == answer
        with pytest.raises(EngineError, match="no file m"):
            await model.chat(ask("new"), Sampling(seed=1))
    assert len(server.bodies) == 1
    assert (first.usage.calls, first.usage.replayed, second.usage.calls, second.usage.replayed) == (1, 0, 0, 1)


async def test_equal_calls_in_flight_are_sent_once(tmp_path: Path, server: ChatServer) -> None:
    server.delay = 0.05
    progress = Progress("t", 1)
    async with open_model(config(server), tmp_path / "j", progress) as model:
        answers = await asyncio.gather(*(model.chat(ask("hello"), Sampling(seed=1)) for _ in range(9)))
    assert len(server.bodies) == 1
    assert {a.text for a in answers} == {"HELLO"}
    assert (progress.usage.calls, progress.usage.replayed) == (1, 8)


async def test_an_equal_call_goes_on_when_the_first_is_cancelled(tmp_path: Path, server: ChatServer) -> None:
    server.delay = 0.05
    async with open_model(config(server), tmp_path / "j", Progress("t", 1)) as model:
        first = asyncio.create_task(model.chat(ask("hello"), Sampling(seed=1)))
        second = asyncio.create_task(model.chat(ask("hello"), Sampling(seed=1)))
        await asyncio.sleep(0.02)
        first.cancel()
        assert (await second).text == "HELLO"


async def test_accounts(tmp_path: Path, server: ChatServer) -> None:
    progress = Progress("t", 1)
    async with open_model(config(server, price_in=2.0, price_out=10.0), tmp_path / "j", progress) as model:
        for i in range(3):
            await model.chat(ask("hello"), Sampling(seed=i))
    usage = progress.usage
    assert (usage.calls, usage.tokens_in, usage.tokens_out, usage.tokens_cached) == (3, 30, 9, 12)
    assert usage.money == pytest.approx((30 * 2 + 9 * 10) / 1e6)
    assert usage.seconds > 0
    assert progress.in_flight == 0


async def test_failures_are_counted_and_finished_calls_stay(tmp_path: Path, server: ChatServer) -> None:
    progress = Progress("t", 1)
    async with open_model(config(server), tmp_path / "j", progress) as model:
        await model.chat(ask("good"), Sampling(seed=1))
        server.plan = [refusal(400, "bad words")]
        with pytest.raises(EngineError, match="bad words"):
            await model.chat(ask("bad"), Sampling(seed=1))
    assert (progress.usage.failures, progress.in_flight) == (1, 0)
    lines = (tmp_path / "j").read_bytes().splitlines()
    assert [msgspec.json.decode(line)["completion"]["text"] for line in lines] == ["GOOD"]


async def test_context_overflow_is_raised_before_sending(tmp_path: Path, server: ChatServer) -> None:
    async with open_model(config(server, max_context=300), tmp_path / "j", Progress("t", 1)) as model:
        with pytest.raises(ContextOverflow, match="max_context=300"):
            await model.chat(ask("word " * 100), Sampling(seed=1, max_tokens=256))
    assert server.bodies == []


async def test_never_more_in_flight_than_concurrency(tmp_path: Path, server: ChatServer) -> None:
    server.delay = 0.01
    async with open_model(config(server, concurrency=5), tmp_path / "j", Progress("t", 1)) as model:
        await asyncio.gather(*(model.chat(ask("hello"), Sampling(seed=i)) for i in range(40)))
    assert server.most_active == 5


async def test_cancelling_leaves_the_journal_whole_and_frees_it(tmp_path: Path, server: ChatServer) -> None:
    server.delay = 0.03

    async def work() -> None:
        async with open_model(config(server, concurrency=2), tmp_path / "j", Progress("t", 1)) as model:
            await asyncio.gather(*(model.chat(ask("hello"), Sampling(seed=i)) for i in range(1000)))

    task = asyncio.create_task(work())
    while len(server.bodies) < 6:
        await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 60)
    progress = Progress("t", 1)
    async with open_model(config(server), tmp_path / "j", progress) as model:
        await model.chat(ask("hello"), Sampling(seed=0))
    assert progress.usage.replayed == 1


async def test_the_given_name_is_what_the_journal_says(tmp_path: Path, server: ChatServer) -> None:
    async with open_model(config(server), tmp_path / "j", Progress("t", 1), name="train-0123456789ab") as model:
        await model.chat(ask("hello"), Sampling(seed=1))
        assert model.name == "train-0123456789ab"
    assert msgspec.json.decode((tmp_path / "j").read_bytes())["model"] == "train-0123456789ab"


def test_auto_is_openvino_without_cuda() -> None:
    assert choose_engine(ModelConfig(model="some/model.gguf")) is EngineName.openvino
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        assert choose_engine(ModelConfig(model="some/model")) is EngineName.openvino
    assert choose_engine(ModelConfig(model="some/model", engine=EngineName.vllm)) is EngineName.vllm


async def test_the_most_urgent_call_is_sent_first(tmp_path: Path, server: ChatServer) -> None:
    server.delay = 0.02
    async with open_model(config(server, concurrency=1), tmp_path / "j", Progress("t", 1)) as model:

        async def call(text: str, *priority: int) -> None:
            await model.chat(ask(text), Sampling(seed=1), priority)

        urgencies = {"first": (9,), "later": (1, 0), "soon": (0, -2, 7), "sooner": (0, -4), "as soon": (0, -2, 7)}
        await asyncio.gather(*(call(text, *priority) for text, priority in urgencies.items()))
    sent = [body["messages"][0]["content"] for body in server.bodies]
    assert sent == ["first", "sooner", "soon", "as soon", "later"]


async def test_urgency_is_no_part_of_a_call(tmp_path: Path, server: ChatServer) -> None:
    async with open_model(config(server), tmp_path / "j", Progress("t", 1)) as model:
        answers = [await model.chat(ask("hello"), Sampling(seed=1), priority) for priority in ((), (3,), (1, 2))]
    assert len(server.bodies) == 1
    assert answers[0] == answers[1] == answers[2]
