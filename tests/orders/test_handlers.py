"""Handlers on a real PostgreSQL: what a batch leaves behind, and what the tables refuse."""

import asyncio
import itertools
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contracts.channels.v1 import (
    ConnectionChanged,
    ConnectionState,
    QuantityTrait,
    RefetchSale,
    SaleStatus,
)
from contracts.envelope import Envelope, Message
from contracts.fulfillment.v1 import (
    CancelShipment,
    LabelCreated,
    PrepareShipment,
    ShipmentCancelled,
    ShipmentDelivered,
    ShipmentDispatched,
    ShipmentLine,
)
from contracts.inventory.v1 import DemandMet, HoldExpired, OrderDemand
from contracts.payments.v1 import AuthorizePayment, PaymentCaptured, PaymentMethod
from services.bus import Received, Transaction
from services.bus.work import SESSION
from services.orders import store, story
from services.orders.deadlines import (
    ask_again,
    close_finished,
    decide_locked,
    find_silent,
    find_waiting,
    forget,
    go_on,
    remind,
)
from services.orders.handlers import advance, know_connections
from services.orders.order import Cancelled, Closed, Confirmed, Shipped
from services.orders.process import NOTHING, PersonSaid
from services.orders.recent import Recent
from services.orders.settings import OrdersSettings
from services.orders.standing import standing
from tests.orders.given import NOW, answer, basket, invoice, line, payment, sale, shipment

SETTINGS = OrdersSettings()
DATABASE = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
Connection = asyncpg.Connection
ids = itertools.count()


def received(message: Any, tenant: str = "acme", number: int = 0) -> Received[Any]:
    envelope = Envelope(f"event-{number}", "", "/test", NOW, "", tenant, getattr(message, "order_id", ""))
    return Received(message, envelope, f"{tenant}:key", message.model_dump_json().encode())


def opened(connection: Connection, now: Any = NOW) -> Transaction:
    return Transaction(connection, now, lambda: f"id-{next(ids)}")


async def hear(
    connection: Any, *messages: Message, tenant: str = "acme", recent: Recent | None = None
) -> list[Message]:
    """Handle `messages` as one batch, in a process that has written nothing before unless `recent` is given; what was
    published."""
    tx = opened(connection)
    async with connection.transaction():
        await advance(
            [received(message, tenant) for message in messages], tx, settings=SETTINGS, recent=recent or Recent(0)
        )
    committed(tx)
    return [published.message for published in tx.publications]


def committed(tx: Transaction) -> None:
    for call in tx.committed:
        call()


async def known(connection: Connection, order_id: str = "order-a", tenant: str = "acme") -> Any:
    async with connection.transaction():
        return (await store.lock_orders(connection, {(tenant, order_id)}, {})).get((tenant, order_id))


async def tables(connection: Connection) -> dict[str, list[dict[str, Any]]]:
    return {
        table: [dict(row) for row in await connection.fetch(f"SELECT * FROM {table} ORDER BY 1, 2, 3")]
        for table in ("orders", "alerts", "connections", "story")
    }


@pytest.mark.asyncio
async def test_a_sale_becomes_an_order_and_its_demand_goes_first(connection: Connection) -> None:
    published = await hear(connection, sale())

    assert [type(message).__name__ for message in published] == ["OrderDemand", "OrderPlaced"]
    assert (await known(connection)).sale == sale()


@pytest.mark.asyncio
async def test_a_sale_is_kept_as_it_came_unless_a_newer_one_came_with_it(connection: Connection) -> None:
    first, newer = sale(), sale(2, SaleStatus.PAID, line(quantity=3))
    body = b' {"later": 1,' + first.model_dump_json().encode()[1:]
    events = [received(first, "acme")._replace(body=body), received(first, "globex"), received(newer, "globex")]
    tx = opened(connection)
    async with connection.transaction():
        await advance(events, tx, settings=SETTINGS, recent=Recent(0))

    [as_came, as_known] = await connection.fetch("SELECT sale FROM orders ORDER BY tenant")
    assert as_came["sale"] == body.decode()
    assert as_known["sale"] == newer.model_dump_json()
    assert (await known(connection)).sale == first


