"""Orders and inventory say the same: whatever a channel tells and in whatever sequence, stock goes where it should."""

import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import services.inventory
import services.orders
from contracts.channels.v1 import SaleReported, SaleStatus
from contracts.envelope import Message
from contracts.inventory.v1 import Component, OrderDemand, PutItem, PutLocation, ReceiveStock
from services.bus import Transaction
from services.inventory.handlers import allocate, obey_commands
from services.orders import store
from services.orders.handlers import advance
from services.orders.order import LEFT, Order
from services.orders.recent import Recent
from services.orders.settings import OrdersSettings
from services.orders.standing import standing
from tests.orders.given import COMPONENTS, KIT, NOW
from tests.orders.test_any_order import histories
from tests.orders.test_handlers import received

STOCK = {"MUG": 5, "TRAY": 2}
PLENTY = {"MUG": 100, "TRAY": 100}
COUNTERS = ("available", "reserved", "shipped", "inbound")
Connections = dict[str, asyncpg.Connection]
ids = itertools.count()
recent = Recent(10)


async def handle(connection: asyncpg.Connection, handler: Any, *messages: Message) -> list[Message]:
    tx = Transaction(connection, NOW, lambda: f"id-{next(ids)}")
    events = [received(message, number=next(ids)) for message in messages]
    if handler is advance:
        await advance(events, tx, settings=OrdersSettings(), recent=recent)
    else:
        await handler(events, tx)
    for call in tx.committed:
        call()
    return [published.message for published in tx.publications]


@pytest_asyncio.fixture
async def both(database: str) -> AsyncIterator[Connections]:
    """Two services' tables in two schemas, and an inventory with little stock and a kit."""
    connections = {}
    for service in (services.orders, services.inventory):
        name = service.__name__.rpartition(".")[2]
        connection = await asyncpg.connect(database, server_settings={"search_path": name})
        await connection.execute(f"CREATE SCHEMA {name}")
        for migration in sorted((Path(service.__file__ or "").parent / "migrations").glob("*.sql")):
            await connection.execute(migration.read_text("utf-8"))
        connections[name] = connection
    parts = tuple(Component(sku=sku, quantity=units) for sku, units in COMPONENTS[KIT].items())
    for command in (
        PutLocation(location="main", name="Main"),
        *(PutItem(sku=sku, name=sku) for sku in STOCK),
        PutItem(sku=KIT, name=KIT, components=parts),
        *(ReceiveStock(sku=sku, location="main", quantity=units) for sku, units in STOCK.items()),
    ):
        async with connections["inventory"].transaction():
            await handle(connections["inventory"], obey_commands, command)
    yield connections
    for connection in connections.values():
        await connection.close()


async def run(
    both: Connections, snapshots: list[SaleReported], late: int = 1, more: dict[str, int] | None = None
) -> tuple[Order, dict[str, dict[str, int]], int]:
    """Tell `snapshots` one by one, inventory answering `late` of them at a time, with `more` stock; then roll back.

    The order, the counters of stock per SKU, and how many demands were sent.
    """
    transactions = [connection.transaction() for connection in both.values()]
    for transaction in transactions:
        await transaction.start()
    try:
        for sku, units in (more or {}).items():
            delivery = ReceiveStock(sku=sku, location="main", quantity=units)
            await handle(both["inventory"], obey_commands, delivery)
        sent = await converse(both, snapshots, late)
        [order] = (await store.lock_orders(both["orders"], {("acme", "order-a")}, {})).values()
        rows = await both["inventory"].fetch("SELECT * FROM stock")
        return order, {row["sku"]: {state: row[state] for state in COUNTERS} for row in rows}, sent
    finally:
        for transaction in transactions:
            await transaction.rollback()


async def converse(both: Connections, snapshots: list[SaleReported], late: int) -> int:
    """Let the two services talk until neither has anything to say; how many demands were sent."""
    demands: list[Message] = []
    sent = 0
    for number, snapshot in enumerate(snapshots, 1):
        told = await handle(both["orders"], advance, snapshot)
        while True:
            demands += [message for message in told if isinstance(message, OrderDemand)]
            if not demands or (number % late and number < len(snapshots)):
                break
            sent += len(demands)
            answers = await handle(both["inventory"], allocate, *demands)
            demands.clear()
            answers = [answer for answer in answers if type(answer).__name__ in ("DemandMet", "DemandShort")]
            told = await handle(both["orders"], advance, *answers) if answers else []
    return sent


def expected(newest: SaleReported) -> dict[str, dict[str, int]]:
    """What the counters must come to, read off the newest snapshot alone, with enough stock of everything."""
    stock = {sku: dict.fromkeys(COUNTERS, 0) for sku in STOCK}
    for line in newest.lines:
        asked = 0 if newest.status is SaleStatus.CANCELLED else line.quantity - line.cancelled
        whole = newest.status is SaleStatus.RETURNED and not any(other.returned for other in newest.lines)
        back = asked if whole else line.returned
        for sku, factor in COMPONENTS.get(line.sku or "", {line.sku or "": 1}).items():
            if sku in stock and newest.status in LEFT:
                stock[sku]["shipped"] += factor * (asked - back)
                stock[sku]["inbound"] += factor * back
            elif sku in stock:
                stock[sku]["reserved"] += factor * asked
    for sku, counters in stock.items():
        counters["available"] = STOCK[sku] + PLENTY[sku] - sum(counters.values())
    return stock


DATABASE = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@DATABASE
@given(data=st.data(), snapshots=histories(), late=st.integers(1, 3))
@pytest.mark.asyncio
@pytest.mark.rule(17)
async def test_with_enough_stock_the_two_end_the_same_whatever_the_sequence(
    both: Connections, data: st.DataObject, snapshots: list[SaleReported], late: int
) -> None:
    shuffled = data.draw(st.permutations(snapshots + data.draw(st.lists(st.sampled_from(snapshots), max_size=2))))

    order, stock, _ = await run(both, snapshots, 1, PLENTY)
    again, stock_again, sent = await run(both, shuffled, late, PLENTY)

    assert stock == expected(snapshots[-1])
    assert again.state == order.state
    assert standing(again) == standing(order)
    assert stock_again == stock
    assert sent <= 2 * len(shuffled), "a snapshot leads to a demand, and to one more where goods leave"


@DATABASE
@given(data=st.data(), snapshots=histories(), late=st.integers(1, 3))
@pytest.mark.asyncio
@pytest.mark.rule(17)
async def test_with_little_stock_nothing_is_lost_and_every_unit_has_one_outcome(
    both: Connections, data: st.DataObject, snapshots: list[SaleReported], late: int
) -> None:
    order, stock, _ = await run(both, data.draw(st.permutations(snapshots)), late)

    assert order.settled or order.demand is None
    held = dict.fromkeys(STOCK, 0)
    for line in standing(order):
        assert line.open == 0 or line.sku is None
        for sku, factor in COMPONENTS.get(line.sku or "", {line.sku or "": 1}).items():
            if sku in held:
                held[sku] += factor * line.reserved
    for sku, units in STOCK.items():
        assert sum(stock[sku].values()) == units
        # A short kit holds those of its components that there are, too.
        assert sum(stock[sku].values()) - stock[sku]["available"] >= held[sku]
