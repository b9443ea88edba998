"""Labels: bought at carriers, drawn, kept; and given back where a shipment is not wanted any more.

A call to a carrier is a row that is committed before it. A call whose answer is missing is looked up before it is made
again, so that a parcel is paid for once whatever dies in between.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final, Literal, TypeAlias, final

import asyncpg
import structlog
from opentelemetry.trace import SpanKind
from pydantic import TypeAdapter

from contracts.channels.v1 import BuyerReported
from services.border.errors import OutcomeUnknown, Rejected, Throttled
from services.border.vault import Vault
from services.bus import Cause, Transaction
from services.bus.failures import describe
from services.bus.tracing import UNTRACED, Tracing
from services.fulfillment import store
from services.fulfillment.accounts import CALL_TIMEOUT_S, Carriers
from services.fulfillment.carriers.carrier import Bought, Carrier, Parcel, Purchase
from services.fulfillment.domain import Buying, CarrierRefused, Event, LabelMade, Shipment, Stopped
from services.fulfillment.handlers import Opens, open_desk
from services.fulfillment.labels import Label, pdf, zpl
from services.fulfillment.mapping import NameMapping
from services.fulfillment.quote import offers
from services.fulfillment.rates import Quote
from services.fulfillment.recipient import recipient
from services.fulfillment.settings import FulfillmentSettings
from services.fulfillment.store import Key
from services.runtime import Service

Form: TypeAlias = Literal["pdf", "zpl"]

_ASK_AGAIN_S: Final = 5.0
_UNANSWERED_S: Final = 60.0
"""For a carrier that is gone, or whose answer makes no sense: a person has to look."""

_label: Final = TypeAdapter(Label)
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Job:
    """A shipment that a carrier is to be asked about, as it stood when it was read."""

    tenant: str
    shipment: Shipment
    cause: Cause
    parcel: Parcel | None
    has_origin: bool
    call: asyncpg.Record | None
    names: Sequence[NameMapping]

    @property
    def key(self) -> Key:
        """Tenant and shipment."""
        return self.tenant, self.shipment.shipment_id

    @property
    def is_going(self) -> bool:
        """A call was begun and nobody knows what became of it."""
        return self.call is not None and self.call["state"] == "going"


@final
class Book:
    """Asks carriers for what shipments wait for. `point` is where a test lets the process die."""

    def __init__(
        self,
        transaction: Opens,
        carriers: Callable[[str], Awaitable[Mapping[str, Carrier]]],
        vault: Vault,
        settings: FulfillmentSettings,
        point: Callable[[str], None] = lambda _: None,
        tracing: Tracing = UNTRACED,
    ) -> None:
        self._transaction, self._carriers, self._vault = transaction, carriers, vault
        self._settings, self._point, self._tracing = settings, point, tracing

    async def work_off(self) -> int:
        """Do what is due, several at once; how many shipments."""
        async with self._transaction() as tx:
            until = tx.now + timedelta(seconds=self._settings.book_lease_s)
            rows = await store.claim_due(tx.connection, tx.now, until, self._settings.book_parallel)
        for outcome in await asyncio.gather(*(self._one(row) for row in rows), return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome
        return len(rows)

    async def _one(self, row: asyncpg.Record) -> None:
        job = await self._read(row)
        causes = [job.cause, *([job.cause._replace(traceparent=row["tried"])] if row["tried"] else ())]
        about = {"saldo.tenant": job.tenant, "saldo.step": job.shipment.state}
        with self._tracing.span("ask carrier", causes, kind=SpanKind.CLIENT, attributes=about) as cause:
            await self._ask(replace(job, cause=cause))

    async def _ask(self, job: Job) -> None:
        carriers = await self._carriers(job.tenant)
        try:
            if job.shipment.state == "stopping":
                await self._stop(job, carriers)
            elif job.shipment.awaits_label or job.shipment.state == "buying":
                await self._buy(job, carriers)
        except OutcomeUnknown:
            late_s = max(one.traits.late_s for one in carriers.values())
            await self._later(job, late_s)
        except Throttled as wait:
            await self._later(job, wait.retry_after_s)
        except (KeyError, ValueError, asyncpg.DataError, asyncpg.IntegrityConstraintViolationError) as failure:
            _log.error("a label waits for its carrier", shipment=job.shipment.shipment_id, error=describe(failure))
            await self._later(job, _UNANSWERED_S)

    async def _later(self, job: Job, wait_s: float) -> None:
        async with self._transaction() as tx:
            await store.put_off(
                tx.connection, job.key, tx.now + timedelta(seconds=max(wait_s, 0.1)), job.cause.traceparent
            )

    async def _read(self, row: asyncpg.Record) -> Job:
        tenant, order_id, shipment_id = row["tenant"], row["order_id"], row["shipment_id"]
        async with self._transaction() as tx:
            connection = tx.connection
            shipment = (await store.shipments_of(connection, [(tenant, order_id)]))[tenant, shipment_id]
            call = await store.last_call(connection, (tenant, shipment_id))
            sealed = await store.read_buyer(connection, (tenant, order_id))
            asked, packed = shipment.prepare, shipment.packed
            origin = asked and await store.read_origin(connection, tenant, asked.location)
            names = (await store.read_mappings(connection, [tenant])).get(tenant, [])
        parcel = None
        if sealed and asked and packed and origin:
            opened = self._vault.open(sealed, tenant=tenant, owner=order_id, field="buyer")
            buyer = BuyerReported.model_validate_json(opened)
            place = recipient(buyer)
            if place:
                parcel = Parcel(
                    tenant, packed.weight_g, packed.dimensions_mm, asked.declared_minor, asked.currency, origin, place,
                    asked.invoice_key or "", buyer.document, next(iter(buyer.phones), ""),
                )  # fmt: skip
        return Job(tenant, shipment, Cause(*row["cause"]), parcel, origin is not None, call, names)

    async def _buy(self, job: Job, carriers: Mapping[str, Carrier]) -> None:
        if job.parcel is None:
            await self._refuse(job, "no_address" if job.has_origin else "no_service")
            return
        call = job.call if job.is_going else await self._choose(job, job.parcel, carriers)
        if call is None:
            return
        self._point("book.saved")
        carrier, purchase = carriers[call["provider"]], _purchase(call)
        try:
            bought = await (carrier.resume if job.is_going else carrier.buy)(job.parcel, purchase)
        except Rejected:
            await self._refuse(job, "refused_by_carrier")
            return
        self._point("book.answered")
        await self._finish(job, job.parcel, call["provider"], purchase, bought)
        self._point("book.settled")

    async def _choose(self, job: Job, parcel: Parcel, carriers: Mapping[str, Carrier]) -> asyncpg.Record | None:
        """Begin to buy the cheapest service that is what the sale asks for; None where there is none to begin."""
        shipment = job.shipment
        found, failures = await offers(carriers, parcel, job.names, CALL_TIMEOUT_S)
        fitting = (
            (provider, quote)
            for provider, quote in found
            if shipment.carrier in ("", quote.carrier) and shipment.service in ("", quote.service)
        )
        chosen = next(fitting, None)
        if chosen is None:
            if failures:
                await self._later(job, _ASK_AGAIN_S)
            else:
                await self._refuse(job, "no_service")
            return None
        call = await self._begin(job, *chosen)
        if call is None:
            await self._later(job, 0)
        return call

    async def _begin(self, job: Job, provider: str, quote: Quote) -> asyncpg.Record | None:
        """Commit that the label is bought now; None where the shipment has changed meanwhile."""
        async with self._transaction() as tx:
            if not await self._decide(tx, job, Buying(), only_as_read=True):
                return None
            return await store.begin_call(tx.connection, job.key, provider, quote, tx.now)

    async def _finish(self, job: Job, parcel: Parcel, provider: str, purchase: Purchase, bought: Bought) -> None:
        form, content = "pdf", bought.label_pdf
        if content is None:
            assert parcel.origin is not None
            label = Label(
                job.shipment.shipment_id, bought.tracking_code, purchase.carrier, purchase.service, parcel.weight_g,
                parcel.destination, parcel.origin, parcel.invoice_key,
            )  # fmt: skip
            form, content = "fields", _label.dump_json(label)
        async with self._transaction() as tx:
            label_id = tx.new_id()
            made = LabelMade(
                label_id, purchase.carrier, purchase.service, bought.reference, bought.tracking_code,
                bought.tracking_url, bought.price_minor, bought.currency, provider,
            )  # fmt: skip
            await store.end_call(tx.connection, job.key, "done", tx.now)
            if await self._decide(tx, job, made):
                sealed = self._vault.seal(content, tenant=job.tenant, owner=label_id, field=form)
                order_id = job.shipment.order_id
                await store.put_label(tx.connection, job.tenant, label_id, order_id, form, sealed, tx.now)

    async def _refuse(self, job: Job, reason: str) -> None:
        async with self._transaction() as tx:
            if job.shipment.state != "buying":
                await self._decide(tx, job, Buying())
            await store.end_call(tx.connection, job.key, "refused", tx.now)
            await self._decide(tx, job, CarrierRefused(reason))

    async def _stop(self, job: Job, carriers: Mapping[str, Carrier]) -> None:
        assert job.call is not None
        assert job.shipment.label is not None
        carrier = carriers[job.call["provider"]]
        try:
            done = await carrier.cancel(_purchase(job.call), job.shipment.label.reference)
        except Rejected:
            done = False
        self._point("stop.answered")
        async with self._transaction() as tx:
            await self._decide(tx, job, Stopped(done))
        self._point("stop.settled")

    async def _decide(self, tx: Transaction, job: Job, event: Event, *, only_as_read: bool = False) -> bool:
        """Take the event to the shipment as it is now, or only if it is still as it was read; whether that changed
        anything."""
        order_id, shipment_id = job.shipment.order_id, job.shipment.shipment_id
        desk = await open_desk(tx, [(job.tenant, order_id)], self._settings)
        before = desk.shipments[job.key]
        if only_as_read and before != job.shipment:
            return False
        decision = desk.decide(job.tenant, order_id, shipment_id, event, job.cause)
        await desk.save()
        return decision.shipment != before


def _purchase(call: asyncpg.Record) -> Purchase:
    key = f"{call['shipment_id']}:{call['n']}"
    return Purchase(key, call["serial"], call["carrier"], call["service"], call["option"])


def printed(fields: bytes, form: Form) -> bytes:
    """A label of ours as it is printed, from what is kept of it."""
    label = _label.validate_json(fields)
    return pdf.draw(label) if form == "pdf" else zpl.draw(label).encode()


async def run(service: Service, *, carriers: Carriers, vault: Vault, settings: FulfillmentSettings) -> None:
    """Buy and give back labels for ever, pausing when nothing is due."""
    book = Book(service.transaction, carriers.of, vault, settings, service.faults.point, service.tracing)
    while True:
        if not await book.work_off():
            await asyncio.sleep(settings.poll_interval_s)
