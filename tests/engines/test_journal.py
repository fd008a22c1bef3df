"""The journal keeps every finished call through crashes, and gives it back."""

import asyncio
import signal
import sys
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest
from chat_server import ChatServer, ask

from matrix.engines.base import Completion, EngineName, ModelConfig, Sampling
from matrix.engines.journal import KEY_DIGITS, Entry, Journal, JournalError, canonical_call, key_of
from matrix.engines.opening import open_model
from matrix.progress import Progress


class Finished(NamedTuple):
    """What a journal is given of a call."""

    key: str
    call: bytes
    completion: Completion


def entry(text: str, seed: int = 1) -> Finished:
    call = canonical_call("m", ask(text), Sampling(seed=seed))
    completion = Completion(text=text.upper(), prompt_tokens=1, completion_tokens=2, finish_reason="stop")
    return Finished(key_of(call), call, completion)


def test_gives_back_after_reopening(tmp_path: Path) -> None:
    entries = [entry(text) for text in ("one", "zwei — 二", "three\nlines")]
    with Journal(tmp_path / "j.jsonl") as journal:
        for e in entries:
            journal.add(*e)
        assert journal.get(entries[0].key) == entries[0].completion
    with Journal(tmp_path / "j.jsonl") as journal:
        assert len(journal) == 3
        assert [journal.get(e.key) for e in entries] == [e.completion for e in entries]
        assert journal.get(entry("unknown").key) is None


def test_lines_are_readable(tmp_path: Path) -> None:
    with Journal(tmp_path / "j.jsonl") as journal:
        journal.add(*entry("what is it?"))
    line = msgspec.json.decode((tmp_path / "j.jsonl").read_bytes())
    assert line["messages"] == [{"role": "user", "content": "what is it?"}]
    assert line["completion"]["text"] == "WHAT IS IT?"
    assert msgspec.convert(line, Entry).sampling == Sampling(seed=1)


def test_key_depends_on_all_that_decides_the_answer() -> None:
    def key(text: str = "a", model: str = "m", times: int = 1, **sampling: Any) -> str:
        return key_of(canonical_call(model, ask(text) * times, Sampling(**({"seed": 1} | sampling))))

    assert key() == key()
    others = {
        key(model="n"), key("b"), key(times=2), key(seed=2), key(temperature=0.0), key(stop=("x",)),
        key(choices=("x",)), key(json_schema={"type": "object"}),
    }  # fmt: skip
    assert len(others | {key()}) == 9


def test_keys_and_lines_of_earlier_journals_are_known(tmp_path: Path) -> None:
    """A stored society is never paid for again."""
    call = canonical_call("m", ask("zwei — 二\n"), Sampling(seed=7, stop=("x",), json_schema={"b": 1, "a": {"d": [2]}}))
    key = "0261cd3fcf0c86b747c999c2c7241aad2aa261f139491b6a1dcf60bb8c7980d6"
    assert key_of(call) == key
    line = {
        "key": key, "model": "m", "messages": [{"role": "user", "content": "zwei — 二\n"}],
        "sampling": {"seed": 7}, "completion": msgspec.to_builtins(entry("two").completion),
    }  # fmt: skip
    (tmp_path / "j.jsonl").write_bytes(msgspec.json.encode(line) + b"\n")
    with Journal(tmp_path / "j.jsonl") as journal:
        assert journal.get(key) == entry("two").completion


def test_keys_that_begin_alike_are_told_apart(tmp_path: Path) -> None:
    one, two = ("a" * KEY_DIGITS + digit * (64 - KEY_DIGITS) for digit in "12")
    with Journal(tmp_path / "j.jsonl") as journal:
        journal.add(one, *entry("one")[1:])
        assert journal.get(two) is None
        journal.add(two, *entry("two")[1:])
        assert journal.get(two) == entry("two").completion
        assert journal.get(one) is None  # asked again, which costs a call


@pytest.mark.parametrize("lost", [1, 7, 60])
def test_torn_last_line_is_taken_off(tmp_path: Path, lost: int) -> None:
    path = tmp_path / "j.jsonl"
    with Journal(path) as journal:
        journal.add(*entry("one"))
        journal.add(*entry("two"))
    whole = path.read_bytes()
    path.write_bytes(whole[:-lost])
    with Journal(path) as journal:
        assert journal.get(entry("one").key) is not None
        assert journal.get(entry("two").key) is None
        journal.add(*entry("two"))
    assert path.read_bytes() == whole


def test_damage_before_the_end_is_an_error_that_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "j.jsonl"
    with Journal(path) as journal:
        journal.add(*entry("one"))
    path.write_bytes(b"{broken}\n" + path.read_bytes())
    with pytest.raises(JournalError, match=r"j\.jsonl:1 .*Remove the line"):
        Journal(path)


