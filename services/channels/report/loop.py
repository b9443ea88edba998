"""Tells channels what became of their orders, step by step.

What is to be told is a row. A step is noted as going and committed before the call; where the call's outcome is not
known, or the process died, the order is read from the channel and looked at before the step is told again.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Final, TypeAlias, assert_never, final

import structlog
from opentelemetry.trace import SpanKind

from contracts.channels.v1 import OrderProgress, ParcelTold, ProgressAccepted, ProgressRefused
from services.border.together import Together
from services.bus import Transaction
from services.bus.failures import describe, waited
from services.channels.alerts import Alert, raise_alerts, resolve_alerts
from services.channels.connections.registry import Open
from services.channels.connectors.connector import (
    OutcomeUnknown,
    Rejected,
    Reporter,
    Throttled,
    TokenEnded,
    Told,
)
from services.channels.intake.context import Intake
from services.channels.report import store
from services.channels.report.domain import Kind, State, Step, is_told, next_step, retry_after_s
from services.channels.report.store import Claim, Noted

if TYPE_CHECKING:
    from services.runtime import Service

_LOOK_S: Final = 1.0
_LINGER_S: Final = 0.1
"""Nobody waits for what a channel is told: what comes within it is claimed in one."""
_AT_ONCE: Final = 4
"""Orders of one connection that are told of at the same time; its limits set the pace."""
_WARN_BEFORE: Final = timedelta(hours=1)
_WARN_EVERY_S: Final = 60.0
_FORGET_EVERY_S: Final = 600.0
_FORGET_MAX: Final = 500
_UNTOLD: Final = {
    Kind.CANCEL: "the channel takes no cancel from us",
    Kind.INVOICE_AGAIN: "it keeps the first invoice, which is void: put the one that stands there at its own page",
}
"""What no step of a channel's own tells, and a person has to."""
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Next:
    """The step to tell next; `begun`: it may have been told before, and nobody knows what became of it."""

    step: Step
    begun: bool


@dataclass(frozen=True, slots=True)
class Heard:
    """A step that the channel has accepted, or refused for this reason. `text` is ours (see `services.border.calls`):
    what the channel said may name a buyer."""

    step: Step
    request_id: str = ""
    reason: str = ""
    text: str = ""


@dataclass(frozen=True, slots=True)
class Put:
    """The order is given back for this long; `dropped`: the call of this step never reached the channel."""

    wait_s: float
    tries: int
    dropped: Step | None = None


Turn: TypeAlias = tuple[Claim, frozenset[str], Heard | Put | None]
"""An order, the kinds of steps that its channel takes reports of, and what came of the step before."""


async def report_loop(service: "Service", intake: Intake) -> None:
    """Tell every live connection what is due until cancelled."""
    teller, going = Teller(service, intake.telling.set), dict[asyncio.Task[None], str]()

    def ended(task: asyncio.Task[None]) -> None:
        connection_id = going.pop(task)
        if Counter(going.values())[connection_id] == _AT_ONCE - 1:
            intake.telling.set()  # More of its orders may have waited for the room that there is now.

    try:
        while True:
            intake.telling.clear()
            live = {entry.connection.connection_id: entry for entry in intake.registry.live()}
            busy = Counter(going.values())
            free = {key: _AT_ONCE - busy[key] for key in live if busy[key] < _AT_ONCE}
            lease = timedelta(seconds=intake.settings.lease_s)
            for claimed, first in await teller.begin(live, free, lease):
                task = asyncio.create_task(_tell(teller, live[claimed.connection_id], claimed, first))
                going[task] = claimed.connection_id
                task.add_done_callback(ended)
            if await waited(intake.telling, _LOOK_S):
                await asyncio.sleep(_LINGER_S)
    finally:
        tasks = list(going)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def warn_loop(service: "Service") -> None:
    """Alert a person about what a channel should have heard by now, before its own deadline is over."""
    while True:
        now = service.clock()
        async with service.transaction() as tx:
            late = await store.late(tx.connection, now + _WARN_BEFORE)
            alerts = [
                Alert(
                    tenant,
                    connection_id,
                    "telling",
                    order_id,
                    f"the channel has to hear of order {order_id} by {tell_by.isoformat(timespec='minutes')} and has "
                    "not: see GET /admin/progress, or tell it at the channel's own page",
                    urgent=True,
                )
                for tenant, connection_id, order_id, tell_by in late
            ]
            await raise_alerts(tx.connection, alerts, now)
        await asyncio.sleep(_WARN_EVERY_S)


async def forget_loop(service: "Service", intake: Intake) -> None:
    """Forget what channels were told of orders of which nothing has been due for long, in small transactions."""
    keep = timedelta(days=intake.settings.told_keep_days)
    while True:
        async with service.pool.acquire() as connection:
            forgotten = await store.forget(connection, service.clock() - keep, _FORGET_MAX)
        if forgotten < _FORGET_MAX:
            await asyncio.sleep(_FORGET_EVERY_S)


