"""Own shop bench: buyers walk from basket to confirmation through the shop's API, on the whole stack of processes.

An open loop: a buyer comes every 1/rate seconds, whether or not the ones before are through. Each holds one of many
products, gives an address, waits for the delivery options, chooses, and pays; by Pix and by card in turns. Measured at
the buyer: `basket_ms` until the stock is held, `options_ms` from sending the address until the options are there,
`pix_ms` from the moment the payer's bank has paid until the confirmation is shown, so with the gateway's webhook in it,
`card_ms` from sending the card's token until then.

Run by `saldo bench shop`. Writes `var/bench/shop.json`. Exit code 1 where p95 of the options is above 800 ms or p95 of
the confirmation by Pix above 2 s.
"""

import argparse
import asyncio
import sys
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from services.console import instance
from services.console.client import Admin
from services.sandbox.client import SandboxClient
from services.sandbox.gateway_client import GatewayClient
from services.sandbox.storefront_api import Bank, ShopApi
from services.sandbox.storefront_buyers import drawn_key, person
from tests.bench.stage import running, write_report
from tests.flow.company import Company, System, plan
from tests.flow.own_shop import OwnShop, open_own_shop

OPTIONS_P95_MS, CONFIRMATION_P95_MS = 800.0, 2000.0
PRODUCTS, UNITS = 50, 10_000
PATIENCE_S = 60.0
FIGURES = ("basket_ms", "options_ms", "pix_ms", "card_ms")


@dataclass
class Figures:
    """Milliseconds by name, and the buyers that did not come through."""

    times: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in FIGURES})
    failed: list[str] = field(default_factory=list)

    def since(self, name: str, begun: float) -> None:
        self.times[name].append((time.perf_counter() - begun) * 1000)

    def summary(self) -> dict[str, dict[str, float]]:
        told = {}
        for name, times in self.times.items():
            ranked = sorted(times)
            share = {
                f"p{part}": ranked[min(len(ranked) - 1, len(ranked) * part // 100)] for part in (50, 95, 99) if ranked
            }
            told[name] = {"count": len(ranked)} | {part: round(value, 1) for part, value in share.items()}
        return told


class Buyer:
    """One buyer at the API."""

    def __init__(self, shop: OwnShop, http: httpx.AsyncClient, bank: Bank, figures: Figures, number: int) -> None:
        self._shop, self._bank, self._figures, self._number = shop, bank, figures, number
        self._api = ShopApi(http, shop.api_url, shop.key)

    async def walk(self) -> None:
        """From the basket to the confirmation."""
        sku, begun = f"P{self._number % PRODUCTS:03}", time.perf_counter()
        basket = await self._ask("POST", "/v1/baskets", {"lines": [{"sku": sku, "quantity": 1}]})
        basket = await self._until(basket, lambda one: one["held"])
        self._figures.since("basket_ms", begun)
        path, begun = f"/v1/baskets/{basket['basket']}", time.perf_counter()
        await self._ask("PUT", f"{path}/address", person(self._number))
        while not (options := await self._ask("GET", f"{path}/delivery-options"))["ready"]:
            pass  # Each asking waits by itself.
        self._figures.since("options_ms", begun)
        await self._ask("PUT", f"{path}/delivery", {"option_id": options["options"][0]["option_id"]})
        await (self._pix(basket, path) if self._number % 2 else self._card(basket, path))

    async def _pix(self, basket: dict[str, Any], path: str) -> None:
        basket = await self._ask("POST", f"{path}/pay", {"method": "pix"})
        basket = await self._until(basket, lambda one: bool(one["payment"]["pix_text"]))
        assert await self._bank.pay_pix(basket["payment"]["pix_text"])
        begun = time.perf_counter()
        await self._until(basket, lambda one: one["state"] == "placed")
        self._figures.since("pix_ms", begun)

    async def _card(self, basket: dict[str, Any], path: str) -> None:
        token = await self._shop.gateway.card(self._shop.company.tenant)
        begun = time.perf_counter()
        basket = await self._ask("POST", f"{path}/pay", {"method": "card", "token": token})
        await self._until(basket, lambda one: one["state"] == "placed")
        self._figures.since("card_ms", begun)

    async def _ask(self, method: str, path: str, body: Any = None) -> dict[str, Any]:
        return await self._api.ask(method, path, body, key=drawn_key())

    async def _until(self, basket: dict[str, Any], good: Any) -> dict[str, Any]:
        deadline = time.perf_counter() + PATIENCE_S
        while not good(basket):
            assert time.perf_counter() < deadline, f"no end to waiting, in state {basket['state']}"
            query = f"?after={basket['change']}&wait_s=5"
            basket = await self._ask("GET", f"/v1/baskets/{basket['basket']}{query}")
        return basket


async def run(folder: Path, endpoints: dict[str, Any], buyers: int, rate: float) -> Figures:
    """Set up the shop and let the buyers come."""
    read = instance.read_endpoints(endpoints, folder)
    figures = Figures()
    async with AsyncExitStack() as opened:
        storefront, gateway = [
            await opened.enter_async_context(client(read.sandboxes[name].base_url, read.sandboxes[name].token))
            for name, client in (("shop", SandboxClient), ("gateway", GatewayClient))
        ]
        products = plan(**{f"P{number:03}": UNITS for number in range(PRODUCTS)})
        company = Company(System(folder, read), "bench", products, Admin(read, "bench"), {})
        await company.put_stock()
        assert isinstance(gateway, GatewayClient)
        shop = await open_own_shop(company, storefront, gateway, endpoints["shop"]["base_url"])
        http = await opened.enter_async_context(shop.http())
        bank = Bank(http, read.sandboxes["gateway"].base_url, read.sandboxes["gateway"].token)
        deeds = []
        begun = time.perf_counter()
        for number in range(buyers):
            await asyncio.sleep(max(0.0, begun + number / rate - time.perf_counter()))
            deeds.append(asyncio.create_task(Buyer(shop, http, bank, figures, number).walk()))
        ended = await asyncio.gather(*deeds, return_exceptions=True)
        figures.failed = [f"{type(one).__name__}: {one}" for one in ended if isinstance(one, BaseException)]
    return figures


def main() -> int:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description="The own shop's API from basket to confirmation.")
    parser.add_argument("--buyers", type=int, default=300)
    parser.add_argument("--rate", type=float, default=5.0, help="Buyers a second.")
    given = parser.parse_args()
    with running("shop") as (folder, endpoints):
        figures = asyncio.run(run(folder, endpoints, given.buyers, given.rate))
    told = figures.summary()
    report = {"buyers": given.buyers, "rate_per_s": given.rate, "failed": figures.failed, **told}
    write_report("shop", report)
    print(f"{given.buyers} buyers at {given.rate:g}/s, {len(figures.failed)} failed")
    for name, figure in told.items():
        print(f"{name:<12}" + "".join(f"{part:>8} {value:>9.1f}" for part, value in figure.items()))
    for failure in figures.failed[:5]:
        print(failure)
    worst = {name: told[name].get("p95", float("inf")) for name in ("options_ms", "pix_ms")}
    good = worst["options_ms"] <= OPTIONS_P95_MS and worst["pix_ms"] <= CONFIRMATION_P95_MS and not figures.failed
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
