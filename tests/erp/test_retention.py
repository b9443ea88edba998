"""Documents go after their time, and not a day before it."""

from datetime import UTC, datetime, timedelta

import asyncpg
import httpx
import pytest

from contracts.orders.v1 import OrderPlaced
from services.bus import Transaction
from services.erp import store
from services.erp.handlers import record_orders
from tests.erp.given import NOW, TAX_ID, key, placed, received, xml


@pytest.mark.asyncio
async def test_a_document_goes_when_its_last_day_is_over(
    admin: httpx.AsyncClient, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.erp.invoices.CLOCK_TOLERANCE", timedelta(days=3650))
    order: OrderPlaced = placed()
    async with connection.transaction():
        await record_orders([received(order, 1)], Transaction(connection, NOW, lambda: "id"))
    where = {"tenant": "acme"}
    await admin.post("/admin/companies", params=where, json={"tax_id": TAX_ID})
    given = {"order_id": "order-a", "xml": xml(key())}
    assert (await admin.post("/admin/invoices", params=where, json=given)).status_code == 200

    last_day = datetime(2031, 12, 31, 23, 59, tzinfo=UTC)
    assert await store.delete_documents(connection, last_day, 10) == 0
    # On the last day somewhere the other side of the date line is a day behind.
    assert await store.delete_documents(connection, last_day + timedelta(hours=11), 10) == 0
    assert await store.delete_documents(connection, last_day + timedelta(hours=13), 10) == 1

    assert (await admin.get("/admin/invoices", params={**where, "order_id": "order-a"})).status_code == 404
    # What the journal says of it stays: sums and ids.
    kinds = [row["kind"] for row in await store.read_journal(connection, "acme", 0, 100)]
    assert kinds.count("invoice") == 1
