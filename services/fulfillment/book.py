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
from services.border.together import Together
from services.border.vault import SealBroken, Vault
from services.bus import Cause
from services.bus.failures import describe
from services.bus.tracing import UNTRACED, Tracing
from services.fulfillment import store
from services.fulfillment.accounts import CALL_TIMEOUT_S, Carriers
from services.fulfillment.carriers.carrier import Bought, Carrier, Parcel, Purchase
from services.fulfillment.domain import Buying, CarrierRefused, Event, LabelMade, Shipment, Stopped
from services.fulfillment.handlers import Opens, open_desk
from services.fulfillment.labels import Label, Place, pdf, zpl
from services.fulfillment.mapping import NameMapping
from services.fulfillment.quote import offers
from services.fulfillment.rates import Quote
from services.fulfillment.recipient import recipient
from services.fulfillment.settings import FulfillmentSettings
from services.fulfillment.store import Key
from services.fulfillment.wake import Wake
from services.runtime import Service

Form: TypeAlias = Literal["pdf", "zpl"]

_ASK_AGAIN_S: Final = 5.0
_LEASE_SHARE: Final = 0.75
_UNANSWERED_S: Final = 60.0
"""For a carrier that is gone, or whose answer makes no sense: a person has to look."""

_ITS_OWN: Final = (KeyError, ValueError, SealBroken, asyncpg.DataError, asyncpg.IntegrityConstraintViolationError)
"""What goes wrong with one parcel alone: with what is known of it, or what its carrier answered."""