@pytest.mark.asyncio
async def test_what_is_stored_reads_back_as_it_was(connection: Connection) -> None:
    [demand, *_] = await hear(connection, sale())
    assert isinstance(demand, OrderDemand)
    [fact] = await hear(connection, answer(demand))
    [moved, _] = await hear(connection, sale(2, SaleStatus.SHIPPED, payment_due=NOW))
    assert isinstance(moved, OrderDemand)

    order = await known(connection)

    assert type(fact).__name__ == "OrderConfirmed"
    assert order.state == Shipped()
    assert order.demand == moved
    assert order.answer.lines == answer(demand).lines
    assert order.paid
    assert order.left


@pytest.mark.asyncio
async def test_five_copies_of_one_sale_are_one_order(connection: Connection) -> None:
    published = await hear(connection, *[sale()] * 3)
    published += await hear(connection, sale())
    published += await hear(connection, sale())

    assert [type(message).__name__ for message in published] == ["OrderDemand", "OrderPlaced"]


@pytest.mark.asyncio
@pytest.mark.rule(16)
async def test_every_publication_names_the_event_that_caused_it(connection: Connection) -> None:
    tx = opened(connection)
    events = [received(sale(order_id=name, external_id=name), number=number) for number, name in enumerate("ab")]
    async with connection.transaction():
        await advance(events, tx, settings=SETTINGS, recent=Recent(0))

    causes = {(published.message.order_id, published.causes[0].event_id) for published in tx.publications}
    assert causes == {("a", "event-0"), ("b", "event-1")}


def deliveries() -> st.SearchStrategy[list[tuple[str, Message]]]:
    """Batches about a few orders of two companies: sales of any revision, answers to any revision."""
    names = st.sampled_from(["a", "b"])
    lines = st.builds(line, quantity=st.just(3), cancelled=st.integers(0, 3), sku=st.sampled_from(["MUG", None]))
    sales = st.builds(
        lambda name, revision, status, one: sale(revision, status, one, order_id=name, external_id=name),
        names, st.integers(1, 4), st.sampled_from(SaleStatus), lines,
    )  # fmt: skip
    met = st.builds(lambda name, revision: DemandMet(order_id=name, revision=revision, lines=()),
                    names, st.integers(1, 5))  # fmt: skip
    short = st.builds(lambda name, units: answer(_demand(name), {"MUG": units}), names, st.integers(0, 2))
    expired = st.builds(lambda name: HoldExpired(order_id=name, revision=1, expired_at=NOW), names)
    baskets = st.builds(
        lambda name, revision, method: basket(revision, revision - 1, method, order_id=name, external_id=name),
        names, st.integers(1, 4), st.sampled_from([PaymentMethod.CARD, PaymentMethod.PIX]),
    )  # fmt: skip
    money = st.builds(
        lambda name, version, captured: payment(
            PaymentCaptured, version, captured=captured, order_id=name, payment_id=f"{name}:p1"
        ),
        names, st.integers(1, 4), st.integers(1, 11_000),
    )  # fmt: skip
    invoices = st.builds(invoice, st.integers(1, 3), names)
    parcels = st.builds(
        lambda name, kind, version: shipment(kind, _preparation(name), version),
        names, st.sampled_from([LabelCreated, ShipmentDispatched, ShipmentDelivered, ShipmentCancelled]),
        st.integers(1, 4),
    )  # fmt: skip
    heard = st.one_of(sales, sales, met, short, expired, baskets, money, invoices, parcels)
    return st.lists(st.tuples(st.sampled_from(["acme", "globex"]), heard), max_size=14)


def _preparation(name: str) -> PrepareShipment:
    return PrepareShipment(
        order_id=name, shipment_id=f"{name}:s1", revision=1, connection_id="connection-a", location="main",
        lines=(ShipmentLine(line_id="1", sku="MUG", quantity=2),), currency="BRL", invoice_required=False,
    )  # fmt: skip


def _demand(name: str) -> OrderDemand:
    from services.orders.domain import decide

    demand = decide(None, sale(order_id=name, external_id=name), NOW).demand
    assert demand
    return demand


