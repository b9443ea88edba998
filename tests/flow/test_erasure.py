"""A buyer who is erased is nowhere any more: not on a topic, in a table, a log or a span, nor waiting to be handled.

What the law keeps is kept: the invoice of his order, sealed, listed with its reason and its end.
"""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from typing import Any

import asyncpg
import httpx
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete

from contracts.catalogue import CATALOGUE
from contracts.envelope import Envelope
from services.bus.outbox import unpack
from services.sandbox.buyers import buyer
from tests.erp.given import TAX_ID, key, xml
from tests.flow.company import Company, Opener, Shop, System, plan, until

SEED = 912_345_678
HE = buyer(SEED)
MARKS = tuple(
    mark.encode()
    for mark in (
        str(SEED),  # In his name and his e-mail.
        HE.email,
        HE.document,
        f"{HE.document[:3]}.{HE.document[3:6]}.{HE.document[6:9]}-{HE.document[9:]}",
        "90000-5678",
        "900005678",
        f"{HE.street}, {HE.street_number}",
        HE.postcode,
    )
)
BUYERS = CATALOGUE.streams["channels.buyers.v1"].name
READERS = CATALOGUE.streams[BUYERS].readers


def marks_in(data: bytes) -> list[str]:
    """What of him is in `data`, in plain text or as PostgreSQL shows bytes."""
    return [mark.decode() for mark in MARKS if mark in data or mark.hex().encode() in data]


async def records(system: System) -> AsyncIterator[tuple[str, bytes]]:
    """Every record of every topic from the beginning: its topic, and key, headers and body as one."""
    consumer = AIOKafkaConsumer(bootstrap_servers=system.endpoints.kafka, enable_auto_commit=False)
    admin = AIOKafkaAdminClient(bootstrap_servers=system.endpoints.kafka)
    await consumer.start()
    await admin.start()
    try:
        places = [
            TopicPartition(topic["topic"], partition["partition"])
            for topic in await admin.describe_topics()
            for partition in topic["partitions"]
        ]
        assert {place.topic for place in places} >= set(CATALOGUE.streams)
        consumer.assign(places)
        await consumer.seek_to_beginning(*places)
        ends = await consumer.end_offsets(places)
        while any([await consumer.position(place) < end for place, end in ends.items()]):
            for place, batch in (await consumer.getmany(timeout_ms=200)).items():
                for record in batch:
                    headers = b"\0".join(name.encode() + b"\0" + value for name, value in record.headers)
                    yield place.topic, b"\0".join((record.key or b"", headers, record.value or b""))
    finally:
        await admin.close()
        await consumer.stop()


async def on_topics(system: System) -> dict[str, list[str]]:
    """What of him is on topics, by topic."""
    found: dict[str, list[str]] = {}
    async for topic, data in records(system):
        if marks := marks_in(data):
            found[topic] = marks
    return found


async def in_tables(system: System) -> tuple[dict[str, list[str]], int]:
    """What of him is in tables, by database and table, and how many tables were searched."""
    found: dict[str, list[str]] = {}
    searched = 0
    for database, dsn in system.endpoints.verify_dsns.items():
        connection = await asyncpg.connect(dsn)
        try:
            tables = await connection.fetch(
                "SELECT format('%I.%I', schemaname, tablename) AS name FROM pg_tables "
                "WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
            )
            for (table,) in tables:
                searched += 1
                rows = await connection.fetch(f"SELECT t::text AS shown FROM {table} t")
                if marks := marks_in("\n".join(row["shown"] for row in rows).encode()):
                    found[f"{database}.{table}"] = marks
            for outbox in ("outbox", "outbox_sent"):
                # What is sent, or about to be, is packed.
                for row in await connection.fetch(f"SELECT records FROM {outbox}"):
                    for name, headers, body in unpack(row["records"]):
                        if marks := marks_in(b"\0".join((name, *(value for _, value in headers), body))):
                            found[f"{database}.{outbox}"] = marks
        finally:
            await connection.close()
    return found, searched


def in_files(system: System) -> tuple[dict[str, list[str]], int]:
    """What of him is in logs and spans, and how many files were searched. Sandboxes stand for the world outside."""
    files = [
        path
        for name in ("log", "spans")
        for path in sorted((system.folder / name).rglob("*"))
        if path.is_file() and not path.name.startswith("sandbox")
    ]
    return {str(path): marks for path in files if (marks := marks_in(path.read_bytes()))}, len(files)


