"""Records that cannot be handled: each a dead letter with its cause, its aggregate waits in order, all else flows."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from contracts.catalogue import CATALOGUE
from contracts.channels.v1 import SaleLine, SaleReported, SaleStatus
from contracts.envelope import Envelope
from tests.flow.company import Company, Opener, System, plan, until

SALES = "channels.sales.v1"
Headers = list[tuple[str, bytes | None]]


def sale(company: Company, external_id: str, revision: int = 1, **changes: Any) -> SaleReported:
    """A sale of one cup as channels reports it."""
    shop = company.shops[0]
    now = datetime.now(UTC)
    told: dict[str, Any] = {
        "connection_id": shop.connection_id,
        "external_id": external_id,
        "order_id": company.order_id(shop, external_id),
        "revision": revision,
        "status": SaleStatus.PAID,
        "sold_at": now,
        "received_at": now,
        "customer_ref": "c",
        "currency": "BRL",
        "lines": (SaleLine(line_id="1", sku="CUP", quantity=1, listing="l", stock_record="r"),),
    }
    return SaleReported(**told | changes)


def headers(company: Company, message: SaleReported, *, type_: str = "") -> Headers:
    """The headers of a good record."""
    envelope = Envelope(
        id=str(uuid.uuid4()),
        type=type_ or CATALOGUE.of(message).name,
        source="saldo/channels",
        time=datetime.now(UTC),
        subject=message.order_id,
        tenant=company.tenant,
        correlation_id=message.order_id,
    )
    return list(envelope.to_headers())


async def put(company: Company, records: Sequence[tuple[SaleReported, bytes, Headers]]) -> None:
    """Put records on the stream of sales, keyed by their order, with a producer that checks nothing."""
    producer = AIOKafkaProducer(bootstrap_servers=company.system.endpoints.kafka, acks="all")
    await producer.start()
    try:
        for message, body, given in records:
            key = f"{company.tenant}:{message.order_id}".encode()
            await producer.send_and_wait(SALES, body, key=key, headers=given)
    finally:
        await producer.stop()


async def put_good(company: Company, *messages: SaleReported) -> None:
    """Put good records."""
    await put(company, [(one, one.model_dump_json().encode(), headers(company, one)) for one in messages])


async def facts(company: Company, stream: str, order_id: str) -> list[tuple[str, dict[str, Any]]]:
    """What is on a stream about an order: (type, body), each event once, in its order."""
    partitions = [TopicPartition(stream, number) for number in range(CATALOGUE.streams[stream].partitions)]
    consumer = AIOKafkaConsumer(bootstrap_servers=company.system.endpoints.kafka, enable_auto_commit=False)
    await consumer.start()
    found: dict[bytes, tuple[str, dict[str, Any]]] = {}
    try:
        consumer.assign(partitions)
        await consumer.seek_to_beginning(*partitions)
        ends = await consumer.end_offsets(partitions)
        while any([await consumer.position(one) < end for one, end in ends.items()]):
            for records in (await consumer.getmany(timeout_ms=100)).values():
                for record in records:
                    if record.key == f"{company.tenant}:{order_id}".encode():
                        given = dict(record.headers)
                        found.setdefault(given["ce_id"], (given["ce_type"].decode(), json.loads(record.value)))
    finally:
        await consumer.stop()
    return list(found.values())


async def letters(company: Company) -> dict[str, dict[str, Any]]:
    """Open dead letters of orders by the order they park; those that park nothing under their type."""
    listed = await company.get("orders", "deadletters", tenant=None, state="open", limit=1000)
    ours = [one for one in listed if company.tenant in (one["key"] or "")]
    return {(one["aggregate"] or one["type"]).rpartition(":")[2]: one for one in ours}


async def saldo(company: Company, *arguments: str, code: int = 0) -> str:
    """The command, beside this loop."""
    return await asyncio.to_thread(lambda: company.saldo(*arguments, code=code))


@pytest.mark.asyncio
async def test_poison_parks_its_own_order_and_stops_nothing_else(open_company: Opener, system: System) -> None:
    company = await open_company(plan(CUP=100), {"azul": "shopify", "norte": "skyhub"})
    azul, _ = company.shops
    names = ("null-header", "latin-header", "broken", "shapeless", "foreign", "unknown")
    poison = {name: sale(company, name) for name in names}
    before = system.metrics("orders")

    def record(name: str, body: bytes | None = None, given: Headers | None = None) -> tuple[Any, bytes, Headers]:
        message = poison[name]
        return message, body or message.model_dump_json().encode(), given or headers(company, message)

    foreign = headers(company, poison["foreign"], type_="saldo.inventory.item_changed.v1")
    unknown = headers(company, poison["unknown"], type_="saldo.channels.sale_weighed.v1")
    good = [sale(company, f"good-{number}") for number in range(6)]
    bad = [
        record("null-header", given=[*headers(company, poison["null-header"]), ("x-note", None)]),
        record("latin-header", given=[*headers(company, poison["latin-header"]), ("x-note", "ação".encode("latin-1"))]),
        record("broken", body=b'{"order_id": '),
        record("shapeless", body=b'{"order_id": 17, "lines": "none"}'),
        record("foreign", given=foreign),
        record("unknown", given=unknown),
    ]
    mixed = [(one, one.model_dump_json().encode(), headers(company, one)) for one in good]
    await put(company, [each for pair in zip(mixed, bad, strict=True) for each in pair])

    # All else flows: the good ones among them, and a sale that comes in by the door.
    for message in good:
        await company.until_order(azul, message.external_id, state="confirmed")
    sold = await azul.buy({"CUP": 1})
    await company.until_order(azul, sold, state="confirmed")

    found = await until(lambda: letters(company), lambda found: len(found) == 5, "five dead letters")
    by_name = {name: found.get(poison[name].order_id) for name in names}
    assert by_name["unknown"] is None, "an addition of the stream's owner became a dead letter"
    assert by_name["foreign"] is None, "a foreign type parked somebody's order"
    assert "foreign type" in found["saldo.inventory.item_changed.v1"]["error"]
    causes = {name: letter["error"] for name, letter in by_name.items() if letter}
    assert "x-note is null" in causes["null-header"]
    assert "x-note is not UTF-8" in causes["latin-header"]
    assert set(causes) == {"null-header", "latin-header", "broken", "shapeless"}
    assert all(causes.values())
    skipped = f'saldo_records_total{{outcome="skipped",stream="{SALES}"}}'
    assert system.metrics("orders")[skipped] == before.get(skipped, 0) + 1

    # What follows for a parked order waits; the orders of the foreign and the unknown record are not parked.
    for name in names:
        await put_good(company, sale(company, name, 2))
    for name in ("foreign", "unknown"):
        await company.until_order(azul, name, state="confirmed")
    last = sale(company, "after-all")
    await put_good(company, last)
    await company.until_order(azul, last.external_id, state="confirmed")
    assert all([await company.order(azul, name) is None for name in causes]), "an event overtook its dead letter"

    # Replaying what cannot be read fails and keeps everything; giving it up lets the waiting event through.
    for name, letter in by_name.items():
        if letter:
            assert "the replay failed" in await saldo(company, "deadletters", "replay", letter["id"], code=1)
            assert await company.order(azul, name) is None
            await saldo(company, "deadletters", "discard", letter["id"], "--author", "ana", "--reason", "again as 2")
            assert (await company.until_order(azul, name, state="confirmed"))["sale_revision"] == 2
    (left,) = (await letters(company)).values()
    await saldo(company, "deadletters", "discard", left["id"], "--author", "ana", "--reason", "foreign")
    # Six good ones, one by the door, one after all, four that waited, and the two that were never parked.
    await company.until_shown({"CUP": 86})
    await company.assert_conserved()


@pytest.mark.asyncio
async def test_a_replay_after_the_fix_drains_in_order(open_company: Opener, system: System) -> None:
    company = await open_company(plan(CUP=100), {"azul": "shopify", "norte": "skyhub"})
    azul, _ = company.shops
    placed = sale(company, "parked", 1, status=SaleStatus.AWAITING_PAYMENT)
    paid = sale(company, "parked", 2)
    line = placed.lines[0].model_copy(update={"cancelled": 1})
    cancelled = sale(company, "parked", 3, status=SaleStatus.CANCELLED, lines=(line,))
    order_id = placed.order_id
    async with _fault(system, order_id):
        await put_good(company, placed)
        letter = (await until(lambda: letters(company), bool, "the dead letter"))[order_id]
        assert "out of order for a test" in letter["error"]
        await put_good(company, paid, cancelled, sale(company, "other"))
        await company.until_order(azul, "other", state="confirmed")
        assert "the replay failed" in await saldo(company, "deadletters", "replay", letter["id"], code=1)
        assert await company.order(azul, "parked") is None
    assert "2" in await saldo(company, "deadletters", "replay", letter["id"], "--json")
    assert not await letters(company)
    order = await company.until_order(azul, "parked", state="cancelled")
    assert order["sale_revision"] == 3
    demands = [body["sale_revision"] for _, body in await facts(company, "inventory.commands.v1", order_id)]
    assert demands == sorted(demands)
    assert (demands[0], demands[-1]) == (1, 3), "the events that waited were not handled one by one, oldest first"
    await company.until_shown({"CUP": 99})
    await company.assert_conserved()


@asynccontextmanager
async def _fault(system: System, order_id: str) -> AsyncIterator[None]:
    """A fault that strikes one order only, as a bug would: its row cannot be written until it is mended."""
    connection = await asyncpg.connect(system.endpoints.dsns["orders"])
    try:
        await connection.execute(
            "CREATE FUNCTION test_fault() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            f"IF NEW.order_id = '{order_id}' THEN RAISE EXCEPTION 'out of order for a test'; END IF; "
            "RETURN NEW; END $$"
        )
        await connection.execute(
            "CREATE TRIGGER test_fault BEFORE INSERT OR UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION test_fault()"
        )
        try:
            yield
        finally:
            await connection.execute("DROP FUNCTION test_fault CASCADE")
    finally:
        await connection.close()
