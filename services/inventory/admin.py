"""Read-only questions about stock, for the console and for people. Commands go over Kafka."""

from collections.abc import Callable, Iterable
from itertools import groupby
from typing import Annotated, Any

import asyncpg
from fastapi import APIRouter, HTTPException, Query

from services.inventory import queries
from services.inventory.ledger import COUNTED

Limit = Annotated[int, Query(ge=1, le=1000)]


def admin_router(pool: Callable[[], asyncpg.Pool]) -> APIRouter:
    """The routes of inventory under `/admin`, reading from the pool that `pool` gives."""
    router = APIRouter()
    _add_lists(router, pool)
    _add_explanations(router, pool)
    return router


def _add_lists(router: APIRouter, pool: Callable[[], asyncpg.Pool]) -> None:
    @router.get("/items")
    async def items(tenant: str, after: str = "", limit: Limit = 100) -> dict[str, Any]:
        """A page of items by SKU; `next` is the `after` of the following page, null at the end."""
        async with pool().acquire() as connection:
            rows = await queries.list_items(connection, tenant, after, limit)
        return {"items": [_item(row) for row in rows], "next": rows[-1]["sku"] if len(rows) == limit else None}

    @router.get("/locations")
    async def locations(tenant: str) -> dict[str, Any]:
        """Every location, in the order in which reservations draw on them."""
        async with pool().acquire() as connection:
            return {"locations": _plain(await queries.list_locations(connection, tenant))}

    @router.get("/stock")
    async def stock(tenant: str, sku: str | None = None, after: str = "", limit: Limit = 100) -> dict[str, Any]:
        """Counters of one SKU or of a page of them. The sums leave out what a channel holds."""
        async with pool().acquire() as connection:
            rows = await queries.list_stock(connection, tenant, sku, after, limit)
        if sku is not None and not rows:
            raise HTTPException(404, f"no stock of {sku} was ever booked or asked for: put the item, receive stock")
        found = [_stock(list(group)) for _, group in groupby(rows, key=lambda row: str(row["sku"]))]
        return {"stock": found, "next": found[-1]["sku"] if sku is None and len(found) == limit else None}

    @router.get("/reservations")
    async def reservations(tenant: str, order_id: str) -> dict[str, Any]:
        """Where the units of an order's lines are."""
        async with pool().acquire() as connection:
            rows = await queries.order_lines(connection, tenant, order_id)
        if not rows:
            raise HTTPException(404, f"nothing is reserved or missing for order {order_id}")
        return {"reservations": _plain(rows)}

    @router.get("/shortfalls")
    async def shortfalls(tenant: str, limit: Limit = 100) -> dict[str, Any]:
        """Open shortfalls, the oldest sale first."""
        async with pool().acquire() as connection:
            return {"shortfalls": _plain(await queries.list_shortfalls(connection, tenant, limit))}

    @router.get("/commands/{command_id}")
    async def command(tenant: str, command_id: str) -> dict[str, Any]:
        """What became of a command; `unknown` until it was read from Kafka."""
        async with pool().acquire() as connection:
            row = await queries.find_command(connection, tenant, command_id)
        if row is None:
            return {"command_id": command_id, "state": "unknown"}
        return dict(row) | {"state": "booked" if row["booked"] else "refused"}

    @router.get("/ledger")
    async def ledger(tenant: str) -> dict[str, Any]:
        """Whether every counter is the sum of its movements and every reserved unit belongs to an order line."""
        async with pool().acquire() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
            movements = await queries.count_movements(connection, tenant)
            faults = await queries.conservation_faults(connection, tenant)
        return {"movements": movements, "conserved": not faults, "faults": _plain(faults)}


def _add_explanations(router: APIRouter, pool: Callable[[], asyncpg.Pool]) -> None:
    @router.get("/stock/explain")
    async def explain(tenant: str, sku: str, limit: Limit = 50) -> dict[str, Any]:
        """Every number of a SKU taken apart: ledger sums, the order lines that hold or miss units, pools, kits."""
        async with pool().acquire() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
            rows = await queries.list_stock(connection, tenant, sku, "", 1)
            if not rows:
                raise HTTPException(404, f"no stock of {sku} was ever booked or asked for: put the item, receive stock")
            sums = await queries.ledger_sums(connection, tenant, sku)
            reserved = await queries.claims_on(connection, tenant, sku, "reserved", limit)
            short = await queries.claims_on(connection, tenant, sku, "short", limit)
            movements = await queries.last_movements(connection, tenant, sku, limit)
            kits = await queries.kits_with(connection, tenant, sku)
            drawing = await queries.pools(connection, tenant)
        found = _stock(rows)
        for place in found["places"]:
            place["drawn_on_by"] = [
                {name: row[name] for name in ("connection_id", "connector", "account", "state")}
                for row in drawing
                if row["pool"] == place["pool"]
            ]
            place["ledger"] = {state: _account(sums, place, state) for state in COUNTED}
        return found | {
            "reservations": _plain(reserved),
            "shortfalls": _plain(short),
            "movements": _plain(movements),
            "kits": _plain(kits),
        }


def _account(sums: Iterable[asyncpg.Record], place: dict[str, Any], state: str) -> dict[str, Any]:
    """What the movements of one account make, beside its counter."""
    parts = [
        {"cause": row["cause"], "other": row["other"], "quantity": row["quantity"], "movements": row["movements"]}
        for row in sums
        if (row["location"], row["pool"], row["state"]) == (place["location"], place["pool"], state)
    ]
    return {"counter": place[state], "sum": sum(part["quantity"] for part in parts), "parts": parts}


def _stock(rows: list[asyncpg.Record]) -> dict[str, Any]:
    places = [
        {name: row[name] for name in ("location", "pool", *COUNTED, "held_by")}
        for row in rows
        if row["location"] is not None
    ]
    ours = [place for place in places if place["held_by"] is None]
    return {
        "sku": rows[0]["sku"],
        "epoch": rows[0]["epoch"],
        "version": rows[0]["version"],
        "available": sum(place["available"] for place in ours),
        "reserved": sum(place["reserved"] for place in ours),
        "places": places,
    }


def _item(row: asyncpg.Record) -> dict[str, Any]:
    item = dict(row)
    del item["tenant"]
    skus, quantities = item.pop("component_skus"), item.pop("component_quantities")
    item["components"] = [{"sku": sku, "quantity": quantity} for sku, quantity in zip(skus, quantities, strict=True)]
    return item


def _plain(rows: Iterable[asyncpg.Record]) -> list[dict[str, Any]]:
    return [dict(row) for row in rows]
