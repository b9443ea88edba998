"""Reading orders from channels: queues until they are empty, repair polls for lost pushes, single orders again.

One process of the service pulls at a time. What a queue hands out is stored and committed before it is acknowledged.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

import structlog
from opentelemetry.trace import SpanKind

from services.border.together import Together
from services.bus import Cause
from services.bus.failures import describe, waited
from services.bus.members import Holder
from services.channels import ids
from services.channels.alerts import Alert, raise_alerts
from services.channels.connections.lifecycle import poll_interval_s
from services.channels.connections.registry import Open
from services.channels.connectors.connector import Fetched, Rejected, Throttled, Unreachable
from services.channels.intake import domain, store
from services.channels.intake.absorb import INTAKE_STREAM, store_and_absorb, to_order
from services.channels.intake.context import Intake
from services.channels.intake.domain import Verdict
from services.channels.intake.store import Body, Fetch

if TYPE_CHECKING:
    from services.runtime import Service

_log = structlog.get_logger(__name__)

_LOOK_S: Final = 0.5
_LOOK_AGAIN_S: Final = 2.0
"""Whoever asks for an order wakes the readers; a timer finds what another process asked for."""
_REFUSED_PAUSE_S: Final = 30.0
_SUBSCRIBE_EVERY: Final = timedelta(minutes=10)
_QUEUE_NOTE_EVERY: Final = timedelta(seconds=1)
_PAGE: Final = 100
_KEEP_EVERY_S: Final = 30.0


async def pull_loop(service: "Service", intake: Intake) -> None:
    """Pull from every live connection until cancelled, while this process is the one that pulls."""
    holder = Holder(service.settings.postgres_dsn.get_secret_value(), "saldo.intake")
    tasks: dict[str, tuple[Open, asyncio.Task[None]]] = {}
    reading: asyncio.Task[None] | None = None
    try:
        await holder.open()
        while not await holder.try_lock(0):
            await waited(holder.lost, _LOOK_S)
        reading = asyncio.create_task(refetch(service, intake), name="refetch")
        while not holder.lost.is_set() and not reading.done():
            await _follow(service, intake, tasks)
            await waited(holder.lost, _LOOK_S)
        if reading.done():
            reading.result()
        raise ConnectionError("the connection that holds the intake lock was lost")
    finally:
        await _end([task for _, task in tasks.values()] + ([reading] if reading else []))
        await holder.close()


async def _follow(service: "Service", intake: Intake, tasks: dict[str, tuple[Open, asyncio.Task[None]]]) -> None:
    """Start what is live and new, end what is not any more or has another session."""
    live = {entry.connection.connection_id: entry for entry in intake.registry.live()}
    for connection_id, (entry, task) in list(tasks.items()):
        if live.get(connection_id) is entry and not task.done():
            continue
        del tasks[connection_id]
        await _end([task])
        if not task.cancelled() and (failure := task.exception()):
            # It begins again at the next look; other connections go on meanwhile.
            _log.error("pulling failed", connection=connection_id, error=describe(failure), exc_info=failure)
    for connection_id, entry in live.items():
        if connection_id not in tasks:
            task = asyncio.create_task(pull(service, intake, entry), name=f"pull {connection_id}")
            tasks[connection_id] = (entry, task)


async def _end(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def pull(service: "Service", intake: Intake, entry: Open) -> None:
    """Empty a queue, or poll for what pushes have missed, again and again at the connector's interval."""
    traits, connection_id = entry.connector.traits, entry.connection.connection_id
    async with service.pool.acquire() as connection:
        left_open = await store.open_pull(connection, connection_id, service.clock())
    # An answer of a queue that was lost on its way hides its order there for a while, so that empty is not complete.
    unsure = left_open and traits.intake == "queue"
    interval_s = poll_interval_s(traits, entry.connection.settings)
    noted_at = subscribed_at = datetime.min.replace(tzinfo=service.clock().tzinfo)
    while True:
        begun_at = service.clock()
        pause_s = interval_s
        try:
            if traits.intake == "queue":
                received = await empty_queue(service, intake, entry)
                if unsure:
                    await repair(service, intake, entry, begun_at)
                if received or unsure or begun_at - noted_at >= _QUEUE_NOTE_EVERY:
                    noted_at = begun_at
                    await _note_complete(service, connection_id, begun_at)
                unsure = False
            else:
                await repair(service, intake, entry, begun_at)
                await _note_complete(service, connection_id, begun_at)
            if (traits.intake == "push" or traits.hook) and begun_at - subscribed_at >= _SUBSCRIBE_EVERY:
                await entry.connector.subscribe(entry.session, intake.door_of(entry.connection, entry.session))
                subscribed_at = begun_at
        except Throttled as throttled:
            pause_s = max(pause_s, throttled.retry_after_s)
            unsure = unsure or (isinstance(throttled, Unreachable) and traits.intake == "queue")
        except (Rejected, ValueError) as refused:
            pause_s = _REFUSED_PAUSE_S
            # A queue hides what it has handed out, even where the answer could not be read.
            unsure = unsure or traits.intake == "queue"
            await _alert_refused(service, entry, str(refused))
        except asyncio.CancelledError:
            await _note_end(service, connection_id, unsure)
            raise
        try:
            await asyncio.sleep(pause_s)
        except asyncio.CancelledError:
            await _note_end(service, connection_id, unsure)
            raise