@DATABASE
@given(events=deliveries(), cut=st.integers(0, 14))
@pytest.mark.asyncio
@pytest.mark.rule(4)
async def test_a_batch_equals_its_events_one_by_one(
    connection: Connection, events: list[tuple[str, Message]], cut: int
) -> None:
    heard = [received(message, tenant, number) for number, (tenant, message) in enumerate(events)]
    recent = Recent(1)  # room for one of the orders, so that some are read and some are known

    async def outcome(batches: Sequence[Sequence[Received[Any]]]) -> tuple[Any, Any]:
        tx = opened(connection)
        transaction = connection.transaction()
        await transaction.start()
        for batch in batches:
            if batch:
                await advance(batch, tx, settings=SETTINGS, recent=recent)
                committed(tx)
        left = await tables(connection)
        await transaction.rollback()
        for order in left["orders"]:
            del order["stamp"]
        for alert in left["alerts"]:
            # How often an alert was raised and dropped within one transaction is not kept.
            del alert["times"]
        return left, [published._replace(event_id="") for published in tx.publications]

    one_by_one = await outcome([[event] for event in heard])
    assert await outcome([heard]) == one_by_one
    assert await outcome([heard[:cut], heard[cut:]]) == one_by_one


@pytest.mark.asyncio
async def test_two_companies_with_one_order_id_never_meet(connection: Connection) -> None:
    await hear(connection, sale(1, SaleStatus.PAID, line(quantity=2)), tenant="acme")
    await hear(connection, sale(1, SaleStatus.PAID, line(quantity=7)), tenant="globex")
    await hear(connection, sale(2, SaleStatus.CANCELLED, line(quantity=7)), tenant="globex")

    assert [stands.open for stands in standing(await known(connection))] == [2]
    assert [stands.cancelled for stands in standing(await known(connection, tenant="globex"))] == [7]


@pytest.mark.asyncio
async def test_one_sale_cannot_become_two_orders(connection: Connection) -> None:
    await hear(connection, sale())

    with pytest.raises(asyncpg.UniqueViolationError):
        await hear(connection, sale(order_id="order-b"))


@pytest.mark.asyncio
async def test_a_unit_cannot_be_counted_twice(connection: Connection) -> None:
    await hear(connection, sale())

    with pytest.raises(asyncpg.CheckViolationError):
        await connection.execute("UPDATE orders SET units_reserved = units_reserved + 1")


@pytest.mark.asyncio
async def test_an_alert_goes_when_its_reason_has_gone(connection: Connection) -> None:
    await hear(connection, sale(1, SaleStatus.PAID, line("1", None)))
    assert [row["kind"] for row in await store.list_alerts(connection, "acme", 10)] == ["mapping"]

    await hear(connection, sale(2))
    assert await store.list_alerts(connection, "acme", 10) == []


@pytest.mark.asyncio
@pytest.mark.rule(22)
async def test_an_unpaid_order_past_its_deadline_is_asked_for_and_never_released(connection: Connection) -> None:
    due = NOW - SETTINGS.payment_margin
    await hear(connection, sale(1, SaleStatus.AWAITING_PAYMENT, payment_due=due))

    async def ask(now: Any) -> list[Message]:
        tx = opened(connection, now)
        async with connection.transaction():
            await ask_again(tx, SETTINGS)
        return [published.message for published in tx.publications]

    soon = NOW + timedelta(seconds=1)
    assert await ask(NOW) == []
    [asked] = await ask(soon)
    assert isinstance(asked, RefetchSale)
    assert asked.order_id == "order-a"
    assert await ask(soon) == []
    assert len(await ask(soon + SETTINGS.payment_interval)) == 1
    [alert] = await store.list_alerts(connection, "acme", 10)
    assert (alert["kind"], alert["times"]) == ("payment", 2)

    # Still unpaid at the channel: asked at its pace, not at once, and its stock stays asked for.
    assert await hear(connection, sale(2, SaleStatus.AWAITING_PAYMENT, payment_due=due)) == []
    assert await ask(soon + SETTINGS.payment_interval) == []
    assert [stands.open for stands in standing(await known(connection))] == [2]

    await hear(connection, sale(3, SaleStatus.PAID))
    assert await store.list_alerts(connection, "acme", 10) == []
    assert await ask(soon + 2 * SETTINGS.payment_interval) == []


@pytest.mark.asyncio
async def test_a_channel_without_a_deadline_gets_the_default_one(connection: Connection) -> None:
    unpaid = sale(1, SaleStatus.AWAITING_PAYMENT)
    await hear(connection, unpaid)

    assert (
        await connection.fetchval("SELECT payment_due FROM orders")
        == unpaid.sold_at + SETTINGS.lengths["payment_default_h"]
    )


