"""The stream of candidates against what a single slow worker would make of the same source."""

import asyncio
import copy
import json
import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from society_fakes import FakeModel, HashedWords

from matrix.engines.journal import Journal, canonical_call, key_of
from matrix.generation.base import Draft, Materials
from matrix.generation.scenarios import ScenarioConfig, ScenarioWriter
from matrix.generation.stream import NGRAM, AlikeWords, Stream
from matrix.progress import Progress
from matrix.prompting import Asker
from matrix.records import Failure, Message, Origin
from matrix.texts import jaccard, ngrams

ASKER = Asker("matrix.generation", FakeModel(), "test")
"""Reading the prompts takes longer than a stream does."""


@dataclass(frozen=True)
class Planned:
    """What becomes of a candidate."""

    text: str | None
    answered: bool = True


@dataclass
class Source:
    """A writer whose candidates are planned; how long each takes is drawn from `shuffle`."""

    materials: Materials
    plan: list[Planned]
    shuffle: int = 0
    limit: int | None = None
    patient: bool = False
    """Waits for all earlier drafts, and notes them, before it drafts."""
    drafted: list[int] = field(default_factory=list)
    finished: list[int] = field(default_factory=list)
    cancelled: list[int] = field(default_factory=list)
    under_way: int = 0
    drafting: int = 0
    most_drafted: int = 0
    seen: dict[int, list[int]] = field(default_factory=dict)

    def __post_init__(self):
        self._dice = random.Random(self.shuffle)

    async def _work(self, number, drafting=0):
        self.under_way += 1
        self.most_drafted = max(self.most_drafted, drafting)
        try:
            for _ in range(self._dice.randrange(6)):
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.cancelled.append(number)
            raise
        finally:
            self.under_way -= 1

    async def draft(self, number, earlier):
        self.drafted.append(number)
        if self.patient:
            self.seen[number] = [draft.number for draft in await earlier()]
        self.drafting += 1
        await self._work(number, self.drafting)
        self.drafting -= 1
        row, text = self.materials.row(number), self.plan[number].text
        if text is None:
            self.materials.fail(row, "instruction", "", "nothing")
            return None
        origin = Origin(stage="test")
        return Draft(
            number=number, row=row, seed=number, messages=[Message(role="user", content=text)], kind="k", origin=origin
        )

    async def finish(self, draft):
        self.finished.append(draft.number)
        await self._work(draft.number)
        if not self.plan[draft.number].answered:
            self.materials.fail(draft.row, "response", "", "silence")
            return None
        return draft.answered(Message(role="assistant", content="Yes."))


class Ran:
    """A stream that ran to its end over a planned source."""

    def __init__(self, plan, num_rows, shuffle=0, window=4, writer=Source, **more):
        config = ScenarioConfig(num_rows=num_rows, max_tries=max(1.0, len(plan) / num_rows))
        self.materials = Materials(
            asker=copy.copy(ASKER), responder=FakeModel(), embedder=HashedWords(),
            society=None, seed=1, prefix="row",
        )  # fmt: skip
        self.materials.asker.failures = []
        self.source = writer(self.materials, plan, shuffle, **more)
        self.progress = Progress("test", 2 * num_rows)
        self.stream = Stream(config, self.materials, self.source, self.progress, window)

    def go(self):
        self.rows = asyncio.run(self.stream.rows())
        self.failures = self.materials.asker.sorted_failures()
        self.account = self.stream.account()
        return self


def ran(*args, **more):
    return Ran(*args, **more).go()


def alone(plan, num_rows):
    """Numbers of the rows and of all candidates asked for, one after another."""
    rows: list[int] = []
    seen: list[str] = []
    for number, planned in enumerate(plan):
        new = planned.text is not None and planned.text not in seen
        if planned.text is not None:
            seen.append(planned.text)
        if new and planned.answered:
            rows.append(number)
        if len(rows) == num_rows:
            return rows, number + 1
    return rows, len(plan)


TEXTS = st.one_of(st.none(), st.sampled_from([f"{w} {w}s please" for w in ("bread", "sea", "code")]))
NEW = st.integers(0, 10**6).map(lambda n: f"number {n} {n + 1} {n + 2} please")
PLANS = st.lists(
    st.builds(Planned, st.one_of(TEXTS, NEW), st.sampled_from([True, True, False])), min_size=1, max_size=24
)