async def _tell(teller: "Teller", entry: Open, claimed: Claim, first: Next | None) -> None:
    """Tell what is due of one order; whatever goes wrong, it is due again later."""
    try:
        await teller.tell(entry, claimed, first)
    except Exception as failure:  # noqa: BLE001 - one order must not keep the others from being told
        _log.error("telling a channel failed", order_id=claimed.order_id, error=describe(failure))
        await teller.give_back(claimed)


@final
class Teller:
    """Tells channels what is due, each order step by step. What several orders have to write at the same moment is one
    transaction: what came of a step, and which one goes next."""

    def __init__(self, service: "Service", wake: Callable[[], None]) -> None:
        """`wake` is called where an order that is given back is due again already, since there is news of it."""
        self._service, self._wake = service, wake
        self._turn = Together(self._turns)

    async def begin(
        self, entries: Mapping[str, Open], free: Mapping[str, int], lease: timedelta
    ) -> list[tuple[Claim, Next | None]]:
        """Claim what is due of these connections, at most so many orders of each, with the step that each begins with,
        which is noted already."""
        if not free:
            return []
        async with self._service.transaction() as tx:
            claimed = await store.claim(tx.connection, free, lease, tx.now)
            turns: list[Turn] = [(one, entries[one.connection_id].connector.traits.reports, None) for one in claimed]
            nexts = await self._take(tx, turns) if turns else []
        return list(zip(claimed, nexts, strict=True))

    async def tell(self, entry: Open, claimed: Claim, going: Next | None) -> None:
        """Tell one step after the other until all are answered, or one has to wait."""
        order, reports = Told(claimed.external_id, claimed.reference), entry.connector.traits.reports
        while going:
            self._service.faults.point("report.saved")
            result = await self._tell(entry, claimed, order, going)
            self._service.faults.point("report.answered")
            going = await self._turn((claimed, reports, result))
            self._service.faults.point("report.settled")

    async def give_back(self, claimed: Claim) -> None:
        """The order is due again later."""
        await self._turn((claimed, frozenset(), _again(claimed)))

    async def _tell(self, entry: Open, claimed: Claim, order: Told, going: Next) -> Heard | Put:
        step = going.step
        try:
            request_id = await _call(self._service, entry, claimed, order, step, begun=going.begun)
        except OutcomeUnknown as unknown:
            _log.warning("outcome of a report is unknown", order_id=claimed.order_id, step=step.kind, why=str(unknown))
            return _again(claimed)
        except Throttled as throttled:
            return Put(throttled.retry_after_s, claimed.tries, None if going.begun else step)
        except Rejected as rejected:
            if isinstance(rejected, TokenEnded):
                # Nobody was asked anything: it is due until the account is authorised again.
                raise
            return Heard(step, reason="refused", text=str(rejected))
        claimed.tried = ""
        return Heard(step, request_id)

    async def _turns(self, turns: Sequence[Turn]) -> list[Next | None]:
        async with self._service.transaction() as tx:
            return await self._take(tx, turns)

    async def _take(self, tx: Transaction, turns: Sequence[Turn]) -> list[Next | None]:
        """Keep what came of steps and note those that go next; None for an order of which nothing is to be told now."""
        await _settle(tx, [(claimed, result) for claimed, _, result in turns if isinstance(result, Heard)])
        put = [(claimed, result) for claimed, _, result in turns if isinstance(result, Put)]
        if put:
            dropped = [(claimed.order_id, result.dropped.name) for claimed, result in put if result.dropped]
            await store.drop_steps(tx.connection, dropped)
            rows = [(claimed, tx.now + timedelta(seconds=result.wait_s), result.tries) for claimed, result in put]
            await self._release(tx, rows)
        nexts = await self._go_on(
            tx, [(claimed, reports) for claimed, reports, result in turns if not isinstance(result, Put)]
        )
        return [nexts.get(claimed.order_id) for claimed, _, _ in turns]

    async def _go_on(self, tx: Transaction, going: Sequence[tuple[Claim, frozenset[str]]]) -> dict[str, Next]:
        """The next step of each order that is ours still, by order; where there is none, the order is given back."""
        if not going:
            return {}
        held = await store.held(tx.connection, [claimed for claimed, _ in going])
        done = await store.steps_of(tx.connection, sorted(held))
        nexts: dict[str, Next] = {}
        untils: dict[str, datetime] = {}
        told: list[tuple[Claim, datetime | None, int]] = []
        untold = []
        for claimed, reports in going:
            if claimed.order_id not in held:
                continue
            known = done[claimed.order_id]
            step = next_step(_in_words(claimed.wanted, claimed.words), known, reports)
            if step and step.kind in reports:
                nexts[claimed.order_id] = Next(step, claimed.told_before or known.get(step.name) is State.GOING)
                # The fence is moved for good with the commit, and not before.
                untils[claimed.order_id] = until = tx.now + claimed.lease
                tx.after_commit(partial(setattr, claimed, "until", until))
                continue
            if step:
                untold.append((claimed, Heard(step, "", "not_supported", _UNTOLD[step.kind])))
            # A cancel stands alone: nothing comes after it.
            more = step is not None and step.kind is not Kind.CANCEL
            told.append((claimed, tx.now if more else None, 0))
        await _settle(tx, untold)
        begun = [
            Noted(order_id, one.step.name, State.GOING, invoice_id=one.step.invoice_id)
            for order_id, one in nexts.items()
            if done[order_id].get(one.step.name) is not State.GOING
        ]
        await store.put_steps(tx.connection, begun, tx.now)
        await store.renew(tx.connection, sorted(untils.items()))
        await self._release(tx, told)
        return nexts

    async def _release(self, tx: Transaction, rows: Sequence[tuple[Claim, datetime | None, int]]) -> None:
        if await store.release(tx.connection, rows, tx.now):
            tx.after_commit(self._wake)


