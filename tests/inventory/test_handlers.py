"""Handlers on a real PostgreSQL: what a batch leaves behind, what it tells, and what the tables refuse."""

import asyncio
import gc
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from contracts.channels.v1 import ConnectionChanged, ConnectionState, QuantityTrait
from contracts.envelope import Message
from contracts.inventory.v1 import (
    CountStock,
    DemandMet,
    DemandShort,
    HoldExpired,
    ItemChanged,
    MovementRecorded,
    PutItem,
    ReceiveStock,
    ShippedQuantity,
    StockCommandBooked,
    StockCommandRefused,
    StockLevelChanged,
)
from services.inventory import handlers, queries, store
from services.inventory.announce import CAUSES_MAX, announce_items, announce_levels
from services.inventory.handlers import allocate, know_connections
from services.inventory.ledger import Line
from tests.inventory.given import NOW, ask, command, demand, expire_due, furnish, line, opened, received

Connection = asyncpg.Connection


def of(kind: type[Message], messages: list[Message]) -> list[Any]:
    return [message for message in messages if isinstance(message, kind)]


async def conserved(connection: Any, tenant: str = "acme") -> bool:
    return not await queries.conservation_faults(connection, tenant)


@pytest.mark.asyncio
async def test_a_sale_reserves_and_tells_level_outcome_and_movement(connection: Connection) -> None:
    await furnish(connection, {"MUG": 5})
    told = await ask(connection, demand("a", line(ordered=2)))
    level, met, moved = of(StockLevelChanged, told), of(DemandMet, told), of(MovementRecorded, told)
    assert [(one.available, one.reserved, one.version) for one in level] == [(3, 2, 2)]
    assert [(cause.order_id, cause.units, cause.outcome) for cause in level[0].causes] == [("a", 2, "reserved")]
    assert met[0].lines[0].locations == (ShippedQuantity(location="main", quantity=2),)
    assert [(one.cause, one.quantity, one.sku_version) for one in moved] == [("order:a:1", 2, 2)]
    assert await conserved(connection)


@pytest.mark.asyncio
async def test_the_same_demand_twice_and_an_old_one_leave_nothing(connection: Connection) -> None:
    await furnish(connection, {"MUG": 5})
    await ask(connection, demand("a", line(ordered=2), revision=2))
    assert await ask(connection, demand("a", line(ordered=2), revision=2), demand("a", revision=1)) == []
    assert await connection.fetchval("SELECT available FROM stock") == 3


@pytest.mark.asyncio
@pytest.mark.rule(31)
async def test_one_level_per_sku_and_batch_with_every_cause(connection: Connection) -> None:
    await furnish(connection, {"MUG": 2})
    orders = [demand(f"order-{number}", minute=number % 60) for number in range(CAUSES_MAX + 5)]
    told = await ask(connection, *orders)
    [level] = of(StockLevelChanged, told)
    assert (level.available, level.version) == (0, 1 + len(orders))
    assert (len(level.causes), level.causes_omitted) == (CAUSES_MAX, 5)
    assert level.oldest_sold_at == orders[0].sold_at
    assert (len(of(DemandMet, told)), len(of(DemandShort, told))) == (2, len(orders) - 2)


@pytest.mark.asyncio
async def test_a_batch_leaves_the_collector_nothing_to_find(connection: Connection) -> None:
    await furnish(connection, {"MUG": 5})
    # What earlier tests of this process left is not this one's.
    gc.collect()
    earlier = [one for one in gc.get_objects() if isinstance(one, Line)]
    gc.disable()
    try:
        await ask(connection, demand("a", line(ordered=2)), demand("b", line(ordered=9)))
        await ask(connection, demand("b", line(ordered=1), revision=2))
        left = [one for one in gc.get_objects() if isinstance(one, Line)]
        assert [one for one in left if not any(one is known for known in earlier)] == []
    finally:
        gc.enable()


@pytest.mark.asyncio
async def test_rows_of_a_line_say_where_its_units_are_and_nothing_else(connection: Connection) -> None:
    await furnish(connection, {"MUG": 3})
    stored = "SELECT state, quantity FROM reservations ORDER BY state"
    await ask(connection, demand("a", line(ordered=5)))
    assert list(map(tuple, await connection.fetch(stored))) == [("reserved", 3), ("short", 2)]
    await ask(connection, demand("a", line(ordered=3), revision=2))
    assert list(map(tuple, await connection.fetch(stored))) == [("reserved", 3)]
    # What a line without units was composed of is remembered.
    await ask(connection, demand("a", line(ordered=3, cancelled=3), revision=3))
    assert list(map(tuple, await connection.fetch(stored))) == [("short", 0)]
    await ask(connection, demand("a", line(ordered=3), revision=4))
    assert list(map(tuple, await connection.fetch(stored))) == [("reserved", 3)]