@settings(max_examples=150, deadline=None)
@given(PLANS, st.integers(1, 8), st.integers(0, 99), st.integers(1, 9), st.booleans())
def test_any_order_gives_what_one_worker_would_make(plan, num_rows, shuffle, window, patient):
    num_rows = min(num_rows, len(plan))
    numbers, asked = alone(plan, num_rows)
    done = ran(plan, num_rows, shuffle, window, patient=patient)
    assert [row.id for row in done.rows] == [f"row-{n:05}" for n in numbers]
    assert sorted(done.source.drafted) == list(range(asked))  # the shortest prefix that holds the rows, and each once
    assert done.source.most_drafted <= window
    assert done.progress.done == 2 * len(numbers)
    assert (done.account["made"], done.account["asked"]) == (len(numbers), asked)
    assert sum(done.account["lost"].values()) == asked - len(numbers)
    assert ("short" in done.account) == (len(numbers) < num_rows)


@settings(max_examples=80, deadline=None)
@given(PLANS, st.integers(1, 8), st.integers(1, 99), st.integers(1, 9))
def test_failures_and_account_are_the_same_in_any_order(plan, num_rows, shuffle, window):
    num_rows = min(num_rows, len(plan))
    one, other = ran(plan, num_rows, window=1), ran(plan, num_rows, shuffle, window)
    assert one.failures == other.failures
    assert one.account == other.account


def plan(*texts):
    """`-`: no instruction; `text!`: no answer."""
    return [Planned(None) if t == "-" else Planned(t.rstrip("!"), not t.endswith("!")) for t in texts]


def numbers(done):
    return [int(row.id[-5:]) for row in done.rows]


def test_nothing_is_lost_and_nothing_more_is_asked():
    done = ran(plan("a b c", "d e f", "g h i", "j k l"), 3)
    assert numbers(done) == [0, 1, 2]
    assert done.account == {"wanted": 3, "made": 3, "asked": 3, "lost": {}}
    assert done.failures == []


def test_lost_candidates_are_replaced_and_accounted_for():
    done = ran(plan("a b c", "-", "d e f!", "a b c", "g h i", "j k l", "m n o"), 3)
    assert numbers(done) == [0, 4, 5]
    assert done.account == {
        "wanted": 3, "made": 3, "asked": 6, "lost": {"no answer": 1, "no instruction": 1, "repeated instruction": 1},
    }  # fmt: skip
    assert done.failures == [
        Failure(id="row-00001", purpose="instruction", text="", error="nothing"),
        Failure(id="row-00002", purpose="response", text="", error="silence"),
        Failure(id="row-00003", purpose="instruction", text="a b c", error="repeats row-00000"),
    ]


def test_a_repetition_of_what_was_not_answered_is_a_repetition():
    done = ran(plan("a b c!", "a b c", "d e f"), 1)
    assert numbers(done) == [2]
    assert [f.error for f in done.failures] == ["silence", "repeats row-00000"]


def test_the_lowest_number_is_the_original_whoever_comes_first():
    class Backwards(Source):
        async def _work(self, number, drafting=0):
            for _ in range(40 - 10 * number):
                await asyncio.sleep(0)

    done = ran(plan("a b c", "a b c", "a b c", "d e f"), 1, writer=Backwards, window=4)
    assert numbers(done) == [0]
    done = ran(plan("a b c", "a b c", "a b c", "d e f"), 2, writer=Backwards, window=4)
    assert numbers(done) == [0, 3]
    assert [f.error for f in done.failures] == ["repeats row-00000"] * 2


def test_a_shortfall_names_max_tries():
    done = ran(plan("a b c", "a b c", "-", "d e f!"), 2)
    assert done.account["short"] == "max_tries: 4 candidates, of which 3 were lost"
    assert done.account["made"] == 1


def test_a_source_with_an_end_is_asked_for_no_more():
    done = ran(plan("a b c", "a b c", "d e f", "g h i"), 4, limit=3)
    assert sorted(done.source.drafted) == [0, 1, 2]
    assert done.account["short"] == "the source has no more: 3 candidates, of which 1 were lost"
    assert numbers(done) == [0, 2]


def test_a_source_with_enough_is_not_short():
    assert "short" not in ran(plan("a b c", "d e f"), 2, limit=2).account


def test_earlier_drafts_are_those_that_repeat_nothing():
    done = ran(plan("a b c", "-", "a b c", "d e f", "g h i"), 3, shuffle=3, window=5, patient=True)
    assert done.source.seen[3] == [0]
    assert done.source.seen[4] == [0, 3]


