"""The packing table: every step of a parcel by the routes that people use."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import httpx
import pytest
import pytest_asyncio
from fastapi import FastAPI

from contracts.envelope import Message
from contracts.fulfillment.v1 import ReturnReceived, ShipmentDelivered, ShipmentDispatched
from services.bus import Transaction
from services.fulfillment.accounts import Carriers
from services.fulfillment.admin import admin_router
from services.fulfillment.book import Book
from tests.fulfillment.bench import SETTINGS, VAULT, Connection, hear
from tests.fulfillment.given import NOW, SHIPMENT, buyer, prepare

RATE = {
    "carrier": "ECT", "service": "pac", "from_code": "01000-000", "to_code": "09999-999", "up_to_g": 30_000,
    "price_minor": 1990, "currency": "BRL", "days_min": 3, "days_max": 7,
}  # fmt: skip
PLACE = {
    "name": "Loja Exemplo", "street": "Rua Um", "house": "1", "complement": "", "district": "Centro",
    "city": "Recife", "region": "PE", "postal_code": "50000-000",
}  # fmt: skip
MUGS = {"line_id": "1", "sku": "MUG", "quantity": 1, "location": "main", "state": "damaged"}


class Table:
    """The routes, and what they told."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self.told: list[Message] = []
        app = FastAPI()

        @asynccontextmanager
        async def opens() -> AsyncIterator[Transaction]:
            async with pool.acquire() as connection, connection.transaction():
                tx = Transaction(connection, NOW, lambda: "id")
                yield tx
            self.told += [one.message for one in tx.publications]

        carriers = Carriers(lambda: pool, VAULT, SETTINGS)
        app.include_router(admin_router(opens, carriers, VAULT, SETTINGS), prefix="/admin")
        self.client = httpx.AsyncClient(
            transport=httpx.ASGITransport(app), base_url="http://f/admin", params={"tenant": "acme"}
        )
        self.book = Book(opens, carriers.of, VAULT, SETTINGS)

    async def step(self, step: str, **body: Any) -> httpx.Response:
        return await self.client.post(f"/parcels/{SHIPMENT}/{step}", json=body)

    def kinds(self) -> list[type[Message]]:
        return [type(fact) for fact in self.told]


@pytest_asyncio.fixture
async def table(connection: Connection, database: str) -> AsyncIterator[Table]:
    """The routes over a database with one shipment whose buyer is known."""
    await hear(connection, buyer())
    await hear(connection, prepare())
    async with asyncpg.create_pool(database, min_size=1, max_size=2) as pool:
        table = Table(pool)
        async with table.client:
            yield table


@pytest.mark.asyncio
async def test_a_parcel_by_hand_from_the_shelf_to_the_door_and_back(table: Table) -> None:
    assert (await table.client.put("/rates", json=[RATE])).json() == {"rates": 1, "released": 0}
    assert (await table.client.put("/origins/main", json=PLACE)).status_code == 200
    assert (await table.step("pick")).json()["state"] == "picked"
    packed = (await table.step("pack", weight_g=900, dimensions_mm=[200, 150, 100])).json()
    assert (packed["state"], packed["waits_for"], packed["weight_g"]) == ("packed", None, 900)
    await table.book.work_off()

    page = await table.client.get(f"/parcels/{SHIPMENT}/label")
    assert page.content.startswith(b"%PDF")
    zebra = await table.client.get(f"/parcels/{SHIPMENT}/label", params={"format": "zpl"})
    assert zebra.text.startswith("^XA")
    assert (await table.step("dispatch")).json()["state"] == "dispatched"
    assert (await table.step("dispatch")).status_code == 200
    assert (await table.step("event", status="delivered")).json()["state"] == "delivered"
    assert (await table.step("return", return_id="r1", lines=[MUGS])).json()["returns"] == ["r1"]
    again = await table.step("return", return_id="r2", lines=[MUGS | {"quantity": 2}])
    assert again.status_code == 409
    assert "more of line 1" in again.json()["detail"]
    for once in (ShipmentDispatched, ShipmentDelivered, ReturnReceived):
        assert table.kinds().count(once) == 1