@pytest.mark.asyncio
@pytest.mark.rule(17)
async def test_a_receipt_fills_shortfalls_of_earlier_batches(connection: Connection) -> None:
    await furnish(connection, {"MUG": 0})
    await ask(connection, demand("younger", minute=2), demand("older", minute=1))
    told = await command(connection, ReceiveStock(sku="MUG", location="main", quantity=1))
    assert [one.order_id for one in of(DemandMet, told)] == ["older"]
    assert [one.available for one in of(StockLevelChanged, told)] == [0]
    assert await conserved(connection)


@pytest.mark.asyncio
async def test_an_order_that_waits_for_all_its_lines_is_filled_across_skus(connection: Connection) -> None:
    await furnish(connection, {"MUG": 1, "TRAY": 0})
    await ask(connection, demand("a", line("MUG"), line("TRAY", line_id="2"), all_or_nothing=True))
    told = await command(connection, ReceiveStock(sku="TRAY", location="main", quantity=1))
    assert [one.order_id for one in of(DemandMet, told)] == ["a"]
    assert {(one.sku, one.available) for one in of(StockLevelChanged, told)} == {("MUG", 0), ("TRAY", 0)}


@pytest.mark.asyncio
@pytest.mark.rule(18)
async def test_a_cancel_in_a_later_batch_follows_the_kit_of_its_day(connection: Connection) -> None:
    await furnish(connection, {"MUG": 10, "TRAY": 10}, kits={"SET": {"MUG": 2, "TRAY": 1}})
    await ask(connection, demand("a", line("SET", 2)))
    await command(connection, PutItem(sku="SET", name="SET", components=({"sku": "MUG", "quantity": 5},)))  # type: ignore[arg-type]
    await ask(connection, demand("a", line("SET", 2, cancelled=2), revision=2))
    assert [row["available"] for row in await connection.fetch("SELECT available FROM stock")] == [10, 10]
    assert await conserved(connection)


@pytest.mark.asyncio
@pytest.mark.rule(21)
async def test_a_count_turns_reservations_of_earlier_batches_into_shortfalls(connection: Connection) -> None:
    await furnish(connection, {"MUG": 3})
    await ask(connection, demand("older", minute=1), demand("younger", line(ordered=2), minute=2))
    told = await command(connection, CountStock(sku="MUG", location="main", counted=2, counted_at=NOW))
    [short] = of(DemandShort, told)
    assert (short.order_id, short.lines[0].reserved, short.lines[0].short) == ("younger", 1, 1)
    assert await conserved(connection)


@pytest.mark.asyncio
@pytest.mark.rule(21)
async def test_a_count_compares_with_the_moment_it_was_taken_at(connection: Connection) -> None:
    await furnish(connection, {"MUG": 10})
    shipped = (ShippedQuantity(location="main", quantity=4),)
    await ask(connection, demand("a", line(ordered=4, shipped=shipped)), now=NOW + timedelta(hours=2))
    counted = CountStock(sku="MUG", location="main", counted=9, counted_at=NOW + timedelta(hours=1))
    await command(connection, counted, now=NOW + timedelta(hours=3))
    assert await connection.fetchval("SELECT available FROM stock") == 5
    at_version = CountStock(
        sku="MUG", location="main", counted=10, counted_at=NOW + timedelta(hours=4), epoch=0, version=1
    )
    await command(connection, at_version, now=NOW + timedelta(hours=5))
    assert await connection.fetchval("SELECT available FROM stock") == 6


@pytest.mark.asyncio
@pytest.mark.rule(23)
async def test_a_command_repeated_books_nothing_twice(connection: Connection) -> None:
    await furnish(connection, {"MUG": 0})
    receipt = ReceiveStock(sku="MUG", location="main", quantity=3)
    first = await command(connection, receipt, ids=["mine"])
    again = await command(connection, receipt, receipt, ids=["mine", "mine"])
    assert again == of(StockCommandBooked, first) * 2
    assert await connection.fetchval("SELECT available FROM stock") == 3
    with pytest.raises(asyncpg.UniqueViolationError):
        await connection.execute(
            "INSERT INTO stock_commands SELECT tenant, command_id, kind, sku, booked, outcome, at FROM stock_commands"
        )


