"""The control interface, the vices as a client feels them, and books that survive a kill."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from services.sandbox.client import SandboxClient, SandboxError
from tests.sandbox.conftest import Receiver, Shop, credentials_as_headers
from tests.sandbox.running import ROOT, TOKEN, Sandbox
from tests.sandbox.test_shopify_api import SET, quantities, subscribe, written

MARKETPLACES = ["shopify", "skyhub", "mercadolivre", "vtex"]


def numbers_by_books(rows: list[dict[str, Any]]) -> dict[str, int]:
    """The numbers that the rows alone lead to."""
    numbers: dict[str, int] = {}
    for row in rows:
        match row["kind"]:
            case "opened":
                numbers[row["sku"]] = row["number"]
            case "sale":
                numbers[row["sku"]] -= row["quantity"]
                assert numbers[row["sku"]] == row["number_after"]
            case "write":
                assert numbers[row["sku"]] == row["number_before"]
                numbers[row["sku"]] = row["number_after"]
            case "cancel" | "refund":
                for line in row["lines"]:
                    if line["number_after"] is not None:
                        numbers[line["sku"]] += line["quantity"]
                        assert numbers[line["sku"]] == line["number_after"]
    return numbers


@pytest.mark.asyncio
@pytest.mark.parametrize("marketplace", MARKETPLACES)
async def test_fifty_buyers_of_ten_units_buy_exactly_ten(
    marketplace: str, shopify_shop: Shop, skyhub_shop: Shop, meli_shop: Shop, vtex_shop: Shop
) -> None:
    shops = {"shopify": shopify_shop, "skyhub": skyhub_shop, "mercadolivre": meli_shop, "vtex": vtex_shop}
    shop = shops[marketplace]
    await shop.put(a=10)
    bought = await asyncio.gather(*(shop.control.buy(shop.name, {"a": 1}, buyer=n) for n in range(50)))
    assert sum("order_id" in answer for answer in bought) == 10
    assert [answer["reason"] for answer in bought if "reason" in answer] == ["sold_out"] * 40
    assert await shop.control.numbers(shop.name) == {"a": 0}
    assert len({answer["order_id"] for answer in bought if "order_id" in answer}) == 10
    summary = (await shop.control.summary())["shops"][shop.name]
    assert (summary["orders"], summary["units_sold"], summary["rows"]["sale_refused"]) == (10, 10, 40)


@pytest.mark.asyncio
@pytest.mark.parametrize("marketplace", MARKETPLACES)
async def test_after_a_kill_in_mid_load_books_numbers_and_answers_agree(marketplace: str, books_path: Path) -> None:
    sandbox = Sandbox(marketplace, books_path)
    sandbox.start()
    answered: list[dict[str, Any]] = []
    enough = asyncio.Event()
    try:
        async with SandboxClient(sandbox.base_url, TOKEN) as control:
            await control.put_shop("loja")
            await control.put_products("loja", [{"sku": f"s{n}", "quantity": 1000} for n in range(5)])

            async def buy(who: int) -> None:
                for n in range(1000):
                    try:
                        sold = await control.buy("loja", {f"s{n % 5}": 1}, buyer=who, pay="now" if n % 2 else "later")
                        answered.append(sold)
                        if len(answered) == 300:
                            enough.set()
                        if n % 7 == 0:
                            await control.cancel("loja", sold["order_id"], restock=True)
                    except aiohttp.ClientError:
                        return

            buyers = [asyncio.create_task(buy(who)) for who in range(8)]
            await enough.wait()
            sandbox.kill()
            await asyncio.gather(*buyers)
        sandbox.start()
        async with SandboxClient(sandbox.base_url, TOKEN) as control:
            rows = [row async for row in control.books()]
            assert numbers_by_books(rows) == await control.numbers("loja")
            sold_orders = {row["order_id"] for row in rows if row["kind"] == "sale"}
            assert {answer["order_id"] for answer in answered} <= sold_orders
            ids = [row["id"] for row in rows]
            assert ids == list(range(ids[0], ids[0] + len(ids)))
            again = await control.buy("loja", {"s0": 1})
            assert again["order_id"] not in sold_orders
            shop = await control.put_shop("loja")
            queued = {row["order_id"] for row in rows if row["kind"] == "queue"}
            if marketplace == "skyhub":
                assert queued == sold_orders
                async with (
                    aiohttp.ClientSession(headers=credentials_as_headers(shop)) as http,
                    http.get(f"{sandbox.base_url}/queues/orders") as answer,
                ):
                    assert (await answer.json())["code"] == rows[[row["kind"] for row in rows].index("sale")][
                        "order_id"
                    ]
    finally:
        if sandbox.running:
            assert sandbox.stop() == 0


@pytest.mark.asyncio
async def test_an_unsent_webhook_is_sent_after_a_restart(books_path: Path, receiver: Receiver) -> None:
    sandbox = Sandbox("shopify", books_path)
    sandbox.start()
    try:
        async with SandboxClient(sandbox.base_url, TOKEN) as control:
            told = await control.put_shop("loja", webhook_retry_s=[0.5] * 8)
            async with aiohttp.ClientSession(headers=credentials_as_headers(told)) as http:
                shop = Shop("loja", told, control, http)
                await shop.put(a=5)
                await subscribe(shop, receiver, "ORDERS_CREATE")
                receiver.answers.append(500)
                sold = await control.buy("loja", {"a": 1})
            first, _ = await receiver.next()
        sandbox.kill()
        sandbox.start()
        second, body = await receiver.next()
        assert first["X-Shopify-Webhook-Id"] == second["X-Shopify-Webhook-Id"]
        assert str(json.loads(body)["id"]) == sold["order_id"]
    finally:
        if sandbox.running:
            sandbox.stop()


@pytest.mark.asyncio
async def test_late_duplicate_and_missing_webhooks(shopify_shop: Shop, receiver: Receiver) -> None:
    shop = shopify_shop
    await shop.put(a=50)
    await subscribe(shop, receiver, "ORDERS_CREATE")
    await shop.control.put_vices(shop.name, webhook_duplicate={})
    await shop.control.buy(shop.name, {"a": 1})
    twice = [await receiver.next(), await receiver.next()]
    assert twice[0][0]["X-Shopify-Webhook-Id"] == twice[1][0]["X-Shopify-Webhook-Id"]
    await shop.control.put_vices(shop.name, webhook_missing={})
    lost = await shop.control.buy(shop.name, {"a": 1})
    await shop.control.put_vices(shop.name, webhook_late={"min_ms": 300, "max_ms": 300})
    late = await shop.control.buy(shop.name, {"a": 1})
    await shop.control.put_vices(shop.name)
    prompt = await shop.control.buy(shop.name, {"a": 1})
    heard = [str(json.loads((await receiver.next())[1])["id"]) for _ in range(2)]
    assert heard == [prompt["order_id"], late["order_id"]]
    dropped = [row["order_id"] for row in await shop.rows("webhook") if row["status"] == "dropped"]
    assert dropped == [lost["order_id"]]


@pytest.mark.asyncio
async def test_webhooks_overtake_each_other_and_none_is_lost(shopify_shop: Shop, receiver: Receiver) -> None:
    shop = shopify_shop
    await shop.put(a=50)
    await subscribe(shop, receiver, "ORDERS_CREATE")
    await shop.control.put_vices(shop.name, webhook_reordered={"min_ms": 0, "max_ms": 400}, seed=1)
    sold = [(await shop.control.buy(shop.name, {"a": 1}))["order_id"] for _ in range(12)]
    heard = [str(json.loads((await receiver.next())[1])["id"]) for _ in range(12)]
    assert sorted(heard) == sold
    assert heard != sold


@pytest.mark.asyncio
async def test_a_queue_entry_is_shown_again_before_it_is_due(skyhub_shop: Shop) -> None:
    shop = skyhub_shop
    await shop.put(a=5)
    sold = await shop.control.buy(shop.name, {"a": 1}, pay="later")
    await shop.control.put_vices(shop.name, queue_redelivery={})
    for _ in range(3):
        async with shop.http.get(f"{shop.url}/queues/orders") as answer:
            assert (await answer.json())["code"] == sold["order_id"]
    assert [row["deliveries"] for row in await shop.rows("queue")] == [0, 1, 2, 3]


@pytest.mark.asyncio
async def test_two_shops_may_use_the_same_order_ids_and_skus_and_stay_apart(shopify_shop: Shop) -> None:
    control = shopify_shop.control
    names = [f"{shopify_shop.name}-{twin}" for twin in ("um", "dois")]
    for name in names:
        await control.put_shop(name, first_order_id=1001)
        await control.put_products(name, [{"sku": "a", "quantity": 5}])
    sold = [await control.buy(name, {"a": quantity}) for quantity, name in enumerate(names, start=1)]
    assert {answer["order_id"] for answer in sold} == {"1001"}
    assert [await control.numbers(name) for name in names] == [{"a": 4}, {"a": 3}]


@pytest.mark.asyncio
async def test_writes_meet_the_vices(shopify_shop: Shop) -> None:
    shop = shopify_shop
    products = await shop.put(a=5)
    address = f"{shop.url}/admin/api/2025-07/graphql.json"

    async def write(quantity: int) -> tuple[int, dict[str, Any]]:
        body = {"query": SET, "variables": {"input": quantities(shop, products, a=(quantity, 5))}}
        async with shop.http.post(address, json=body) as answer:
            return answer.status, await answer.json()

    await shop.control.put_vices(shop.name, write_error={})
    assert (await write(4))[0] == 503
    await shop.control.put_vices(shop.name, write_throttled={})
    assert (await write(4))[1]["errors"][0]["extensions"]["code"] == "THROTTLED"
    await shop.control.put_vices(shop.name, stale_compare={})
    assert written((await write(4))[1])["userErrors"][0]["code"] == "COMPARE_QUANTITY_STALE"
    await shop.control.put_vices(shop.name, silent_reject={})
    assert written((await write(4))[1])["userErrors"] == []
    assert await shop.control.numbers(shop.name) == {"a": 5}
    rows = await shop.rows("write", "write_refused")
    assert [row.get("why", row.get("applied")) for row in rows] == ["unavailable", "throttled", "stale", False]


@pytest.mark.asyncio
@pytest.mark.rule(27)
async def test_a_timed_out_write_is_executed_after_its_client_has_gone(shopify_shop: Shop) -> None:
    shop = shopify_shop
    products = await shop.put(a=5)
    await shop.control.put_vices(shop.name, write_timeout={"min_ms": 300, "max_ms": 300})
    body = {"query": SET, "variables": {"input": quantities(shop, products, a=(4, 5))}}
    gone = aiohttp.ClientTimeout(total=0.1)
    with pytest.raises(TimeoutError):
        await shop.http.post(f"{shop.url}/admin/api/2025-07/graphql.json", json=body, timeout=gone)
    assert await shop.control.numbers(shop.name) == {"a": 5}
    rows = await shop.wait_for_rows("write", 1)
    assert (rows[0]["late"], rows[0]["number_after"]) == (True, 4)
    assert await shop.control.numbers(shop.name) == {"a": 4}


@pytest.mark.asyncio
async def test_putting_a_shop_or_a_product_again_changes_no_number_and_no_credential(shopify_shop: Shop) -> None:
    shop = shopify_shop
    await shop.put(a=5)
    await shop.control.buy(shop.name, {"a": 2})
    again = await shop.control.put_shop(shop.name, restores_on_cancel=False)
    assert again["credentials"] == shop.told["credentials"]
    assert again["locations"] == shop.told["locations"]
    await shop.put(a=99)
    assert await shop.control.numbers(shop.name) == {"a": 3}
    with pytest.raises(SandboxError, match="409"):
        await shop.control.put_shop(f"{shop.name}-twin", credentials=again["credentials"])
    with pytest.raises(SandboxError, match="422"):
        await shop.control.put_shop(shop.name, colour="green")


@pytest.mark.asyncio
async def test_the_control_interface_wants_its_token_and_health_does_not(shopify_process: Sandbox) -> None:
    async with SandboxClient(shopify_process.base_url, "wrong") as stranger:
        assert (await stranger.health())["status"] == "ok"
        with pytest.raises(SandboxError, match="401"):
            await stranger.limits()


@pytest.mark.asyncio
async def test_json_without_end_is_refused_in_words(shopify_shop: Shop, shopify_process: Sandbox) -> None:
    shop, where = shopify_shop, f"{shopify_process.base_url}/_control/shops/{shopify_shop.name}"
    given = {"Authorization": f"Bearer {TOKEN}"}
    async with shop.http.put(where, data=b"[" * 60_000, headers=given) as answer:
        assert (answer.status, await answer.json()) == (400, {"error": "the body is not JSON"})


@pytest.mark.asyncio
async def test_reset_forgets_everything_and_row_ids_go_on(books_path: Path) -> None:
    sandbox = Sandbox("shopify", books_path)
    sandbox.start()
    try:
        async with SandboxClient(sandbox.base_url, TOKEN) as control:
            for expected_number in (5, 7):
                await control.put_shop("loja")
                await control.put_products("loja", [{"sku": "a", "quantity": expected_number}])
                assert await control.numbers("loja") == {"a": expected_number}
                last = [row["id"] async for row in control.books()][-1]
                await control.reset()
                assert [row async for row in control.books()] == []
            assert last == 2
    finally:
        sandbox.stop()


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"SALDO_SANDBOX_HOST": "0.0.0.0"}, "loopback"),
        ({"SALDO_SANDBOX_TOKEN": ""}, "SALDO_SANDBOX_TOKEN"),
    ],
)
def test_it_refuses_to_start_open_to_the_world_or_without_a_token(
    environment: dict[str, str], message: str, books_path: Path
) -> None:
    command = [sys.executable, "-m", "services.sandbox.app", "shopify"]
    given = Sandbox("shopify", books_path).environment() | environment
    ended = subprocess.run(command, cwd=ROOT, env=given, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode != 0
    assert message in ended.stderr
