"""A service of somebody else, without a line of Saldo's bus: it suggests buying what runs low. Its vices are chosen."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from enum import StrEnum

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from contracts.catalogue import CATALOGUE

LEVELS = "inventory.levels.v1"
KNOWN = "saldo.inventory.stock-level-changed.v1"


class Vice(StrEnum):
    """What it does wrong."""

    NONE = "none"
    STALLS = "stands still at what it cannot read"
    DOUBLES = "takes an event again for a new one"
    UNTRACED = "drops the trace"
    FORGETFUL = "loses what came in one batch with what it cannot read"
    BACKWARD = "takes an older version after a newer one"
    STRICT = "stops at fields that it does not know"
    ECHOES = "hands broken traces on"
    CARELESS = "publishes the head of a message without type and time"


class Outsider:
    """Consumes levels, publishes `<name>.suggestions.v1`; keeps all it knows in memory."""

    def __init__(self, name: str, vice: Vice) -> None:
        self.name, self.vice = name, vice
        self.seen: set[tuple[str, str]] = set()
        self.versions: dict[str, tuple[int, int]] = {}
        self.put_aside: list[str] = []
        self.reads = asyncio.Event()
        """Set once it knows where it begins: what is put on its stream from then on reaches it."""

    async def run(self, bootstrap: str) -> None:
        consumer = AIOKafkaConsumer(
            LEVELS, bootstrap_servers=bootstrap, group_id=f"{self.name}.{LEVELS}", enable_auto_commit=False,
            auto_offset_reset="latest",
        )  # fmt: skip
        producer = AIOKafkaProducer(bootstrap_servers=bootstrap, enable_idempotence=True)
        await consumer.start()
        await producer.start()
        try:
            while not consumer.assignment():  # noqa: ASYNC110 - the client has no event for it
                await asyncio.sleep(0.05)
            for partition in consumer.assignment():
                await consumer.position(partition)
            self.reads.set()
            while True:
                for records in (await consumer.getmany(timeout_ms=100)).values():
                    await self.take(records, producer)
                await consumer.commit()
        finally:
            await producer.stop()
            await consumer.stop()

    async def take(self, records, producer: AIOKafkaProducer) -> None:
        if self.vice is Vice.FORGETFUL and any(self.read(record) is None for record in records):
            return
        for record in records:
            level = self.read(record)
            if level is None:
                if self.vice is Vice.STALLS:
                    await asyncio.Event().wait()
                self.put_aside.append(f"{record.partition}/{record.offset}")
            elif level:
                await self.suggest(level, producer)

    def read(self, record) -> dict | None:
        """The level with its head, {} where there is nothing to do, None where it cannot be read."""
        try:
            head = {name: value.decode() for name, value in record.headers}
            if record.key is None or not head["ce_id"]:
                return None
            key = record.key.decode()
            datetime.fromisoformat(head["ce_time"])
            if head["ce_type"] != KNOWN:
                return {}
            body = json.loads(record.value)
            if self.vice is Vice.STRICT and "x_added_later" in body:
                return None
            place = int(body["epoch"]), int(body["version"])
            return {"key": key, "head": head, "sku": body["sku"], "available": int(body["available"]), "at": place}
        except (ValueError, KeyError, TypeError, AttributeError):
            return None

    async def suggest(self, level: dict, producer: AIOKafkaProducer) -> None:
        head, key = level["head"], level["key"]
        event = head["ce_source"], head["ce_id"]
        known = self.versions.get(key, (-1, -1))
        outdated = known > level["at"] if self.vice is Vice.DOUBLES else known >= level["at"]
        if self.vice is not Vice.DOUBLES and event in self.seen:
            return
        if outdated and self.vice is not Vice.BACKWARD:
            return
        self.seen.add(event)
        self.versions[key] = level["at"]
        if level["available"] > 10:
            return
        told = {
            "ce_specversion": "1.0", "ce_id": str(uuid.uuid4()), "ce_source": f"urn:{self.name}",
            "ce_type": f"saldo.{self.name}.reorder-suggested.v1", "ce_time": datetime.now(UTC).isoformat(),
            "ce_tenant": head["ce_tenant"], "ce_correlationid": head["ce_correlationid"],
            "ce_causationid": head["ce_id"], "content-type": "application/json",
        }  # fmt: skip
        trace = head.get("traceparent", "")
        intact = len(trace) == 55 and trace.startswith("00-") and set(trace[3:35]) <= set("0123456789abcdef")
        if self.vice is not Vice.UNTRACED and ((intact and trace[3:35] != "0" * 32) or self.vice is Vice.ECHOES):
            told["traceparent"] = trace
        if self.vice is Vice.CARELESS:
            del told["ce_type"], told["ce_time"]
        await producer.send_and_wait(
            f"{self.name}.suggestions.v1", json.dumps({"sku": level["sku"]}).encode(), key=key.encode(),
            headers=[(name, value.encode()) for name, value in told.items()],
        )  # fmt: skip


@asynccontextmanager
async def running(name: str, vice: Vice, bootstrap: str) -> AsyncIterator[Outsider]:
    """The service at work; it ends with the block."""
    service = Outsider(name, vice)
    task = asyncio.create_task(service.run(bootstrap))
    try:
        yield service
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def empty(bootstrap: str, *streams: str) -> None:
    """Throw away what lies on `streams`: whoever reads them next from the beginning has not asked for poison."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        places = [TopicPartition(name, n) for name in streams for n in range(CATALOGUE.streams[name].partitions)]
        await admin.delete_records(dict.fromkeys(places, RecordsToDelete(before_offset=-1)))
    finally:
        await admin.close()
