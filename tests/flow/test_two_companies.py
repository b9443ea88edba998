"""Two companies with the same SKU, external order id and account name never meet."""

import asyncio
import json
from typing import Any

import pytest

from tests.flow.company import Opener, plan, until


@pytest.mark.asyncio
async def test_two_companies_never_meet(open_company: Opener) -> None:
    one = await open_company(plan(CUP=10), {})
    other = await open_company(plan(CUP=50), {})
    account = f"loja-de-{one.tenant}"
    settings: dict[str, Any] = {"domain": f"{account}.myshopify.com", "first_order_id": 7_000_001}
    # An account at one address has one owner, so the second company knows the same machine by its other name.
    here = await one.open_shop("shopify", f"{one.tenant}-azul", account=account, **settings)
    there = await other.open_shop("shopify", f"{other.tenant}-azul", account=account, host="localhost", **settings)
    for company, host in ((one, "127.0.0.1"), (other, "localhost")):
        await company.open_shop("skyhub", f"{company.tenant}-norte", account=account, host=host)
        await company.until_opening_is_shown()
    assert here.connection_id != there.connection_id

    external_id = await here.buy({"CUP": 3})
    await one.until_order(here, external_id, state="confirmed")
    assert await other.stock("CUP") == (50, 0)
    assert (await there.buy({"CUP": 5})) == external_id, "the shops have to draw the same order number for this test"
    await other.until_order(there, external_id, state="confirmed")
    await one.until_shown({"CUP": 7})
    await other.until_shown({"CUP": 45})

    # Orders and ledgers.
    assert one.order_id(here, external_id) != other.order_id(there, external_id)
    for company, units in ((one, 3), (other, 5)):
        (order,) = (await company.get("orders", "orders"))["orders"]
        assert [line["reserved"] for line in order["lines"]] == [units]
        assert (await company.stock("CUP"))[1] == units
        await company.assert_conserved()

    # Webhooks: what one company's shop signs does not open the other's door.
    body = await there.read_order(external_id)
    before = len(await one.intake())
    refused = await one.deliver(here, body, "orders/create", x_shopify_hmac_sha256=there.sign(body))
    assert refused.status_code == 401
    assert len(await one.intake()) == before
    # The same order number and delivery id at both doors are two deliveries. Each tells of its own order: what a shop
    # signs is believed, so that the other's body here would be a change of this shop's order.
    own = await here.read_order(external_id)
    assert (await one.deliver(here, own, "orders/x", x_shopify_webhook_id="same")).status_code == 200
    assert (await other.deliver(there, body, "orders/x", x_shopify_webhook_id="same")).status_code == 200
    for company in (one, other):
        await until(company.intake, lambda rows: "same" in {row["delivery_id"] for row in rows}, "the delivery")

    # The command line and the listeners show one company nothing of the other.
    for company, connection_id, units in ((one, here.connection_id, 3), (other, there.connection_id, 5)):
        connections = json.loads(await asyncio.to_thread(company.saldo, "connection", "list", "--json"))
        assert {row["connection_id"] for row in connections} == {shop.connection_id for shop in company.shops}
        order = json.loads(
            await asyncio.to_thread(
                company.saldo, "order", "show", external_id, "--connection", connection_id, "--json"
            )
        )
        assert [line["ordered"] for line in order["lines"]] == [units]
    order_id = other.order_id(there, external_id)
    assert "no order" in await asyncio.to_thread(lambda: one.saldo("order", "show", order_id, code=1))
    connection_id = there.connection_id
    paused = await asyncio.to_thread(lambda: one.saldo("connection", "pause", connection_id, code=1))
    assert "no connection" in paused
    assert (await other.get("channels", f"connections/{connection_id}"))["state"] == "live"
