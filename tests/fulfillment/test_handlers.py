"""Handlers on a real PostgreSQL: what a batch leaves behind, and what the tables refuse."""

import asyncio
from datetime import timedelta
from functools import partial
from typing import Any, get_args

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contracts.channels.v1 import ResendBuyer
from contracts.crm.v1 import CustomerErased
from contracts.envelope import Message
from contracts.fulfillment.v1 import ChangeAddress
from contracts.inventory.v1 import Component, ItemChanged
from services.fulfillment import store
from services.fulfillment.domain import Buying, Dispatched, Event, LabelMade, Picked, State
from services.fulfillment.handlers import ask_for_buyers, name, open_desk
from services.fulfillment.mapping import NameMapping
from services.fulfillment.packing import Box
from tests.fulfillment.bench import SETTINGS, VAULT, Connection, hear, known, received, within
from tests.fulfillment.given import LABEL, NOW, ORDER, PACKED, SHIPMENT, buyer, cancel, prepare

SENT = (Picked(), PACKED, Buying(), LABEL, Dispatched(NOW))
AUTO = SETTINGS.model_copy(update={"auto_pack": True})
DATABASE = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


def kinds(messages: list[Message]) -> list[str]:
    return [type(message).__name__ for message in messages]


async def buyer_row(connection: Connection, order_id: str = ORDER) -> Any:
    return await connection.fetchrow("SELECT * FROM buyers WHERE order_id = $1", order_id)


@pytest.mark.asyncio
@pytest.mark.parametrize("buyer_first", [True, False])
async def test_a_command_and_its_buyer_meet_in_either_order(connection: Connection, buyer_first: bool) -> None:
    for message in (buyer(), prepare()) if buyer_first else (prepare(), buyer()):
        await hear(connection, message)

    assert (await known(connection)).state == "to_pick"


@pytest.mark.asyncio
async def test_a_command_and_its_buyer_at_once_meet(connection: Connection, database: str) -> None:
    other = await asyncpg.connect(database)
    try:
        for number in range(20):
            order, one = f"order-{number}", f"order-{number}:s1"
            command = prepare(order_id=order, shipment_id=one)
            await asyncio.gather(hear(connection, command), hear(other, buyer(order)))
            assert (await known(connection, "acme", order, one)).state == "to_pick"
    finally:
        await other.close()


@pytest.mark.asyncio
async def test_what_is_packed_by_itself_weighs_what_its_parts_weigh(connection: Connection) -> None:
    parts = (Component(sku="CUP", quantity=2), Component(sku="X", quantity=1))
    kit = ItemChanged(sku="MUG", version=1, name="Two mugs", components=parts)
    cup = ItemChanged(sku="CUP", version=2, name="Cup", weight_g=250, dimensions_mm=(100, 80, 80))
    old = ItemChanged(sku="CUP", version=1, name="Cup", weight_g=9)
    await hear(connection, kit, cup, old)
    await hear(connection, old)
    boxes = (Box("S", (100, 100, 100)), Box("L", (400, 300, 300), weight_g=100))
    settings = AUTO.model_copy(update={"boxes": boxes})

    await hear(connection, buyer(), settings=settings)
    [fact] = await hear(connection, prepare(), settings=settings)

    assert fact.weight_g == 2 * (2 * 250 + 300) + 100  # type: ignore[attr-defined]
    assert (await known(connection)).awaits_label


@pytest.mark.asyncio
@pytest.mark.rule(30)
async def test_a_missing_buyer_is_asked_for_after_a_while_and_again_until_it_is_there(connection: Connection) -> None:
    await hear(connection, prepare())

    async def asked(after_s: float) -> list[Message]:
        return await within(connection, partial(ask_for_buyers, settings=SETTINGS), NOW + timedelta(seconds=after_s))

    assert await asked(4) == []
    assert await asked(6) == [ResendBuyer(order_id=ORDER)]
    assert await asked(7) == []
    assert await asked(67) == [ResendBuyer(order_id=ORDER)]
    await hear(connection, buyer())
    assert await asked(10_000) == []