@pytest.mark.asyncio
async def test_a_refused_command_leaves_its_reason(connection: Connection) -> None:
    [refused] = await command(connection, ReceiveStock(sku="MUG", location="main", quantity=3), ids=["mine"])
    assert isinstance(refused, StockCommandRefused)
    row = await queries.find_command(connection, "acme", "mine")
    assert row is not None
    assert (row["booked"], row["outcome"]) == (False, refused.reason)


@pytest.mark.asyncio
@pytest.mark.rule(22)
async def test_a_hold_that_ran_out_is_given_back_by_the_clock(connection: Connection) -> None:
    await furnish(connection, {"MUG": 1})
    await ask(connection, demand("a", hold_until=NOW + timedelta(minutes=5)), demand("b", minute=1))
    assert await expire_due(connection, NOW + timedelta(minutes=4)) == []
    told = await expire_due(connection, NOW + timedelta(minutes=5))
    assert [one.order_id for one in of(HoldExpired, told)] == ["a"]
    assert [one.order_id for one in of(DemandMet, told)] == ["b"]
    assert await expire_due(connection, NOW + timedelta(minutes=6)) == []
    paid = await ask(connection, demand("a", revision=2))
    assert [one.order_id for one in of(DemandShort, paid)] == ["a"]
    assert await conserved(connection)


@pytest.mark.asyncio
async def test_two_companies_never_meet(connection: Connection) -> None:
    for tenant, units in (("acme", 1), ("globex", 7)):
        await furnish(connection, {"MUG": units}, tenant=tenant)
    tx = opened(connection)
    async with connection.transaction():
        await allocate([received(demand("a", line(ordered=2)), tenant) for tenant in ("acme", "globex")], tx)
    outcomes = [(one.tenant, type(one.message)) for one in tx.publications if hasattr(one.message, "lines")]
    assert outcomes == [("acme", DemandShort), ("globex", DemandMet)]
    told = await command(connection, ReceiveStock(sku="MUG", location="main", quantity=1), tenant="globex")
    assert of(DemandMet, told) == []
    rows = await connection.fetch("SELECT tenant, available, reserved FROM stock ORDER BY tenant")
    assert [tuple(row) for row in rows] == [("acme", 0, 1), ("globex", 6, 2)]


@pytest.mark.asyncio
@pytest.mark.rule(18)
async def test_the_database_refuses_stock_below_zero(connection: Connection) -> None:
    await furnish(connection, {"MUG": 1})
    for state in ("available", "reserved", "shipped", "damaged", "inbound"):
        with pytest.raises(asyncpg.CheckViolationError):
            await connection.execute(f"UPDATE stock SET {state} = -1")


@pytest.mark.asyncio
@pytest.mark.rule(3, 18)
async def test_the_database_refuses_a_movement_booked_twice(connection: Connection) -> None:
    await furnish(connection, {"MUG": 5})
    await ask(connection, demand("a"))
    # As if the order's revision had been forgotten: the ledger still knows.
    await connection.execute("DELETE FROM reservations")
    await connection.execute("DELETE FROM orders")
    with pytest.raises(asyncpg.UniqueViolationError):
        await ask(connection, demand("a"))


@pytest.mark.asyncio
@pytest.mark.rule(15)
async def test_states_are_announced_page_by_page(connection: Connection) -> None:
    await furnish(connection, {"MUG": 1, "TRAY": 2, "JUG": 3})
    await furnish(connection, {"MUG": 9}, tenant="globex")
    for announce, kind in ((announce_levels, StockLevelChanged), (announce_items, ItemChanged)):
        tx, cursor, pages = opened(connection), "", 0
        async with connection.transaction():
            while (following := await announce(tx, None, cursor, 2)) is not None:
                cursor, pages = following, pages + 1
        found = [(one.tenant, one.message.sku) for one in tx.publications if isinstance(one.message, kind)]  # type: ignore[attr-defined]
        assert found == [("acme", "JUG"), ("acme", "MUG"), ("acme", "TRAY"), ("globex", "MUG")]
        assert pages == 2


