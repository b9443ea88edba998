"""The same news several times and in any order: one order, the right final state, stock given back once."""

import asyncio
import time
from typing import Any

import pytest

from tests.flow.company import Company, Opener, Shop, plan, until


async def _silent_shop(open_company: Opener) -> tuple[Company, Shop, Shop]:
    """A company whose Shopify shop sends nothing by itself: the test delivers what it wants, when it wants."""
    company = await open_company(plan(CUP=10), {"azul": "shopify", "norte": "skyhub"})
    azul, norte = company.shops
    await azul.sandbox.put_vices(azul.name, webhook_missing={})
    return company, azul, norte


async def _deliver(company: Company, shop: Shop, body: bytes, topic: str, **headers: str) -> None:
    answer = await company.deliver(shop, body, topic, **headers)
    assert answer.status_code == 200, answer.text


async def _until_absorbed(company: Company, bodies: int) -> None:
    """Until so many bodies have come in and none of them waits any more."""
    await until(
        company.intake,
        lambda rows: len(rows) >= bodies and all(row["state"] == "absorbed" for row in rows),
        f"{bodies} bodies absorbed",
    )


async def _assert_one_order(company: Company, state: str) -> None:
    orders = (await company.get("orders", "orders"))["orders"]
    assert [order["state"] for order in orders] == [state]
    await company.assert_conserved()


@pytest.mark.asyncio
async def test_the_same_webhook_five_times_is_one_sale(open_company: Opener) -> None:
    company, azul, _ = await _silent_shop(open_company)
    external_id = await azul.buy({"CUP": 3})
    body = await azul.read_order(external_id)
    for _ in range(5):
        await _deliver(company, azul, body, "orders/create", x_shopify_webhook_id="the-same-delivery")
    for _ in range(5):
        await _deliver(company, azul, body, "orders/create")
    await company.until_order(azul, external_id, state="confirmed")
    await _until_absorbed(company, 6)
    await company.until_shown({"CUP": 7})
    order = await company.order(azul, external_id)
    assert order is not None
    assert order["sale_revision"] == 1, "a snapshot that says nothing new drew a revision"
    assert await company.stock("CUP") == (7, 3)
    await _assert_one_order(company, "confirmed")


@pytest.mark.asyncio
async def test_what_a_door_got_can_be_delivered_again_byte_for_byte(open_company: Opener) -> None:
    company = await open_company(plan(CUP=10), {"azul": "shopify", "norte": "skyhub"})
    azul, _ = company.shops
    external_id = await azul.buy({"CUP": 3})
    await company.until_order(azul, external_id, state="confirmed")

    async def pushed() -> list[dict[str, Any]]:
        return [row for row in await company.intake() if row["topic"] != "poll"]

    rows = await until(pushed, lambda rows: len(rows) == 2, "the shop's own two webhooks")
    for row in rows:
        raw = (await company.get("channels", f"intake/{row['intake_id']}/body"))["body"].encode()
        for _ in range(5):
            await _deliver(company, azul, raw, row["topic"], x_shopify_webhook_id=row["delivery_id"])
    assert len(await pushed()) == 2, "a delivery that is known was stored again"
    assert await company.stock("CUP") == (7, 3)
    await _assert_one_order(company, "confirmed")


@pytest.mark.asyncio
async def test_an_update_comes_before_the_creation(open_company: Opener) -> None:
    company, azul, _ = await _silent_shop(open_company)
    external_id = await azul.buy({"CUP": 3}, pay="later")
    created = await azul.read_order(external_id)
    await _next_second()
    await azul.sandbox.pay(azul.name, external_id)
    paid = await azul.read_order(external_id)
    await _deliver(company, azul, paid, "orders/updated")
    order = await company.until_order(azul, external_id, status="paid")
    await _deliver(company, azul, created, "orders/create")
    await _until_absorbed(company, 2)
    assert await company.order(azul, external_id) == order
    await company.until_shown({"CUP": 7})
    await _assert_one_order(company, "confirmed")


