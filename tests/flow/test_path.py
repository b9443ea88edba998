"""An order's way on the running system, from the sale to the buyer's door, by the books of everybody outside."""

import pytest

from tests.flow.company import Opener, plan
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
