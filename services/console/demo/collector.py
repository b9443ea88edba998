"""Listens to what the services say publicly, and reads the sandboxes' books: the evidence of a run."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aiokafka import AIOKafkaConsumer, ConsumerRecord, TopicPartition
from pydantic import ValidationError

from contracts.catalogue import (
    CATALOGUE,
    CUSTOMERS,
    DOCUMENTS,
    LEVELS,
    LISTINGS,
    MOVEMENTS,
    ORDERS,
    PAYMENTS,
    RESERVATIONS,
    SALES,
    SHIPMENTS,
)
from contracts.channels.v1 import StockPushed
from contracts.envelope import Envelope, EnvelopeInvalid, Message
from services.console.demo.evidence import Channel, Evidence, Heard, Plan, ShopBooks, read_books
from services.console.demo.journeys import Journeys
from services.console.demo.path import Carried, Taken, read_carrier, read_gateway
from services.runtime.kafka_client import mend_client
from services.sandbox.client import SandboxClient

STREAMS = tuple(
    stream.name
    for stream in (
        SALES, RESERVATIONS, LEVELS, MOVEMENTS, LISTINGS, ORDERS, PAYMENTS, SHIPMENTS, DOCUMENTS, CUSTOMERS
    )
)  # fmt: skip
RECENT = 5000


@dataclass(slots=True)
class Collector:
    """Reads the public streams from their beginning with a plain consumer that belongs to no group."""

    bootstrap: str
    tenant: str
    heard: Heard = field(default_factory=Heard)
    journeys: Journeys = field(default_factory=Journeys)
    recent_ms: dict[str, deque[float]] = field(default_factory=dict)
    _task: asyncio.Task[None] | None = None
    _consumer: Any = None

    async def start(self) -> None:
        """Begin to listen."""
        # Nobody waits for what is only looked at; an answer for each record would cost broker and reader a good part of
        # a core.
        mend_client()
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.bootstrap,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            fetch_min_bytes=1 << 20,
            fetch_max_wait_ms=250,
        )
        await consumer.start()
        partitions = [
            TopicPartition(stream, partition)
            for stream in STREAMS
            for partition in range(CATALOGUE.streams[stream].partitions)
        ]
        consumer.assign(partitions)
        await consumer.seek_to_beginning(*partitions)
        self._consumer = consumer
        self._task = asyncio.create_task(self._listen(), name="collector")

    async def stop(self) -> None:
        """Stop listening."""
        if self._task:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self._consumer:
            await self._consumer.stop()

    async def caught_up(self) -> None:
        """Return when everything that was on the streams at the call has been read."""
        ends = await self._consumer.end_offsets(list(self._consumer.assignment()))
        while True:
            if self._task and self._task.done():
                self._task.result()
            positions = [(await self._consumer.position(partition)) >= end for partition, end in ends.items()]
            if all(positions):
                return
            await asyncio.sleep(0.02)

    async def _listen(self) -> None:
        while True:
            batches = await self._consumer.getmany(timeout_ms=200, max_records=2000)
            for records in batches.values():
                for record in records:
                    self._take(record)

    def _take(self, record: "ConsumerRecord[bytes, bytes]") -> None:
        read = read_record(record)
        if read is None:
            return
        envelope, message = read
        if envelope.tenant != self.tenant or not self.heard.add(envelope, message):
            return
        self.journeys.add(message)
        if isinstance(message, StockPushed):
            recent = self.recent_ms.setdefault(message.connection_id, deque(maxlen=RECENT))
            for cause in message.causes:
                # A later revision may be a cancel, whose news is younger than the sale.
                if cause.connection_id != message.connection_id and cause.sale_revision == 1:
                    recent.append((message.accepted_at - cause.sold_at).total_seconds() * 1000)


def read_record(record: Any) -> tuple[Envelope, Message] | None:
    """A record as envelope and body, tolerant of anything: what is no message of the catalogue is no evidence."""
    try:
        headers = {name: value.decode() for name, value in record.headers if value is not None}
        envelope = Envelope.from_headers(headers)
        entry = CATALOGUE.by_name[envelope.type]
        return envelope, entry.model.model_validate_json(record.value, extra="ignore")
    except (EnvelopeInvalid, UnicodeDecodeError, KeyError, ValidationError):
        return None


@dataclass(slots=True)
class BookReader:
    """Reads each sandbox's books page by page; every row is fetched once."""

    sandboxes: Mapping[str, SandboxClient]
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    async def read(self) -> None:
        """Fetch what was written since the last time."""
        for marketplace, sandbox in self.sandboxes.items():
            known = self.rows.setdefault(marketplace, [])
            async for row in sandbox.books(since=known[-1]["id"] if known else 0):
                known.append(row)

    def evidence(self, plan: Plan, channels: Sequence[Channel], heard: Heard) -> Evidence:
        """The books and what was heard, put together."""
        markets = {channel.marketplace for channel in channels}
        shops = {marketplace: read_books(rows) for marketplace, rows in self.rows.items() if marketplace in markets}
        books = {
            channel.connection_id: shops[channel.marketplace].get(channel.shop, ShopBooks()) for channel in channels
        }
        return Evidence(plan, channels, books, heard)

    def outside(self, account: str) -> tuple[dict[str, Taken], Carried]:
        """The books of the gateway and of the carrier about one account."""

        def of(sandbox: str) -> list[dict[str, Any]]:
            return [row for row in self.rows.get(sandbox, []) if row["shop"] == account]

        return read_gateway(of("gateway")), read_carrier(of("carrier"))

    def told(self, channels: Sequence[Channel]) -> list[tuple[str, str, str, int]]:
        """(connection, external id, step, milliseconds) of what channels were told of orders."""
        names = {(channel.marketplace, channel.shop): channel.connection_id for channel in channels}
        return [
            (names[marketplace, row["shop"]], str(row["order_id"]), row["step"], row["at_ms"])
            for marketplace, rows in self.rows.items()
            for row in rows
            if row["kind"] == "told" and (marketplace, row["shop"]) in names
        ]

    def paid(self, channels: Sequence[Channel]) -> dict[tuple[str, str], int]:
        """When each order was paid, milliseconds, by (connection, external id)."""
        names = {(channel.marketplace, channel.shop): channel.connection_id for channel in channels}
        return {
            (names[marketplace, row["shop"]], str(row["order_id"])): row["at_ms"]
            for marketplace, rows in self.rows.items()
            for row in rows
            if row["kind"] == "payment" and (marketplace, row["shop"]) in names
        }


async def settle(
    collector: Collector,
    reader: BookReader,
    is_settled: Callable[[Evidence], bool],
    plan: Plan,
    channels: Sequence[Channel],
    timeout_s: float,
) -> Evidence:
    """Wait until all is settled, at most `timeout_s`; returns the evidence as it is then."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while True:
        await collector.caught_up()
        await reader.read()
        looked = loop.time()
        evidence = reader.evidence(plan, channels, collector.heard)
        if is_settled(evidence):
            # Pushes are reported after they were accepted: give the last reports their way through the outbox.
            await asyncio.sleep(1.0)
            await collector.caught_up()
            await reader.read()
            evidence = reader.evidence(plan, channels, collector.heard)
            if is_settled(evidence):
                return evidence
        if loop.time() > deadline:
            return evidence
        # A look at much has the loop to itself: what else runs in it gets as long.
        await asyncio.sleep(max(0.5, loop.time() - looked))
