"""Sales in a real Tryton with its modules sale, stock and account: each once, whatever happens on the way."""

import asyncio
import itertools
import json
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import date
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import httpx
import pytest
import pytest_asyncio
from fastapi import FastAPI

from contracts.orders.v1 import OrderLine, OrderPlaced, OrderShipped
from deploy.local.postgres import create_database
from services.border.errors import OutcomeUnknown
from services.border.vault import Vault
from services.bus import BusSettings
from services.erp import bookings
from services.erp.admin import admin_router
from services.erp.app import MIGRATIONS, build
from services.erp.booking import Booker
from services.erp.handlers import record_orders
from services.erp.settings import ErpSettings
from services.erp.targets import tryton as target
from services.inventory.app import build as build_inventory
from services.inventory.settings import InventorySettings
from services.runtime import Service, command
from services.runtime.migrate import migrate
from tests.erp.given import NOW, SECRETS_KEY, fact, received
from tests.erp.tryton_server import DATABASE, USER, TrytonServer, tryton_server
from tests.tables import opened

pytestmark = pytest.mark.timeout(600)

PRODUCTS, ORDERS = 20, 200
QUICK = ErpSettings(
    secrets_key=SECRETS_KEY, look_every_s=0.1, items_every_s=3600, retry_s=0.01, lot_timeout_s=120, call_timeout_s=60
)
CHANGES = ("sale.sale", "sale.line", "stock.shipment.out", "stock.move", "party.party", "product.product")
numbers = itertools.count(1)


@pytest.fixture(scope="module")
def server() -> Iterator[TrytonServer]:
    with tryton_server(PRODUCTS) as running:
        yield running


def sold(order_id: str, number: int, *, sku: str = "", currency: str = "BRL") -> list[Any]:
    """An order that has left: 20.00, 2 x 15.00 less 0.01, and 9.90 of freight."""
    lines = (
        OrderLine(line_id="1", sku=sku or f"SKU-{number % PRODUCTS}", quantity=1, unit_price_minor=2000),
        OrderLine(
            line_id="2", sku=f"SKU-{(number + 1) % PRODUCTS}", quantity=2, unit_price_minor=1500, discount_minor=1
        ),
    )
    about = {"order_id": order_id, "external_id": order_id}
    placed = fact(
        OrderPlaced, 1, **about, sold_at=NOW, customer_ref="customer-a", paid=True, due_minor=5989, total_minor=5989,
        freight_minor=990, currency=currency, lines=lines,
    )  # fmt: skip
    return [placed, fact(OrderShipped, 2, **about)]


def given_target(server: TrytonServer) -> dict[str, Any]:
    return {
        "target": "tryton", "environment": "sandbox", "base_url": server.base_url, "database": DATABASE, "user": USER,
        "password": server.password, "since": "2026-01-01T00:00:00Z",
    }  # fmt: skip


def state(server: TrytonServer) -> dict[str, list[Any]]:
    """Every row that a run might touch, with when it was last written."""
    return {model: server.rows(model, ["write_date", "create_date"]) for model in CHANGES}


async def until(ask: Callable[[], Awaitable[Any]], good: Callable[[Any], bool]) -> Any:
    while True:
        told = await ask()
        if good(told):
            return told
        await asyncio.sleep(0.2)


@asynccontextmanager
async def running(service: Service) -> AsyncIterator[httpx.AsyncClient]:
    """The service as it runs, and its routes."""
    task = asyncio.create_task(service.run(handle_signals=False))
    started = asyncio.create_task(service.started.wait())
    await asyncio.wait({task, started}, return_when=asyncio.FIRST_COMPLETED)
    assert service.admin
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{service.admin.port}/admin", timeout=60) as http:
            yield http
    finally:
        service.stop()
        await task


@pytest_asyncio.fixture
async def other_database(database: str, postgres_admin_dsn: str) -> AsyncIterator[str]:
    """A second database with the role of the first."""
    parts = urlsplit(database)
    name = f"{parts.path[1:]}_other"
    await create_database(postgres_admin_dsn, name, str(parts.username), str(parts.password))
    yield urlunsplit(parts._replace(path=f"/{name}"))
    async with opened(postgres_admin_dsn) as connection:
        await connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.mark.asyncio
