"""Sales put straight on Kafka, clean and dirty: what is planned is drawn from a seed, what was taken is in books.

A sale is a reservation that its buyer has yet to pay for; half of them are cancelled. The dirt: records sent twice, the
same revision told by another event, a cancel before its sale, bodies that nobody can read, and floods of old records.
"""

import asyncio
import random
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from contracts.catalogue import CATALOGUE, SALES
from contracts.channels.v1 import SaleLine, SaleReported, SaleStatus
from contracts.envelope import Envelope
from services.console.chaos.history import History
from services.console.demo.evidence import Channel, SendLimits
from services.console.demo.seed import Catalogue

MARKETPLACE: Final = "stream"
CONNECTION: Final = "chaos"
CHANNEL: Final = Channel(CONNECTION, "stream/chaos", MARKETPLACE, "chaos", {}, SendLimits(1_000, 1_000, 500))
"""Where it sells: a connection that shows nothing and has books like the others."""

CANCELLED: Final = 0.5
SCARCE_WISH: Final = 0.02
POISON_EVERY_S: Final = 25.0
"""Rarely enough for the brake of a consumer, which takes twenty spoilt orders in five minutes for a bad deploy."""
FLOOD_EVERY_S: Final = 40.0
FLOOD_RECORDS: Final = 2_000
FORMS: Final = {"clean": 92, "twice": 4, "told again": 2, "mixed up": 2}
AGAIN_S: Final = 0.5
WEEK: Final = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Record:
    """One record: `revision` 1 sells `lines`, 2 cancels them. `spoilt`: its body cannot be read.

    A spoilt order is told whole by its revision 2, and cancelled by its revision 3.
    """

    at_s: float
    order: str
    revision: int
    lines: Mapping[str, int]
    cancelled: bool = False
    spoilt: bool = False
    copies: int = 1
    told_again: bool = False
    old: bool = False


def plan_records(catalogue: Catalogue, seed: int, seconds: float, rate: float) -> list[Record]:
    """Every record of a run in order of time, `rate` orders a second; the same for the same arguments."""
    draw = random.Random(f"stream {seed}")  # noqa: S311 - a repeatable crowd, not a secret
    ordinary = [sku for sku in catalogue.plan.opening if sku not in catalogue.scarce]
    planned: list[Record] = []
    at_s, number = 0.0, 0
    while (at_s := at_s + draw.expovariate(rate)) < seconds:
        number += 1
        skus = catalogue.scarce if draw.random() < SCARCE_WISH else ordinary
        lines = {
            draw.choice(skus): draw.choices((1, 2, 3), (85, 11, 4))[0] for _ in range(draw.choices((1, 2), (4, 1))[0])
        }
        form = draw.choices(list(FORMS), list(FORMS.values()))[0]
        copies, told_again, old = 1 + (form == "twice"), form == "told again", draw.random() < 0.05
        order = f"{seed}-{number:06}"
        planned.append(Record(at_s, order, 1, lines, copies=copies, told_again=told_again, old=old))
        if form == "mixed up" or draw.random() < CANCELLED:
            later_s = -0.2 if form == "mixed up" else draw.uniform(0.2, 20)
            planned.append(Record(max(0.0, at_s + later_s), order, 2, lines, cancelled=True, copies=copies, old=old))
    poison = max(1, int(seconds / POISON_EVERY_S))
    for spoilt in range(poison):
        at_s, lines = (spoilt + draw.random()) * seconds / poison, {draw.choice(ordinary): 1}
        order = f"{seed}-spoilt-{spoilt:03}"
        planned += [
            Record(at_s, order, 1, lines, spoilt=True),
            Record(at_s + 1, order, 2, lines),
            *([Record(at_s + 2, order, 3, lines, cancelled=True)] if draw.random() < CANCELLED else []),
        ]
    return sorted(planned, key=lambda record: record.at_s)


