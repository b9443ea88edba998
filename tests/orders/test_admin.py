"""What the console and people can ask orders about."""

import contextlib
from collections.abc import AsyncIterator

import asyncpg
import httpx
import pytest
import pytest_asyncio
from fastapi import FastAPI

from contracts.channels.v1 import SaleStatus
from contracts.fulfillment.v1 import PrepareShipment, ShipmentDispatched
from contracts.payments.v1 import PaymentAuthorized, PaymentMethod
from services.bus import Transaction
from services.orders.admin import admin_router
from services.orders.handlers import advance
from services.orders.recent import Recent
from services.orders.settings import OrdersSettings
from tests.orders.given import NOW, answer, basket, invoice, line, payment, sale, shipment
from tests.orders.test_handlers import received


@pytest_asyncio.fixture
async def admin(connection: asyncpg.Connection, database: str) -> AsyncIterator[httpx.AsyncClient]:
    """The routes of orders over a pool on the test's database."""
    app = FastAPI()

    @contextlib.asynccontextmanager
    async def opens() -> AsyncIterator[Transaction]:
        async with pool.acquire() as connection, connection.transaction():
            yield Transaction(connection, NOW, lambda: "id")

    async with asyncpg.create_pool(database, min_size=1, max_size=2) as pool:
        app.include_router(admin_router(lambda: pool, opens, OrdersSettings()), prefix="/admin")
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://orders") as client:
            yield client


async def hear(connection: asyncpg.Connection, *messages: object, tenant: str = "acme") -> list[object]:
    tx = Transaction(connection, NOW, lambda: "id")
    async with connection.transaction():
        await advance(
            [received(message, tenant) for message in messages], tx, settings=OrdersSettings(), recent=Recent(0)
        )
    return [published.message for published in tx.publications]


@pytest.mark.asyncio
async def test_an_order_is_found_by_both_its_numbers(connection: asyncpg.Connection, admin: httpx.AsyncClient) -> None:
    await hear(connection, sale(external_id="#1001/7"))

    by_id = await admin.get("/admin/orders/order-a", params={"tenant": "acme"})
    by_number = await admin.get("/admin/orders/%231001%2F7", params={"tenant": "acme"})

    assert by_id.json() == by_number.json()
    assert by_id.json()["state"] == "placed"
    assert by_id.json()["lines"][0]["open"] == 2


@pytest.mark.asyncio
async def test_a_number_on_two_connections_asks_which(connection: asyncpg.Connection, admin: httpx.AsyncClient) -> None:
    await hear(connection, sale(), sale(order_id="order-b", connection_id="connection-b"))

    both = await admin.get("/admin/orders/1001", params={"tenant": "acme"})
    one = await admin.get("/admin/orders/1001", params={"tenant": "acme", "connection_id": "connection-b"})

    assert both.status_code == 409
    assert "connection-a, connection-b" in both.json()["detail"]
    assert one.json()["order_id"] == "order-b"


@pytest.mark.asyncio
async def test_another_company_finds_nothing(connection: asyncpg.Connection, admin: httpx.AsyncClient) -> None:
    await hear(connection, sale(1, SaleStatus.PAID, line("1", None)))

    assert (await admin.get("/admin/orders/order-a", params={"tenant": "globex"})).status_code == 404
    assert (await admin.get("/admin/orders", params={"tenant": "globex"})).json() == {"orders": [], "next": None}
    assert (await admin.get("/admin/alerts", params={"tenant": "globex"})).json() == {"alerts": []}
    assert (await admin.get("/admin/orders/summary", params={"tenant": "globex"})).json()["orders"] == 0


@pytest.mark.asyncio
async def test_orders_are_listed_page_by_page(connection: asyncpg.Connection, admin: httpx.AsyncClient) -> None:
    await hear(connection, *(sale(order_id=f"order-{name}", external_id=name) for name in "abc"))

    first = (await admin.get("/admin/orders", params={"tenant": "acme", "limit": 2})).json()
    rest = (await admin.get("/admin/orders", params={"tenant": "acme", "limit": 2, "after": first["next"]})).json()

    assert [order["order_id"] for order in first["orders"] + rest["orders"]] == ["order-a", "order-b", "order-c"]
    assert rest["next"] is None