async def test_two_hundred_sales_leave_and_a_second_run_changes_nothing(
    server: TrytonServer, kafka_bootstrap: str, database: str, other_database: str
) -> None:
    tenant = f"tryton-{secrets.token_hex(4)}"
    common: dict[str, Any] = {"kafka_bootstrap_servers": kafka_bootstrap, "log_format": "text", "admin_port": 0}
    async with AsyncExitStack() as stack:
        erp = await stack.enter_async_context(running(build(BusSettings(postgres_dsn=database, **common), QUICK)))
        inventory = await stack.enter_async_context(
            running(build_inventory(BusSettings(postgres_dsn=other_database, **common), InventorySettings()))
        )
        erp.params = inventory.params = httpx.QueryParams(tenant=tenant)
        assert (await erp.put("/targets", json=given_target(server))).json() == {"target": "tryton"}

        async def items() -> list[Any]:
            return list((await inventory.get("/items", params={"limit": 1000})).json()["items"])

        there = await until(items, lambda found: len(found) == PRODUCTS)
        assert {one["sku"]: one["name"] for one in there} == {f"SKU-{n}": f"Product {n}" for n in range(PRODUCTS)}

        facts = [one for number in range(ORDERS) for one in sold(f"{tenant}-{number}", number)]
        events = [(f"{tenant}-{number}", one) for number, one in enumerate(facts)]
        await command.send_all(kafka_bootstrap, events, tenant=tenant, source="/test")

        async def booked() -> dict[str, int]:
            return Counter(one["state"] for one in (await erp.get("/bookings")).json()["bookings"])

        assert await until(booked, lambda found: found["booked"] + found["rejected"] == ORDERS) == {"booked": ORDERS}
        assert_sold(server, {f"{tenant}-{number}": number for number in range(ORDERS)})
        before, known = state(server), await items()

        async def synced() -> dict[str, Any]:
            asked_at = (await erp.post("/targets/tryton/sync")).json()["asked_at"]

            async def looked() -> dict[str, Any]:
                return dict((await erp.get("/targets")).json()["targets"][0])

            told = await until(looked, lambda found: str(found["looked_at"]) > asked_at)
            return dict(told["told"])

        assert (await synced())["items"]["sent"] == 0
        # As after a restored copy: what was booked is not known here any more.
        service_database = await stack.enter_async_context(opened(database))
        await service_database.execute("TRUNCATE bookings, sent_items")
        await synced()
        assert await until(booked, lambda found: found["booked"] == ORDERS) == {"booked": ORDERS}
        assert state(server) == before
        assert await items() == known


def assert_sold(server: TrytonServer, orders: dict[str, int]) -> None:
    """Each order is one sale of its own sum, and its units are with the customer."""
    sales = server.rows(
        "sale.sale", ["reference", "state", "shipment_state", "total_amount", "sale_date", "party.name"]
    )
    mine = [one for one in sales if one["reference"] in orders]
    assert sorted(one["reference"] for one in mine) == sorted(orders)
    assert {one["shipment_state"] for one in mine} == {"sent"}
    assert {Decimal(one["total_amount"]["decimal"]) for one in mine} == {Decimal("59.89")}
    # No buyer is named: the party stands for a connection.
    assert {one["party."]["name"] for one in mine} == {"marketplace connection-a"}
    assert {date(*(one["sale_date"][part] for part in ("year", "month", "day"))) for one in mine} == {NOW.date()}
    wanted: Counter[str] = Counter()
    for number in orders.values():
        wanted[f"SKU-{number % PRODUCTS}"] += 1
        wanted[f"SKU-{(number + 1) % PRODUCTS}"] += 2
    left: Counter[str] = Counter()
    for move in server.rows(
        "stock.move",
        ["product.code", "quantity", "effective_date"],
        [
            ["state", "=", "done"],
            ["to_location.type", "=", "customer"],
            ["origin.sale.reference", "in", sorted(orders), "sale.line"],
        ],
    ):
        left[move["product."]["code"]] += int(move["quantity"])
        assert move["effective_date"]["day"] == NOW.day
    assert left == wanted


class Killed(BaseException):
    """The process ended here."""


@pytest_asyncio.fixture
async def erp(database: str, server: TrytonServer) -> AsyncIterator[Service]:
    """Erp with the target, of which nothing runs: a test takes each step itself."""
    await migrate(database, "erp", MIGRATIONS)
    service = build(BusSettings(kafka_bootstrap_servers="127.0.0.1:1", postgres_dsn=database), QUICK)
    await service.pool
    routes = FastAPI()
    routes.include_router(admin_router(lambda: service, Vault(SECRETS_KEY), QUICK))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(routes), base_url="http://erp") as http:
        assert (await http.put("/targets", params={"tenant": "acme"}, json=given_target(server))).is_success
    yield service
    await service.pool.close()


async def hear(erp: Service, *facts: Any) -> None:
    async with erp.transaction() as tx:
        await record_orders([received(one, next(numbers)) for one in facts], tx)


async def visit(erp: Service, point: Callable[[str], None] = lambda _: None) -> None:
    """One look, at which everything is due."""
    await erp.pool.execute("UPDATE bookings SET due_at = now() WHERE state IN ('wanted', 'going')")
    await Booker(erp.transaction, Vault(SECRETS_KEY), QUICK, point).visit("acme", "tryton")


