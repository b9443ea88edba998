"""What the scale bench multiplies is what its owner would have written; growth is over the bare script's."""

import argparse
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio
from pydantic_core import to_json
from uuid_utils import uuid7

import services.bus
import services.inventory
import services.orders
from contracts.envelope import Envelope
from contracts.inventory.v1 import DemandMet, OrderDemand
from services.bus import Received, Transaction
from services.inventory import queries
from services.orders import store
from services.orders.handlers import advance
from services.orders.recent import Recent
from services.orders.settings import OrdersSettings
from tests.bench import bare, scale
from tests.bench.pipeline import PARTS, Plan, Round, sale
from tests.bench.scale import FIRST, Measured, Size, add_orders, add_skus, base_of, report
from tests.inventory.given import ask, furnish
from tests.tables import fresh_database, opened

NOW = datetime.now(UTC)
SKUS, ORDERS, UNITS = 30, 50, 1_000_000
SERVED = [f"SKU-{number:05}" for number in range(FIRST)]
APART = {"stamp", "version", "sku_version", "command_id", "event_id", "cause", "name"}
"""What differs from row to row, whoever writes them; so do ids, moments and SKUs."""


@pytest_asyncio.fixture
async def databases(postgres_admin_dsn: str) -> AsyncIterator[Any]:
    """Connections to a database for orders and one for inventory."""
    async with (
        fresh_database(postgres_admin_dsn) as orders,
        fresh_database(postgres_admin_dsn) as inventory,
        opened(orders) as of_orders,
        opened(inventory) as of_inventory,
    ):
        yield of_orders, of_inventory


async def take(connection: Any, message: Any) -> list[Any]:
    """Orders handles a message; what it tells."""
    envelope = Envelope(str(uuid7()), "", "/test", NOW, "", "acme", message.order_id)
    tx = Transaction(connection, NOW, lambda: str(uuid7()))
    async with connection.transaction():
        event = Received(message, envelope, "acme:key", message.model_dump_json().encode())
        await advance([event], tx, settings=OrdersSettings(), recent=Recent(0))
    return [one.message for one in tx.publications]


async def sell(orders: Any, inventory: Any, order: str, *skus: str) -> None:
    """A sale through both services, until it is confirmed."""
    asked = [one for one in await take(orders, sale(order, list(skus), NOW)) if isinstance(one, OrderDemand)]
    for met in await ask(inventory, *asked, now=NOW):
        if isinstance(met, DemandMet):
            await take(orders, met)


