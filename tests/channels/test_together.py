"""Jobs that come at once are done in one go; one that cannot be done fails alone."""

import asyncio
from collections.abc import Sequence

import pytest

from services.channels.together import Together

pytestmark = pytest.mark.asyncio


class Work:
    """Doubles numbers, refuses zero, and waits where it is told to."""

    def __init__(self) -> None:
        self.goes: list[list[int]] = []
        self.free = asyncio.Event()
        self.free.set()

    async def __call__(self, jobs: Sequence[int]) -> list[int]:
        self.goes.append(list(jobs))
        await self.free.wait()
        if 0 in jobs:
            raise ValueError("nothing to double")
        return [2 * job for job in jobs]


async def started(work: Work, goes: int) -> None:
    async with asyncio.timeout(20):
        while len(work.goes) < goes:  # noqa: ASYNC110 - what is awaited has no event
            await asyncio.sleep(0)


async def test_what_comes_at_once_is_one_go_and_what_comes_meanwhile_the_next() -> None:
    work = Work()
    work.free.clear()
    together = Together(work, jobs_max=10)
    first = [asyncio.create_task(together.do(job)) for job in (1, 2, 3)]
    await started(work, 1)
    second = [asyncio.create_task(together.do(job)) for job in (4, 5)]
    await asyncio.sleep(0)
    work.free.set()
    assert await asyncio.gather(*first, *second) == [2, 4, 6, 8, 10]
    assert work.goes == [[1, 2, 3], [4, 5]]


async def test_a_go_is_no_larger_than_it_may_be() -> None:
    work = Work()
    together = Together(work, jobs_max=2)
    assert await asyncio.gather(*[together.do(job) for job in range(1, 6)]) == [2, 4, 6, 8, 10]
    assert work.goes == [[1, 2], [3, 4], [5]]


async def test_a_job_that_cannot_be_done_fails_alone() -> None:
    work = Work()
    together = Together(work, jobs_max=10)
    results = await asyncio.gather(*[together.do(job) for job in (1, 0, 3)], return_exceptions=True)
    assert [type(result) for result in results] == [int, ValueError, int]
    assert work.goes == [[1, 0, 3], [1], [0], [3]]


async def test_who_is_cancelled_before_a_go_is_left_out_of_it() -> None:
    work = Work()
    work.free.clear()
    together = Together(work, jobs_max=10)
    first = asyncio.create_task(together.do(1))
    await started(work, 1)
    second, third = asyncio.create_task(together.do(2)), asyncio.create_task(together.do(3))
    await asyncio.sleep(0)
    second.cancel()
    work.free.set()
    assert await asyncio.gather(first, third) == [2, 6]
    await together.close()
    assert work.goes == [[1], [3]]
