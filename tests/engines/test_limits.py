"""Places that are given to the most urgent first, and lost by nobody."""

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from matrix.engines.limits import Slots


async def turn() -> None:
    """Let everybody run who can."""
    for _ in range(3):
        await asyncio.sleep(0)


async def served(slots: Slots, priorities: list[tuple[int, ...]]) -> list[int]:
    """The order in which callers that came one after another get a place."""
    order = []

    async def caller(number: int) -> None:
        await slots.acquire(priorities[number])
        order.append(number)
        await turn()
        slots.release()

    await slots.acquire()
    callers = asyncio.gather(*map(caller, range(len(priorities))))
    await turn()
    assert order == []
    slots.release()
    await callers
    return order


async def test_the_most_urgent_is_first_and_among_equals_who_came_first() -> None:
    priorities = [(1, 0), (0, 5), (1, 0), (0, -2), (), (0, 5), (0,)]
    assert await served(Slots(1), priorities) == [4, 6, 3, 1, 5, 0, 2]


async def test_a_waiter_that_is_cancelled_is_passed_over() -> None:
    slots = Slots(1)
    await slots.acquire()
    first, second = (asyncio.create_task(slots.acquire((n,))) for n in range(2))
    await turn()
    first.cancel()
    await turn()
    slots.release()
    await asyncio.wait_for(second, 5)
    assert first.cancelled()


async def test_a_place_that_comes_with_the_cancellation_is_handed_on() -> None:
    slots = Slots(1)
    await slots.acquire()
    first, second = (asyncio.create_task(slots.acquire((n,))) for n in range(2))
    await turn()
    slots.release()  # the place is the first's, who is cancelled before it can take it
    first.cancel()
    await asyncio.wait_for(second, 5)
    assert first.cancelled()
    slots.release()
    assert slots.free == 1


@settings(deadline=None)
@given(st.integers(1, 3), st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=12), st.randoms())
def test_never_more_than_there_are_places_and_none_is_lost(most: int, callers: list[tuple[int, bool]], dice) -> None:
    """Callers come and go in any interleaving; some are cancelled somewhere on the way."""

    async def run() -> None:
        slots, inside = Slots(most), 0

        async def caller(priority: int) -> None:
            nonlocal inside
            for _ in range(dice.randint(0, 5)):
                await asyncio.sleep(0)
            await slots.acquire((priority,))
            inside += 1
            try:
                assert inside <= most
                for _ in range(dice.randint(0, 5)):
                    await asyncio.sleep(0)
            finally:
                inside -= 1
                slots.release()

        tasks = [asyncio.create_task(caller(priority)) for priority, _ in callers]
        for task, (_, cancelled) in zip(tasks, callers, strict=True):
            await asyncio.sleep(0)
            if cancelled:
                task.cancel()
        await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)
        assert not any(task.exception() for task in tasks if not task.cancelled())
        assert slots.free == most

    asyncio.run(run())