async def _note_complete(service: "Service", connection_id: str, begun_at: datetime) -> None:
    async with service.pool.acquire() as connection:
        await store.complete_poll(connection, connection_id, begun_at, service.clock())


async def _note_end(service: "Service", connection_id: str, unsure: bool) -> None:
    """Only an end with nothing unsure is a clean one."""
    if not unsure:
        async with service.pool.acquire() as connection:
            await store.close_pull(connection, connection_id)


async def _alert_refused(service: "Service", entry: Open, reason: str) -> None:
    connection = entry.connection
    _log.error("a channel refuses to be read", connection=connection.connection_id, reason=reason)
    text = f"orders cannot be read: {reason}; check with `saldo connection validate`"
    alert = Alert(connection.tenant, connection.connection_id, "channel_refuses", "orders", text, urgent=True)
    async with service.pool.acquire() as database:
        await raise_alerts(database, [alert], service.clock())


async def empty_queue(service: "Service", intake: Intake, entry: Open) -> int:
    """Receive, store, commit, acknowledge, until the queue is empty; returns how many orders came."""
    received = 0
    async for lot in entry.connector.receive(entry.session):
        await _store_fetched(service, intake, entry, "queue", lot)
        service.faults.point("intake.acknowledge.before")
        await entry.connector.acknowledge(entry.session, lot)
        service.faults.point("intake.acknowledge.after")
        received += len(lot)
    return received


async def repair(service: "Service", intake: Intake, entry: Open, begun_at: datetime) -> int:
    """Read every order changed since the last complete poll, with overlap; returns how many were news."""
    connection = entry.connection
    async with service.pool.acquire() as database:
        since = await store.polled_until(database, connection.connection_id)
    since = (since or connection.validated_at or begun_at) - timedelta(seconds=entry.connector.traits.poll_overlap_s)
    page: list[Fetched] = []
    news = 0
    async for fetched in entry.connector.poll(entry.session, since):
        page.append(fetched)
        if len(page) == _PAGE:
            news += await _keep_news(service, intake, entry, page)
            page = []
    return news + await _keep_news(service, intake, entry, page)


async def _keep_news(service: "Service", intake: Intake, entry: Open, page: Sequence[Fetched]) -> int:
    """Store what would change something; most of a poll is what pushes told long ago."""
    if not page:
        return 0
    connection = entry.connection
    order_ids = [ids.order_id(connection.tenant, connection.connection_id, one.external_id) for one in page]
    async with service.pool.acquire() as database:
        kept = await store.kept_orders(database, order_ids)
    news = [one for one, order_id in zip(page, order_ids, strict=True) if _is_news(entry, one, kept.get(order_id))]
    await _store_fetched(service, intake, entry, "poll", news)
    return len(news)


def _is_news(entry: Open, fetched: Fetched, kept: domain.Kept | None) -> bool:
    if kept is None:
        return True
    if fetched.version:
        return fetched.version > kept.version
    try:
        order = to_order(entry, fetched.body)
    except ValueError:
        return True
    digest = domain.digest_of(domain.to_snapshot(order))
    versioned = entry.connector.traits.orders_have_version
    return domain.judge(kept, order, digest, versioned=versioned, fetched=False) is not Verdict.IGNORE


async def _store_fetched(
    service: "Service", intake: Intake, entry: Open, topic: str, fetched: Sequence[Fetched]
) -> None:
    connection = entry.connection
    place = {"tenant": connection.tenant, "owner": connection.connection_id}
    bodies = []
    for one in fetched:
        order_id = ids.order_id(connection.tenant, connection.connection_id, one.external_id)
        attributes = {"saldo.connection": connection.connection_id, "saldo.tenant": connection.tenant}
        with service.tracing.span(
            "receive order", kind=SpanKind.CLIENT, attributes=attributes, correlation_id=order_id
        ) as cause:
            delivery_id = f"{one.external_id}:{intake.vault.digest(one.body, **place).hex()}"
            bodies.append(
                intake.seal(
                    connection, one.body, topic=topic, delivery_id=delivery_id, received_at=service.clock(), cause=cause
                )
            )
    if bodies:
        service.faults.point("intake.store.before")
        await store_and_absorb(service, intake, bodies)
        service.faults.point("intake.store.after")


@dataclass(frozen=True, slots=True)
class Answered:
    """An order as it was read again, sealed, and what asked for it."""

    wanted: Fetch
    body: Body


