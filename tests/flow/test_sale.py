"""A sale on one connection lowers the number on every other one, and is one trace."""

import asyncio
import json
from typing import Any

import pytest

from tests.flow.company import Company, Opener, Shop, plan, until

SHOPS = {"azul": "shopify", "verde": "shopify", "norte": "skyhub"}


@pytest.mark.asyncio
async def test_a_sale_lowers_the_number_everywhere_else(open_company: Opener) -> None:
    company = await open_company(plan(kits={"KIT": {"CUP": 2, "SPOON": 1}}, CUP=20, SPOON=30), SHOPS)
    azul, verde, norte = company.shops
    await azul.buy({"CUP": 3})
    # The kit takes two cups: 17 // 2.
    await company.until_shown({"CUP": 17, "SPOON": 30, "KIT": 8})
    await norte.buy({"SPOON": 5})
    await company.until_shown({"CUP": 17, "SPOON": 25, "KIT": 8})
    await verde.buy({"KIT": 2})
    await company.until_shown({"CUP": 13, "SPOON": 23, "KIT": 6})
    assert await company.stock("CUP") == (13, 7)
    assert await company.stock("SPOON") == (23, 7)
    await company.assert_conserved()


@pytest.mark.asyncio
async def test_an_advert_of_packs_takes_and_shows_whole_packs(open_company: Opener) -> None:
    company = await open_company(plan(CUP=20), {"azul": "shopify"})
    (azul,) = company.shops
    norte = await company.open_shop("skyhub", f"{company.tenant}-norte", packs={"CUP": 6}, queue_redelivery_ms=2000)
    await company.until_shown({"CUP": 20, "CUP-PACK": 3}, norte)
    sold = await norte.buy({"CUP-PACK": 2})
    await company.until_order(norte, sold, state="confirmed")
    assert await company.stock("CUP") == (8, 12)
    await company.until_shown({"CUP": 8}, azul)
    await company.until_shown({"CUP": 8, "CUP-PACK": 1}, norte)
    await azul.buy({"CUP": 3})
    await company.until_shown({"CUP": 5}, azul)
    await company.until_shown({"CUP": 5, "CUP-PACK": 0}, norte)
    await company.assert_conserved()


@pytest.mark.asyncio
async def test_a_sale_of_the_only_sku_leaves_the_selling_shop_alone(open_company: Opener) -> None:
    company = await open_company(plan(CUP=20), SHOPS)
    azul, verde, norte = company.shops
    before = len(await _writes(company, azul))
    await azul.buy({"CUP": 3})
    await company.until_shown({"CUP": 17})
    assert len(await _writes(company, verde)) == 2
    assert len(await _writes(company, norte)) == 2
    assert len(await _writes(company, azul)) == before == 1, "the shop lowered its number itself"


@pytest.mark.asyncio
async def test_one_sale_is_one_trace(open_company: Opener) -> None:
    company = await open_company(plan(CUP=20), SHOPS)
    azul, verde, norte = company.shops
    external_id = await azul.buy({"CUP": 1})
    await company.until_order(azul, external_id, state="confirmed")
    await company.until_shown({"CUP": 19})

    async def spans() -> list[dict[str, Any]]:
        printed = await asyncio.to_thread(company.saldo, "trace", external_id, "--json")
        found: list[dict[str, Any]] = json.loads(printed)["spans"]
        return found

    def pushed(found: list[dict[str, Any]]) -> set[str]:
        return {span["attributes"]["saldo.connection"] for span in found if span["name"].startswith("push ")}

    others = {verde.connection_id, norte.connection_id}
    found = await until(spans, lambda found: pushed(found) >= others, "both pushes in the trace")
    by_id = {span["span_id"]: span for span in found}
    edges = {(_name(by_id[span["parent_id"]]), _name(span)) for span in found if span["parent_id"] in by_id}
    assert edges >= {
        ("channels receive webhook", "channels create channels.sales.v1"),
        ("channels create channels.sales.v1", "orders process channels.sales.v1"),
        ("orders process channels.sales.v1", "orders create inventory.commands.v1"),
        ("orders create inventory.commands.v1", "inventory process inventory.commands.v1"),
        ("inventory process inventory.commands.v1", "inventory create inventory.levels.v1"),
        ("inventory process inventory.commands.v1", "inventory create inventory.reservations.v1"),
        ("inventory create inventory.levels.v1", "channels process inventory.levels.v1"),
        ("inventory create inventory.levels.v1", "channels push shopify"),
        ("inventory create inventory.levels.v1", "channels push skyhub"),
        ("inventory create inventory.reservations.v1", "orders process inventory.reservations.v1"),
        ("channels push skyhub", "channels create channels.listings.v1"),
    }
    assert pushed(found) == others, "the selling shop was pushed to"
    flow = [span for span in found if not span["name"].startswith("receive")]
    assert len({span["trace_id"] for span in flow}) == 1, "the sale fell apart into several traces"
    printed = await asyncio.to_thread(company.saldo, "trace", external_id)
    assert printed.index("receive webhook") < printed.index("orders process channels.sales.v1")
    assert printed.count("push shopify") == printed.count("push skyhub") == 1


def _name(span: dict[str, Any]) -> str:
    return f"{span['service']} {span['name']}"


async def _writes(company: Company, shop: Shop) -> list[dict[str, Any]]:
    return [row async for row in shop.sandbox.books() if row["shop"] == shop.name and row["kind"] == "write"]
