"""The own shop on the running system: held by inventory, quoted by fulfillment, paid at the gateway, then followed."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest
import pytest_asyncio

from services.payments.gateways.pix import short_id
from services.sandbox.client import SandboxError
from services.sandbox.gateway_client import GatewayClient
from tests.channels.shop.conftest import BUYER
from tests.flow.company import PATIENCE_S, Opener, System, plan, until
from tests.flow.own_shop import OwnShop, open_own_shop

pytestmark = pytest.mark.asyncio

Opens = Callable[..., Awaitable[OwnShop]]


@pytest_asyncio.fixture
async def open_shop(open_company: Opener, system: System) -> AsyncIterator[Opens]:
    """`await open_shop(CUP=10)`: a company with a shop of its own, and one on Shopify beside it."""
    from deploy.local import stack

    async with AsyncExitStack() as opened:

        async def open_(settings: dict[str, str] | None = None, **opening: int) -> OwnShop:
            company = await open_company(plan(**opening), {"azul": "shopify"})
            address = system.endpoints.sandboxes["gateway"]
            gateway = await opened.enter_async_context(GatewayClient(address.base_url, address.token))
            api_url = stack.status(system.folder)["endpoints"]["shop"]["base_url"]
            return await open_own_shop(company, company.sandboxes["shop"], gateway, api_url, **settings or {})

        yield open_


async def hold(http: httpx.AsyncClient, sku: str, units: int, key: str) -> httpx.Response:
    body = {"lines": [{"sku": sku, "quantity": units}]}
    return await http.post("/v1/baskets", json=body, headers={"idempotency-key": key})


async def ready(http: httpx.AsyncClient, sku: str, key: str) -> dict[str, Any]:
    """A basket of one unit that only has to be paid."""
    opened = await hold(http, sku, 1, key)
    assert opened.status_code == 201, opened.text
    path = f"/v1/baskets/{opened.json()['basket']}"
    assert (await http.put(f"{path}/address", json=BUYER)).status_code == 202

    async def options() -> dict[str, Any]:
        return dict((await http.get(f"{path}/delivery-options")).json())

    found = await until(options, lambda told: told["ready"], "delivery options")
    chosen = await http.put(f"{path}/delivery", json={"option_id": found["options"][0]["option_id"]})
    assert chosen.status_code == 200, chosen.text
    return dict(chosen.json())


async def paid(shop: OwnShop, http: httpx.AsyncClient, basket: dict[str, Any]) -> dict[str, Any]:
    """Pay by a good card and wait for the confirmation."""
    path = f"/v1/baskets/{basket['basket']}"
    body = {"method": "card", "token": await shop.gateway.card(shop.company.tenant)}
    trying = await http.post(f"{path}/pay", json=body, headers={"idempotency-key": f"pay {basket['basket']}"})
    assert trying.status_code == 202, trying.text

    async def shown() -> dict[str, Any]:
        return dict((await http.get(path)).json())

    return await until(shown, lambda told: told["state"] == "placed", "confirmation")


async def test_from_the_basket_to_the_tracking_page(open_shop: Opens) -> None:
    shop = await open_shop(CUP=10)
    (azul,) = shop.company.shops
    async with shop.http() as http:
        basket = await ready(http, "CUP", "one buyer")
        assert basket["total_minor"] == 1990 + basket["freight_minor"] > 1990
        await shop.company.until_shown({"CUP": 9}, azul)
        placed = await paid(shop, http, basket)
        page = await http.get(placed["tracking_url"], params={"lang": "en"}, headers={"authorization": ""})
        assert (page.status_code, "Payment confirmed" in page.text) == (200, True)
    assert await shop.company.stock("CUP") == (9, 1)
    (payment,) = (await shop.gateway.payments(shop.company.tenant)).values()
    assert payment["amount_minor"] == payment["authorized_minor"] == basket["total_minor"]
    await shop.company.assert_conserved()


async def test_many_buyers_want_few_units(open_shop: Opens) -> None:
    shop = await open_shop(CUP=30)
    async with shop.http() as http:
        answers = await asyncio.gather(*(hold(http, "CUP", 1, f"buyer number {each}") for each in range(90)))
    codes = sorted(answer.status_code for answer in answers)
    assert set(codes) <= {201, 202, 409}
    assert codes.count(409) == 60
    await until(lambda: shop.company.stock("CUP"), lambda stock: stock == (0, 30), "every unit held once")
    await shop.company.assert_conserved()


async def test_a_basket_that_nobody_pays_goes_back(open_shop: Opens) -> None:
    shop = await open_shop(CUP=10)
    async with shop.http() as http:
        opened = (await hold(http, "CUP", 4, "hesitating")).json()
        await until(lambda: shop.company.stock("CUP"), lambda stock: stock == (6, 4), "held")
        assert (await http.delete(f"/v1/baskets/{opened['basket']}")).json()["state"] == "cancelled"
    await until(lambda: shop.company.stock("CUP"), lambda stock: stock == (10, 0), "given back")
    await until(lambda: shop.number("CUP"), lambda number: number == 10, "shown again")


async def test_a_buyer_of_the_storefront_walks_the_whole_way(open_shop: Opens) -> None:
    shop = await open_shop(CUP=10)
    for seed in (0, 1):  # a card and a Pix
        told = await shop.storefront.buy(shop.name, {"CUP": 1}, buyer=seed)
        assert told["paid"], told
    await until(lambda: shop.company.stock("CUP"), lambda stock: stock == (8, 2), "both sold")

    async def kinds() -> list[str]:
        return [row["kind"] async for row in shop.storefront.books() if row["shop"] == shop.name]

    found = await until(kinds, lambda kinds: kinds.count("sale") == 2, "both in the books")
    assert found.count("payment") == 2
    payments = await shop.gateway.payments(shop.company.tenant)
    assert sorted(one["method"] for one in payments.values()) == ["card", "pix"]


async def test_a_pix_that_is_paid_while_the_basket_is_let_go_is_sold_or_given_back(open_shop: Opens) -> None:
    shop = await open_shop(CUP=1)
    async with shop.http() as http:
        basket = await ready(http, "CUP", "slow buyer")
        path = f"/v1/baskets/{basket['basket']}"
        await http.post(f"{path}/pay", json={"method": "pix"}, headers={"idempotency-key": "a slow Pix"})

        async def shown() -> dict[str, Any]:
            return dict((await http.get(path)).json())

        await until(shown, lambda told: (told["payment"] or {}).get("pix_text"), "the Pix")
        (reference,) = await shop.gateway.payments(shop.company.tenant)
        gone, paid_ = await asyncio.gather(
            http.delete(path), shop.gateway.pay(shop.company.tenant, reference), return_exceptions=True
        )
        assert not isinstance(gone, BaseException)

    async def settled() -> tuple[int, int, tuple[int, int]]:
        (payment,) = (await shop.gateway.payments(shop.company.tenant)).values()
        return payment["captured_minor"], payment["refunded_minor"], await shop.company.stock("CUP")

    cost = 0 if isinstance(paid_, SandboxError) else basket["total_minor"]
    if gone.is_success:
        await until(settled, lambda told: told == (cost, cost, (1, 0)), "the money back, the cup too")
    else:
        await until(settled, lambda told: told == (cost, 0, (0, 1)), "sold")
    await shop.company.assert_conserved()


async def by_pix(http: httpx.AsyncClient, sku: str) -> dict[str, Any]:
    """A basket of one unit with a Pix that its buyer can pay."""
    basket = await ready(http, sku, f"buyer of {sku}")
    path = f"/v1/baskets/{basket['basket']}"
    trying = await http.post(f"{path}/pay", json={"method": "pix"}, headers={"idempotency-key": f"Pix for {sku}"})
    assert trying.status_code == 202, trying.text

    async def shown() -> dict[str, Any]:
        return dict((await http.get(path)).json())

    return await until(shown, lambda told: (told["payment"] or {}).get("pix_text"), f"the Pix for {sku}")


async def test_holds_run_out_and_a_pix_that_is_heard_of_afterwards_is_sold_or_given_back(open_shop: Opens) -> None:
    """Three holds run out while the gateway answers nobody. Two buyers have paid by then: the units of one are still
    there and are reserved again, those of the other are sold meanwhile. The third pays too late, which his bank
    refuses."""
    shop = await open_shop({"hold_card_min": "0.5", "hold_pix_min": "0.3"}, CUP=1, POT=1, JAR=1)
    (azul,), tenant = shop.company.shops, shop.company.tenant
    async with shop.http() as http:
        baskets = await asyncio.gather(*(by_pix(http, sku) for sku in ("CUP", "POT", "JAR")))
    references = [short_id(f"{basket['order_id']}:p1") for basket in baskets]
    await shop.gateway.put_vices(tenant, throttled={}, webhook_missing={})
    for reference in references[:2]:
        await shop.gateway.pay(tenant, reference)

    for sku in ("CUP", "POT", "JAR"):
        await until(lambda sku=sku: shop.company.stock(sku), lambda stock: stock == (1, 0), f"hold of {sku} run out")
    await shop.company.until_shown({"POT": 1}, azul)
    await shop.company.until_order(azul, await azul.buy({"POT": 1}), state="confirmed")
    await shop.gateway.put_vices(tenant)

    async def sums() -> list[tuple[int, int]]:
        payments = await shop.gateway.payments(tenant)
        return [(payments[one]["captured_minor"], payments[one]["refunded_minor"]) for one in references]

    async def orders() -> list[tuple[str, str | None]]:
        found = [await shop.company.get("orders", f"orders/{basket['order_id']}") for basket in baskets]
        return [(one["state"], one["cancel"]) for one in found]

    cup, pot, _ = (basket["total_minor"] for basket in baskets)
    await until(sums, lambda told: told == [(cup, 0), (pot, pot), (0, 0)], "one Pix kept and one given back")
    with pytest.raises(SandboxError, match=r"expired|removed"):
        await shop.gateway.pay(tenant, references[2])
    ends = [("confirmed", None), ("cancelled", "sold_out"), ("cancelled", "payment_expired")]
    await until(orders, lambda told: told == ends, "one sold, two ended", timeout_s=3 * PATIENCE_S)
    stock = [await shop.company.stock(sku) for sku in ("CUP", "POT", "JAR")]
    assert stock == [(0, 1), (0, 1), (1, 0)]
    await shop.company.assert_conserved()