@pytest.mark.asyncio
async def test_the_newest_buyer_is_kept_sealed_whatever_comes_after(connection: Connection) -> None:
    await hear(connection, buyer(sale_revision=2), said_at=NOW)
    await hear(connection, buyer(sale_revision=1, document="old"), said_at=NOW + timedelta(hours=1))

    row = await buyer_row(connection)
    opened = VAULT.open(row["sealed"], tenant="acme", owner=ORDER, field="buyer")
    assert opened == buyer(sale_revision=2).model_dump_json().encode()
    assert b"Ana" not in row["sealed"]
    shown = str([dict(row) for table in ("buyers", "shipments") for row in await connection.fetch(f"TABLE {table}")])
    assert "Flores" not in shown


@pytest.mark.asyncio
async def test_a_new_address_waits_for_the_buyer_that_has_it(connection: Connection) -> None:
    await hear(connection, buyer(sale_revision=1))
    await hear(connection, prepare())
    await hear(connection, ChangeAddress(order_id=ORDER, shipment_id=SHIPMENT, revision=2, sale_revision=2))
    assert (await known(connection)).state == "awaiting_address"

    await hear(connection, buyer(sale_revision=2), said_at=NOW + timedelta(hours=1))
    assert (await known(connection)).state == "to_pick"


@pytest.mark.asyncio
async def test_an_unknown_name_waits_and_its_mapping_releases_exactly_what_waited(connection: Connection) -> None:
    await hear(connection, buyer(), buyer("order-b"), buyer("order-c"))
    loggi = prepare(carrier="Loggi", service="sedex 10")
    other = prepare(order_id="order-b", shipment_id="order-b:s1", carrier="Jadlog")
    known_one = prepare(order_id="order-c", shipment_id="order-c:s1", carrier="correios", service="Sedex  10")
    await hear(connection, loggi, other, known_one, settings=AUTO)
    assert not (await known(connection)).awaits_label
    third = await known(connection, "acme", "order-c", "order-c:s1")
    assert (third.carrier, third.service, third.awaits_label) == ("ECT", "sedex10", True)

    released: list[int] = []

    async def say(tx: Any) -> None:
        released.append(await name(tx, "acme", NameMapping("carrier", "LOGGI", "loggi"), AUTO))

    await within(connection, say)

    assert released == [1]
    assert (await known(connection)).awaits_label
    assert not (await known(connection, "acme", "order-b", "order-b:s1")).awaits_label


@pytest.mark.asyncio
async def test_a_name_means_one_thing(connection: Connection) -> None:
    for ours in ("loggi", "loggi2"):
        await store.put_mapping(connection, "acme", NameMapping("carrier", " LOGGI", ours))

    assert await store.read_mappings(connection, {"acme", "other"}) == {
        "acme": [NameMapping("carrier", "loggi", "loggi2")]
    }


def erased(*orders: str) -> CustomerErased:
    return CustomerErased(customer_id="customer-a", version=2, customer_refs=("ref-a",), order_ids=orders, at=NOW)


@pytest.mark.asyncio
async def test_an_erased_buyer_goes_when_no_parcel_is_open_and_does_not_come_back(connection: Connection) -> None:
    await hear(connection, buyer(), buyer("order-b"))
    await hear(connection, prepare())
    await hear(connection, erased(ORDER, "order-b", "order-unknown"))
    now = NOW + timedelta(minutes=1)

    assert await store.erase_due(connection, now, 10) == 2
    assert (await buyer_row(connection, "order-b"))["sealed"] is None
    assert (await buyer_row(connection))["sealed"] is not None
    await hear(connection, cancel())
    assert await store.erase_due(connection, now, 10) == 1
    assert (await buyer_row(connection))["sealed"] is None
    await hear(connection, buyer(), said_at=NOW)
    assert (await buyer_row(connection))["customer_ref"] == ""

    await hear(connection, prepare(3))
    assert (await known(connection)).state == "awaiting_address"
    await hear(connection, buyer(), said_at=now)
    assert (await known(connection)).state == "to_pick"


@pytest.mark.asyncio
async def test_the_buyer_goes_a_while_after_the_last_parcel(connection: Connection) -> None:
    await hear(connection, buyer())
    await hear(connection, prepare(), cancel())

    assert await store.erase_due(connection, NOW + timedelta(days=89), 10) == 0
    assert await store.erase_due(connection, NOW + timedelta(days=91), 10) == 1


@pytest.mark.asyncio
async def test_a_buyer_of_whom_no_parcel_came_goes_in_time(connection: Connection) -> None:
    await hear(connection, buyer())

    assert await store.erase_due(connection, NOW + timedelta(days=89), 10) == 0
    assert await store.erase_due(connection, NOW + timedelta(days=91), 10) == 1
    assert (await buyer_row(connection))["sealed"] is None


