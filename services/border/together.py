"""What tasks that ask the outside side by side write at the same moment goes into one transaction."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar, final

T = TypeVar("T")
R = TypeVar("R")

_Asked = tuple[T, asyncio.Future[R]]


@final
class Together(Generic[T, R]):
    """`work(items)` is done once for all who ask within `linger_s` seconds, or while it is done for those before them.

    It gives an answer for each item, in their order. Where it fails over several, each goes alone, so that a bad one
    keeps nobody else back; where the way to the database is lost (`OSError`), nobody knows whether it was done, and all
    hear of it. Who is cancelled while he waits is left out.
    """

    def __init__(
        self, work: Callable[[Sequence[T]], Awaitable[Sequence[R]]], *, linger_s: float = 0.005, most: int = 100
    ) -> None:
        self._work, self._linger_s, self._most = work, linger_s, most
        self._asked: list[_Asked[T, R]] = []
        self._working: asyncio.Task[None] | None = None

    async def __call__(self, item: T) -> R:
        """What `work` answers to `item`, or raises over it."""
        answer: asyncio.Future[R] = asyncio.get_running_loop().create_future()
        self._asked.append((item, answer))
        if self._working is None or self._working.done():
            # A task of its own: one who asked and is cancelled must not take the others' answers with it.
            self._working = asyncio.create_task(self._go())
        return await answer

    async def close(self) -> None:
        """Wait for what is under way."""
        if self._working is not None:
            await self._working

    async def _go(self) -> None:
        while self._asked:
            # Even without a pause, everybody who was woken with the first one gets to ask.
            await asyncio.sleep(self._linger_s)
            taken, self._asked = self._asked[: self._most], self._asked[self._most :]
            if asked := [one for one in taken if not one[1].done()]:
                await self._settle(asked)

    async def _settle(self, asked: Sequence[_Asked[T, R]]) -> None:
        try:
            answers = await self._work([item for item, _ in asked])
        except asyncio.CancelledError:
            for _, answer in asked:
                answer.cancel()
            raise
        except BaseException as failure:  # noqa: BLE001 - whoever asked has it
            if len(asked) > 1 and isinstance(failure, Exception) and not isinstance(failure, OSError):
                for one in asked:
                    await self._settle([one])
                return
            for _, answer in asked:
                if not answer.done():
                    answer.set_exception(failure)
            return
        for (_, answer), result in zip(asked, answers, strict=True):
            if not answer.done():
                answer.set_result(result)