@pytest.mark.asyncio
async def test_a_cancellation_comes_before_the_payment_and_twice(open_company: Opener) -> None:
    company, azul, norte = await _silent_shop(open_company)
    external_id = await azul.buy({"CUP": 3}, pay="later")
    created = await azul.read_order(external_id)
    await _deliver(company, azul, created, "orders/create")
    await company.until_order(azul, external_id, status="awaiting_payment")
    await company.until_shown({"CUP": 7}, norte)
    await _next_second()
    await azul.sandbox.pay(azul.name, external_id)
    paid = await azul.read_order(external_id)
    await _next_second()
    await azul.sandbox.cancel(azul.name, external_id, restock=True)
    cancelled = await azul.read_order(external_id)
    for _ in range(2):
        await _deliver(company, azul, cancelled, "orders/cancelled")
    await company.until_order(azul, external_id, state="cancelled")
    await _deliver(company, azul, paid, "orders/paid")
    await _deliver(company, azul, cancelled, "orders/cancelled")
    await _deliver(company, azul, created, "orders/create")
    await _until_absorbed(company, 6)
    await company.until_shown({"CUP": 10})
    assert await company.stock("CUP") == (10, 0), "stock was given back twice, or not at all"
    await _assert_one_order(company, "cancelled")


@pytest.mark.asyncio
async def test_an_old_snapshot_after_a_new_one_changes_nothing(open_company: Opener) -> None:
    company, azul, _ = await _silent_shop(open_company)
    external_id = await azul.buy({"CUP": 4})
    whole = await azul.read_order(external_id)
    await _next_second()
    await azul.sandbox.refund(azul.name, external_id, {"CUP": 1}, restock=True)
    less = await azul.read_order(external_id)
    await _deliver(company, azul, less, "orders/updated")
    await company.until_shown({"CUP": 7})
    # The repair poll may have seen the order before the refund, and answers to both snapshots are awaited.
    await until(lambda: company.stock("CUP"), lambda stock: stock == (7, 3), "three units reserved")
    order = await company.until_order(azul, external_id, state="confirmed")
    await _deliver(company, azul, whole, "orders/updated")
    await _deliver(company, azul, whole, "orders/paid")
    await _until_absorbed(company, 3)
    assert await company.order(azul, external_id) == order
    assert await company.stock("CUP") == (7, 3)
    await company.until_shown({"CUP": 7})
    await _assert_one_order(company, "confirmed")


@pytest.mark.asyncio
async def test_an_unpaid_order_of_a_queue_reserves_and_is_paid_later(open_company: Opener) -> None:
    company = await open_company(plan(CUP=10), {"azul": "shopify", "norte": "skyhub"})
    azul, norte = company.shops
    external_id = await norte.buy({"CUP": 4}, pay="later")
    await company.until_shown({"CUP": 6}, azul)
    unpaid = await company.until_order(norte, external_id, status="awaiting_payment")
    assert not unpaid["paid"]
    assert await company.stock("CUP") == (6, 4)
    await norte.sandbox.pay(norte.name, external_id)
    paid = await company.until_order(norte, external_id, state="confirmed", status="paid")
    assert paid["paid"]
    assert await company.stock("CUP") == (6, 4), "the payment reserved again"
    await company.until_shown({"CUP": 6})
    await _assert_one_order(company, "confirmed")


@pytest.mark.asyncio
async def test_an_unpaid_order_that_is_cancelled_gives_its_stock_back_once(open_company: Opener) -> None:
    company = await open_company(plan(CUP=10), {"azul": "shopify", "norte": "skyhub"})
    azul, norte = company.shops
    external_id = await norte.buy({"CUP": 4}, pay="later")
    await company.until_shown({"CUP": 6}, azul)
    await norte.sandbox.cancel(norte.name, external_id)
    await company.until_order(norte, external_id, state="cancelled")
    await company.until_shown({"CUP": 10})
    assert await company.stock("CUP") == (10, 0)
    movements = (await company.get("inventory", "stock/explain", sku="CUP"))["movements"]
    assert sum(one["quantity"] for one in movements if one["from_state"] == "reserved") == 4
    await _assert_one_order(company, "cancelled")


async def _next_second() -> None:
    """Shopify's `updated_at` has whole seconds: let the next change fall into another one."""
    await asyncio.sleep(1.0 - time.time() % 1.0 + 0.01)
