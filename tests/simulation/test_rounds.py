"""When groups may go on: what holds one back, whatever order the others come in, and that nobody waits for ever."""

import asyncio
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from matrix.simulation.rounds import Admission, Fence

ASYNC = settings(deadline=None, max_examples=150)


async def settle():
    """Let every task run until it waits for something."""
    for _ in range(5):
        await asyncio.sleep(0)


@ASYNC
@given(st.data(), st.lists(st.integers(0, 3), min_size=1, max_size=4))
def test_a_target_passes_exactly_when_nothing_can_reach_it_any_more(data, sources):
    """`sources` release in any order and hold, before they do, for messages that are released at any time."""

    async def run():
        fence = Fence(dict(enumerate(sources)))
        unreleased = {(round_, target): n for round_ in range(2) for target, n in enumerate(sources)}
        messages = dict.fromkeys(unreleased, 0)
        waiting = {place: [asyncio.create_task(fence.passed(*place)) for _ in range(2)] for place in unreleased}
        holds = 6
        while True:
            await settle()
            for place, tasks in waiting.items():
                assert [task.done() for task in tasks] == [unreleased[place] + messages[place] == 0] * 2
            moves = [("source", place) for place, n in unreleased.items() if n]
            moves += [("message", place) for place, n in messages.items() if n]
            moves += [("hold", place) for place, n in unreleased.items() if n and holds]
            if not moves:
                break
            kind, place = data.draw(st.sampled_from(moves))
            round_, target = place
            if kind == "hold":
                fence.hold(round_, [target])
                messages[place] += 1
                holds -= 1
            else:
                fence.release(round_, [target])
                (unreleased if kind == "source" else messages)[place] -= 1
        assert all(task.result() is True for tasks in waiting.values() for task in tasks)

    asyncio.run(run())


async def test_one_call_holds_and_releases_several_targets():
    fence = Fence({0: 1, 1: 1, 2: 1})
    fence.hold(0, [0, 2])
    fence.release(0, [0, 1, 2])
    assert await fence.passed(0, 1)
    others = [asyncio.create_task(fence.passed(0, target)) for target in (0, 2)]
    await settle()
    assert not any(task.done() for task in others)
    fence.release(0, [0, 2])
    assert await asyncio.gather(*others) == [True, True]


async def test_rounds_before_the_first_and_targets_that_nobody_can_reach_are_open():
    fence = Fence({0: 3})
    assert await fence.passed(-1, 0)
    assert await fence.passed(7, 1)


async def test_a_waiter_that_is_cancelled_leaves_the_others():
    fence = Fence({0: 1})
    first, second = (asyncio.create_task(fence.passed(0, 0)) for _ in range(2))
    await settle()
    first.cancel()
    await settle()
    assert first.cancelled()
    assert not second.done()
    fence.release(0, [0])
    assert await second


async def test_the_end_lets_everybody_go():
    fence = Fence({0: 1})
    waiting = [asyncio.create_task(fence.passed(round_, 0)) for round_ in (0, 0, 5)]
    await settle()
    fence.end()
    assert await asyncio.gather(*waiting) == [False] * 3
    assert not await fence.passed(9, 0)
    assert not await fence.passed(9, 1)
    assert not await fence.passed(-1, 0)


async def test_a_round_that_is_forgotten_leaves_the_others():
    fence = Fence({0: 2})
    for round_ in (0, 1):
        fence.release(round_, [0])
    fence.forget(0)
    fence.release(1, [0])
    assert await fence.passed(1, 0)


class Table:
    """Who has anything to do in which round; after `lag` quiet rounds nobody has, as in a society."""

    def __init__(self, rows, lag):
        ends = (end for end in range(lag, len(rows)) if not any(map(any, rows[end - lag : end])))
        self.rows, self.groups, self.lag = rows[: next(ends, None)], len(rows[0]), lag

    def active(self, round_, group):
        return round_ < len(self.rows) and self.rows[round_][group]

    def expected(self, wanted):
        """The places of all scenarios, and the last place before the end; one place after another."""
        places, last, quiet = [], (-1, -1), 0
        while quiet < self.lag and len(places) < wanted:
            round_, busy = last[0] + 1, len(places)
            for group in range(self.groups):
                if len(places) < wanted:
                    last = round_, group
                    places += [last] if self.active(*last) else []
            quiet = 0 if len(places) > busy else quiet + 1
        return places, last


@st.composite
def tables(draw):
    groups, lag = draw(st.integers(1, 5)), draw(st.integers(1, 3))
    row = st.lists(st.booleans(), min_size=groups, max_size=groups)
    return Table(draw(st.lists(row, min_size=1, max_size=8)), lag)


@ASYNC
@given(tables(), st.integers(1, 20), st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4))), st.randoms())
def test_who_is_admitted_hangs_on_places_and_not_on_time(table, wanted, questions, dice):
    """Groups come to their rounds, and questions are asked, in any interleaving."""
    places, last = table.expected(wanted)

    async def run():
        admission = Admission(table.groups, wanted, table.lag)

        async def a_while(most):
            for _ in range(dice.randint(1, most)):
                await asyncio.sleep(0)

        async def live(group):
            for round_ in count():
                await a_while(9)
                active = table.active(round_, group)
                if not await admission.enter(round_, group, active):
                    return
                if active:
                    admitted.append((round_, group))

        async def ask(round_, group):
            await a_while(99)
            within = (round_, group) <= last
            assert await admission.decided(round_, group) == within
            assert await admission.reached(round_, group) == (within or round_ * table.groups + group < wanted)

        admitted = []
        asked = [ask(round_, group) for round_, group in questions if group < table.groups]
        await asyncio.wait_for(asyncio.gather(*map(live, range(table.groups)), *asked), 10)
        assert sorted(admitted) == places
        assert admission.admitted == len(places)
        assert admission.over.is_set()

    asyncio.run(run())


async def test_nobody_waits_while_the_quota_cannot_be_exceeded():
    admission = Admission(groups=3, wanted=8, lag=1)
    for round_ in (0, 1):  # places 1 and 4; the other groups never come
        assert await asyncio.wait_for(admission.enter(round_, 1, True), 10)
    near = asyncio.create_task(admission.enter(2, 2, True))  # the ninth place
    await settle()
    assert not near.done()


@pytest.mark.parametrize(("active", "goes_on"), [(True, False), (False, True)])
async def test_near_the_quota_those_before_decide(active, goes_on):
    admission = Admission(groups=2, wanted=1, lag=1)
    second = asyncio.create_task(admission.enter(0, 1, True))
    await settle()
    assert not second.done()
    await admission.enter(0, 0, active)
    assert await second is goes_on
    assert admission.over.is_set()


async def test_a_question_that_is_cancelled_leaves_the_others():
    admission = Admission(groups=2, wanted=9, lag=1)
    first, second = (asyncio.create_task(admission.decided(0, 1)) for _ in range(2))
    await settle()
    first.cancel()
    await settle()
    await admission.enter(0, 0, True)
    assert await second
    assert first.cancelled()


async def test_the_end_comes_after_as_many_quiet_rounds_as_a_message_travels():
    admission = Admission(groups=1, wanted=9, lag=2)
    assert [await admission.enter(round_, 0, round_ == 1) for round_ in range(4)] == [True, True, True, False]
    assert admission.admitted == 1
