"""An order's way on the running system, from the sale to the buyer's door, by the books of everybody outside."""

import asyncio
import json
from typing import Any

import pytest

from deploy.local import stack
from services.sandbox.gateway_client import GatewayClient
from tests.flow.company import Opener, System, plan, until
from tests.flow.own_shop import add_own_shop
from tests.flow.retailer import at_work

SHOPS = {"azul": "shopify", "norte": "skyhub", "feira": "mercadolivre"}


@pytest.mark.timeout(300)
@pytest.mark.asyncio
async def test_orders_of_every_marketplace_are_invoiced_packed_sent_and_delivered(open_company: Opener) -> None:
    company = await open_company(plan(kits={"SET": {"CUP": 1, "SPOON": 2}}, CUP=40, SPOON=60), SHOPS)
    azul, _, _ = company.shops
    async with at_work(company) as retailer:
        for shop in company.shops:
            await shop.buy({"CUP": 1, "SPOON": 2})
            await shop.buy({"SET": 1})
        cancelled = await azul.buy({"CUP": 1})
        await azul.sandbox.cancel(azul.name, cancelled)
        await retailer.until_over(7)
        path, wrong = await retailer.verdicts()
    assert path.failures == wrong == []
    counts = path.journeys.parcel_counts
    assert (counts["dispatched"], counts["delivered"]) == (6, 6)
    await company.assert_conserved()


@pytest.mark.timeout(300)
@pytest.mark.asyncio
async def test_what_comes_back_is_available_or_damaged_and_the_order_is_returned(open_company: Opener) -> None:
    company = await open_company(plan(CUP=40), {"norte": "skyhub"})
    (norte,) = company.shops
    async with at_work(company, return_share=1.0) as retailer:
        for _ in range(4):
            await norte.buy({"CUP": 2})
        await retailer.until_over(4)
        path, wrong = await retailer.verdicts()
    assert path.failures == wrong == []
    returns = path.journeys.return_counts
    assert returns["received"] == 4
    assert returns["available"] + returns["damaged"] == 8
    assert await company.stock("CUP") == (40 - returns["damaged"], 0)
    await company.assert_conserved()


@pytest.mark.timeout(300)
@pytest.mark.asyncio
async def test_an_order_is_one_trace_from_the_basket_to_the_door(open_company: Opener, system: System) -> None:
    company = await open_company(plan(CUP=10), {"azul": "shopify"})
    address = system.endpoints.sandboxes["gateway"]
    async with at_work(company) as retailer, GatewayClient(address.base_url, address.token) as gateway:
        api_url = stack.status(system.folder)["endpoints"]["shop"]["base_url"]
        shop = await add_own_shop(company, company.sandboxes["shop"], gateway, api_url)
        # The gateway charges, and does not say so: what it did is looked for.
        await gateway.put_vices(company.tenant, operations=["charge"], charge_error={"duration_s": 20})
        told = await shop.storefront.buy(shop.name, {"CUP": 1})
        assert told["paid"], told
        await retailer.until_over(1)
        path, wrong = await retailer.verdicts()
    assert path.failures == wrong == []

    async def spans() -> list[dict[str, Any]]:
        printed = await asyncio.to_thread(company.saldo, "trace", told["order_id"], "--json")
        found: list[dict[str, Any]] = json.loads(printed)["spans"]
        return found

    def edges(found: list[dict[str, Any]]) -> set[tuple[str, str]]:
        by_id = {span["span_id"]: span for span in found}
        return {(named(by_id[span["parent_id"]]), named(span)) for span in found if span["parent_id"] in by_id}

    steps = {
        ("channels POST /v1/baskets", "channels create channels.sales.v1"),
        ("channels POST /v1/baskets", "channels POST /v1/baskets/{basket_id}/pay"),
        ("channels POST /v1/baskets/{basket_id}/pay", "channels create channels.sales.v1"),
        ("channels create fulfillment.commands.v1", "fulfillment ask carriers"),
        ("orders create payments.commands.v1", "payments ask gateway"),
        ("orders create payments.commands.v1", "payments receive webhook"),
        ("payments receive webhook", "payments ask gateway"),
        ("payments ask gateway", "payments create payments.payments.v1"),
        ("payments create payments.payments.v1", "orders process payments.payments.v1"),
        ("orders process payments.payments.v1", "orders create orders.orders.v1"),
        ("orders create orders.orders.v1", "erp create erp.documents.v1"),
        ("erp create erp.documents.v1", "orders process erp.documents.v1"),
        ("orders process erp.documents.v1", "orders create fulfillment.commands.v1"),
        ("fulfillment ask carrier", "fulfillment create fulfillment.shipments.v1"),
        ("fulfillment receive webhook", "fulfillment create fulfillment.shipments.v1"),
        ("fulfillment create fulfillment.shipments.v1", "orders process fulfillment.shipments.v1"),
        ("orders process fulfillment.shipments.v1", "orders create channels.commands.v1"),
        ("inventory create inventory.levels.v1", "channels push shopify"),
    }

    def is_whole(found: list[dict[str, Any]]) -> bool:
        ids = {span["span_id"] for span in found}
        return edges(found) >= steps and all(span["parent_id"] in ids for span in found[1:])

    found = await until(spans, is_whole, "every step in the trace, each with its beginning", 30)
    assert [span["depth"] for span in found].count(0) == 1, "the order began more than once"
    trace_id = found[0]["trace_id"]
    # What is reached by links alone is of other orders, too; nothing else is beside the trace.
    assert {span["trace_id"] for span in found if not span["linked"] and span["parent_id"]} == {trace_id}
    asked = [span for span in found if named(span) == "payments ask gateway"]
    charged = next(span for span in asked if span["attributes"].get("http.response.status_code") == 500)
    assert any(charged["span_id"] in span["links"] for span in asked), "the look is not linked to what it looks for"
    for span in found:
        about = span["attributes"]
        if span["name"].startswith(("create ", "process ")):
            assert {"messaging.system", "messaging.operation.type", "messaging.destination.name"} <= about.keys()
        if span["name"] == "receive webhook":
            assert (about["http.request.method"], about["http.response.status_code"]) == ("POST", 200)
    printed = await asyncio.to_thread(company.saldo, "trace", told["order_id"])
    places = [
        printed.index(what)
        for what in ("POST /v1/baskets", "/pay", "ask gateway", "erp.documents.v1", "receive webhook")
    ]
    assert places == sorted(places)


def named(span: dict[str, Any]) -> str:
    return f"{span['service']} {span['name']}"
