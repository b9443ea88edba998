"""What many ask for at once, while they talk to the outside side by side, is done in one transaction."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar, final

import structlog

Job = TypeVar("Job")
Result = TypeVar("Result")

_log = structlog.get_logger(__name__)


@final
class Together(Generic[Job, Result]):
    """Does jobs in goes: what comes during one waits for the next, and each begins `linger_s` after it could.

    `work` does several jobs, all or nothing, and returns a result each. Where it fails for several, each is done alone:
    one that can never be done fails for whoever asked for it, and for nobody else. Where the way to the database is
    lost (`OSError`), nobody knows whether it was done, and all hear of it. Who is cancelled while he waits for a go is
    left out of it.
    """

    def __init__(
        self, work: Callable[[Sequence[Job]], Awaitable[Sequence[Result]]], *, jobs_max: int, linger_s: float = 0.0
    ) -> None:
        self._work, self._jobs_max, self._linger_s = work, jobs_max, linger_s
        self._waiting: list[tuple[Job, asyncio.Future[Result]]] = []
        self._going: asyncio.Task[None] | None = None

    async def do(self, job: Job) -> Result:
        """The result of a job. Raises what doing it alone raises."""
        result: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((job, result))
        if self._going is None:
            # A task of its own: one who asked and is cancelled must not take the others' results with him.
            self._going = asyncio.create_task(self._go())
        return await result

    async def close(self) -> None:
        """Wait for what is under way."""
        if self._going is not None:
            await self._going

    async def _go(self) -> None:
        try:
            while self._waiting:
                # Even without a pause, everybody who was woken with the first one gets to ask.
                await asyncio.sleep(self._linger_s)
                taken, self._waiting = self._waiting[: self._jobs_max], self._waiting[self._jobs_max :]
                if jobs := [one for one in taken if not one[1].done()]:
                    await self._do(jobs)
        finally:
            self._going = None

    async def _do(self, jobs: Sequence[tuple[Job, asyncio.Future[Result]]]) -> None:
        try:
            results = await self._work([job for job, _ in jobs])
        except asyncio.CancelledError:
            for _, future in jobs:
                future.cancel()
            raise
        except BaseException as failure:  # noqa: BLE001 - whatever it is, it belongs to whoever asked
            if len(jobs) > 1 and isinstance(failure, Exception) and not isinstance(failure, OSError):
                error = type(failure).__name__
                _log.warning("several jobs failed together, going one by one", jobs=len(jobs), error=error)
                for job in jobs:
                    await self._do([job])
                return
            for _, future in jobs:
                if not future.done():
                    future.set_exception(failure)
            return
        for (_, future), result in zip(jobs, results, strict=True):
            if not future.done():
                future.set_result(result)