@pytest.mark.asyncio
async def test_a_parcel_whose_carrier_never_says_more_keeps_its_buyer_half_a_year(connection: Connection) -> None:
    await hear(connection, buyer())
    await hear(connection, prepare())
    await take(connection, *SENT)

    assert await store.erase_due(connection, NOW + timedelta(days=179), 10) == 0
    assert await store.erase_due(connection, NOW + timedelta(days=181), 10) == 1


@pytest.mark.asyncio
async def test_half_a_buyer_is_refused(connection: Connection) -> None:
    await hear(connection, buyer())

    with pytest.raises(asyncpg.CheckViolationError):
        await connection.execute("UPDATE buyers SET sealed = NULL")


async def take(connection: Connection, *events: Event, order_id: str = ORDER) -> None:
    async def work(tx: Any) -> None:
        desk = await open_desk(tx, [("acme", order_id)], SETTINGS)
        for event in events:
            desk.decide("acme", order_id, f"{order_id}:s1", event, received(buyer()).cause)
        await desk.save()

    await within(connection, work)


@pytest.mark.asyncio
async def test_the_database_refuses_a_label_without_an_invoice(connection: Connection) -> None:
    await hear(connection, buyer())
    await hear(connection, prepare(invoice_key=None), settings=AUTO)

    with pytest.raises(asyncpg.CheckViolationError):
        await connection.execute("UPDATE shipments SET state = 'labelled'")


@pytest.mark.asyncio
async def test_two_parcels_cannot_have_one_tracking_code(connection: Connection) -> None:
    await hear(connection, buyer(), buyer("order-b"))
    await hear(connection, prepare(), prepare(order_id="order-b", shipment_id="order-b:s1"), settings=AUTO)
    await take(connection, Buying(), LABEL)

    with pytest.raises(asyncpg.UniqueViolationError):
        await take(
            connection,
            Buying(),
            LabelMade("label-2", "ECT", "pac", tracking_code=LABEL.tracking_code),
            order_id="order-b",
        )


@pytest.mark.asyncio
async def test_two_companies_with_one_order_id_never_meet(connection: Connection) -> None:
    await hear(connection, prepare(), tenant="acme")
    await hear(connection, buyer(), tenant="other")
    await hear(connection, prepare(), cancel(), tenant="other")

    assert (await known(connection)).state == "awaiting_address"
    assert (await known(connection, "other")).state == "cancelled"


ORDERS = ("order-a", "order-b")
COMMANDS: list[Any] = [
    command.model_copy(update={"order_id": order, "shipment_id": f"{order}:s1"})
    for order in ORDERS
    for command in (prepare(1), cancel(2), prepare(3, carrier="Correios"), cancel(4), prepare(5, invoice_key=None))
]
BUYERS = [buyer(order, sale_revision=revision) for order in ORDERS for revision in (0, 2, 1)]


@pytest.mark.asyncio
@DATABASE
@given(
    batches=st.lists(
        st.one_of(st.lists(st.sampled_from(COMMANDS), min_size=1), st.lists(st.sampled_from(BUYERS), min_size=1)),
        min_size=1,
        max_size=4,
    )
)
@pytest.mark.rule(4)
async def test_a_batch_is_its_events_one_by_one(connection: Connection, batches: list[list[Message]]) -> None:
    told: list[list[Message]] = []
    left: list[Any] = []
    for split in (False, True):
        await connection.execute("TRUNCATE buyers CASCADE")
        published: list[Message] = []
        for batch in batches:
            for part in [[message] for message in batch] if split else [batch]:
                published += await hear(connection, *part, settings=AUTO)
        told.append(published)
        left.append(
            await connection.fetch("SELECT tenant, shipment_id, state, version, work, body FROM shipments ORDER BY 2")
        )
    assert told[0] == told[1]
    assert left[0] == left[1]


@pytest.mark.asyncio
async def test_the_database_and_the_domain_know_the_same_states(connection: Connection) -> None:
    check = await connection.fetchval(
        "SELECT string_agg(pg_get_constraintdef(oid), ' ') FROM pg_constraint WHERE conrelid = 'shipments'::regclass"
    )
    assert [state for state in get_args(State) if f"'{state}'" not in check] == []