def _again(claimed: Claim) -> Put:
    return Put(retry_after_s(claimed.tries), claimed.tries + 1)


async def _settle(tx: Transaction, heard: Sequence[tuple[Claim, Heard]]) -> None:
    """Keep what channels answered, tell it, and have a person look at what they refused."""
    notes, alerts, resolved = [], [], dict[str, list[str]]()
    for claimed, one in heard:
        name, order_id, revision = one.step.name, claimed.order_id, claimed.wanted.revision
        state = State.REFUSED if one.reason else State.ACCEPTED
        notes.append(Noted(order_id, name, state, one.request_id, one.text, one.step.invoice_id))
        message: ProgressAccepted | ProgressRefused
        if one.reason:
            message = ProgressRefused(order_id=order_id, revision=revision, step=name, reason=one.reason, at=tx.now)
            text = (
                f"the channel was not told of order {order_id} ({one.step.kind}): {one.text}; after the fix POST "
                f"/admin/progress/{order_id}/retry"
            )
            about = f"{order_id} {name}"
            alerts.append(Alert(claimed.tenant, claimed.connection_id, "not_told", about, text, urgent=True))
        else:
            message = ProgressAccepted(order_id=order_id, revision=revision, step=name, at=tx.now)
            resolved.setdefault(claimed.connection_id, []).append(f"{order_id} {name}")
        tx.publish(message, tenant=claimed.tenant, cause=claimed.cause, correlation_id=claimed.cause.correlation_id)
    if notes:
        await store.put_steps(tx.connection, notes, tx.now)
    await raise_alerts(tx.connection, alerts, tx.now)
    for connection_id, subjects in sorted(resolved.items()):
        await resolve_alerts(tx.connection, connection_id, "not_told", subjects, tx.now)


def _in_words(wanted: OrderProgress, words: Mapping[tuple[str, str], str]) -> OrderProgress:
    """Carriers and services as the channel calls them; where nobody has said how, by our codes."""

    def named(parcel: ParcelTold) -> ParcelTold:
        carrier = words.get(("carrier", parcel.carrier), parcel.carrier)
        service = words.get(("service", parcel.service), parcel.service)
        return parcel.model_copy(update={"carrier": carrier, "service": service})

    return wanted.model_copy(update={"parcels": tuple(named(parcel) for parcel in wanted.parcels)})


async def _call(service: "Service", entry: Open, claimed: Claim, order: Told, step: Step, *, begun: bool) -> str:
    """Tell the channel, unless it shows that it has heard: looked at where the step was begun before, and where the
    channel refuses it, since it may for that very reason. Returns the request's id.
    """
    attributes = {"saldo.connection": claimed.connection_id, "saldo.tenant": claimed.tenant, "saldo.step": step.kind}
    causes = [claimed.cause] if claimed.cause.traceparent else []
    causes += [claimed.cause._replace(traceparent=claimed.tried)] if claimed.tried else []
    with service.tracing.span(
        "tell channel", causes, kind=SpanKind.CLIENT, attributes=attributes, correlation_id=claimed.order_id
    ) as span:
        claimed.tried = span.traceparent
        if begun:
            order = replace(order, told=await _told(entry, order.external_id))
        if is_told(step, order.told):
            return ""
        try:
            return await _report(entry, order, claimed.wanted, step)
        except Rejected:
            if is_told(step, await _told(entry, order.external_id)):
                return ""
            raise


async def _told(entry: Open, external_id: str) -> frozenset[str]:
    return entry.connector.to_order((await entry.connector.fetch(entry.session, external_id)).body).told


async def _report(entry: Open, order: Told, wanted: OrderProgress, step: Step) -> str:
    reporter, session = entry.connector, entry.session
    assert isinstance(reporter, Reporter), "a connector that declares reports has them"
    match step.kind:
        case Kind.INVOICE | Kind.INVOICE_AGAIN:
            assert wanted.invoice
            return await reporter.report_invoice(session, order, wanted.invoice)
        case Kind.SHIPMENT:
            assert step.parcel
            return await reporter.report_shipment(session, order, step.parcel)
        case Kind.TRACKING:
            assert step.parcel
            assert step.scan
            return await reporter.report_tracking(session, order, step.parcel, step.scan)
        case Kind.DELIVERY:
            assert step.parcel
            return await reporter.report_delivery(session, order, step.parcel)
        case Kind.CANCEL:
            return await reporter.cancel(session, order, wanted.cancelled_reason or "")
        case _:
            assert_never(step.kind)
