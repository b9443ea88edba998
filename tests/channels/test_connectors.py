"""The two connectors: mapping by hand-written and recorded orders, and their calls against doubles and sandboxes."""

import base64
import hashlib
import hmac
import itertools
import json
import os
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from contracts.channels.v1 import SaleStatus
from services.border.client import open_client
from services.channels.connectors import CONNECTORS
from services.channels.connectors.connector import (
    OutcomeUnknown,
    Rejected,
    Session,
    SignatureInvalid,
    StockWrite,
    Throttled,
    Unreachable,
    WriteStatus,
)
from services.channels.intake.domain import digest_of, to_snapshot
from services.sandbox.client import SandboxClient
from tests.channels.conftest import shopify_order, skyhub_order
from tests.sandbox.running import TOKEN, Sandbox, running

SHOPIFY, SKYHUB = CONNECTORS["shopify"], CONNECTORS["skyhub"]
ROOT = Path(__file__).resolve().parents[2]
SPECS = Path(os.environ.get("SALDO_SPECS_DIR") or ROOT.parent / "shared" / "specs")
_names = itertools.count(1)


class Free:
    """A limiter without limits that remembers what it was told."""

    def __init__(self) -> None:
        self.taken: list[tuple[str, float]] = []
        self.told: list[tuple[str, float, float]] = []
        self.paused: list[tuple[str, float]] = []

    async def acquire(self, endpoint: str, cost: float = 1.0) -> None:
        self.taken.append((endpoint, cost))

    def throttled(self, endpoint: str, retry_after_s: float) -> None:
        self.paused.append((endpoint, retry_after_s))

    def observed(self, endpoint: str, available: float, restore_per_s: float) -> None:
        self.told.append((endpoint, available, restore_per_s))


def session(answer: Callable[[httpx.Request], httpx.Response], **settings: str) -> Session:
    credentials = {
        "access_token": "token",
        "webhook_secret": "secret",
        "user_email": "a@example.com",
        "api_key": "key",
        "accountmanager_key": "manager",
    }
    client = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    return Session("c1", "http://shop.test", "shop", credentials, settings, client, Free())


def mapped(**changes: Any) -> Any:
    return SHOPIFY.to_order(json.dumps(shopify_order(**changes)).encode())


# -- mapping -------------------------------------------------------------------------------------------------------


def test_a_recorded_shopify_order_maps() -> None:
    recorded = SPECS / "shopify" / "order.json"
    if not recorded.exists():
        pytest.skip(f"vendor descriptions are not at {SPECS}: set SALDO_SPECS_DIR")
    order = SHOPIFY.to_order(recorded.read_bytes())
    assert (order.external_id, order.currency, order.total_minor) == ("450789469", "USD", 40994)
    assert order.status is SaleStatus.PLACED
    assert order.version == "2008-01-10T16:00:00.000000Z"
    assert [(line.item, line.sku, line.quantity, line.unit_price_minor) for line in order.lines] == [
        ("39072856", "IPOD2008GREEN", 1, 19900),
        ("49148385", "IPOD2008RED", 1, 19900),
        ("457924702", "IPOD2008BLACK", 1, 19900),
    ]
    assert order.buyer is not None
    assert order.buyer.emails == ("bob.norman@hostmail.com",)
    refund = (SPECS / "shopify" / "refund.json").read_bytes()
    assert SHOPIFY.points_to("refunds/create", refund) == "450789469"


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"status": "pending"}, SaleStatus.AWAITING_PAYMENT),
        ({"status": "authorized"}, SaleStatus.PLACED),
        ({"status": "paid"}, SaleStatus.PAID),
        ({"status": "voided"}, SaleStatus.CANCELLED),
        ({"status": "paid", "cancelled": True}, SaleStatus.CANCELLED),
        ({"status": "paid", "fulfillment_status": "fulfilled"}, SaleStatus.SHIPPED),
        (
            {"fulfillment_status": "fulfilled", "fulfillments": [{"shipment_status": "delivered"}]},
            SaleStatus.DELIVERED,
        ),
        ({"status": "invented"}, SaleStatus.UNKNOWN),
    ],
)
def test_shopify_states(changes: dict[str, Any], status: SaleStatus) -> None:
    order = mapped(**changes)
    assert order.status is status
    assert order.unresolved == (("status",) if status is SaleStatus.UNKNOWN else ())