async def sealed(system: System, order_ids: list[str]) -> dict[str, int]:
    """Sealed values of these orders by table: in any table that names an order and holds bytes."""
    found: dict[str, int] = {}
    for database, dsn in system.endpoints.verify_dsns.items():
        connection = await asyncpg.connect(dsn)
        try:
            columns = await connection.fetch(
                """
                SELECT b.table_name, b.column_name,
                    (SELECT column_name FROM information_schema.columns o WHERE o.table_name = b.table_name
                     AND o.column_name IN ('order_id', 'correlation_id') ORDER BY column_name DESC LIMIT 1) AS named
                FROM information_schema.columns b JOIN information_schema.tables USING (table_schema, table_name)
                WHERE b.table_schema = 'public' AND b.data_type = 'bytea' AND b.column_name NOT LIKE '%digest'
                    AND table_type = 'BASE TABLE'
                """
            )
            for table, column, named in columns:
                if named is None:
                    continue
                count = await connection.fetchval(
                    f"SELECT count({column}) FROM {table} WHERE {named} = ANY($1::text[])",
                    order_ids,
                )
                if count:
                    found[f"{database}.{table}"] = count
        finally:
            await connection.close()
    return found


async def put_poison(company: Company, order_id: str, customer_ref: str) -> None:
    """A report of him that nobody can handle, and one that waits behind it."""
    good = {"customer_ref": customer_ref, "order_id": order_id, "name": HE.name, "emails": [HE.email]}
    producer = AIOKafkaProducer(bootstrap_servers=company.system.endpoints.kafka, acks="all")
    await producer.start()
    try:
        for body in (good | {"emails": 7, "document": HE.document}, good | {"document": HE.document}):
            envelope = Envelope(
                id=str(uuid.uuid4()), type="saldo.channels.buyer-reported.v1", source="saldo/channels",
                time=datetime.now(UTC), subject=customer_ref, tenant=company.tenant, correlation_id=order_id,
            )  # fmt: skip
            await producer.send_and_wait(
                BUYERS, json.dumps(body).encode(), key=f"{company.tenant}:{customer_ref}".encode(),
                headers=list(envelope.to_headers()),
            )  # fmt: skip
    finally:
        await producer.stop()


async def waiting(system: System, order_id: str) -> dict[str, tuple[int, int]]:
    """Dead letters and parked records of an order's buyer that still hold a record, by reader of the stream."""
    found = {}
    for service in READERS:
        connection = await asyncpg.connect(system.endpoints.verify_dsns[service])
        try:
            found[service] = tuple(
                await connection.fetchrow(
                    "SELECT (SELECT count(record) FROM dead_letters WHERE correlation_id = $1), "
                    "(SELECT count(*) FROM parked WHERE correlation_id = $1)",
                    order_id,
                )
            )
        finally:
            await connection.close()
    return found


async def end_retention(system: System) -> None:
    """What Kafka does with the personal topic after its 72 hours, done now."""
    consumer = AIOKafkaConsumer(bootstrap_servers=system.endpoints.kafka, enable_auto_commit=False)
    admin = AIOKafkaAdminClient(bootstrap_servers=system.endpoints.kafka)
    await consumer.start()
    await admin.start()
    try:
        places = [TopicPartition(BUYERS, number) for number in range(CATALOGUE.streams[BUYERS].partitions)]
        ends = await consumer.end_offsets(places)
        await admin.delete_records({place: RecordsToDelete(before_offset=end) for place, end in ends.items()})
    finally:
        await admin.close()
        await consumer.stop()


async def customer(company: Company) -> dict[str, Any]:
    """He as crm knows him."""
    return dict(await company.post("crm", "customers/show", {"identity": HE.document}))


async def two_orders(company: Company) -> list[tuple[Shop, str]]:
    """He buys in both shops, and crm knows that it was he."""
    bought = []
    for shop in company.shops:
        told = await shop.sandbox.buy(shop.name, {"CUP": 1}, buyer=SEED)
        bought.append((shop, str(told["order_id"])))
    for shop, external_id in bought:
        await company.until_order(shop, external_id)

    async def known() -> Mapping[str, Any]:
        try:
            return await customer(company)
        except Exception:  # noqa: BLE001 - not yet
            return {"reports": []}

    await until(known, lambda told: {one["order_id"] for one in told["reports"]} == ids(company, bought), "his orders")
    return bought