@pytest.mark.parametrize("where", ["draft", "finish"])
def test_an_error_ends_all_and_leaves_nothing_under_way(where):
    class Failing(Source):
        async def draft(self, number, earlier):
            if where == "draft" and number == 2:
                raise RuntimeError("the model is gone")
            return await super().draft(number, earlier)

        async def finish(self, draft):
            if where == "finish" and draft.number == 2:
                raise RuntimeError("the model is gone")
            return await super().finish(draft)

        async def _work(self, number, drafting=0):
            if number != 2:
                self.under_way += 1
                try:
                    await asyncio.sleep(60)
                finally:
                    self.under_way -= 1
                    self.cancelled.append(number)

    failing = Ran(plan(*(f"{n} {n + 1} {n + 2}" for n in range(8))), 8, window=5, writer=Failing)
    with pytest.raises(RuntimeError, match="the model is gone"):
        failing.go()
    # Where candidate 2 was drafted, another one took its place in the window.
    assert sorted(failing.source.cancelled) == ([0, 1, 3, 4] if where == "draft" else [0, 1, 3, 4, 5])
    assert failing.source.under_way == 0


class Remembering:
    """A journal in front of a fake model."""

    name, max_context = "fake", 8192

    def __init__(self, journal, model):
        self.journal, self.model = journal, model

    async def chat(self, messages, sampling, priority=()):
        call = canonical_call(self.name, messages, sampling)
        if (kept := self.journal.get(key_of(call))) is not None:
            return kept
        completion = await self.model.chat(messages, sampling)
        self.journal.add(key_of(call), call, completion)
        return completion


def repetitive(_, dice):
    """Few messages, so that most candidates repeat one; some are no message, and some get no answer."""
    return dice.choice(
        ["No.", *(f"Please help me with {thing} today." for thing in ("bread", "oven", "coins", "boat"))]
    )


def written(lives, journal, shuffle):
    model = FakeModel(shuffle, 3, simple=repetitive, response=lambda p, dice: dice.choice(["", "Gladly.", "Yes."]))
    with Journal(journal) as kept:
        served = Remembering(kept, model)
        materials = Materials(
            asker=Asker("matrix.generation", served, "test"), responder=served, embedder=HashedWords(),
            society=lives, seed=7, prefix="row",
        )  # fmt: skip
        config = ScenarioConfig(num_rows=4, max_tries=9)
        stream = Stream(config, materials, ScenarioWriter(config, materials), Progress("test", 4), 6)
        rows = asyncio.run(stream.rows())
    return rows, materials.asker.sorted_failures(), stream.account(), len(model.calls)


@pytest.mark.parametrize("calls", [0, 1, 5, 9, 14])
def test_a_killed_run_goes_on_to_the_same_rows_and_failures(lives, tmp_path, calls):
    rows, failures, account, made = written(lives, tmp_path / "whole", shuffle=0)
    assert account["lost"].keys() >= {"repeated instruction", "no answer"}
    assert made > 14
    written(lives, tmp_path / "killed", shuffle=1)
    lines = (tmp_path / "killed").read_bytes().splitlines(keepends=True)
    (tmp_path / "killed").write_bytes(b"".join(lines[:calls]) + lines[calls][:60])
    again = written(lives, tmp_path / "killed", shuffle=2)
    assert again[:3] == (rows, failures, account)
    keys = [json.loads(line)["key"] for line in (tmp_path / "killed").read_bytes().splitlines()]
    assert len(set(keys)) == len(keys) == calls + again[3]  # nothing is asked twice


@pytest.mark.parametrize("shuffle", range(1, 8))
def test_repeating_models_give_the_same_rows_whatever_comes_first(lives, tmp_path, shuffle):
    assert written(lives, tmp_path / "one", 0)[:3] == written(lives, tmp_path / "other", shuffle)[:3]


WORDS = st.lists(st.sampled_from(["bread", "oven", "salt", "rye", "sea", "boat", "sail", "storm", "code"]), max_size=14)


@settings(max_examples=60, deadline=None)
@given(st.lists(WORDS.map(" ".join), min_size=1, max_size=12), st.sampled_from([0.5, 0.7, 0.9, 1.0]))
def test_near_duplicates_are_those_of_all_pairs(texts, threshold):
    near = AlikeWords(threshold)
    grams = [ngrams(text, NGRAM) for text in texts]
    for number, text in enumerate(texts):
        found = near.similar_and_add(number, text)
        truly = [n for n in range(number) if jaccard(grams[n], grams[number]) >= threshold]
        assert set(found) <= set(truly)
        assert [n for n in truly if grams[n] == grams[number]] == sorted(n for n in found if grams[n] == grams[number])


@settings(max_examples=40, deadline=None)
@given(st.lists(WORDS.map(" ".join), min_size=2, max_size=8), st.randoms())
def test_who_repeats_whom_does_not_hang_on_the_order(texts, dice):
    def pairs(order):
        near = AlikeWords(0.6)
        return {frozenset((n, other)) for n in order for other in near.similar_and_add(n, texts[n])}

    order = list(range(len(texts)))
    dice.shuffle(order)
    assert pairs(order) == pairs(sorted(order))
