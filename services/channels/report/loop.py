"""Tells channels what became of their orders, step by step.

What is to be told is a row. A step is noted as going and committed before the call; where the call's outcome is not
known, or the process died, the order is read from the channel and looked at before the step is told again.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final, assert_never

import structlog
from opentelemetry.trace import SpanKind

from contracts.channels.v1 import OrderProgress, ParcelTold, ProgressAccepted, ProgressRefused
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
from services.channels.report.store import Claim

if TYPE_CHECKING:
    from services.runtime import Service

_LOOK_S: Final = 0.5
_AT_ONCE: Final = 4
"""Orders of one connection that are told of at the same time; its limits set the pace."""
_WARN_BEFORE: Final = timedelta(hours=1)
_WARN_EVERY_S: Final = 60.0
_log = structlog.get_logger(__name__)


async def report_loop(service: "Service", intake: Intake) -> None:
    """Tell every live connection what is due until cancelled."""
    going: dict[asyncio.Task[None], str] = {}
    try:
        while True:
            live = {entry.connection.connection_id: entry for entry in intake.registry.live()}
            busy = Counter(going.values())
            free = {key: _AT_ONCE - busy[key] for key in live if busy[key] < _AT_ONCE}
            lease = timedelta(seconds=intake.settings.lease_s)
            async with service.pool.acquire() as database:
                claimed = await store.claim(database, free, lease, service.clock()) if free else []
            for one in claimed:
                task = asyncio.create_task(_tell(service, intake, live[one.connection_id], one))
                going[task] = one.connection_id
            if not claimed and await waited(intake.telling, _LOOK_S):
                intake.telling.clear()
            for task in [task for task in going if task.done()]:
                del going[task]
    finally:
        for task in going:
            task.cancel()
        await asyncio.gather(*going, return_exceptions=True)


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


async def _tell(service: "Service", intake: Intake, entry: Open, claimed: Claim) -> None:
    """Tell what is due of one order; whatever goes wrong, it is due again later."""
    try:
        await tell(service, entry, claimed)
    except Exception as failure:  # noqa: BLE001 - one order must not keep the others from being told
        _log.error("telling a channel failed", order_id=claimed.order_id, error=describe(failure))
        await _give_back(service, claimed, retry_after_s(claimed.tries), claimed.tries + 1)
    intake.telling.set()


async def _give_back(service: "Service", claimed: Claim, pause_s: float, tries: int) -> None:
    async with service.pool.acquire() as database:
        await store.release(database, claimed, service.clock() + timedelta(seconds=pause_s), tries)


async def tell(service: "Service", entry: Open, claimed: Claim) -> None:
    """Tell one step after the other until all are answered, or one has to wait."""
    reports = entry.connector.traits.reports
    async with service.pool.acquire() as database:
        known = (await store.known_orders(database, [claimed.order_id]))[claimed.order_id]
        words = await store.mappings_of(database, claimed.connection_id)
    order = Told(known.external_id, known.reference)
    wanted = _in_words(claimed.wanted, words)
    while True:
        now = service.clock()
        async with service.transaction() as tx:
            if not await store.renew(tx.connection, claimed, now + claimed.lease):
                return
            done = await store.steps_of(tx.connection, claimed.order_id)
            step = next_step(wanted, done, reports)
            if step is None:
                await store.release(tx.connection, claimed, None, 0)
                return
            if step.kind not in reports:
                await _refuse(tx, claimed, step, "not_supported", "the channel takes no cancel from us")
                continue
            if (begun := done.get(step.name) is State.GOING) is False:
                await store.put_step(tx.connection, claimed.order_id, step.name, State.GOING, now)
        service.faults.point("report.saved")
        try:
            request_id = await _call(service, entry, claimed, order, step, begun=begun)
            claimed.tried = ""
        except OutcomeUnknown as unknown:
            _log.warning("outcome of a report is unknown", order_id=claimed.order_id, step=step.kind, why=str(unknown))
            await _give_back(service, claimed, retry_after_s(claimed.tries), claimed.tries + 1)
            return
        except Throttled as throttled:
            async with service.pool.acquire() as database:
                if not begun:
                    await store.drop_step(database, claimed.order_id, step.name)
            await _give_back(service, claimed, throttled.retry_after_s, claimed.tries)
            return
        except Rejected as rejected:
            if isinstance(rejected, TokenEnded):
                # Nobody was asked anything: it is due until the account is authorised again.
                raise
            async with service.transaction() as tx:
                await _refuse(tx, claimed, step, "refused", str(rejected))
            continue
        service.faults.point("report.answered")
        async with service.transaction() as tx:
            await _accept(tx, claimed, step, request_id)
        service.faults.point("report.settled")


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
        case Kind.INVOICE:
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


async def _accept(tx: Transaction, claimed: Claim, step: Step, request_id: str) -> None:
    order_id = claimed.order_id
    await store.put_step(tx.connection, order_id, step.name, State.ACCEPTED, tx.now, request_id=request_id)
    message = ProgressAccepted(order_id=order_id, revision=claimed.wanted.revision, step=step.name, at=tx.now)
    tx.publish(message, tenant=claimed.tenant, cause=claimed.cause, correlation_id=claimed.cause.correlation_id)
    await resolve_alerts(tx.connection, claimed.connection_id, "not_told", [f"{order_id} {step.name}"], tx.now)


async def _refuse(tx: Transaction, claimed: Claim, step: Step, reason: str, text: str) -> None:
    """`text` is ours (see `services.border.calls`): what the channel said may name a buyer."""
    order_id = claimed.order_id
    await store.put_step(tx.connection, order_id, step.name, State.REFUSED, tx.now, reason=text)
    message = ProgressRefused(
        order_id=order_id, revision=claimed.wanted.revision, step=step.name, reason=reason, at=tx.now
    )
    tx.publish(message, tenant=claimed.tenant, cause=claimed.cause, correlation_id=claimed.cause.correlation_id)
    alert = Alert(
        claimed.tenant,
        claimed.connection_id,
        "not_told",
        f"{order_id} {step.name}",
        f"the channel was not told of order {order_id} ({step.kind}): {text}; after the fix POST "
        f"/admin/progress/{order_id}/retry",
        urgent=True,
    )
    await raise_alerts(tx.connection, [alert], tx.now)
