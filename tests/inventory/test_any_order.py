"""Random demands, cancels, shipments, returns, receipts, adjustments, counts, transfers and expiries, with duplicates
and in any order: what always holds, and that a batch does what its events do one by one.
"""

import itertools
from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contracts.envelope import Message
from contracts.inventory.v1 import (
    AccountState,
    AdjustStock,
    Component,
    CountStock,
    OrderDemand,
    PutItem,
    PutLocation,
    ReceiveStock,
    ReturnedQuantity,
    ShippedQuantity,
    StockLevelChanged,
    TransferStock,
)
from services.inventory import queries
from services.inventory.handlers import allocate, expire_holds, obey_commands
from tests.inventory.given import NOW, Connection, demand, line, opened, received

SKUS = ("CUP", "JUG", "MUG")
SOLD = (*SKUS, "SET")
LOCATIONS = ("annex", "full", "main")
POOLS = ("shared", "web")
SET = {"CUP": 1, "MUG": 2}
UNITS = st.integers(1, 4)
AT = st.integers(-60, 0).map(lambda minutes: NOW + timedelta(minutes=minutes))
TABLES = (
    "stock",
    "skus",
    "orders",
    "reservations",
    "movements",
    "stock_commands",
    "stocktakings",
    "items",
    "locations",
)
_TENANTS = itertools.count()


@st.composite
def demands(draw: st.DrawFn) -> OrderDemand:
    """A demand of one of a few orders, at one of a few revisions; the same order may come in any order of revisions."""
    name = draw(st.sampled_from("abcde"))
    lines = []
    for number in range(draw(st.integers(1, 2))):
        ordered = draw(UNITS)
        shipped = draw(st.integers(0, ordered)) if draw(st.booleans()) else 0
        back = draw(st.integers(0, shipped))
        held = name == "e"
        at = "full" if held else draw(st.sampled_from(("main", "annex")))
        state = draw(st.sampled_from((AccountState.AVAILABLE, AccountState.DAMAGED, AccountState.INBOUND)))
        lines.append(
            line(
                draw(st.sampled_from(SOLD)),
                ordered,
                str(number),
                cancelled=draw(st.integers(0, ordered)),
                shipped=(ShippedQuantity(location=at, quantity=shipped),) if shipped else (),
                returned=(ReturnedQuantity(location=at, state=state, quantity=back),) if back else (),
                location="full" if held else None,
            )
        )
    return demand(
        name,
        *lines,
        revision=draw(st.integers(1, 4)),
        minute="abcde".index(name),
        connection_id="marketplace" if name == "e" else "shop",
        pool=draw(st.sampled_from(POOLS)),
        shortfall_policy=draw(st.sampled_from(("shared_pool", "other_pool", "other_location"))),
        all_or_nothing=name == "d",
        hold_until=NOW + timedelta(minutes=30) if name == "c" and draw(st.booleans()) else None,
    )


PLACE = {"location": st.sampled_from(LOCATIONS), "pool": st.sampled_from(POOLS)}
COMMANDS = st.one_of(
    st.builds(ReceiveStock, sku=st.sampled_from(SOLD), quantity=UNITS, opening=st.booleans(), **PLACE),
    st.builds(
        AdjustStock, sku=st.sampled_from(SKUS), quantity=st.integers(-3, 3), reason=st.just("check"), effective_at=AT,
        state=st.sampled_from((AccountState.AVAILABLE, AccountState.DAMAGED)), **PLACE,
    ),
    st.builds(
        CountStock, sku=st.sampled_from(SKUS), location=st.sampled_from(LOCATIONS), counted=st.integers(0, 8),
        counted_at=AT, version=st.none() | st.integers(0, 12),
    ),
    st.builds(
        TransferStock, sku=st.sampled_from(SKUS), quantity=UNITS, from_location=st.sampled_from(LOCATIONS),
        from_pool=st.sampled_from(POOLS), to_location=st.sampled_from(LOCATIONS), to_pool=st.sampled_from(POOLS),
    ),
)  # fmt: skip
Chunk = tuple[str, list[Any]]
CHUNKS = st.lists(
    st.one_of(
        st.tuples(st.just("demand"), st.lists(demands(), min_size=1, max_size=5)),
        st.tuples(st.just("demand"), st.lists(demands(), min_size=1, max_size=5)),
        st.tuples(st.just("command"), st.lists(st.tuples(COMMANDS, st.integers(0, 30)), min_size=1, max_size=4)),
        st.tuples(st.just("expire"), st.just([None])),
    ),
    min_size=1,
    max_size=8,
)


async def furnish(connection: Any, tenant: str) -> None:
    """Two locations of ours, one that a marketplace holds, three SKUs and a kit."""
    parts = tuple(Component(sku=sku, quantity=units) for sku, units in SET.items())
    setting = [
        PutLocation(location="main", name="Main", priority=1),
        PutLocation(location="annex", name="Annex", priority=2),
        PutLocation(location="full", name="Full", held_by="marketplace"),
        *(PutItem(sku=sku, name=sku) for sku in SKUS),
        PutItem(sku="SET", name="Set", components=parts),
        ReceiveStock(sku="MUG", location="main", quantity=4),
        ReceiveStock(sku="CUP", location="annex", quantity=3),
        ReceiveStock(sku="MUG", location="full", quantity=2),
    ]
    async with connection.transaction():
        await obey_commands(
            [received(one, tenant, f"setting-{number}") for number, one in enumerate(setting)], opened(connection)
        )


