"""Every call of the connector against the sandbox, request and answer compared with what VTEX describes."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
import pytest_asyncio

from contracts.channels.v1 import InvoiceTold, ParcelTold, ProgressLine, SaleStatus, TrackingTold
from services.channels.connectors.connector import (
    OutcomeUnknown,
    Rejected,
    StockWrite,
    Throttled,
    Told,
    WriteOutcome,
    WriteStatus,
)
from services.channels.connectors.vtex import Vtex
from tests.channels.vtex.conftest import Account, open_account
from tests.sandbox.running import Sandbox

pytestmark = pytest.mark.asyncio

VTEX = Vtex()
AT = datetime(2026, 1, 2, 10, tzinfo=UTC)
DOOR = "http://127.0.0.1:1/hooks/c1"
INVOICE = InvoiceTold(
    invoice_id="document",
    invoice_key="35260111222333000181550010000001231000001239",
    invoice_no="123",
    series="1",
    issued_at=AT,
    total_minor=1990,
    currency="BRL",
)


def parcel(**changes: Any) -> ParcelTold:
    whole = ParcelTold(
        shipment_id="parcel",
        carrier="Correios",
        service="SEDEX",
        tracking_code="SD1",
        lines=(ProgressLine(line_id="1", quantity=1),),
        dispatched_at=AT,
    )
    return whole.model_copy(update=changes)


@pytest_asyncio.fixture
async def sold(account: Account) -> AsyncIterator[Told]:
    await account.put(a=5)
    told = await account.control.buy(account.name, {"a": 1})
    yield Told(str(told["order_id"]), "")


async def steps(account: Account) -> list[tuple[str, str | None]]:
    return [(row["step"], row["reference"]) for row in await account.rows("told")]


async def test_it_checks_and_lists(account: Account) -> None:
    ids = await account.put(A=3, B=0)
    assert await VTEX.check(account.session, DOOR) == []
    found = [listing async for listing in VTEX.listings(account.session)]
    assert sorted((one.sku, one.listing, one.item, one.location) for one in found) == [
        (sku, number, number, account.warehouse) for sku, number in sorted(ids.items())
    ]
    elsewhere = replace(account.session, settings={"warehouse_id": "2_2"})
    assert await VTEX.check(elsewhere, DOOR) == [
        f"setting warehouse_id must be an active warehouse of the account: it has {account.warehouse}"
    ]
    locked_out = replace(account.session, credentials=dict(account.session.credentials) | {"app_token": "no"})
    assert "credentials" in (await VTEX.check(locked_out, DOOR))[0]
    unfit = replace(account.session, settings={"locked_s": "soon"})
    assert await VTEX.check(unfit, DOOR) == ["setting locked_s must be a number of seconds above 0"]
    nowhere = replace(account.session, base_url="http://127.0.0.1:9")
    assert "cannot be reached" in (await VTEX.check(nowhere, DOOR))[0]


async def test_a_number_leaves_the_lead_time_alone_and_is_the_total(account: Account) -> None:
    ids = await account.put(a=5)
    place = ids["a"], account.warehouse
    await account.control.buy(account.name, {"a": 2})
    path = f"{account.session.base_url}/api/logistics/pvt/inventory/skus/{ids['a']}/warehouses/{account.warehouse}"
    credentials = account.session.credentials
    headers = {"x-vtex-api-appkey": credentials["app_key"], "x-vtex-api-apptoken": credentials["app_token"]}
    full = {"quantity": 5, "unlimitedQuantity": False, "leadTime": "1.00:00:00"}
    await account.session.http.put(path, json=full, headers=headers)
    writes = [StockWrite(*place, 9, as_of=AT), StockWrite("999", account.warehouse, 1), StockWrite(ids["a"], "no", 1)]
    outcomes = await VTEX.write_stock(account.session, writes)
    assert [one.status for one in outcomes] == [WriteStatus.ACCEPTED, WriteStatus.REFUSED, WriteStatus.REFUSED]
    assert await VTEX.read_stock(account.session, [place, ("999", account.warehouse), (ids["a"], "no")]) == {place: 9}
    assert await account.control.numbers(account.name) == {"a": 7}
    answer = await account.session.http.get(path.partition("/warehouses")[0], headers=headers)
    assert answer.json()["balance"][0]["leadTime"] == "1.00:00:00"
    written = (await account.rows("write"))[-1]
    assert (written["request_id"], written["reference"]) == (outcomes[0].request_id, "2026-01-02T10:00:00.000000+00:00")


async def test_a_second_number_in_a_moment_is_busy(account: Account) -> None:
    ids = await account.put(a=5)
    await account.control.put_shop(account.name, inventory_lock_s=3600)
    write = StockWrite(ids["a"], account.warehouse, 4)
    assert [one.status for one in await VTEX.write_stock(account.session, [write])] == [WriteStatus.ACCEPTED]
    (busy,) = await VTEX.write_stock(account.session, [write])
    assert busy == WriteOutcome(WriteStatus.BUSY, busy.request_id, retry_after_s=5.0)


async def test_no_answer_to_a_number_is_an_unknown_outcome(account: Account) -> None:
    ids = await account.put(a=5)
    await account.control.put_vices(account.name, write_error={})
    with pytest.raises(OutcomeUnknown):
        await VTEX.write_stock(account.session, [StockWrite(ids["a"], account.warehouse, 4)])


async def test_too_many_requests_pause_a_minute(vtex_process: Sandbox, undescribed: list[str]) -> None:
    async for account in open_account(vtex_process, undescribed, limits={"vtex_orders_per_s": 0.01}):
        with pytest.raises(Rejected):
            await VTEX.fetch(account.session, "1-01")
        with pytest.raises(Throttled) as throttled:
            await VTEX.fetch(account.session, "1-01")
        assert (throttled.value.retry_after_s, account.limiter.paused) == (60.0, [("orders", 60.0)])


async def test_the_feed_is_set_up_and_a_lot_is_acknowledged_by_its_handles(account: Account) -> None:
    await account.put(a=50)
    assert [lot async for lot in VTEX.receive(account.session)] == []
    orders = [str((await account.control.buy(account.name, {"a": 1}))["order_id"]) for _ in range(5)]
    lots = [lot async for lot in VTEX.receive(account.session)]
    assert [len(lot) for lot in lots] == [10, 5]
    assert {VTEX.points_to("queue", one.body) for lot in lots for one in lot} == set(orders)
    for lot in lots:
        assert len({one.receipt for one in lot}) == len(lot)
        await VTEX.acknowledge(account.session, lot)
        await VTEX.acknowledge(account.session, lot)
    taken = [row for row in await account.rows("queue") if row["action"] == "acknowledged"]
    assert len(taken) == 15
    assert [one async for one in VTEX.poll(account.session, AT)] == []


async def test_without_an_answer_to_the_ping_the_feed_is_set_up_all_the_same(account: Account) -> None:
    await VTEX.subscribe(account.session, DOOR)
    assert [row["what"] for row in await account.rows("config")] == ["feed"]


async def test_an_order_is_invoiced_shipped_tracked_and_delivered_each_once(account: Account, sold: Told) -> None:
    with pytest.raises(Rejected, match="invoice first"):
        await VTEX.report_shipment(account.session, sold, parcel())
    scan = TrackingTold(status="in_transit", happened_at=AT)
    for _ in range(2):
        await VTEX.report_invoice(account.session, sold, INVOICE)
        await VTEX.report_shipment(account.session, sold, parcel())
        await VTEX.report_tracking(account.session, sold, parcel(), scan)
    order = VTEX.to_order((await VTEX.fetch(account.session, sold.external_id)).body)
    assert (order.status, order.told) == (SaleStatus.SHIPPED, {"invoice", "shipment:SD1"})
    for _ in range(2):
        await VTEX.report_delivery(account.session, sold, parcel(delivered_at=AT))
    key = INVOICE.invoice_key
    expected = [("handling", None), ("invoice", key), ("shipment", "SD1"), ("tracking", "SD1"), ("delivery", "SD1")]
    assert await steps(account) == expected
    order = VTEX.to_order((await VTEX.fetch(account.session, sold.external_id)).body)
    assert order.status is SaleStatus.DELIVERED
    with pytest.raises(Rejected):
        await VTEX.cancel(account.session, sold, "too late")


async def test_an_invoice_carries_its_document_where_there_is_one(account: Account, sold: Told) -> None:
    async def document(url: str) -> bytes:
        assert url == "http://erp.test/1"
        return b"<nfe/>"

    session = replace(account.session, document=document)
    await VTEX.report_invoice(session, sold, INVOICE.model_copy(update={"content_url": "http://erp.test/1"}))
    order = await VTEX.fetch(session, sold.external_id)
    assert b'"embeddedInvoice":"<nfe/>"' in order.body


async def test_an_invoice_waits_while_vtex_is_not_ready_for_it(account: Account) -> None:
    await account.put(a=5)
    told = await account.control.buy(account.name, {"a": 1}, pay="later")
    with pytest.raises(Throttled):
        await VTEX.report_invoice(account.session, Told(str(told["order_id"]), ""), INVOICE)
    assert await steps(account) == []


async def test_a_parcel_without_a_number_goes_by_our_own(account: Account, sold: Told) -> None:
    await VTEX.report_invoice(account.session, sold, INVOICE)
    await VTEX.report_shipment(account.session, sold, parcel(tracking_code=""))
    assert (await steps(account))[-1] == ("shipment", "parcel")


async def test_we_cancel_once(account: Account, sold: Told) -> None:
    for _ in range(2):
        await VTEX.cancel(account.session, sold, "no stock")
    assert [step for step, _ in await steps(account)] == ["cancel"]
    order = VTEX.to_order((await VTEX.fetch(account.session, sold.external_id)).body)
    assert (order.status, order.told) == (SaleStatus.CANCELLED, {"cancel"})