def order_id(tenant: str, order: str) -> str:
    """Our id of an order of this connection."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{tenant}/{CONNECTION}/{order}"))


def message(record: Record, tenant: str, now: datetime) -> SaleReported:
    """The sale as channels would report it."""
    return SaleReported(
        connection_id=CONNECTION,
        external_id=record.order,
        order_id=order_id(tenant, record.order),
        revision=record.revision,
        status=SaleStatus.CANCELLED if record.cancelled else SaleStatus.AWAITING_PAYMENT,
        sold_at=now - WEEK if record.old else now,
        received_at=now,
        customer_ref=f"buyer-{record.order}",
        currency="BRL",
        lines=tuple(
            SaleLine(
                line_id=str(number), sku=sku, quantity=quantity, cancelled=quantity if record.cancelled else 0,
                listing=sku, stock_record=sku,
            )
            for number, (sku, quantity) in enumerate(record.lines.items(), 1)
        ),
    )  # fmt: skip


@dataclass
class Books:
    """What the broker took, in rows like those of a sandbox's books (`services/sandbox/books.py`)."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    orders: int = 0

    def add(self, record: Record) -> None:
        """A readable record was acknowledged."""
        row = {
            "id": len(self.rows) + 1,
            "shop": CHANNEL.shop,
            "order_id": record.order,
            "at_ms": round(time.time() * 1000),
        }
        if record.cancelled:
            lines = [
                {"sku": sku, "quantity": quantity, "location": "", "number_after": None}
                for sku, quantity in record.lines.items()
            ]
            self.rows.append(row | {"kind": "cancel", "lines": lines})
            return
        self.orders += 1
        for sku, quantity in record.lines.items():
            line = {"kind": "sale", "sku": sku, "quantity": quantity, "location": "", "number_after": 0}
            self.rows.append({**row, "id": len(self.rows) + 1, **line})


@dataclass
class Stream:
    """Puts planned records on Kafka, each again until the broker has taken it, as whoever relays them has to."""

    bootstrap: str
    tenant: str
    history: History
    books: Books = field(default_factory=Books)
    flooded: int = 0
    _sent: list[tuple[bytes, bytes, Any]] = field(default_factory=list)

    async def run(self, records: Sequence[Record], begun: float) -> None:
        """Send every record at its moment, counted from `begun` on the loop's clock; return when all are taken."""
        loop = asyncio.get_running_loop()
        producer = AIOKafkaProducer(
            bootstrap_servers=self.bootstrap, acks="all", request_timeout_ms=10_000, metadata_max_age_ms=5_000
        )
        await producer.start()
        try:
            async with asyncio.TaskGroup() as deeds:
                flood_at_s = FLOOD_EVERY_S
                for record in records:
                    await asyncio.sleep(max(0.0, begun + record.at_s - loop.time()))
                    deeds.create_task(self._put(producer, record))
                    if record.at_s >= flood_at_s:
                        flood_at_s += FLOOD_EVERY_S
                        deeds.create_task(self._flood(producer))
        finally:
            await producer.stop()

    async def _put(self, producer: AIOKafkaProducer, record: Record) -> None:
        sale = message(record, self.tenant, datetime.now(UTC))
        key = f"{self.tenant}:{sale.order_id}".encode()
        body = b'{"order_id": ' if record.spoilt else sale.model_dump_json().encode()
        headers = self._headers(sale)
        for _ in range(record.copies):
            await self._until_taken(producer, key, body, headers)
        if record.told_again:
            await self._until_taken(producer, key, body, self._headers(sale))
        if not record.spoilt:
            self.books.add(record)
        self._sent.append((key, body, headers))
        self.history.note("record", order=record.order, revision=record.revision, spoilt=record.spoilt)

    async def _flood(self, producer: AIOKafkaProducer) -> None:
        """Much of what was sent, oldest first, all at once."""
        again = self._sent[-FLOOD_RECORDS:]
        self.history.note("flood", records=len(again))
        try:
            sent = [await producer.send(SALES.name, body, key=key, headers=headers) for key, body, headers in again]
        except KafkaError:
            return  # Who floods does not mind.
        await asyncio.gather(*sent, return_exceptions=True)
        self.flooded += len(again)

    def _headers(self, sale: SaleReported) -> list[tuple[str, bytes]]:
        return Envelope(
            id=str(uuid.uuid4()),
            type=CATALOGUE.of(sale).name,
            source="saldo/channels",
            time=datetime.now(UTC),
            subject=sale.order_id,
            tenant=self.tenant,
            correlation_id=sale.order_id,
        ).to_headers()

    async def _until_taken(self, producer: AIOKafkaProducer, key: bytes, body: bytes, headers: Any) -> None:
        while True:
            try:
                await producer.send_and_wait(SALES.name, body, key=key, headers=headers)
                return
            except KafkaError:
                await asyncio.sleep(AGAIN_S)


def spoilt_orders(records: Sequence[Record], tenant: str) -> set[str]:
    """Our ids of the orders that have a record which nobody can read."""
    return {order_id(tenant, record.order) for record in records if record.spoilt}
