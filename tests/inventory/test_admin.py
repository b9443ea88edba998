"""The questions people ask about stock, over HTTP as the bus serves them, on what handlers have left behind."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import asyncpg
import httpx
import pytest
import pytest_asyncio
from fastapi import FastAPI

from contracts.inventory.v1 import ReceiveStock
from services.inventory import queries
from services.inventory.admin import admin_router
from tests.inventory.given import NOW, Connection, ask, command, demand, furnish, line


@pytest_asyncio.fixture
async def admin(stock_database: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the admin routes."""
    pool = await asyncpg.create_pool(stock_database, min_size=1, max_size=2)
    app = FastAPI()
    app.include_router(admin_router(lambda: pool), prefix="/admin")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://inventory/admin") as client:
        yield client
    await pool.close()


async def answer(admin: httpx.AsyncClient, path: str, **parameters: Any) -> Any:
    response = await admin.get(path, params={"tenant": "acme", **parameters})
    assert response.status_code == 200, response.text
    return response.json()


@pytest.mark.asyncio
async def test_every_number_is_taken_apart(connection: Connection, admin: httpx.AsyncClient) -> None:
    await furnish(connection, {"MUG": 5}, kits={"SET": {"MUG": 2}})
    await ask(connection, demand("a", line("SET", 2)), demand("b", line(ordered=3), minute=1))
    explained = await answer(admin, "/stock/explain", sku="MUG")
    assert (explained["available"], explained["reserved"], explained["version"]) == (0, 5, 3)
    [place] = explained["places"]
    for state in ("available", "reserved", "shipped", "damaged", "inbound"):
        assert place["ledger"][state]["sum"] == place["ledger"][state]["counter"] == place[state]
    assert sum(claim["quantity"] for claim in explained["reservations"]) == explained["reserved"]
    assert [(claim["order_id"], claim["quantity"]) for claim in explained["shortfalls"]] == [("b", 2)]
    assert explained["kits"] == [{"sku": "SET", "quantity": 2}]
    assert len(explained["movements"]) == 3


@pytest.mark.asyncio
async def test_lists_page_and_say_what_is_missing(connection: Connection, admin: httpx.AsyncClient) -> None:
    await furnish(connection, {"CUP": 1, "JUG": 2, "MUG": 3})
    page = await answer(admin, "/stock", limit=2)
    assert ([found["sku"] for found in page["stock"]], page["next"]) == (["CUP", "JUG"], "JUG")
    assert [found["sku"] for found in (await answer(admin, "/stock", after="JUG"))["stock"]] == ["MUG"]
    assert [item["sku"] for item in (await answer(admin, "/items", limit=1))["items"]] == ["CUP"]
    assert (await answer(admin, "/locations"))["locations"][0]["location"] == "main"
    missing = await admin.get("/stock", params={"tenant": "acme", "sku": "NOPE"})
    assert (missing.status_code, "put the item" in missing.text) == (404, True)
    assert (await admin.get("/stock", params={"tenant": "globex", "sku": "MUG"})).status_code == 404


@pytest.mark.asyncio
async def test_commands_orders_and_shortfalls_are_found(connection: Connection, admin: httpx.AsyncClient) -> None:
    await furnish(connection, {"MUG": 1})
    await command(connection, ReceiveStock(sku="NOPE", location="main", quantity=1), ids=["refused"])
    await command(connection, ReceiveStock(sku="MUG", location="main", quantity=1), ids=["booked"])
    states = [(await answer(admin, f"/commands/{name}"))["state"] for name in ("booked", "refused", "neither")]
    assert states == ["booked", "refused", "unknown"]
    await ask(connection, demand("a", line(ordered=3), hold_until=NOW + timedelta(hours=1)))
    rows = (await answer(admin, "/reservations", order_id="a"))["reservations"]
    assert {(row["state"], row["quantity"]) for row in rows} == {("reserved", 2), ("short", 1)}
    [short] = (await answer(admin, "/shortfalls"))["shortfalls"]
    assert (short["order_id"], short["missing"], short["pool"]) == ("a", 1, "shared")


@pytest.mark.asyncio
async def test_the_ledger_check_finds_what_does_not_add_up(connection: Connection, admin: httpx.AsyncClient) -> None:
    await furnish(connection, {"MUG": 5})
    await ask(connection, demand("a", line(ordered=2)))
    assert await answer(admin, "/ledger") == {"movements": 2, "conserved": True, "faults": []}
    for tampering in (
        "UPDATE stock SET available = available + 1",
        "UPDATE reservations SET quantity = 1 WHERE state = 'reserved'",
        "DELETE FROM stock",
    ):
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute(tampering)
        assert await queries.conservation_faults(connection, "acme") != []
        await transaction.rollback()