def refunds(*rows: tuple[str, int]) -> list[dict[str, Any]]:
    lines = [{"line_item_id": "10", "quantity": quantity, "restock_type": kind} for kind, quantity in rows]
    return [{"id": 1, "refund_line_items": lines}]


@pytest.mark.parametrize(
    ("changes", "cancelled", "returned", "status"),
    [
        ({"refunds": refunds(("cancel", 1))}, 1, 0, SaleStatus.PAID),
        ({"refunds": refunds(("no_restock", 1))}, 1, 0, SaleStatus.PAID),
        ({"refunds": refunds(("return", 1))}, 0, 1, SaleStatus.PAID),
        ({"refunds": refunds(("return", 2))}, 0, 2, SaleStatus.RETURNED),
        ({"refunds": refunds(("cancel", 1), ("cancel", 1))}, 2, 0, SaleStatus.CANCELLED),
        ({"refunds": refunds(("return", 1)), "cancelled": True}, 1, 1, SaleStatus.CANCELLED),
        ({"cancelled": True}, 2, 0, SaleStatus.CANCELLED),
    ],
)
def test_shopify_refunds_by_line(changes: dict[str, Any], cancelled: int, returned: int, status: SaleStatus) -> None:
    order = mapped(**changes)
    assert (order.lines[0].cancelled, order.lines[0].returned, order.status) == (cancelled, returned, status)


@pytest.mark.parametrize("number", ["1e900000", "1e999999999", "9" * 4000, "1e15", "-1e15", "1e999999999999999999"])
def test_a_number_too_large_to_keep_is_refused_without_being_made(number: str) -> None:
    # Made an integer, ten bytes of an exponent hold everything up for as long as they like.
    order = json.dumps(shopify_order())
    assert '"quantity": 2' in order
    with pytest.raises(ValueError, match="quantity"):
        SHOPIFY.to_order(order.replace('"quantity": 2', f'"quantity": {number}').encode())
    price = order.replace('"total_price": "39.80"', f'"total_price": "{number}"')
    assert price != order
    with pytest.raises(ValueError, match="total_price"):
        SHOPIFY.to_order(price.encode())


def test_small_numbers_are_read_however_they_are_written() -> None:
    order = json.dumps(shopify_order()).replace('"quantity": 2', '"quantity": 2.0')
    assert SHOPIFY.to_order(order.encode()).lines[0].quantity == 2
    assert SHOPIFY.to_order(order.replace('"39.80"', '"0e99999"').encode()).total_minor == 0
    assert SHOPIFY.to_order(order.replace('"39.80"', '"9999999999999.99"').encode()).total_minor == 999999999999999


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_a_moment_outside_the_calendar_is_refused_by_name(moment: str) -> None:
    with pytest.raises(ValueError, match="created_at"):
        SHOPIFY.to_order(json.dumps(shopify_order() | {"created_at": moment}).encode())


def test_a_line_that_is_there_twice_is_refused() -> None:
    order = shopify_order()
    order["line_items"] *= 2
    with pytest.raises(ValueError, match="twice"):
        SHOPIFY.to_order(json.dumps(order).encode())