_label: Final = TypeAdapter(Label)
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Job:
    """A shipment that a carrier is to be asked about, as it stood when it was claimed. `sealed` is its buyer, `tried`
    the span of the last call, if that one has to be made again."""

    tenant: str
    shipment: Shipment
    cause: Cause
    call: asyncpg.Record | None
    sealed: bytes | None
    origin: Place | None
    names: Sequence[NameMapping]
    tried: str

    @property
    def key(self) -> Key:
        """Tenant and shipment."""
        return self.tenant, self.shipment.shipment_id

    @property
    def order(self) -> Key:
        """Tenant and order."""
        return self.tenant, self.shipment.order_id

    @property
    def is_going(self) -> bool:
        """A call was begun and nobody knows what became of it."""
        return self.call is not None and self.call["state"] == "going"


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a job: what its shipment hears, what its call came to and the label to be kept (form, content), if
    there is any of them; `wait_s` until it is tried again, where that is all."""

    job: Job
    events: tuple[Event, ...] = ()
    ended: str = ""
    label: tuple[str, bytes] | None = None
    wait_s: float | None = None


@final
class Book:
    """Asks carriers for what shipments wait for. `point` is where a test lets the process die.

    Each shipment goes its own way, as fast as its carrier; what several have to write at the same moment is one
    transaction.
    """

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
        self._begin, self._settle = Together(self._begin_all), Together(self._settle_all)
        self._going: set[asyncio.Task[None]] = set()

    async def run(self, wake: Wake) -> None:
        """Do what is due for ever, so many at once; what is slow, or fails, keeps nobody else waiting."""
        async with asyncio.TaskGroup() as group:
            while True:
                room = self._settings.book_parallel - len(self._going)
                jobs = await self._claim(room) if room else []
                for job in jobs:
                    task = group.create_task(self._alone(job))
                    self._going.add(task)
                    task.add_done_callback(self._going.discard)
                if not room:
                    await asyncio.wait(self._going, return_when=asyncio.FIRST_COMPLETED)
                elif len(jobs) < room:
                    await wake.wait(self._settings.poll_interval_s)

    async def work_off(self) -> int:
        """Do what is due now, all at once; how many shipments."""
        jobs = await self._claim(self._settings.book_parallel)
        for outcome in await asyncio.gather(*map(self._one, jobs), return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome
        return len(jobs)

    async def _claim(self, room: int) -> list[Job]:
        async with self._transaction() as tx:
            connection, until = tx.connection, tx.now + timedelta(seconds=self._settings.book_lease_s)
            rows = await store.claim_due(connection, tx.now, until, room)
            if not rows:
                return []
            orders = {(row["tenant"], row["order_id"]) for row in rows}
            keys = [(row["tenant"], row["shipment_id"]) for row in rows]
            shipments = await store.shipments_of(connection, orders)
            calls = await store.last_calls(connection, keys)
            buyers = await store.read_buyers(connection, orders)
            places = {(key[0], one.location) for key in keys if (one := shipments[key].prepare)}
            origins = await store.read_origins(connection, places)
            names = await store.read_mappings(connection, {tenant for tenant, _ in keys})
        jobs = []
        for row, key in zip(rows, keys, strict=True):
            tenant, shipment = key[0], shipments[key]
            origin = origins.get((tenant, shipment.prepare.location)) if shipment.prepare else None
            sealed = buyers.get((tenant, shipment.order_id))
            cause, known = Cause(*row["cause"]), names.get(tenant, ())
            jobs.append(Job(tenant, shipment, cause, calls.get(key), sealed, origin, known, row["tried"]))
        return jobs

    async def _alone(self, job: Job) -> None:
        try:
            await self._one(job)
        except Exception as failure:  # noqa: BLE001 - it is claimed for a while, and then taken up again
            _log.error("a label was not bought", shipment=job.shipment.shipment_id, error=describe(failure))

    async def _one(self, job: Job) -> None:
        causes = [job.cause, *([job.cause._replace(traceparent=job.tried)] if job.tried else ())]
        about = {"saldo.tenant": job.tenant, "saldo.step": job.shipment.state}
        with self._tracing.span("ask carrier", causes, kind=SpanKind.CLIENT, attributes=about) as cause:
            await self._ask(replace(job, cause=cause))

    async def _ask(self, job: Job) -> None:
        carriers = await self._carriers(job.tenant)
        try:
            # Nobody goes on with a shipment that is claimed no more, and that another may take up.
            async with asyncio.timeout(self._settings.book_lease_s * _LEASE_SHARE):
                if job.shipment.state == "stopping":
                    await self._stop(job, carriers)
                elif job.shipment.awaits_label or job.shipment.state == "buying":
                    await self._buy(job, carriers)
        except (OutcomeUnknown, TimeoutError):
            late_s = max(one.traits.late_s for one in carriers.values())
            await self._settle(Answer(job, wait_s=late_s))
        except Throttled as wait:
            await self._settle(Answer(job, wait_s=wait.retry_after_s))
        except _ITS_OWN as failure:
            _log.error("a label waits for a person", shipment=job.shipment.shipment_id, error=describe(failure))
            await self._settle(Answer(job, wait_s=_UNANSWERED_S))

    def _parcel(self, job: Job) -> Parcel | None:
        asked, packed = job.shipment.prepare, job.shipment.packed
        if not (job.sealed and asked and packed and job.origin):
            return None
        tenant, order_id = job.order
        opened = self._vault.open(job.sealed, tenant=tenant, owner=order_id, field="buyer")
        buyer = BuyerReported.model_validate_json(opened)
        if (place := recipient(buyer)) is None:
            return None
        return Parcel(
            tenant, packed.weight_g, packed.dimensions_mm, asked.declared_minor, asked.currency, job.origin, place,
            asked.invoice_key or "", buyer.document, next(iter(buyer.phones), ""),
        )  # fmt: skip

    async def _buy(self, job: Job, carriers: Mapping[str, Carrier]) -> None:
        parcel = self._parcel(job)
        if parcel is None:
            await self._refuse(job, "no_address" if job.origin else "no_service")
            return
        call = job.call if job.is_going else await self._choose(job, parcel, carriers)
        if call is None:
            return
        self._point("book.saved")
        carrier, purchase = carriers[call["provider"]], _purchase(call)
        try:
            bought = await (carrier.resume if job.is_going else carrier.buy)(parcel, purchase)
        except Rejected:
            await self._refuse(job, "refused_by_carrier")
            return
        self._point("book.answered")
        await self._settle(_bought(job, parcel, call["provider"], purchase, bought))
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
                await self._settle(Answer(job, wait_s=_ASK_AGAIN_S))
            else:
                await self._refuse(job, "no_service")
            return None
        call = await self._begin((job, *chosen))
        if call is None:
            await self._settle(Answer(job, wait_s=0))
        return call

    async def _begin_all(self, chosen: Sequence[tuple[Job, str, Quote]]) -> list[asyncpg.Record | None]:
        """Commit that these labels are bought now, each of a provider; None where the shipment has changed since."""
        async with self._transaction() as tx:
            desk = await open_desk(tx, {job.order for job, _, _ in chosen}, self._settings)
            begun = {}
            for job, provider, quote in chosen:
                if desk.shipments[job.key] != job.shipment:
                    continue
                decision = desk.decide(*job.order, job.shipment.shipment_id, Buying(), job.cause)
                if decision.shipment != job.shipment:
                    begun[job.key] = provider, quote
            await desk.save()
            calls = await store.begin_calls(tx.connection, begun, tx.now)
        return [calls.get(job.key) for job, _, _ in chosen]

    async def _refuse(self, job: Job, reason: str) -> None:
        # Where nothing was begun, nothing will be asked: it is begun and refused in one.
        begun = () if job.shipment.state == "buying" else (Buying(),)
        await self._settle(Answer(job, (*begun, CarrierRefused(reason)), "refused"))

    async def _stop(self, job: Job, carriers: Mapping[str, Carrier]) -> None:
        assert job.call is not None
        assert job.shipment.label is not None
        carrier = carriers[job.call["provider"]]
        try:
            done = await carrier.cancel(_purchase(job.call), job.shipment.label.reference)
        except Rejected:
            done = False
        self._point("stop.answered")
        await self._settle(Answer(job, (Stopped(done),)))
        self._point("stop.settled")

    async def _settle_all(self, answers: Sequence[Answer]) -> list[None]:
        """Take what carriers answered to the shipments as they are now."""
        async with self._transaction() as tx:
            desk = await open_desk(tx, {one.job.order for one in answers if one.events}, self._settings)
            labels = []
            for one in answers:
                (tenant, order_id), key, changed = one.job.order, one.job.key, False
                label_id = tx.new_id()
                for event in one.events:
                    before = desk.shipments[key]
                    told = replace(event, label_id=label_id) if isinstance(event, LabelMade) else event
                    changed = desk.decide(tenant, order_id, key[1], told, one.job.cause).shipment != before
                if changed and one.label:
                    form, content = one.label
                    sealed = self._vault.seal(content, tenant=tenant, owner=label_id, field=form)
                    labels.append((tenant, label_id, order_id, form, sealed))
            await desk.save()
            await store.end_calls(tx.connection, [(*one.job.key, one.ended) for one in answers if one.ended], tx.now)
            await store.put_labels(tx.connection, labels, tx.now)
            put_off = [
                (*one.job.key, tx.now + timedelta(seconds=max(one.wait_s, 0.1)), one.job.cause.traceparent)
                for one in answers
                if one.wait_s is not None
            ]
            await store.put_off(tx.connection, put_off)
        return [None] * len(answers)


def _bought(job: Job, parcel: Parcel, provider: str, purchase: Purchase, bought: Bought) -> Answer:
    """The label and what is told of it; its id comes when it is kept."""
    form, content = "pdf", bought.label_pdf
    if content is None:
        assert parcel.origin is not None
        label = Label(
            job.shipment.shipment_id, bought.tracking_code, purchase.carrier, purchase.service, parcel.weight_g,
            parcel.destination, parcel.origin, parcel.invoice_key,
        )  # fmt: skip
        form, content = "fields", _label.dump_json(label)
    made = LabelMade(
        "", purchase.carrier, purchase.service, bought.reference, bought.tracking_code, bought.tracking_url,
        bought.price_minor, bought.currency, provider,
    )  # fmt: skip
    return Answer(job, (made,), "done", (form, content))


def _purchase(call: asyncpg.Record) -> Purchase:
    key = f"{call['shipment_id']}:{call['n']}"
    return Purchase(key, call["serial"], call["carrier"], call["service"], call["option"])


def printed(fields: bytes, form: Form) -> bytes:
    """A label of ours as it is printed, from what is kept of it."""
    label = _label.validate_json(fields)
    return pdf.draw(label) if form == "pdf" else zpl.draw(label).encode()


async def run(service: Service, *, carriers: Carriers, vault: Vault, settings: FulfillmentSettings, wake: Wake) -> None:
    """Buy and give back labels for ever."""
    book = Book(service.transaction, carriers.of, vault, settings, service.faults.point, service.tracing)
    await book.run(wake)