def test_one_writer(tmp_path: Path) -> None:
    with Journal(tmp_path / "j.jsonl"), pytest.raises(JournalError, match="another run"):
        Journal(tmp_path / "j.jsonl")
    Journal(tmp_path / "j.jsonl").close()


def test_a_call_is_copied_from_a_forked_journal(tmp_path: Path) -> None:
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    for path, texts in ((one, ["a", "b"]), (two, ["b", "c"])):
        with Journal(path) as journal:
            for text in texts:
                journal.add(*entry(text))
    before = one.read_bytes(), two.read_bytes()
    with Journal(tmp_path / "own.jsonl", [one, two]) as journal:
        assert len(journal) == 0
        for text in ("c", "a", "a"):
            assert journal.get(entry(text).key) == entry(text).completion
        assert journal.get(entry("d").key) is None
        journal.add(*entry("d"))
        assert len(journal) == 3
    assert (one.read_bytes(), two.read_bytes()) == before
    with Journal(tmp_path / "own.jsonl") as journal:  # it needs the others no more
        assert [journal.get(entry(text).key) is not None for text in "abcd"] == [True, False, True, True]


def test_a_forked_journal_is_read_while_it_is_written(tmp_path: Path) -> None:
    """Its last line may be unfinished; it is left as it is."""
    path = tmp_path / "running.jsonl"
    with Journal(path) as running:
        running.add(*entry("whole"))
        running.add(*entry("torn"))
        path.write_bytes(torn := path.read_bytes()[:-7])
        with Journal(tmp_path / "own.jsonl", [path]) as journal:
            assert journal.get(entry("whole").key) == entry("whole").completion
            assert journal.get(entry("torn").key) is None
    assert path.read_bytes() == torn


def test_the_own_call_comes_before_a_forked_one(tmp_path: Path) -> None:
    other = entry("a")._replace(completion=entry("other").completion)
    with Journal(tmp_path / "other.jsonl") as journal:
        journal.add(*other)
    with Journal(tmp_path / "own.jsonl", [tmp_path / "other.jsonl"]) as journal:
        journal.add(*entry("a"))
        assert journal.get(entry("a").key) == entry("a").completion


async def test_a_model_sends_only_what_no_journal_has(tmp_path: Path, server: ChatServer) -> None:
    config = ModelConfig(model="m", engine=EngineName.openai, endpoints=[server.url])
    for journal, forked, texts, sent in (("a", [], ["x", "y"], 2), ("b", ["a"], ["y", "z"], 1)):
        progress = Progress("t", 1)
        others = [tmp_path / name for name in forked]
        async with open_model(config, tmp_path / journal, progress, forked=others) as model:
            answers = [await model.chat(ask(text), Sampling(seed=1)) for text in texts]
        assert [answer.text for answer in answers] == [text.upper() for text in texts]
        assert (progress.usage.calls, progress.usage.replayed) == (sent, len(texts) - sent)
    assert [body["messages"][0]["content"] for body in server.bodies] == ["x", "y", "z"]


CHILD = """
import asyncio, sys
from pathlib import Path
from matrix.engines.base import EngineName, ModelConfig, Sampling
from matrix.engines.opening import open_model
from matrix.progress import Progress
from matrix.records import Message

async def main(url, journal):
    config = ModelConfig(model="m", engine=EngineName.openai, endpoints=[url], concurrency=4)
    async with open_model(config, Path(journal), Progress("t", 100)) as model:
        await asyncio.gather(*(
            model.chat([Message(role="user", content=f"call {i}")], Sampling(seed=i)) for i in range(100)
        ))

asyncio.run(main(*sys.argv[1:]))
"""


async def test_kill_9_loses_only_calls_in_flight(tmp_path: Path, server: ChatServer) -> None:
    server.delay = 0.02
    path = tmp_path / "j.jsonl"
    child = await asyncio.create_subprocess_exec(sys.executable, "-c", CHILD, server.url, str(path))
    while len(server.bodies) < 40:
        await asyncio.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    await child.wait()
    sent = len(server.bodies)
    assert sent < 100

    config = ModelConfig(model="m", engine=EngineName.openai, endpoints=[server.url], concurrency=4)
    progress = Progress("t", 100)
    async with open_model(config, path, progress) as model:
        answers = await asyncio.gather(*(model.chat(ask(f"call {i}"), Sampling(seed=i)) for i in range(100)))
    assert [a.text for a in answers] == [f"CALL {i}" for i in range(100)]
    assert progress.usage.replayed >= sent - 2 * config.concurrency
    assert progress.usage.replayed + progress.usage.calls == 100