@pytest.mark.asyncio
async def test_finished_orders_are_closed_after_their_silence(connection: Connection) -> None:
    await hear(connection, sale(1, SaleStatus.CANCELLED), sale(1, order_id="order-b", external_id="1002"))

    async def close(now: Any) -> list[str]:
        tx = opened(connection, now)
        async with connection.transaction():
            await close_finished(tx, SETTINGS)
        return [type(published.message).__name__ for published in tx.publications]

    later = NOW + SETTINGS.close_after + timedelta(seconds=1)
    assert await close(NOW) == []
    assert await close(later) == ["OrderClosed"]
    assert await close(later) == []
    assert (await known(connection)).state == Closed("cancelled")


@pytest.mark.asyncio
async def test_a_story_is_forgotten_long_after_its_order_was_closed(connection: Connection) -> None:
    await hear(connection, sale(), sale(order_id="order-b", external_id="1002"))
    await hear(connection, sale(2, SaleStatus.CANCELLED))
    for order_id in ("order-a", "order-b"):
        row = ("acme", order_id, 9, "PersonSaid wait", NOW - timedelta(days=900), "{}", "")
        await store.insert_story(connection, [row])

    async def told() -> set[str]:
        return {row["order_id"] for row in await connection.fetch("SELECT order_id FROM story")}

    late = NOW + timedelta(days=9_000)
    await look(connection, forget, late)
    assert await told() == {"order-a", "order-b"}, "neither order is closed"
    closed = NOW + SETTINGS.close_after + timedelta(seconds=1)
    await look(connection, close_finished, closed)
    await look(connection, forget, closed + SETTINGS.story_kept)
    assert await told() == {"order-a", "order-b"}
    await look(connection, forget, closed + SETTINGS.story_kept + timedelta(seconds=1))
    assert await told() == {"order-b"}
    assert (await known(connection)).state == Closed("cancelled")
    assert await connection.fetchval("SELECT count(*) FROM orders WHERE closed_at IS NOT NULL") == 0


@pytest.mark.asyncio
@pytest.mark.rule(15)
async def test_the_newest_word_about_a_connection_stays(connection: Connection) -> None:
    def change(version: int, state: ConnectionState, epoch: int = 0) -> Received[Any]:
        return received(
            ConnectionChanged(
                connection_id="connection-a", version=version, epoch=epoch, connector="shopify", environment="sandbox",
                account="one", state=state, pool="shared", quantity_trait=QuantityTrait.ABSOLUTE,
                reserves_unpaid=False, restores_on_cancel=True,
            )
        )  # fmt: skip

    for batch in (
        [change(2, ConnectionState.LIVE), change(1, ConnectionState.DRAFT)],
        [change(1, ConnectionState.DRAFT)],
        [change(1, ConnectionState.PAUSED, epoch=1)],
    ):
        async with connection.transaction():
            await know_connections(batch, opened(connection))

    [row] = await connection.fetch("SELECT state, epoch, version FROM connections")
    assert tuple(row) == ("paused", 1, 1)


@pytest.mark.asyncio
async def test_units_by_outcome_add_up(connection: Connection) -> None:
    [demand, *_] = await hear(connection, sale(1, SaleStatus.PAID, line("1", quantity=5), line("2", None, 4)))
    assert isinstance(demand, OrderDemand)
    await hear(connection, answer(demand, {"MUG": 3}))

    [row] = await store.summarize(connection, "acme")
    assert {name: row[name] for name in ("state", "ordered", "cancelled", "reserved", "short", "open")} == {
        "state": "short", "ordered": 9, "cancelled": 0, "reserved": 3, "short": 2, "open": 4,
    }  # fmt: skip


@pytest.mark.asyncio
async def test_an_order_written_by_a_later_build_is_read(connection: Connection) -> None:
    [demand, *_] = await hear(connection, sale())
    assert isinstance(demand, OrderDemand)
    await hear(connection, answer(demand))
    await connection.execute(
        "UPDATE orders SET body = jsonb_set(body::jsonb, '{later}', '1'), "
        "sale = jsonb_set(sale::jsonb, '{later}', '1'), demand = jsonb_set(demand::jsonb, '{later}', '1')"
    )

    assert (await known(connection)).state == Confirmed()


