import asyncio

import pytest

from matrix.tasks import pooled, together


async def test_results_are_in_order_and_the_pool_is_as_wide_as_asked():
    under_way = most = 0

    async def work(number):
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.001 * (5 - number % 5))
        under_way -= 1
        return number * number

    assert await pooled(20, work, 3) == [n * n for n in range(20)]
    assert most == 3
    assert await pooled(0, work, 3) == []


async def test_the_first_error_comes_out_as_it_is_and_ends_the_rest():
    ended = []

    async def wait(number):
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(number)

    async def fail():
        raise LookupError("gone")

    with pytest.raises(LookupError, match="gone"):
        async with together() as tasks:
            for number in range(3):
                tasks.create_task(wait(number))
            await asyncio.sleep(0)
            tasks.create_task(fail())
    assert sorted(ended) == [0, 1, 2]