async def outcome(erp: Service, order_id: str) -> tuple[str, str]:
    row = await erp.pool.fetchrow("SELECT state, reason FROM bookings WHERE order_id = $1", order_id)
    assert row
    return row["state"], row["reason"]


@pytest.mark.asyncio
async def test_killed_between_any_two_steps_it_is_one_sale(erp: Service, server: TrytonServer) -> None:
    order_id = f"killed-{secrets.token_hex(4)}"
    await hear(erp, *sold(order_id, 1))
    met: list[str] = []

    def kill(point: str) -> None:
        if point not in met:
            met.append(point)
            raise Killed

    while (await outcome(erp, order_id))[0] != "booked":
        with pytest.raises(Killed):
            await visit(erp, kill)
    assert [point.partition(".")[2] for point in met] == [
        "claimed", "created", "quote", "confirm", "assign_force", "pick", "pack", "do", "answered", "settled",
    ]  # fmt: skip
    assert_sold(server, {order_id: 1})


@pytest.mark.asyncio
async def test_answers_that_are_lost_make_nothing_twice(
    erp: Service, server: TrytonServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    order_id = f"lost-{secrets.token_hex(4)}"
    await hear(erp, *sold(order_id, 2))
    send, lost = target.send, set[str]()

    async def send_and_lose(*given: Any, writes: bool = False, **options: Any) -> httpx.Response:
        answer = await send(*given, writes=writes, **options)
        method = json.loads(given[-1].content)["method"]
        if writes and method not in lost:
            lost.add(method)
            raise OutcomeUnknown("the answer was lost")
        return answer

    monkeypatch.setattr(target, "send", send_and_lose)
    while (await outcome(erp, order_id))[0] != "booked":
        await visit(erp)
    assert {one.rpartition(".")[2] for one in lost} >= {
        "create",
        "quote",
        "confirm",
        "assign_force",
        "pick",
        "pack",
        "do",
    }
    assert_sold(server, {order_id: 2})


@pytest.mark.asyncio
async def test_a_request_that_comes_to_pass_late_leaves_one_sale(erp: Service, server: TrytonServer) -> None:
    order_id = f"late-{secrets.token_hex(4)}"
    await hear(erp, *sold(order_id, 3))

    def create_again(point: str) -> None:
        if point == "booking.created":
            ours = server.rows("sale.sale", ["party", "invoice_address", "currency"], [["reference", "=", order_id]])
            values = {name: ours[0][name] for name in ("party", "invoice_address", "currency")}
            server.call("sale.sale.create", [{**values, "reference": order_id}])

    await visit(erp, create_again)
    assert await outcome(erp, order_id) == ("booked", "")
    assert_sold(server, {order_id: 3})


@pytest.mark.asyncio
async def test_what_tryton_refuses_leaves_the_others_alone(erp: Service, server: TrytonServer) -> None:
    run = secrets.token_hex(4)
    good, unknown, foreign, unsalable = (f"{name}-{run}" for name in ("good", "unknown", "foreign", "unsalable"))
    template = server.rows("product.product", ["template"], [["code", "=", "SKU-19"]])[0]["template"]
    server.call("product.template.write", [template], {"salable": False})
    await hear(erp, *sold(good, 4), *sold(unknown, 4, sku="NONE"), *sold(foreign, 4, currency="XTS"))
    await hear(erp, *sold(unsalable, 4, sku="SKU-19"))

    await visit(erp)
    assert await outcome(erp, good) == ("booked", "")
    assert await outcome(erp, unknown) == ("rejected", "item_unknown")
    assert await outcome(erp, foreign) == ("rejected", "currency_unknown")
    assert await outcome(erp, unsalable) == ("rejected", "refused")
    assert_sold(server, {good: 4})

    server.call("product.template.write", [template], {"salable": True})
    async with erp.transaction() as tx:
        assert await bookings.retry(tx.connection, "acme", unsalable, tx.now) == ["tryton"]
    await visit(erp)
    assert await outcome(erp, unsalable) == ("booked", "")


@pytest.mark.asyncio
async def test_who_comes_second_leaves_a_lot_alone(erp: Service) -> None:
    order_id = f"second-{secrets.token_hex(4)}"
    await hear(erp, *sold(order_id, 5))
    with pytest.raises(Killed):
        await visit(erp, lambda _: (_ for _ in ()).throw(Killed()))
    await Booker(erp.transaction, Vault(SECRETS_KEY), QUICK, lambda _: None).visit("acme", "tryton")
    assert (await outcome(erp, order_id))[0] == "going"