@pytest.mark.parametrize(("currency", "minor"), [("BRL", 3980), ("JPY", 40), ("KWD", 39800)])
def test_money_by_the_exponent_of_its_currency(currency: str, minor: int) -> None:
    assert mapped(currency=currency).total_minor == minor


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"id": None}, "id is missing"),
        ({"updated_at": "yesterday"}, "updated_at"),
        ({"updated_at": "2026-01-01T00:00:00"}, "updated_at has no offset"),
        ({"currency": None}, "currency"),
        ({"line_items": "Ana"}, "line_items"),
        ({"line_items": [{"id": 1, "quantity": -1}]}, "quantity"),
        ({"total_price": "Ana"}, "total_price"),
    ],
)
def test_a_body_of_another_shape_names_the_field_and_repeats_nothing(change: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named) as refused:
        mapped(**change)
    assert "Ana" not in str(refused.value)


def test_versions_sort_as_moments_do() -> None:
    winter = mapped(updated_at="2026-01-01T00:30:00-03:00").version
    assert mapped(updated_at="2026-01-01T03:00:00+00:00").version < winter
    assert winter == mapped(updated_at="2026-01-01T03:30:00Z").version


def test_skyhub_orders_map() -> None:
    body = skyhub_order(7, "CANCELED")
    body["items"].append(dict(body["items"][0], qty=1, special_price=17.9))
    order = SKYHUB.to_order(json.dumps(body).encode())
    assert (order.external_id, order.version, order.status) == ("Marketplace-7", "", SaleStatus.CANCELLED)
    assert order.sold_at == datetime(2026, 3, 1, 12, tzinfo=UTC)
    assert [(line.line_id, line.quantity, line.cancelled, line.discount_minor) for line in order.lines] == [
        ("sku-1", 2, 2, 0),
        ("sku-1#2", 1, 1, 200),
    ]
    assert b"Ana" not in to_snapshot(order)
    assert digest_of(to_snapshot(order)) == digest_of(to_snapshot(replace(order, buyer=None, buyer_id="")))


# -- signatures ------------------------------------------------------------------------------------------------------


def test_the_signature_is_base64_of_hmac_sha256_over_the_raw_bytes() -> None:
    # RFC 4231, test case 2.
    body = b"what do ya want for nothing?"
    digest = bytes.fromhex("5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843")
    headers = {"x-shopify-hmac-sha256": base64.b64encode(digest).decode(), "x-shopify-webhook-id": "w"}
    assert SHOPIFY.verify(headers, body, {"webhook_secret": "Jefe"}).delivery_id == "w"


@pytest.mark.parametrize("given", ["", "AAAA", "=", "é", "0" * 1000])
def test_any_other_signature_is_refused(given: str) -> None:
    with pytest.raises(SignatureInvalid):
        SHOPIFY.verify({"x-shopify-hmac-sha256": given}, b"{}", {"webhook_secret": "Jefe"})


def test_without_an_id_of_the_channel_the_body_is_its_own() -> None:
    body = b"{}"
    digest = base64.b64encode(hmac.new(b"s", body, hashlib.sha256).digest()).decode()
    delivery = SHOPIFY.verify({"x-shopify-hmac-sha256": digest}, body, {"webhook_secret": "s"})
    assert delivery.delivery_id == hashlib.sha256(body).hexdigest()


# -- errors told apart, against doubles ------------------------------------------------------------------------------

WRITE = [StockWrite("1", "2", 5, expected=7)]


def graphql(body: dict[str, Any], status: int = 200) -> Callable[[httpx.Request], httpx.Response]:
    return lambda _: httpx.Response(status, json=body)


def failing(error: Exception) -> Callable[[httpx.Request], httpx.Response]:
    def answer(_: httpx.Request) -> httpx.Response:
        raise error

    return answer


THROTTLED = {
    "errors": [{"message": "Throttled", "extensions": {"code": "THROTTLED"}}],
    "extensions": {
        "cost": {
            "requestedQueryCost": 10,
            "throttleStatus": {"currentlyAvailable": 5, "restoreRate": 50, "maximumAvailable": 1000},
        }
    },
}