async def refetch(service: "Service", intake: Intake) -> None:
    """Read single orders of all live connections again as they are asked for: an order once at a time, each read
    answering what was asked before it began. Answers that come in together are stored and absorbed together.
    """

    async def keep(answers: Sequence[Answered]) -> list[None]:
        await keep_fetched(service, intake, answers)
        return [None] * len(answers)

    readers = _Readers(service, intake, Together(keep, linger_s=0.0, most=_PAGE))
    lease = timedelta(seconds=intake.settings.lease_s)
    try:
        while True:
            live = {entry.connection.connection_id: entry for entry in intake.registry.live()}
            free = readers.free(live)
            async with service.pool.acquire() as database:
                wanted = await store.claim_fetches(database, free, service.clock(), lease) if free else []
            readers.begin(live, wanted)
            if not wanted and await waited(intake.wanted, _LOOK_AGAIN_S):
                intake.wanted.clear()
    finally:
        await _end(list(readers.going))
        await readers.kept.close()


@dataclass(slots=True)
class _Readers:
    """The reads that are under way, with their connections."""

    service: "Service"
    intake: Intake
    kept: Together[Answered, None]
    going: dict[asyncio.Task[None], str] = field(default_factory=dict)
    resting: dict[str, float] = field(default_factory=dict)
    taken: set[str] = field(default_factory=set)

    def free(self, live: Mapping[str, Open]) -> dict[str, int]:
        """How many more orders may be read of each connection; none while its channel wants a pause."""
        self.going = {task: key for task, key in self.going.items() if not task.done()}
        busy, now = Counter(self.going.values()), time.monotonic()
        free = {
            key: entry.connector.traits.fetch_parallel - busy[key]
            for key, entry in live.items()
            if self.resting.get(key, 0.0) <= now
        }
        return {key: readers for key, readers in free.items() if readers > 0}

    def begin(self, live: Mapping[str, Open], wanted: Sequence[Fetch]) -> None:
        """Read these orders."""
        for one in wanted:
            task = asyncio.create_task(self._read(live[one.connection_id], one), name=f"read {one.order_id}")
            self.going[task] = one.connection_id
        self.taken = live.keys() - self.free(live).keys()

    async def _read(self, entry: Open, wanted: Fetch) -> None:
        """Read one order; whatever goes wrong, it is read again later."""
        connection_id = entry.connection.connection_id
        try:
            await self.kept(await fetch_one(self.service, self.intake, entry, wanted))
        except Throttled as throttled:
            await self._rest(wanted, throttled.retry_after_s)
        except Rejected as rejected:
            # Its lease runs on, so it is tried again, slowly, until a person has looked.
            text = f"order {wanted.external_id} cannot be read from the channel: {rejected}"
            tenant = entry.connection.tenant
            alert = Alert(tenant, connection_id, "order_unreadable", wanted.order_id, text, urgent=True)
            async with self.service.pool.acquire() as database:
                await raise_alerts(database, [alert], self.service.clock())
        except Exception as failure:  # noqa: BLE001 - one order must not keep the others from being read
            _log.error("reading an order failed", order_id=wanted.order_id, error=describe(failure))
        if connection_id in self.taken:
            self.intake.wanted.set()

    async def _rest(self, wanted: Fetch, pause_s: float) -> None:
        self.resting[wanted.connection_id] = time.monotonic() + pause_s
        async with self.service.pool.acquire() as database:
            await store.fetch_later(database, wanted.order_id, self.service.clock() + timedelta(seconds=pause_s))
        asyncio.get_running_loop().call_later(pause_s, self.intake.wanted.set)


async def fetch_one(service: "Service", intake: Intake, entry: Open, wanted: Fetch) -> Answered:
    """Read one order. Raises what `Connector.fetch` does."""
    connection = entry.connection
    attributes = {"saldo.connection": connection.connection_id, "saldo.tenant": connection.tenant}
    # What is heard of while it is being read may be missing in what is read.
    asked_at = service.clock()
    causes = (Cause("", wanted.order_id, wanted.traceparent),) if wanted.traceparent else ()
    with service.tracing.span(
        "receive order", causes, kind=SpanKind.CLIENT, attributes=attributes, correlation_id=wanted.order_id
    ) as cause:
        fetched = await entry.connector.fetch(entry.session, wanted.external_id)
    body = intake.seal(
        connection,
        fetched.body,
        topic="fetch",
        delivery_id=f"{wanted.external_id}:{wanted.seq}",
        received_at=asked_at,
        cause=cause,
        fetch_seq=wanted.seq,
    )
    return Answered(wanted, body)


async def keep_fetched(service: "Service", intake: Intake, answers: Sequence[Answered]) -> None:
    """Store what was read together with the note of what that answers, and absorb it."""
    await store_and_absorb(service, intake, [one.body for one in answers], [one.wanted for one in answers])


async def keep_loop(service: "Service", intake: Intake) -> None:
    """Forget bodies and buyers whose time is over, in small transactions; follow what people did with dead letters."""
    keep = timedelta(days=intake.settings.intake_keep_days)
    while True:
        now = service.clock()
        async with service.pool.acquire() as database:
            if await store.follow_letters(database, INTAKE_STREAM):
                intake.arrived.set()
            bodies, buyers = await store.prune(database, now - keep, now)
        if bodies or buyers:
            _log.info("forgotten", bodies=bodies, buyers=buyers)
        await asyncio.sleep(_KEEP_EVERY_S)