async def run(connection: Any, tenant: str, chunks: Sequence[Chunk], *, one_by_one: bool) -> list[Message]:
    """Handle chunks as batches, or event by event; what was published."""
    told: list[Message] = []
    for kind, events in chunks:
        for part in [[event] for event in events] if one_by_one else [events]:
            tx = opened(connection, NOW + timedelta(hours=1) if kind == "expire" else NOW)
            async with connection.transaction():
                if kind == "demand":
                    await allocate([received(one, tenant, f"{one.order_id}-{one.revision}") for one in part], tx)
                elif kind == "command":
                    await obey_commands([received(one, tenant, f"command-{number}") for one, number in part], tx)
                else:
                    await expire_holds(tx, 100)
            told += [one.message for one in tx.publications if one.tenant == tenant]
    return told


async def tables(connection: Any, tenant: str) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of a tenant, without the tenant and without what is hashed from it."""
    found = {}
    for name in TABLES:
        rows = await connection.fetch(f"SELECT * FROM {name} WHERE tenant = $1", tenant)
        kept = [tuple(value for key, value in row.items() if key not in {"tenant", "movement_id"}) for row in rows]
        found[name] = sorted(kept, key=repr)
    return found


def facts(told: Sequence[Message]) -> dict[str, Any]:
    """What a reader of the streams ends with: facts per key in order; of levels the last, with all causes in sum."""
    found: dict[str, Any] = defaultdict(list)
    causes: Counter[Any] = Counter()
    for message in told:
        if isinstance(message, StockLevelChanged):
            causes.update(message.causes)
            found[f"level {message.sku}"] = message.model_copy(update={"causes": ()})
        else:
            key = getattr(message, "order_id", "") or getattr(message, "sku", "")
            body = message.model_dump(exclude={"movement_id"})
            found[f"{type(message).__name__.removesuffix('Met').removesuffix('Short')} {key}"].append(body)
    return {**found, "causes": causes}


async def check(connection: Any, tenant: str, chunks: Sequence[Chunk], told: Sequence[Message]) -> None:
    """What always holds."""
    assert await queries.conservation_faults(connection, tenant) == []
    claimed: dict[tuple[str, str, str], int] = defaultdict(int)
    for row in await connection.fetch("SELECT * FROM reservations WHERE tenant = $1", tenant):
        claimed[row["order_id"], row["line_id"], row["sku"]] += row["quantity"]
    newest: dict[str, OrderDemand] = {}
    for one in (one for kind, events in chunks if kind == "demand" for one in events):
        if one.order_id not in newest or newest[one.order_id].revision < one.revision:
            newest[one.order_id] = one
    rows = await connection.fetch("SELECT order_id FROM orders WHERE expired AND tenant = $1", tenant)
    expired = {row["order_id"] for row in rows}
    for order_id, wanted in newest.items():
        if order_id in expired:
            continue
        for part in wanted.lines:
            kept = max(part.ordered - part.cancelled, sum(one.quantity for one in part.shipped))
            for sku, per_unit in SET.items() if part.sku == "SET" else {part.sku: 1}.items():
                assert claimed[order_id, part.line_id, sku] >= kept * per_unit
    units: Counter[Any] = Counter()
    for cause in (cause for one in told if isinstance(one, StockLevelChanged) for cause in one.causes):
        if cause.outcome in {"reserved", "short", "released"}:
            units[cause.order_id] += cause.units
    total: Counter[Any] = Counter()
    for (order_id, _, _), quantity in claimed.items():
        total[order_id] += quantity
    assert +units == +total
    # Nobody who is free in what he takes waits while something is free.
    waiting = await connection.fetchval(
        """
        SELECT count(*) FROM reservations JOIN orders USING (tenant, order_id)
        JOIN stock USING (tenant, sku) JOIN locations ON locations.tenant = stock.tenant
        AND locations.location = stock.location
        WHERE orders.tenant = $1 AND reservations.state = 'short' AND reservations.quantity > 0 AND stock.available > 0
        AND locations.held_by IS NULL AND policy = 'other_location' AND NOT all_or_nothing AND only_location IS NULL
        """,
        tenant,
    )
    assert waiting == 0


@pytest.mark.asyncio
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(chunks=CHUNKS)
@pytest.mark.rule(4, 18)
async def test_a_batch_does_what_its_events_do_one_by_one(connection: Connection, chunks: list[Chunk]) -> None:
    await connection.execute("SET synchronous_commit = off")
    ends = []
    for one_by_one in (False, True):
        tenant = f"company-{next(_TENANTS)}"
        try:
            await furnish(connection, tenant)
            told = await run(connection, tenant, chunks, one_by_one=one_by_one)
            await check(connection, tenant, chunks, told)
            ends.append((await tables(connection, tenant), facts(told)))
        finally:
            for table in TABLES:
                await connection.execute(f"DELETE FROM {table} WHERE tenant = $1", tenant)
    assert ends[0][0] == ends[1][0]
    assert ends[0][1] == ends[1][1]