@pytest.mark.asyncio
async def test_a_kit_stays_a_kit_when_it_is_read_back(connection: Connection) -> None:
    await furnish(connection, {"MUG": 1}, kits={"SET": {"MUG": 2}})
    item = PutItem(
        sku="MUG", name="Mug", gtin="789", weight_g=300, dimensions_mm=(1, 2, 3), tax_class="6911.10.10", active=False
    )
    told = await command(connection, item)
    found = await store.read_items(connection, {("acme", "MUG")})
    assert found["acme", "MUG"] == of(ItemChanged, told)[0]
    assert [(part.sku, part.quantity) for part in found["acme", "SET"].components] == [("MUG", 2)]


@pytest.mark.asyncio
@pytest.mark.rule(15)
async def test_an_older_word_about_a_connection_changes_nothing(connection: Connection) -> None:
    def said(version: int, pool: str) -> Any:
        change = ConnectionChanged(
            connection_id="shop", version=version, connector="shopify", environment="sandbox", account="a",
            state=ConnectionState.LIVE, pool=pool, quantity_trait=QuantityTrait.ABSOLUTE, reserves_unpaid=False,
            restores_on_cancel=True,
        )  # fmt: skip
        return received(change)

    await know_connections([said(2, "web"), said(1, "old")], opened(connection))
    assert [row["pool"] for row in await queries.pools(connection, "acme")] == ["web"]


@pytest.mark.asyncio
@pytest.mark.rule(19)
async def test_two_workers_on_one_hot_sku_reserve_exactly_what_there_is(
    stock_database: str, connection: Connection
) -> None:
    await furnish(connection, {"MUG": 100}, kits={"SET": {"MUG": 1}})
    orders = [demand(f"order-{number}", line("SET" if number % 3 else "MUG")) for number in range(300)]

    async def work(mine: list[Any]) -> list[Message]:
        worker = await asyncpg.connect(stock_database)
        try:
            told = []
            for start in range(0, len(mine), 10):
                told += await ask(worker, *mine[start : start + 10])
            return told
        finally:
            await worker.close()

    told = [message for part in await asyncio.gather(work(orders[::2]), work(orders[1::2])) for message in part]
    assert (len(of(DemandMet, told)), len(of(DemandShort, told))) == (100, 200)
    levels = sorted(of(StockLevelChanged, told), key=lambda level: level.version)
    assert len({level.version for level in levels}) == len(levels)
    assert [level.available for level in levels] == sorted((level.available for level in levels), reverse=True)
    assert (levels[-1].available, levels[-1].reserved) == (0, 100)
    assert await conserved(connection)


@pytest.mark.asyncio
@pytest.mark.rule(19)
async def test_an_order_that_came_in_between_is_locked_without_waiting(
    stock_database: str, connection: Connection
) -> None:
    """A receipt must fill a shortfall that was committed after it had looked for shortfalls, or give up."""
    await furnish(connection, {"MUG": 0})
    other = await asyncpg.connect(stock_database)
    third = await asyncpg.connect(stock_database)
    try:
        short = other.transaction()
        await short.start()
        await allocate([received(demand("a"))], opened(other))
        receipt = asyncio.create_task(
            command(connection, ReceiveStock(sku="MUG", location="main", quantity=1), ids=["mine"])
        )
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        while not await third.fetchval(waiting):  # noqa: ASYNC110 - a lock of the server has no event here
            await asyncio.sleep(0.01)
        await short.commit()
        told = await receipt
        assert [one.order_id for one in of(DemandMet, told)] == ["a"]
        assert await conserved(connection)
    finally:
        await other.close()
        await third.close()


@pytest.mark.asyncio
async def test_what_cannot_be_told_is_not_written_and_the_connection_is_free_again(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows are written while messages are built: the one that fails waits for the other."""
    await furnish(connection, {"MUG": 5})

    def cannot(*_: object) -> None:
        raise ValueError("no such message")

    with monkeypatch.context() as patched:
        patched.setattr(handlers, "movement_message", cannot)
        with pytest.raises(ValueError, match="no such message"):
            await ask(connection, demand("a"))
    assert await connection.fetchval("SELECT available FROM stock") == 5
    assert of(DemandMet, await ask(connection, demand("a")))


@pytest.mark.asyncio
async def test_what_cannot_be_written_is_the_failure_of_the_batch(
    connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await furnish(connection, {"MUG": 5})

    async def cannot(*_: object) -> None:
        raise asyncpg.CheckViolationError("below zero")

    monkeypatch.setattr(store, "write_stock", cannot)
    with pytest.raises(asyncpg.CheckViolationError, match="below zero"):
        await ask(connection, demand("a"))