@pytest.mark.parametrize("connector", ["shopify", "skyhub"])
@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (lambda _: httpx.Response(429, headers={"retry-after": "2.5"}), Throttled),
        (lambda _: httpx.Response(401), Rejected),
        (lambda _: httpx.Response(302, headers={"location": "http://169.254.169.254/"}), Rejected),
        (lambda _: httpx.Response(503), OutcomeUnknown),
        (failing(httpx.ReadTimeout("late")), OutcomeUnknown),
        (failing(httpx.ReadError("reset")), OutcomeUnknown),
        (failing(httpx.ConnectTimeout("a lost connection shows so too")), OutcomeUnknown),
        (failing(httpx.ConnectError("refused")), Unreachable),
    ],
    ids=["429", "401", "redirect", "503", "timeout", "reset", "connect timeout", "not connected"],
)
@pytest.mark.asyncio
async def test_what_became_of_a_write_is_told_apart(connector: str, answer: Any, error: type[Exception]) -> None:
    with pytest.raises(Exception) as raised:  # noqa: PT011 - the exact type is compared below
        await CONNECTORS[connector].write_stock(session(answer), WRITE)
    assert type(raised.value) is error


@pytest.mark.asyncio
async def test_shopify_throttled_in_a_200_waits_for_what_is_missing() -> None:
    opened = session(graphql(THROTTLED))
    with pytest.raises(Throttled) as raised:
        await SHOPIFY.write_stock(opened, WRITE)
    assert raised.value.retry_after_s == pytest.approx(0.1)
    assert isinstance(opened.limiter, Free)
    assert opened.limiter.told == [("graphql", 5.0, 50.0)]