@pytest.mark.asyncio
async def test_what_nobody_weighs_is_what_its_items_weigh(table: Table) -> None:
    assert (await table.step("pack")).json()["weight_g"] == 600
    assert (await table.step("pack", weight_g=5)).status_code == 422


@pytest.mark.asyncio
async def test_what_does_not_fit_is_refused_with_a_reason(table: Table) -> None:
    for step, body in (
        ("dispatch", {}),
        ("event", {"status": "delivered"}),
        ("return", {"return_id": "r", "lines": [MUGS]}),
    ):
        refused = await table.step(step, **body)
        assert refused.status_code == 409
        assert "it is to_pick" in refused.json()["detail"]
    assert table.told == []
    wrong = await table.step("return", return_id="r", lines=[MUGS | {"state": "reserved"}])
    assert wrong.status_code == 422
    assert (await table.client.get("/parcels/unknown:s1")).status_code == 404
    assert (await table.client.get(f"/parcels/{SHIPMENT}/label")).status_code == 404
    assert (await table.client.get(f"/parcels/{SHIPMENT}", params={"tenant": "other"})).status_code == 404


@pytest.mark.asyncio
async def test_a_list_says_what_each_waits_for(table: Table, connection: Connection) -> None:
    await hear(connection, prepare(order_id="order-b", shipment_id="order-b:s1"))
    await hear(connection, prepare(2, carrier="Loggi"))

    first = (await table.client.get("/parcels", params={"limit": 1})).json()
    assert [(one["shipment_id"], one["waits_for"]) for one in first["parcels"]] == [(SHIPMENT, "mapping")]
    rest = (await table.client.get("/parcels", params={"after": first["next"]})).json()
    assert [(one["shipment_id"], one["waits_for"]) for one in rest["parcels"]] == [("order-b:s1", "address")]
    waiting = (await table.client.get("/parcels", params={"state": "to_pick"})).json()
    assert len(waiting["parcels"]) == 1
    assert (await table.client.get("/parcels", params={"state": "lost in space"})).status_code == 422

    said = await table.client.post("/mappings", json={"kind": "carrier", "given": "LOGGI", "ours": "loggi"})
    assert said.json() == {"released": 1}
    known = (await table.client.get("/mappings")).json()["mappings"]
    assert known[-1]["given"] == "loggi"
    shown = (await table.client.get(f"/parcels/{SHIPMENT}")).json()
    assert (shown["waits_for"], shown["carrier"]) == (None, "loggi")


@pytest.mark.asyncio
@pytest.mark.parametrize(("step", "name"), [("dispatch", "at"), ("event", "happened_at"), ("return", "received_at")])
async def test_a_moment_without_its_offset_is_refused(table: Table, step: str, name: str) -> None:
    more = {"event": {"status": "delivered"}, "return": {"return_id": "r", "lines": [MUGS]}}.get(step, {})
    answer = await table.step(step, **more, **{name: "2026-03-02T12:00:00"})
    assert answer.status_code == 422
    assert "timezone" in answer.text
    assert table.told == []


@pytest.mark.asyncio
async def test_no_list_shows_the_recipient(table: Table) -> None:
    shown = (await table.client.get("/parcels")).text
    assert "Flores" not in shown
    assert "Ana" not in shown


@pytest.mark.asyncio
async def test_a_rate_that_is_wrong_changes_none(table: Table) -> None:
    await table.client.put("/rates", json=[RATE])
    for change in ({"from_code": "1"}, {"from_code": "99999-999"}, {"days_max": 1}):
        assert (await table.client.put("/rates", json=[RATE | {"price_minor": 1}, RATE | change])).status_code == 422
    assert (await table.client.put("/rates", json=[RATE, RATE])).status_code == 422

    [kept] = (await table.client.get("/rates")).json()["rates"]
    assert (kept["price_minor"], kept["from_code"]) == (1990, "01000000")