def shape(row: Any) -> dict[str, Any]:
    """A row without what makes it this one."""
    found = {}
    for name, value in row.items():
        if name not in APART and not isinstance(value, datetime):
            found[name] = re.sub(r"SKU-\d+|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "…", str(value))
    return found


async def shapes(connection: Any, table: str, column: str, value: str) -> list[dict[str, Any]]:
    return [shape(row) for row in await connection.fetch(f"SELECT * FROM {table} WHERE {column} = $1", value)]


@pytest.mark.asyncio
async def test_a_multiplied_row_is_what_the_services_write(databases: Any) -> None:
    orders, inventory = databases
    for connection, service in ((orders, services.orders), (inventory, services.inventory)):
        for module in (services.bus, service):
            for migration in sorted((Path(str(module.__file__)).parent / "migrations").glob("*.sql")):
                await connection.execute(migration.read_text("utf-8"))
        await connection.execute("SELECT keep_days('inbox', current_date, current_date)")
    await furnish(inventory, dict.fromkeys(SERVED, UNITS))
    await add_skus(inventory, SKUS)
    order = str(uuid7())
    await sell(orders, inventory, order, *SERVED[:2])
    for connection in databases:
        await connection.execute("INSERT INTO inbox VALUES (current_date, 'c', 's', $1)", str(uuid7()))
    await add_orders("saldo", orders, inventory, Size(SKUS, ORDERS))

    # On SKUs that were multiplied, the service writes what was multiplied.
    new = str(uuid7())
    await sell(orders, inventory, new, "SKU-00011", "SKU-00025")
    for table in ("items", "skus", "stock", "stock_commands", "stocktakings"):
        served, copied = [await shapes(inventory, table, "sku", sku) for sku in (SERVED[5], "SKU-00017")]
        if table == "stock":
            for row in (*served, *copied):
                row["available"] = int(row["available"]) + int(row.pop("reserved"))
        assert served == copied, table
    copies = [row["order_id"] for row in await orders.fetch("SELECT order_id FROM orders ORDER BY sold_at")][:ORDERS]
    assert len({order, new, *copies}) == ORDERS + 2
    for connection, table in (
        (orders, "orders"),
        (orders, "story"),
        (inventory, "orders"),
        (inventory, "reservations"),
    ):
        written = await shapes(connection, table, "order_id", new)
        for copy in copies:
            assert await shapes(connection, table, "order_id", copy) == written, table
    for row in await orders.fetch("SELECT * FROM orders"):
        told = store.read(row)
        lines = await inventory.fetch("SELECT sku FROM reservations WHERE order_id = $1", row["order_id"])
        assert told.state.kind == "confirmed"
        assert told.sale.order_id == told.sale.external_id == row["order_id"]
        assert {line.sku for line in told.sale.lines} == {line["sku"] for line in lines}
    for connection in databases:
        assert await connection.fetchval("SELECT count(*) FROM inbox") == ORDERS + 1

    # The ledger is whole, and so are its versions.
    assert not await queries.conservation_faults(inventory, "acme")
    newest = "SELECT max(version) FROM skus WHERE sku = ANY($1)"
    booked = "SELECT sku, count(*), count(DISTINCT sku_version), max(sku_version) FROM movements GROUP BY sku"
    for sku, times, versions, latest in await inventory.fetch(booked):
        assert times == versions
        assert latest == await inventory.fetchval(newest, [sku])
    assert await inventory.fetchval("SELECT count(*) FROM skus") == SKUS


@pytest.mark.asyncio
async def test_multiplied_rows_of_the_bare_script_add_up(databases: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SALDO_BENCH_RUN", "test")
    orders, inventory = databases
    for connection in databases:
        await connection.execute(bare.SCHEMA)
    await inventory.execute("INSERT INTO skus SELECT unnest($1::text[]), 0", SERVED)
    for state, units in (("available", UNITS), ("reserved", 0)):
        await inventory.execute("INSERT INTO levels SELECT unnest($1::text[]), $2, $3", SERVED, state, units)
    await add_skus(inventory, SKUS)
    order = str(uuid7())
    body = sale(order, SERVED[:2], NOW).model_dump(mode="json")
    await bare.handle_batch(orders, [record(order, body)], bare.take_orders)
    demand = {**body, "sale_revision": 1, "lines": [{**line, "ordered": 1} for line in body["lines"]]}
    await bare.handle_batch(inventory, [record(str(uuid7()), demand)], bare.reserve)
    for connection in databases:
        await connection.execute("TRUNCATE outbox")
    await add_orders("bare", orders, inventory, Size(SKUS, ORDERS))

    for row in await orders.fetch(
        "SELECT order_id, convert_from(body, 'UTF8')::jsonb ->> 'order_id' AS told FROM orders"
    ):
        assert row["order_id"] == row["told"]
    for connection, table in ((orders, "inbox"), (orders, "orders"), (inventory, "inbox")):
        assert await connection.fetchval(f"SELECT count(*) FROM {table}") == ORDERS + 1
    sums = "SELECT sku, sum(quantity), max(quantity) FILTER (WHERE state = 'reserved') FROM levels GROUP BY sku"
    for sku, units, reserved in await inventory.fetch(sums):
        assert units == UNITS
        assert reserved == await inventory.fetchval("SELECT version FROM skus WHERE sku = $1", sku)
        assert reserved == await inventory.fetchval("SELECT count(*) FROM reservations WHERE sku = $1", sku)


def record(event_id: str, body: Any) -> Any:
    return SimpleNamespace(headers=[("ce_id", event_id.encode())], value=to_json(body))


def measured(size: Size, bare_us: float, ours_us: float, memory_mb: float = 100.0) -> Measured:
    rounds = {
        side: [Round(1e6 / us, dict.fromkeys(PARTS, us / len(PARTS)), 0.0, {"orders": memory_mb})]
        for side, us in (("bare", bare_us), ("saldo", ours_us))
    }
    return Measured(size, rounds)


def test_growth_is_over_that_of_the_bare_script() -> None:
    small, large = Size(1_000, 10), Size(2_000, 10)
    plan = Plan(10, 1, 1, 7)
    good = report([measured(small, 100, 300), measured(large, 200, 740)], plan, 0)
    assert good["missed"] == []
    assert good["sizes"][1]["ratio"] == {"cpu_us": 1.233, "time_us": 1.233}
    bad = report([measured(small, 100, 300), measured(large, 200, 760, memory_mb=251)], plan, 0)
    assert len(bad["missed"]) == 3
    assert bad["missed"][2] == "2,000 SKUs, 10 orders behind: orders took 251 MB"


def test_a_size_is_compared_with_the_one_that_differs_in_one_thing() -> None:
    bases = [base_of(size, scale.SIZES) for size in scale.SIZES]
    assert bases == [scale.SIZES[0], scale.SIZES[0], scale.SIZES[0], scale.SIZES[1]]


@pytest.mark.parametrize("text", ["1000", "1001:10", "10:10", "1000:0", "many:few"])
def test_a_size_that_cannot_be_made_says_what_one_is(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="such as 1000:10000"):
        scale.size(text)
