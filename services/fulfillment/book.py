"""Labels: bought at carriers, drawn, kept; and given back where a shipment is not wanted any more.

A call to a carrier is a row that is committed before it. A call whose answer is missing is looked up before it is made
again, so that a parcel is paid for once whatever dies in between.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import timedelta
from typing import Final, final

import asyncpg

from contracts.channels.v1 import BuyerReported
from services.border.errors import OutcomeUnknown, Rejected, Throttled
from services.border.vault import Vault
from services.bus import Cause, Transaction
from services.fulfillment import store
from services.fulfillment.carriers.carrier import Bought, Carrier, Parcel, Purchase
from services.fulfillment.carriers.table import TableCarrier
from services.fulfillment.domain import Buying, CarrierRefused, Event, LabelMade, Shipment, Stopped
from services.fulfillment.handlers import open_desk
from services.fulfillment.labels import Label, Place, pdf, zpl
from services.fulfillment.rates import Quote, Rate, postcode
from services.fulfillment.settings import FulfillmentSettings
from services.fulfillment.store import Key
from services.runtime import Service

DELIVERY: Final = ("delivery", "shipping")
"""What channels call the address that a parcel goes to; where they name none so, the first one is it."""


@dataclass(frozen=True, slots=True)
class Job:
    """A shipment that a carrier is to be asked about, as it stood when it was read."""

    tenant: str
    shipment: Shipment
    cause: Cause
    parcel: Parcel | None
    has_origin: bool
    call: asyncpg.Record | None

    @property
    def key(self) -> Key:
        """Tenant and shipment."""
        return self.tenant, self.shipment.shipment_id

    @property
    def is_going(self) -> bool:
        """A call was begun and nobody knows what became of it."""
        return self.call is not None and self.call["state"] == "going"


def recipient(buyer: BuyerReported) -> Place | None:
    """Where the parcel goes; None where the buyer has no address, or one that no label can show."""
    chosen = [one for one in buyer.addresses if one.kind in DELIVERY] or list(buyer.addresses)
    if not chosen or not chosen[0].postal_code:
        return None
    to = chosen[0]
    country = to.country or "BR"
    try:
        code = postcode(to.postal_code) if country == "BR" else to.postal_code
    except ValueError:
        return None
    return Place(
        buyer.name, to.street, to.number, to.complement, to.district, to.city, to.region, code, country
    )  # fmt: skip


@final
class Book:
    """Asks carriers for what shipments wait for. `point` is where a test lets the process die."""

    def __init__(
        self,
        transaction: Callable[[], AbstractAsyncContextManager[Transaction]],
        carriers: Mapping[str, Carrier],
        vault: Vault,
        settings: FulfillmentSettings,
        point: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._transaction, self._carriers, self._vault = transaction, carriers, vault
        self._settings, self._point = settings, point

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
        try:
            if job.shipment.state == "stopping":
                await self._stop(job)
            elif job.shipment.awaits_label or job.shipment.state == "buying":
                await self._buy(job)
        except OutcomeUnknown:
            late_s = max((one.traits.late_s for one in self._carriers.values()), default=0.0)
            await self._later(job, late_s)
        except Throttled as wait:
            await self._later(job, wait.retry_after_s)

    async def _later(self, job: Job, wait_s: float) -> None:
        async with self._transaction() as tx:
            await store.put_off(tx.connection, job.key, tx.now + timedelta(seconds=max(wait_s, 0.1)))

    async def _read(self, row: asyncpg.Record) -> Job:
        tenant, order_id, shipment_id = row["tenant"], row["order_id"], row["shipment_id"]
        async with self._transaction() as tx:
            connection = tx.connection
            shipment = (await store.shipments_of(connection, [(tenant, order_id)]))[tenant, shipment_id]
            call = await store.last_call(connection, (tenant, shipment_id))
            sealed = await store.read_buyer(connection, (tenant, order_id))
            asked, packed = shipment.prepare, shipment.packed
            origin = asked and await store.read_origin(connection, tenant, asked.location)
        parcel = None
        if sealed and asked and packed and origin:
            opened = self._vault.open(sealed, tenant=tenant, owner=order_id, field="buyer")
            place = recipient(BuyerReported.model_validate_json(opened))
            if place:
                parcel = Parcel(
                    tenant, packed.weight_g, packed.dimensions_mm, asked.declared_minor, asked.currency, origin, place,
                    asked.invoice_key or "",
                )  # fmt: skip
        return Job(tenant, shipment, Cause(*row["cause"]), parcel, origin is not None, call)

    async def _buy(self, job: Job) -> None:
        if job.parcel is None:
            await self._refuse(job, "no_address" if job.has_origin else "no_service")
            return
        if job.is_going:
            call = job.call
        else:
            chosen = await self._choose(job.shipment, job.parcel)
            if chosen is None:
                await self._refuse(job, "no_service")
                return
            call = await self._begin(job, *chosen)
        if call is None:
            await self._later(job, 0)
            return
        self._point("book.saved")
        carrier = self._carriers[call["provider"]]
        purchase = _purchase(call)
        try:
            bought = await carrier.find(purchase) if job.is_going else None
            bought = bought or await carrier.buy(job.parcel, purchase)
        except Rejected:
            await self._refuse(job, "refused_by_carrier")
            return
        self._point("book.answered")
        await self._finish(job, job.parcel, purchase, bought)
        self._point("book.settled")

    async def _choose(self, shipment: Shipment, parcel: Parcel) -> tuple[str, Quote] | None:
        """The cheapest service that is what the sale asks for, and who provides it."""
        found: list[tuple[str, Quote]] = []
        for provider, carrier in self._carriers.items():
            found += [(provider, quote) for quote in await carrier.quote(parcel)]
        fitting = [
            (provider, quote)
            for provider, quote in found
            if shipment.carrier in ("", quote.carrier) and shipment.service in ("", quote.service)
        ]
        return min(fitting, key=lambda one: (one[1].price_minor, one[1].days_max, one[0]), default=None)

    async def _begin(self, job: Job, provider: str, quote: Quote) -> asyncpg.Record | None:
        """Commit that the label is bought now; None where the shipment has changed meanwhile."""
        async with self._transaction() as tx:
            if not await self._decide(tx, job, Buying(), only_as_read=True):
                return None
            return await store.begin_call(tx.connection, job.key, provider, quote.carrier, quote.service, tx.now)

    async def _finish(self, job: Job, parcel: Parcel, purchase: Purchase, bought: Bought) -> None:
        label = Label(
            job.shipment.shipment_id, bought.tracking_code, purchase.carrier, purchase.service, parcel.weight_g,
            parcel.destination, parcel.origin, parcel.invoice_key,
        )  # fmt: skip
        page, commands = await asyncio.to_thread(lambda: (pdf.draw(label), zpl.draw(label)))
        async with self._transaction() as tx:
            label_id = tx.new_id()
            made = LabelMade(
                label_id, purchase.carrier, purchase.service, bought.reference, bought.tracking_code,
                bought.tracking_url, bought.price_minor, bought.currency,
            )  # fmt: skip
            await store.end_call(tx.connection, job.key, "done", tx.now)
            if await self._decide(tx, job, made):
                formats = {
                    form: self._vault.seal(content, tenant=job.tenant, owner=label_id, field=form)
                    for form, content in (("pdf", page), ("zpl", commands.encode()))
                }
                order_id = job.shipment.order_id
                await store.put_label(tx.connection, job.tenant, label_id, order_id, formats, tx.now)

    async def _refuse(self, job: Job, reason: str) -> None:
        async with self._transaction() as tx:
            if job.shipment.state != "buying":
                await self._decide(tx, job, Buying())
            await store.end_call(tx.connection, job.key, "refused", tx.now)
            await self._decide(tx, job, CarrierRefused(reason))

    async def _stop(self, job: Job) -> None:
        assert job.call is not None
        assert job.shipment.label is not None
        carrier = self._carriers[job.call["provider"]]
        try:
            done = await carrier.cancel(_purchase(job.call), job.shipment.label.reference)
        except Rejected:
            done = False
        async with self._transaction() as tx:
            await self._decide(tx, job, Stopped(done))

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
    return Purchase(f"{call['shipment_id']}:{call['n']}", call["serial"], call["carrier"], call["service"])


async def run(service: Service, *, vault: Vault, settings: FulfillmentSettings) -> None:
    """Buy and give back labels for ever, pausing when nothing is due."""

    async def rates(tenant: str) -> Sequence[Rate]:
        async with service.pool.acquire() as connection:
            return await store.read_rates(connection, tenant)

    table = TableCarrier(rates, cubic_divisor=settings.cubic_divisor)
    book = Book(service.transaction, {table.traits.name: table}, vault, settings, service.faults.point)
    while True:
        if not await book.work_off():
            await asyncio.sleep(settings.poll_interval_s)
