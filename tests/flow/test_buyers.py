"""Crowds: a scarce SKU that everybody wants, and marketplaces with every vice."""

import pytest

from services.console.demo.accounts import settle as settle_accounts
from services.console.demo.buyers import Purchase, Tally, buy_all, plan_purchases
from services.console.demo.seed import make_catalogue
from services.console.demo.verdict import judge
from tests.flow.company import Company, Opener, plan

SHOPS = {"azul": "shopify", "verde": "shopify", "norte": "skyhub", "sul": "skyhub"}


async def _buy(company: Company, purchases: list[Purchase]) -> Tally:
    tally = Tally()
    await buy_all(purchases, [shop.channel for shop in company.shops], company.sandboxes, tally)
    return tally


async def _assert_verdict(company: Company) -> None:
    verdict = judge(await company.evidence())
    assert verdict.passed, verdict.failures
    await company.assert_conserved()


@pytest.mark.asyncio
async def test_three_hundred_buyers_want_a_hundred_units(open_company: Opener) -> None:
    company = await open_company(plan(SCARCE=100), SHOPS)
    channels = [shop.channel for shop in company.shops]
    # 30 buyers a second; each SkyHub shop gets every twentieth, which is 1.5 orders a second.
    places = [channels[2] if n % 20 == 0 else channels[3] if n % 20 == 10 else channels[n % 2] for n in range(300)]
    purchases = [
        Purchase(n / 30, channel.connection_id, {"SCARCE": 1}, paid=True, then="nothing", later_s=0, buyer=n)
        for n, channel in enumerate(places)
    ]
    tally = await _buy(company, purchases)
    assert tally.attempted == 300
    assert not tally.failed
    evidence = await company.evidence()
    units = settle_accounts(evidence).units
    assert units["reserved"] == 100
    assert units["open"] == units["cancelled"] == 0
    assert tally.accepted == units["accepted"] == 100 + units["short"]
    shortfalls = (await company.get("inventory", "shortfalls", limit=1000))["shortfalls"]
    assert len(shortfalls) == units["short"], "a further sale is one shortfall"
    assert await company.stock("SCARCE") == (0, 100)
    levels = [level.message for level in evidence.heard.levels]
    assert min(level.available for level in levels) == 0
    assert min(place.available for level in levels for place in level.levels) == 0
    verdict = judge(evidence)
    assert verdict.passed, verdict.failures
    worst_ms = max(max(result.propagation.from_sale_ms, default=0.0) for result in verdict.channels)
    print(f"\n{units['short']} shortfalls of {units['accepted']} accepted; slowest propagation {worst_ms:.0f} ms")


@pytest.mark.timeout(300)
@pytest.mark.asyncio
async def test_what_bad_marketplaces_do_is_made_good_once_they_behave(open_company: Opener) -> None:
    catalogue = make_catalogue(16, seed=7)
    company = await open_company(catalogue.plan, {"azul": "shopify", "verde": "shopify", "norte": "skyhub"})
    azul, verde, norte = company.shops
    webhooks = {
        "webhook_duplicate": {"probability": 0.3, "min_ms": 10, "max_ms": 800},
        "webhook_late": {"probability": 0.3, "min_ms": 10, "max_ms": 1500},
        "webhook_reordered": {"probability": 0.2, "min_ms": 10, "max_ms": 1000},
        "webhook_missing": {"probability": 0.15},
    }
    writes = {
        "write_throttled": {"probability": 0.1},
        "write_error": {"probability": 0.1},
        "stale_compare": {"probability": 0.1},
        "silent_reject": {"probability": 0.1},
        "write_timeout": {"probability": 0.1, "min_ms": 500, "max_ms": 1000, "duration_s": 4},
    }
    await azul.sandbox.put_vices(azul.name, seed=1, **webhooks, **writes)
    await verde.sandbox.put_vices(verde.name, seed=2, **webhooks)
    await norte.sandbox.put_vices(
        norte.name, seed=3, queue_redelivery={"probability": 0.3}, slow={"min_ms": 1, "max_ms": 100}, **writes
    )
    channels = [shop.channel for shop in company.shops]
    await _buy(company, plan_purchases(channels, catalogue, rate=10, seconds=10, orders=None, seed=7))
    for shop in company.shops:
        await shop.sandbox.put_vices(shop.name)
    swallowed = [row for row in await _rows(company) if row["kind"] == "webhook" and row["status"] == "dropped"]
    assert swallowed, "no webhook was swallowed: nothing was left for the repair poll to find"
    verdict = judge(await company.evidence())
    # A sale that was told late may be short after its channel was told of zero; nothing else may be wrong.
    wrong = [failure for failure in verdict.failures if "after their channel had been told of zero" not in failure]
    assert not wrong, wrong
    await company.assert_conserved()


async def _rows(company: Company) -> list[dict[str, object]]:
    names = {shop.name for shop in company.shops}
    return [row for sandbox in company.sandboxes.values() async for row in sandbox.books() if row["shop"] in names]