def ids(company: Company, bought: list[tuple[Shop, str]]) -> set[str]:
    return {company.order_id(shop, external_id) for shop, external_id in bought}


async def give_invoice(company: Company, order_id: str) -> str:
    """The order's invoice, which names him; returns the document's id."""
    now = datetime.now(UTC)
    await company.post("erp", "companies", {"tax_id": TAX_ID})
    sums = await company.get("erp", "journal", limit=1000)
    mine = [row for row in sums["rows"] if (row["order_id"], row["kind"]) == (order_id, "sale")]
    due_minor = sum(row["amount_minor"] for row in mine)
    document = xml(
        key(yymm=f"{now:%y%m}"), total=f"{due_minor // 100}.{due_minor % 100:02}", issued=now.isoformat("T", "seconds")
    ).replace("A Buyer", HE.name)
    told = await company.post("erp", "invoices", {"order_id": order_id, "xml": document})
    return str(told["document_id"])


async def read_invoice(company: Company, document_id: str) -> str:
    address = company.system.endpoints.admin["erp"]
    async with httpx.AsyncClient(trust_env=False) as http:
        answer = await http.get(
            f"{address.base_url}/admin/invoices/{document_id}/xml", params={"tenant": company.tenant},
            headers={"authorization": f"Bearer {address.token}"},
        )  # fmt: skip
    answer.raise_for_status()
    return answer.text


@pytest.mark.timeout(400)
@pytest.mark.asyncio
async def test_who_is_erased_is_nowhere_but_where_the_law_keeps_him(open_company: Opener, system: System) -> None:
    company = await open_company(plan(CUP=50), {"azul": "shopify", "norte": "skyhub"})
    bought = await two_orders(company)
    order_ids = sorted(ids(company, bought))
    (azul, invoiced), _ = bought
    invoiced_id = company.order_id(azul, invoiced)
    await until(
        lambda: company.get("erp", "journal", limit=1000),
        lambda told: any(row["order_id"] == invoiced_id for row in told["rows"]),
        "the sale in the journal",
    )
    document_id = await give_invoice(company, invoiced_id)
    for shop, external_id in bought:
        await shop.sandbox.cancel(shop.name, external_id)
    for shop, external_id in bought:
        await company.until_order(shop, external_id, state="cancelled")
    told = await customer(company)
    await put_poison(company, invoiced_id, told["references"][0]["customer_ref"])
    await until(
        lambda: waiting(system, invoiced_id),
        lambda found: all(one == (1, 1) for one in found.values()),
        "a dead letter and one that waits, at each reader",
    )
    # The search finds him where he is: what it does not find afterwards is not there.
    assert set(await on_topics(system)) == {BUYERS}
    before = await sealed(system, order_ids)
    assert {"channels.buyers", "channels.intake", "crm.orders", "erp.documents", "fulfillment.buyers"} <= set(before)

    erased = json.loads(await asyncio.to_thread(company.saldo, "customer", "erase", HE.document, "--yes", "--json"))

    assert sorted(erased["order_ids"]) == order_ids
    kept = [record for record in erased["kept"] if record["kind"] == "invoice"]
    assert [(record["reference"], record["reason"]) for record in kept] == [(document_id, "fiscal_br")]
    assert kept[0]["until"] == f"{datetime.now(UTC).year + 5}-12-31T23:59:59Z"
    await until(
        lambda: sealed(system, order_ids),
        lambda found: found == {"erp.documents": 1},
        "nothing sealed of him but his invoice",
    )
    await end_retention(system)
    assert await waiting(system, invoiced_id) == dict.fromkeys(READERS, (0, 0))
    assert await on_topics(system) == {}
    found, tables = await in_tables(system)
    assert found == {}
    assert tables > 50
    found, files = in_files(system)
    assert found == {}
    assert files >= 2 * len(system.endpoints.verify_dsns)
    assert HE.name in await read_invoice(company, document_id)
    assert "no customer is known" in await asyncio.to_thread(company.saldo, "customer", "show", HE.document, code=1)
