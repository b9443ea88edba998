"""The webhook door: verify the raw bytes, store them, commit, answer 2xx.

What is stored is absorbed in the same transaction where that works; the answer never depends on it. Concurrent
deliveries share one. Those that a marketplace wants answered at once are only stored, by a writer of their own. A
delivery is refused before it is read to the end where that is possible, and a refused one leaves nothing behind: no
row, no word of its content in a log.
"""

import asyncio
import hmac
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import asyncpg
import structlog
from opentelemetry.trace import SpanKind
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from services.border import door
from services.border.errors import SignatureInvalid
from services.bus import Cause
from services.bus.failures import describe
from services.channels.connections.registry import Open
from services.channels.connectors.connector import Delivery
from services.channels.intake import store
from services.channels.intake.absorb import store_and_absorb
from services.channels.intake.context import Intake
from services.channels.intake.store import Body

if TYPE_CHECKING:
    from services.runtime import Service

_log = structlog.get_logger(__name__)
_OF_ONE: Final = ("22", "23", "54")
"""SQLSTATE classes of what one delivery can be the reason of, which must not keep the others out."""
_COMMIT_TIMEOUT_S: Final = 4.0
"""A marketplace gives up after 5 s; it is told to come again before that."""


_AT_ONCE_S: Final = 1.0
"""A delivery to be answered within less does not wait for others to be absorbed."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    body: Body
    stored: asyncio.Future[None]


@dataclass(slots=True)
class _Line:
    """Deliveries that wait for one writer, and whether it absorbs what it stores."""

    absorbs: bool
    waiting: list[_Waiting] = field(default_factory=list)
    wake: asyncio.Event = field(default_factory=asyncio.Event)


def _opens(entry: Open, secret: str) -> bool:
    """Whether pushes are taken here, and the address holds the secret of those that are not signed."""
    traits = entry.connector.traits
    wanted = entry.session.credentials.get("hook_secret", "") if traits.url_secret else ""
    return (traits.intake == "push" or traits.hook) and hmac.compare_digest(wanted.encode(), secret.encode())


class Door:
    """The HTTP listener of one process. `run` stores and listens until cancelled."""

    def __init__(self, service: "Service", intake: Intake) -> None:
        self._service = service
        self._intake = intake
        self._absorbed, self._at_once = self._lines = (_Line(absorbs=True), _Line(absorbs=False))
        paths = ("/hooks/{connection_id}", "/hooks/{connection_id}/{secret}")
        self.app = Starlette(routes=[Route(path, self._deliver, methods=["POST"]) for path in paths])

    async def run(self) -> None:
        """Listen and store until cancelled; what was accepted is stored before the listener is gone."""
        settings = self._intake.settings
        writer = asyncio.create_task(self.store_loop(), name="door writer")
        listener = asyncio.create_task(
            door.listen(self.app, host=settings.door_host, port=settings.door_port), name="door listener"
        )
        try:
            done, _ = await asyncio.wait({writer, listener}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            listener.cancel()
            await asyncio.gather(listener, return_exceptions=True)
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)

    async def _deliver(self, request: Request) -> Response:
        entry = self._intake.registry.get(request.path_params["connection_id"])
        if entry is None or not _opens(entry, request.path_params.get("secret", "")):
            # The same answer for a wrong secret, so that nobody learns which connections there are.
            return door.problem(404, "there is no such door")
        attributes = {"saldo.connection": entry.connection.connection_id, "saldo.tenant": entry.connection.tenant}
        attributes |= door.described(request, "/hooks/{connection_id}")
        with self._service.tracing.span("receive webhook", kind=SpanKind.SERVER, attributes=attributes) as cause:
            return door.answered(await self._receive(request, entry, cause))

    async def _receive(self, request: Request, entry: Open, cause: Cause) -> Response:
        try:
            raw = await door.read(request, self._intake.settings.door_body_max_bytes)
            delivery = entry.connector.verify(request.headers, raw, entry.session.credentials)
            door.require_shallow(raw)
        except door.Refused as refused:
            return refused.answer
        except SignatureInvalid:
            _log.warning("a delivery with a wrong signature was refused", connection=entry.connection.connection_id)
            return door.problem(401, "the signature does not fit")
        return Response(status_code=200) if delivery.ignored else await self._keep(entry, delivery, raw, cause)

    async def _keep(self, entry: Open, delivery: Delivery, raw: bytes, cause: Cause) -> Response:
        line = self._at_once if entry.connector.traits.answer_within_s < _AT_ONCE_S else self._absorbed
        if len(line.waiting) >= self._intake.settings.door_waiting_max:
            return door.later()
        body = self._intake.seal(
            entry.connection,
            raw,
            topic=delivery.topic,
            delivery_id=delivery.delivery_id,
            received_at=self._service.clock(),
            cause=cause,
            event_id=delivery.event_id,
        )
        waiting = _Waiting(body, asyncio.get_running_loop().create_future())
        line.waiting.append(waiting)
        line.wake.set()
        try:
            # Shielded: a caller that hangs up changes nothing about what is being stored.
            await asyncio.wait_for(asyncio.shield(waiting.stored), _COMMIT_TIMEOUT_S)
        except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as failure:
            _log.error(
                "a delivery could not be stored",
                connection=entry.connection.connection_id,
                error=describe(failure),
            )
            return door.later()
        return Response(status_code=200)

    async def store_loop(self) -> None:
        """Store what waits, all of a line in one transaction, again and again."""
        async with asyncio.TaskGroup() as writers:
            for line in self._lines:
                writers.create_task(self._write(line))

    async def _write(self, line: _Line) -> None:
        while True:
            await line.wake.wait()
            line.wake.clear()
            while line.waiting:
                size = self._intake.settings.door_batch_max
                batch, line.waiting = line.waiting[:size], line.waiting[size:]
                await self._store(batch, absorbs=line.absorbs)

    async def _store(self, batch: list[_Waiting], *, absorbs: bool) -> None:
        bodies = [waiting.body for waiting in batch]
        try:
            self._service.faults.point("intake.store.before")
            if absorbs:
                await store_and_absorb(self._service, self._intake, bodies)
            else:
                async with self._service.pool.acquire() as connection:
                    await store.insert_bodies(connection, bodies)
                self._intake.arrived.set()
            self._service.faults.point("intake.store.after")
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as failure:
            if len(batch) > 1 and (getattr(failure, "sqlstate", "") or "")[:2] in _OF_ONE:
                for waiting in batch:
                    await self._store([waiting], absorbs=absorbs)
                return
            for waiting in batch:
                if not waiting.stored.done():
                    waiting.stored.set_exception(failure)
                    # Taken note of here, since a caller that timed out never looks.
                    waiting.stored.exception()
            return
        for waiting in batch:
            if not waiting.stored.done():
                waiting.stored.set_result(None)