class _Reads:
    """A connection that counts the rows whose order had to be read."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self.read = connection, 0

    async def fetch(self, *arguments: Any) -> list[asyncpg.Record]:
        rows: list[asyncpg.Record] = await self._connection.fetch(*arguments)
        self.read += sum(row["body"] is not None for row in rows)
        return rows

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


@pytest.mark.asyncio
async def test_an_answer_to_a_recent_order_reads_nothing(connection: Connection) -> None:
    reads, recent = _Reads(connection), Recent(10)
    [demand, *_] = await hear(reads, sale(), recent=recent)
    assert isinstance(demand, OrderDemand)

    [fact] = await hear(reads, answer(demand), recent=recent)

    assert type(fact).__name__ == "OrderConfirmed"
    assert reads.read == 0
    assert (await known(connection)).state == Confirmed()


@pytest.mark.asyncio
async def test_an_order_changed_elsewhere_is_read_again(connection: Connection) -> None:
    here, elsewhere = Recent(10), Recent(10)
    [demand, *_] = await hear(connection, sale(), recent=here)
    assert isinstance(demand, OrderDemand)
    await hear(connection, sale(2, SaleStatus.CANCELLED), recent=elsewhere)

    assert await hear(connection, answer(demand), recent=here) == []
    assert (await known(connection)).state == Cancelled()
    assert (await known(connection)).sale.revision == 2


@pytest.mark.asyncio
async def test_an_order_changed_while_its_lock_was_waited_for_is_read(database: str, connection: Connection) -> None:
    here = Recent(10)
    [demand, *_] = await hear(connection, sale(), recent=here)
    assert isinstance(demand, OrderDemand)
    other = await asyncpg.connect(database)
    transaction = other.transaction()
    await transaction.start()
    await advance([received(sale(2, SaleStatus.CANCELLED))], opened(other), settings=SETTINGS, recent=Recent(0))

    answering = asyncio.create_task(hear(connection, answer(demand), recent=here))
    while not await other.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
        assert not answering.done()
        await asyncio.sleep(0.01)
    await transaction.commit()
    await other.close()

    assert await answering == []
    assert (await known(connection)).state == Cancelled()


@pytest.mark.asyncio
async def test_a_write_that_was_rolled_back_is_not_known(connection: Connection) -> None:
    recent = Recent(10)
    await hear(connection, sale(), recent=recent)
    tx, transaction = opened(connection), connection.transaction()
    await transaction.start()
    await advance([received(sale(2, SaleStatus.PAID, line(quantity=7)))], tx, settings=SETTINGS, recent=recent)
    await transaction.rollback()
    # Even if it was told so: the row has not the stamp.
    committed(tx)

    await hear(connection, DemandMet(order_id="order-a", revision=1, lines=()), recent=recent)

    order = await known(connection)
    assert (order.state, order.sale.revision, order.sale.lines[0].quantity) == (Confirmed(), 1, 2)


@pytest.mark.asyncio
async def test_what_is_kept_is_bounded_and_waits_for_an_answer(connection: Connection) -> None:
    recent = Recent(2)
    demands = [
        (await hear(connection, sale(order_id=name, external_id=name), recent=recent))[0] for name in ("a", "b", "c")
    ]
    keys = [("acme", name) for name in ("a", "b", "c")]
    assert list(recent.find(keys)) == keys[1:]

    assert isinstance(demands[2], OrderDemand)
    await hear(connection, answer(demands[2]), recent=recent)
    assert list(recent.find(keys)) == keys[1:2]


@pytest.mark.asyncio
async def test_confirming_an_order_touches_no_index(connection: Connection) -> None:
    names = [f"order-{number:02}" for number in range(50)]
    published = await hear(connection, *(sale(order_id=name, external_id=name) for name in names))
    await hear(connection, *(answer(message) for message in published if isinstance(message, OrderDemand)))

    counted = "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE relname = 'orders'"
    await connection.execute("SELECT pg_stat_force_next_flush()")
    assert tuple(await connection.fetchrow(counted)) == (50, 50)


@pytest.mark.asyncio
async def test_an_order_is_found_by_its_key_from_the_first_plan(database: str, connection: Connection) -> None:
    service = await asyncpg.connect(database, server_settings=SESSION)
    await service.execute(f"PREPARE found AS {store.LOCK_ORDERS}")
    plan = await service.fetch("EXPLAIN EXECUTE found('', '', '')")
    await service.close()

    assert "Index Cond: ((tenant = (wanted.tenant)::text) AND (order_id = (wanted.order_id)::text))" in str(plan)


@pytest.mark.asyncio
async def test_orders_in_work_are_found_without_a_walk_through_the_others(
    database: str, connection: Connection
) -> None:
    service = await asyncpg.connect(database, server_settings=SESSION)
    await service.execute(f"PREPARE listed AS {store.LIST_IN_WORK}")
    plan = str(await service.fetch("EXPLAIN EXECUTE listed('', 'short', '', 100)"))
    await service.close()
    assert "Index Cond: ((tenant = $1) AND (in_work = $2) AND (order_id > $3))" in plan

    names = ("order-a", "order-b")
    await hear(connection, *(sale(order_id=name, external_id=name) for name in names))
    await connection.execute("UPDATE orders SET state = 'short' WHERE order_id = 'order-b'")
    for state, found in (("short", ["order-b"]), ("placed", ["order-a"]), (None, list(names)), ("held", [])):
        rows = await store.list_orders(connection, "acme", state, "", 10)
        assert [row["order_id"] for row in rows] == found


async def look(connection: Connection, loop: Any, now: Any) -> list[Message]:
    """What one look of a loop at the deadlines publishes."""
    tx = opened(connection, now)
    async with connection.transaction():
        await loop(tx, SETTINGS)
    return [published.message for published in tx.publications]


@pytest.mark.asyncio
async def test_a_sale_on_its_usual_way_leaves_no_process_no_story_and_no_deadline(connection: Connection) -> None:
    [demand, *_] = await hear(connection, sale())
    assert isinstance(demand, OrderDemand)
    await hear(connection, answer(demand))

    row = await connection.fetchrow("SELECT process, deadline_at, (SELECT count(*) FROM story) AS told FROM orders")
    assert tuple(row) == (None, None, 0)
    assert (await known(connection)).process is NOTHING


@pytest.mark.asyncio
async def test_what_a_process_stores_reads_back_as_it_was(connection: Connection) -> None:
    [demand, *_] = await hear(connection, basket(1, 1, PaymentMethod.PIX))
    assert isinstance(demand, OrderDemand)
    [asked, *_] = await hear(connection, answer(demand))
    [paid, *_] = await hear(connection, payment(PaymentCaptured, 1, captured=11_000))
    assert isinstance(paid, OrderDemand)
    await hear(connection, answer(paid))
    published = await hear(connection, invoice())

    assert isinstance(asked, AuthorizePayment)
    [preparation] = [message for message in published if isinstance(message, PrepareShipment)]
    await hear(connection, shipment(ShipmentDispatched, preparation, 1))
    order = await known(connection)
    assert [one.captured_minor for one in order.process.payments] == [11_000]
    assert [one.dispatched_at for one in order.process.parcels] == [NOW]
    assert order.process.invoice.invoice_key == invoice().invoice_key


@pytest.mark.asyncio
async def test_the_story_tells_every_step_and_no_token(connection: Connection) -> None:
    [demand, *_] = await hear(connection, basket(1, 1, PaymentMethod.CARD))
    assert isinstance(demand, OrderDemand)
    await hear(connection, answer(demand))

    rows = await store.read_story(connection, "acme", "order-a")
    assert {row["what"].split(" ")[0] for row in rows} == {"OrderHeld", "AuthorizePayment", "OrderProgress"}
    assert "tok-once" not in str([tuple(row) for row in rows])
    assert "tok-once" not in await connection.fetchval("SELECT sale FROM orders")


@pytest.mark.asyncio
async def test_a_demand_that_nobody_answers_is_sent_again(connection: Connection) -> None:
    later = NOW + SETTINGS.lengths["answer_s"] + timedelta(seconds=1)
    assert await look(connection, find_silent, NOW) == []
    await hear(connection, sale())

    assert await look(connection, find_silent, NOW + timedelta(seconds=1)) == []
    [again] = await look(connection, find_silent, later)
    assert isinstance(again, OrderDemand)
    assert again.revision == 2
    assert await look(connection, find_silent, later + timedelta(seconds=30)) == []
    [alert] = await store.list_alerts(connection, "acme", 10)
    assert alert["kind"] == "silent"

    [third] = await look(connection, go_on, later + 2 * SETTINGS.lengths["answer_s"])
    assert isinstance(third, OrderDemand)
    assert third.revision == 3


@pytest.mark.asyncio
async def test_a_confirmed_order_without_invoice_gets_its_deadline_and_then_a_person(connection: Connection) -> None:
    assert await look(connection, find_waiting, NOW) == []
    [demand, *_] = await hear(connection, sale())
    assert isinstance(demand, OrderDemand)
    await hear(connection, answer(demand))
    later = NOW + SETTINGS.lengths["usual_s"] + timedelta(seconds=1)

    assert await look(connection, find_waiting, later) == []
    due = await connection.fetchval("SELECT deadline_at FROM orders")
    assert due == later + SETTINGS.lengths["invoice_h"]
    [held] = await look(connection, go_on, due)
    assert type(held).__name__ == "OrderHeld"
    await look(connection, go_on, due + SETTINGS.lengths["invoice_h"])
    [alert] = await store.list_alerts(connection, "acme", 10)
    assert (alert["kind"], alert["times"]) == ("invoice", 2)


@pytest.mark.asyncio
async def test_an_invoice_to_cancel_has_a_term(connection: Connection) -> None:
    [demand, *_] = await hear(connection, sale())
    assert isinstance(demand, OrderDemand)
    await hear(connection, answer(demand))
    await hear(connection, invoice())
    [parcel] = [one for one in await hear(connection, sale(2, SaleStatus.CANCELLED)) if isinstance(one, CancelShipment)]
    [alert] = await store.list_alerts(connection, "acme", 10)
    due = invoice().issued_at + timedelta(hours=24)
    assert (alert["kind"], alert["due_at"], alert["overdue"], parcel.order_id) == (
        "cancel_invoice", due, False, "order-a",
    )  # fmt: skip
    [row] = await store.find_orders(connection, "acme", "order-a", None)
    told = story.process(store.read(row), SETTINGS.lengths)
    assert (told["cancel_invoice_by"], told["answers"][-1]) == (due, "invoice_cancelled")

    for _ in range(2):
        await look(connection, remind, due)
        [alert] = await store.list_alerts(connection, "acme", 10)
        assert (alert["times"], alert["overdue"]) == (2, True)

    await hear(connection, invoice(2))
    [alert] = await store.list_alerts(connection, "acme", 10)
    assert (alert["due_at"], alert["overdue"]) == (due + timedelta(minutes=1), False), "the newest one's term"

    row = await store.lock_order(connection, "acme", "order-a")
    assert row is not None
    await decide_locked(opened(connection, due), SETTINGS, [row], PersonSaid("invoice_cancelled"))
    assert await store.list_alerts(connection, "acme", 10) == []
    [row] = await store.find_orders(connection, "acme", "order-a", None)
    told = story.process(store.read(row), SETTINGS.lengths)
    assert (told["cancel_invoice_by"], "invoice_cancelled" in told["answers"]) == (None, False)


@pytest.mark.asyncio
async def test_an_invoice_to_replace_has_a_term_and_a_parcel_to_intercept_an_answer(connection: Connection) -> None:
    [demand, *_] = await hear(connection, sale(total_minor=5_000))
    assert isinstance(demand, OrderDemand)
    await hear(connection, answer(demand))
    await hear(connection, invoice(total_minor=4_999))
    [alert] = await store.list_alerts(connection, "acme", 10)
    assert (alert["kind"], alert["due_at"]) == ("replace_invoice", invoice().issued_at + timedelta(hours=24))

    published = await hear(connection, invoice(2, total_minor=5_000))
    [asked] = [one for one in published if isinstance(one, PrepareShipment)]
    assert await store.list_alerts(connection, "acme", 10) == []

    await hear(connection, shipment(ShipmentDispatched, asked, 3), sale(2, SaleStatus.CANCELLED, total_minor=5_000))
    [alert] = await store.list_alerts(connection, "acme", 10)
    assert alert["kind"] == "intercept"
    [row] = await store.find_orders(connection, "acme", "order-a", None)
    assert "parcel_settled" in story.answers(store.read(row))


@pytest.mark.asyncio
async def test_what_a_timer_sends_is_in_the_trace_of_its_sale(connection: Connection) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    first = received(sale())
    first = first._replace(envelope=first.envelope._replace(traceparent=trace))
    assert await look(connection, find_silent, NOW) == []
    async with connection.transaction():
        await advance([first], opened(connection), settings=SETTINGS, recent=Recent(0))

    tx = opened(connection, NOW + timedelta(hours=1))
    async with connection.transaction():
        await find_silent(tx, SETTINGS)

    assert [published.causes[0].traceparent for published in tx.publications] == [trace]
