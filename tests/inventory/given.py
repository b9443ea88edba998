"""Demands, commands and ledgers to begin a test with."""

import itertools
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg

from contracts.envelope import Envelope, Message
from contracts.inventory.v1 import DemandLine, OrderDemand, PutItem, PutLocation, ReceiveStock
from services.bus import Received, Transaction
from services.inventory.commands import Result, Since, Warehouse, obey
from services.inventory.domain import meet
from services.inventory.handlers import allocate, expire_holds, obey_commands
from services.inventory.ledger import AVAILABLE, Ledger, Location, Order, Outcome, Sku

NOW = datetime(2026, 3, 14, 12, 0, tzinfo=UTC)
SOLD_AT = datetime(2026, 3, 14, 11, 0, tzinfo=UTC)
Connection = asyncpg.Connection


def line(sku: str = "MUG", ordered: int = 1, line_id: str = "1", **fields: Any) -> DemandLine:
    return DemandLine(line_id=line_id, sku=sku, ordered=ordered, **fields)


def demand(order_id: str, *lines: DemandLine, revision: int = 1, minute: int = 0, **fields: Any) -> OrderDemand:
    """A demand of a sale that took place `minute` minutes after eleven."""
    sold_at = SOLD_AT + timedelta(minutes=minute)
    given = {"sale_revision": revision, "connection_id": "shop", "sold_at": sold_at, "received_at": sold_at}
    return OrderDemand(order_id=order_id, revision=revision, lines=lines or (line(),), **(given | fields))


class Books:
    """A ledger in memory that is driven like a batch: `stock` is available units by SKU and (location, pool)."""

    def __init__(
        self,
        stock: dict[str, dict[tuple[str, str], int]] | None = None,
        kits: dict[str, tuple[tuple[str, int], ...]] | None = None,
        locations: Sequence[Location] = (Location("main", "Main"),),
        now: datetime = NOW,
    ) -> None:
        self.kits = kits or {}
        self.ledger = Ledger(now, {}, {}, {location.location: location for location in locations})
        for code, places in (stock or {}).items():
            sku = self.sku(code)
            for place, units in places.items():
                sku.add_place(place)
                sku.counters[(*place, AVAILABLE)] = units
        self._triggers = itertools.count()

    def sku(self, code: str) -> Sku:
        return self.ledger.skus.setdefault(code, Sku(code))

    def meet(self, wanted: OrderDemand) -> Outcome | None:
        """Meet a demand; how the order stands if anything was reported about it."""
        for part in wanted.lines:
            for sku, _ in self.kits.get(part.sku, ((part.sku, 1),)):
                self.sku(sku)
        self.ledger.orders.setdefault(wanted.order_id, Order(wanted.order_id))
        before = len(self.ledger.reports)
        meet(self.ledger, self.kits, wanted, ("event", "flow", ""), next(self._triggers))
        own = [
            report
            for report in self.ledger.reports[before:]
            if isinstance(report, Outcome) and report.order.order_id == wanted.order_id
        ]
        return own[-1] if own else None

    def outcomes(self, order_id: str) -> list[Outcome]:
        return [one for one in self.ledger.reports if isinstance(one, Outcome) and one.order.order_id == order_id]

    def units(self, code: str, state: str = AVAILABLE, location: str | None = None) -> int:
        return sum(
            units
            for (at, _, counted), units in self.sku(code).counters.items()
            if counted == state and location in (None, at)
        )

    def causes(self, code: str) -> list[tuple[str, int, str]]:
        """Order, units and outcome of everything the SKU's next level covers."""
        level = self.ledger.levels.get(code)
        return [(cause.order.order_id, cause.units, cause.outcome.value) for cause in level.causes] if level else []


def stands(outcome: Outcome | None, sku: str = "MUG") -> tuple[int, int]:
    """Reserved and short units of a SKU."""
    assert outcome is not None
    found = [part for part in outcome.lines if part.sku == sku]
    return sum(part.reserved for part in found), sum(part.short for part in found)


class Store(Books):
    """Books with commands of people. Items are plain unless put as kits."""

    def __init__(self, *items: PutItem, **given: Any) -> None:
        super().__init__(**given)
        self.warehouse = Warehouse(self.ledger, {}, {}, {}, {}, {}, set())
        self._ids = itertools.count()
        for item in items or (PutItem(sku="MUG", name="Mug"),):
            self.do(item)

    def do(self, command: Any, command_id: str = "", since: Since | None = None) -> Result:
        if not isinstance(command, PutLocation):
            self.sku(command.sku)
        trigger = next(self._triggers)
        if since:
            self.warehouse.since[trigger] = since
        obey(self.warehouse, command, command_id or f"command-{next(self._ids)}", trigger)
        return self.warehouse.results[-1][1]


def received(message: Any, tenant: str = "acme", event_id: str = "event") -> Received[Any]:
    correlation_id = getattr(message, "order_id", event_id)
    return Received(message, Envelope(event_id, "", "/test", NOW, "", tenant, correlation_id), f"{tenant}:key")


def opened(connection: Any, now: datetime = NOW) -> Transaction:
    ids = itertools.count()
    return Transaction(connection, now, lambda: f"id-{next(ids)}")


async def ask(connection: Any, *demands: OrderDemand, tenant: str = "acme", now: datetime = NOW) -> list[Message]:
    """Meet `demands` as one batch; what was published."""
    tx = opened(connection, now)
    async with connection.transaction():
        await allocate([received(one, tenant, f"event-{one.order_id}-{one.revision}") for one in demands], tx)
    return [one.message for one in tx.publications]


async def command(
    connection: Any, *commands: Any, ids: Sequence[str] = (), tenant: str = "acme", now: datetime = NOW
) -> list[Message]:
    """Obey `commands` as one batch; what was published."""
    tx = opened(connection, now)
    named = ids or [f"command-{next(_NUMBERS)}" for _ in commands]
    async with connection.transaction():
        await obey_commands([received(one, tenant, name) for one, name in zip(commands, named, strict=True)], tx)
    return [one.message for one in tx.publications]


async def expire_due(connection: Any, now: datetime) -> list[Message]:
    """End the holds that are due; what was published."""
    tx = opened(connection, now)
    async with connection.transaction():
        await expire_holds(tx, 100)
    return [one.message for one in tx.publications]


async def furnish(
    connection: Any, stock: dict[str, int], tenant: str = "acme", kits: dict[str, dict[str, int]] | None = None
) -> None:
    """A location `main`, an item for every SKU with its stock there, and kits."""
    await command(connection, PutLocation(location="main", name="Main"), tenant=tenant)
    await command(connection, *(PutItem(sku=sku, name=sku) for sku in stock), tenant=tenant)
    for sku, parts in (kits or {}).items():
        components = tuple({"sku": part, "quantity": units} for part, units in parts.items())
        await command(connection, PutItem(sku=sku, name=sku, components=components), tenant=tenant)  # type: ignore[arg-type]
    receipts = [ReceiveStock(sku=sku, location="main", quantity=units) for sku, units in stock.items() if units]
    if receipts:
        await command(connection, *receipts, tenant=tenant)


_NUMBERS = itertools.count()