@pytest.mark.asyncio
async def test_shopify_asks_for_a_comparison_only_where_a_number_is_expected() -> None:
    asked: list[dict[str, Any]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(json.loads(request.content)["variables"])
        payload = {"inventoryAdjustmentGroup": {"id": "g"}, "userErrors": []}
        return httpx.Response(200, json={"data": {"inventorySetQuantities": payload}}, headers={"x-request-id": "r"})

    writes = [StockWrite("1", "9", 5), StockWrite("2", "9", 6, expected=7), StockWrite("3", "9", 0)]
    outcomes = await SHOPIFY.write_stock(session(answer), writes)
    assert [outcome.request_id for outcome in outcomes] == ["r"] * 3
    inputs = {one["input"]["ignoreCompareQuantity"]: one["input"]["quantities"] for one in asked}
    assert [row.get("compareQuantity") for row in inputs[False]] == [7]
    assert ["compareQuantity" in row for row in inputs[True]] == [False, False]
    assert len({one["key"] for one in asked}) == 2


# -- against the sandboxes -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shopify_sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    yield from running("shopify", tmp_path_factory)


@pytest.fixture(scope="module")
def skyhub_sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    yield from running("skyhub", tmp_path_factory)


class Market:
    """A fresh shop of a sandbox and an open session to it, as a connection would have it."""

    def __init__(self, control: SandboxClient, told: dict[str, Any], client: httpx.AsyncClient) -> None:
        self.control, self.told, self.name = control, told, str(told["shop"])
        self.location = str(told["locations"][0])
        account = told["domain"] if told["marketplace"] == "shopify" else self.name
        self.session = Session(
            "c1",
            told["base_url"],
            account,
            told["credentials"],
            {"location": self.location, "store": self.location},
            client,
            Free(),
        )

    async def put(self, **quantities: int) -> dict[str, Any]:
        rows = [
            {"sku": sku, "title": sku, "quantity": quantity, "price_minor": 1990}
            for sku, quantity in quantities.items()
        ]
        return {row["sku"]: row for row in await self.control.put_products(self.name, rows)}


@pytest_asyncio.fixture
async def shop(shopify_sandbox: Sandbox) -> AsyncIterator[Market]:
    async with SandboxClient(shopify_sandbox.base_url, TOKEN) as control:
        client = open_client(public_only=False, timeout_s=5)
        yield Market(control, await control.put_shop(f"loja-{next(_names)}"), client)
        await client.aclose()


@pytest_asyncio.fixture
async def store(skyhub_sandbox: Sandbox) -> AsyncIterator[Market]:
    async with SandboxClient(skyhub_sandbox.base_url, TOKEN) as control:
        client = open_client(public_only=False, timeout_s=5)
        limits = {"skyhub_products_per_s": 1000, "skyhub_queues_per_s": 1000, "skyhub_store_writes_per_s": 1000}
        yield Market(control, await control.put_shop(f"casa-{next(_names)}", limits=limits), client)
        await client.aclose()


@pytest.mark.asyncio
async def test_shopify_checks_subscribes_once_and_lists(shop: Market) -> None:
    products = await shop.put(A=3, B=0)
    door = "http://127.0.0.1:1/hooks/c1"
    assert await SHOPIFY.check(shop.session, door) == []
    for _ in range(2):
        await SHOPIFY.subscribe(shop.session, door)
    found = [listing async for listing in SHOPIFY.listings(shop.session)]
    assert sorted((one.sku, one.listing, one.item, one.location, one.quantity) for one in found) == [
        (sku, str(row["variant_id"]), str(row["inventory_item_id"]), shop.location, row["number"])
        for sku, row in products.items()
    ]
    wrong = replace(shop.session, account="another.myshopify.com", settings={"location": "1"})
    assert [problem.split(":")[0] for problem in await SHOPIFY.check(wrong, door)] == [
        f"the token belongs to {shop.told['domain']}, not to another.myshopify.com",
        "the shop has no active location 1",
    ]
    locked_out = replace(shop.session, credentials={"access_token": "no"})
    assert "credentials" in (await SHOPIFY.check(locked_out, door))[0]


@pytest.mark.asyncio
async def test_shopify_writes_with_compare_and_what_is_not_stale_goes_again_at_once(shop: Market) -> None:
    products = await shop.put(A=3, B=5)
    a, b = (str(products[sku]["inventory_item_id"]) for sku in "AB")
    outcomes = await SHOPIFY.write_stock(
        shop.session, [StockWrite(a, shop.location, 10, expected=3), StockWrite(b, shop.location, 11, expected=4)]
    )
    assert [outcome.status for outcome in outcomes] == [WriteStatus.ACCEPTED, WriteStatus.STALE]
    assert await shop.control.numbers(shop.name) == {"A": 10, "B": 5}
    first = outcomes[0].request_id
    outcomes = await SHOPIFY.write_stock(
        shop.session, [StockWrite(a, shop.location, 10, expected=10), StockWrite(b, shop.location, 11)]
    )
    assert [outcome.status for outcome in outcomes] == [WriteStatus.ACCEPTED] * 2
    assert await SHOPIFY.read_stock(shop.session, [(a, shop.location), (b, shop.location), ("1", "1")]) == {
        (a, shop.location): 10,
        (b, shop.location): 11,
    }
    books = {
        row["request_id"] async for row in shop.control.books() if row["kind"] == "write" and row["shop"] == shop.name
    }
    assert books == {first, *(outcome.request_id for outcome in outcomes)}


@pytest.mark.asyncio
async def test_shopify_names_the_row_it_refuses_and_the_others_are_free_to_go_again(shop: Market) -> None:
    products = await shop.put(A=3)
    a = str(products["A"]["inventory_item_id"])
    outcomes = await SHOPIFY.write_stock(
        shop.session, [StockWrite(a, shop.location, 4), StockWrite("1", shop.location, 4)]
    )
    assert [outcome.status for outcome in outcomes] == [WriteStatus.ACCEPTED, WriteStatus.REFUSED]
    assert await shop.control.numbers(shop.name) == {"A": 4}


@pytest.mark.asyncio
async def test_shopify_orders_are_polled_fetched_and_map(shop: Market) -> None:
    await shop.put(A=5)
    since = datetime.now(UTC) - timedelta(minutes=1)
    bought = await shop.control.buy(shop.name, {"A": 2}, pay="later")
    polled = [SHOPIFY.to_order(one.body) async for one in SHOPIFY.poll(shop.session, since)]
    assert [(one.external_id, one.status, one.lines[0].quantity) for one in polled] == [
        (bought["order_id"], SaleStatus.AWAITING_PAYMENT, 2)
    ]
    await shop.control.cancel(shop.name, bought["order_id"])
    fetched = SHOPIFY.to_order((await SHOPIFY.fetch(shop.session, bought["order_id"])).body)
    assert (fetched.status, fetched.lines[0].cancelled) == (SaleStatus.CANCELLED, 2)
    assert fetched.version > polled[0].version


@pytest.mark.asyncio
async def test_shopify_polls_every_page(shop: Market) -> None:
    await shop.put(A=1000)
    since = datetime.now(UTC) - timedelta(minutes=1)
    orders = {(await shop.control.buy(shop.name, {"A": 1}))["order_id"] for _ in range(260)}
    assert {one.external_id async for one in SHOPIFY.poll(shop.session, since)} == orders


@pytest.mark.asyncio
async def test_skyhub_queue_is_received_acknowledged_and_empty(store: Market) -> None:
    await store.put(A=5)
    assert await SKYHUB.check(store.session, "") == []
    bought = await store.control.buy(store.name, {"A": 2}, pay="later")
    received = []
    async for lot in SKYHUB.receive(store.session):
        received += [SKYHUB.to_order(fetched.body) for fetched in lot]
        for _ in range(2):
            await SKYHUB.acknowledge(store.session, lot)
    assert [(one.external_id, one.status) for one in received] == [(bought["order_id"], SaleStatus.AWAITING_PAYMENT)]
    await store.control.pay(store.name, bought["order_id"])
    paid = [SKYHUB.to_order(one.body) async for lot in SKYHUB.receive(store.session) for one in lot]
    assert [one.status for one in paid] == [SaleStatus.PAID]
    assert SKYHUB.to_order((await SKYHUB.fetch(store.session, bought["order_id"])).body) == paid[0]


@pytest.mark.asyncio
async def test_skyhub_writes_in_batches_and_finds_the_row_that_is_refused(store: Market) -> None:
    await store.put(**{f"S{number}": 1 for number in range(6)})
    writes = [StockWrite(f"S{number}", store.location, 10 + number) for number in range(6)]
    writes.insert(4, StockWrite("nothing", store.location, 1))
    outcomes = await SKYHUB.write_stock(store.session, writes)
    assert [outcome.status for outcome in outcomes] == [WriteStatus.ACCEPTED] * 4 + [WriteStatus.REFUSED] + [
        WriteStatus.ACCEPTED
    ] * 2
    assert await store.control.numbers(store.name) == {f"S{number}": 10 + number for number in range(6)}
    read = await SKYHUB.read_stock(store.session, [("S0", store.location), ("nothing", store.location)])
    assert read == {("S0", store.location): 10}
    found = [listing async for listing in SKYHUB.listings(store.session)]
    assert {(one.sku, one.item, one.location, one.quantity) for one in found} == {
        (f"S{number}", f"S{number}", store.location, 10 + number) for number in range(6)
    }


@pytest.mark.asyncio
@pytest.mark.parametrize("marketplace", ["shopify", "skyhub"])
async def test_vices_show_as_what_they_are(shop: Market, store: Market, marketplace: str) -> None:
    market = shop if marketplace == "shopify" else store
    products = await market.put(A=3)
    item = str(products["A"]["inventory_item_id"]) if marketplace == "shopify" else "A"
    write = [StockWrite(item, market.location, 9)]
    for vice, error in (("write_throttled", Throttled), ("write_error", OutcomeUnknown)):
        await market.control.put_vices(market.name, **{vice: {}})
        with pytest.raises(error):
            await CONNECTORS[marketplace].write_stock(market.session, write)
    await market.control.put_vices(market.name)
    assert (await CONNECTORS[marketplace].write_stock(market.session, write))[0].status is WriteStatus.ACCEPTED