@pytest.mark.asyncio
async def test_a_state_nobody_has_is_refused_with_the_list(
    connection: asyncpg.Connection, admin: httpx.AsyncClient
) -> None:
    refused = await admin.get("/admin/orders", params={"tenant": "acme", "state": "lost"})

    assert refused.status_code == 422
    assert "confirmed" in refused.json()["detail"]


@pytest.mark.asyncio
async def test_the_summary_counts_states_and_units(connection: asyncpg.Connection, admin: httpx.AsyncClient) -> None:
    [demand, *_] = await hear(connection, sale(1, SaleStatus.PAID, line("1", quantity=5)))
    await hear(connection, answer(demand, {"MUG": 3}))
    await hear(connection, sale(1, SaleStatus.CANCELLED, order_id="order-b", external_id="2", connection_id="c"))

    summary = (await admin.get("/admin/orders/summary", params={"tenant": "acme"})).json()

    assert {state: count for state, count in summary["states"].items() if count} == {"short": 1, "cancelled": 1}
    assert summary["units"] == {"ordered": 7, "cancelled": 2, "reserved": 3, "short": 2, "open": 0}
    assert summary["connections"]["c"]["units"]["cancelled"] == 2


@pytest.mark.asyncio
async def test_an_alert_says_what_to_do(connection: asyncpg.Connection, admin: httpx.AsyncClient) -> None:
    await hear(connection, sale(1, SaleStatus.CANCEL_REQUESTED))

    [alert] = (await admin.get("/admin/alerts", params={"tenant": "acme"})).json()["alerts"]

    assert (alert["kind"], alert["external_id"]) == ("person", "1001")
    assert "cancel" in alert["what"]


@pytest.mark.asyncio
async def test_an_order_tells_its_story_and_what_it_waits_for(
    connection: asyncpg.Connection, admin: httpx.AsyncClient
) -> None:
    [demand, *_] = await hear(connection, sale(total_minor=11_000))
    await hear(connection, answer(demand))
    published = await hear(connection, invoice())
    [asked] = [message for message in published if isinstance(message, PrepareShipment)]
    await hear(connection, shipment(ShipmentDispatched, asked, 1))

    told = (await admin.get("/admin/orders/order-a", params={"tenant": "acme"})).json()

    assert [step["what"] for step in told["story"]][:2] == ["OrderPlaced", "OrderConfirmed"]
    assert {step["what"] for step in told["story"]} >= {
        "OrderInvoiced", "PrepareShipment order-a:s1 r1", "OrderProgress r1", "ShipmentDispatched", "OrderShipped",
    }  # fmt: skip
    assert (told["stage"], told["answers"]) == ("deliver", ["delivered", "lost", "wait"])
    assert [parcel["shipment_id"] for parcel in told["parcels"]] == ["order-a:s1"]


@pytest.mark.asyncio
async def test_the_own_shop_s_order_is_shown_paid_once_its_gateway_says_so(
    connection: asyncpg.Connection, admin: httpx.AsyncClient
) -> None:
    async def status() -> tuple[str, bool]:
        told = (await admin.get("/admin/orders/order-a", params={"tenant": "acme"})).json()
        return told["status"], told["paid"]

    [demand, *_] = await hear(connection, basket(1))
    await hear(connection, answer(demand))
    await hear(connection, basket(2, 1, PaymentMethod.CARD))
    assert await status() == ("awaiting_payment", False)

    # The basket itself never says that it is paid: that is for payments to say.
    await hear(connection, payment(PaymentAuthorized, 1, 11_000))

    assert await status() == ("paid", True)


@pytest.mark.asyncio
async def test_a_person_answers_what_an_order_waits_for_and_nothing_else(
    connection: asyncpg.Connection, admin: httpx.AsyncClient
) -> None:
    await hear(connection, sale(), sale(2, SaleStatus.CANCEL_REQUESTED))

    async def say(said: str, order_id: str = "order-a") -> httpx.Response:
        return await admin.post(f"/admin/orders/{order_id}/answer", params={"tenant": "acme"}, json={"answer": said})

    refused = await say("lost")
    assert refused.status_code == 409
    assert "it takes cancel or ship, not lost" in refused.json()["detail"]
    assert (await say("cancel", "order-x")).status_code == 404
    told = await say("cancel")
    assert (told.status_code, told.json()["state"]) == (200, "cancelled")
    assert (await say("cancel")).status_code == 409
    story = (await admin.get("/admin/orders/order-a", params={"tenant": "acme"})).json()["story"]
    assert "PersonSaid cancel" in [step["what"] for step in story]
