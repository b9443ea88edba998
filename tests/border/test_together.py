"""What is written at the same moment is written in one, and a bad part of it spoils nothing else."""

import asyncio
from collections.abc import Sequence

import pytest

from services.border.together import Together

pytestmark = pytest.mark.asyncio


class Written:
    """What was written, by transaction; `bad` items are refused, and `lost` is what every write ends with."""

    def __init__(self, bad: str = "", lost: Exception | None = None) -> None:
        self.bad, self.lost = bad, lost
        self.batches: list[Sequence[str]] = []

    async def __call__(self, items: Sequence[str]) -> list[str]:
        self.batches.append(items)
        if self.lost:
            raise self.lost
        await asyncio.sleep(0)
        if self.bad in items:
            raise ValueError(self.bad)
        return [item.upper() for item in items]


class Slow:
    """Writes what it is given, once `goes_on` is set; `entered` says that it has begun."""

    def __init__(self) -> None:
        self.entered, self.goes_on = asyncio.Event(), asyncio.Event()
        self.batches: list[Sequence[int]] = []

    async def __call__(self, items: Sequence[int]) -> Sequence[int]:
        self.batches.append(items)
        self.entered.set()
        await self.goes_on.wait()
        return items


async def test_all_that_come_at_once_are_one_and_each_has_its_answer() -> None:
    written = Written()
    together = Together(written)
    assert await asyncio.gather(*map(together, "abc")) == ["A", "B", "C"]
    assert await together("d") == "D"
    assert written.batches == [["a", "b", "c"], ["d"]]


async def test_who_comes_while_others_are_written_is_not_forgotten() -> None:
    slow = Slow()
    together = Together(slow)
    first = asyncio.create_task(together(1))
    await slow.entered.wait()
    later = [asyncio.create_task(together(number)) for number in (2, 3)]
    await asyncio.sleep(0)
    slow.goes_on.set()
    assert await asyncio.gather(first, *later) == [1, 2, 3]
    assert slow.batches == [[1], [2, 3]]


async def test_no_more_than_the_most_are_one() -> None:
    written = Written()
    together = Together(written, most=2)
    assert await asyncio.gather(*map(together, "abc")) == ["A", "B", "C"]
    assert written.batches == [["a", "b"], ["c"]]


async def test_a_bad_one_spoils_nothing_for_the_others() -> None:
    written = Written(bad="b")
    together = Together(written)
    answers = await asyncio.gather(*map(together, "abc"), return_exceptions=True)
    assert (answers[0], answers[2]) == ("A", "C")
    assert isinstance(answers[1], ValueError)
    assert written.batches == [["a", "b", "c"], ["a"], ["b"], ["c"]]


async def test_where_nobody_knows_whether_it_was_written_nothing_is_written_again() -> None:
    written = Written(lost=ConnectionError("the server is gone"))
    together = Together(written)
    answers = await asyncio.gather(*map(together, "ab"), return_exceptions=True)
    assert [type(answer) for answer in answers] == [ConnectionError] * 2
    assert written.batches == [["a", "b"]]


async def test_one_who_goes_away_takes_nobody_elses_answer_with_him() -> None:
    written = Written()
    together = Together(written)
    gone, stays = (asyncio.create_task(together(item)) for item in "ab")
    await asyncio.sleep(0)
    gone.cancel()
    assert await stays == "B"
    with pytest.raises(asyncio.CancelledError):
        await gone


async def test_who_is_cancelled_before_it_is_done_is_left_out_of_it() -> None:
    slow = Slow()
    together = Together(slow)
    first = asyncio.create_task(together(1))
    await slow.entered.wait()
    second, third = asyncio.create_task(together(2)), asyncio.create_task(together(3))
    await asyncio.sleep(0)
    second.cancel()
    slow.goes_on.set()
    assert await asyncio.gather(first, third) == [1, 3]
    await together.close()
    assert slow.batches == [[1], [3]]
