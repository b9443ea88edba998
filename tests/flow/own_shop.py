"""A shop of a company's own on the running system, with accounts at the gateway's sandbox and rates of delivery."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from services.console.demo.company import card_page
from services.console.demo.evidence import Channel
from services.console.demo.markets import MARKETS
from services.sandbox.client import SandboxClient
from services.sandbox.gateway_client import GatewayClient
from tests.flow.company import Company, Shop, until

EVERYWHERE = {"from_code": "00000-000", "to_code": "99999-999"}
RATES = [
    {"carrier": "own", "service": "economy", "price_minor": 1290, "days_min": 4, "days_max": 7},
    {"carrier": "own", "service": "express", "price_minor": 2490, "days_min": 1, "days_max": 2},
]
PLACE = {
    "name": "Depósito de teste",
    "street": "Rua de Exemplo",
    "house": "1",
    "complement": "",
    "district": "Centro",
    "city": "São Paulo",
    "region": "SP",
    "postal_code": "01001000",
}


@dataclass(frozen=True)
class OwnShop:
    """The shop: where its API is and the key to it, and the sandbox of its storefront."""

    company: Company
    name: str
    connection_id: str
    api_url: str
    page_url: str
    key: str
    storefront: SandboxClient
    gateway: GatewayClient

    def http(self) -> httpx.AsyncClient:
        """A client of the API."""
        return httpx.AsyncClient(
            base_url=self.api_url, headers={"authorization": f"Bearer {self.key}"}, timeout=30, trust_env=False
        )

    async def number(self, sku: str) -> int:
        """What the shop shows of a SKU."""
        async with self.http() as http:
            products = (await http.get("/v1/products")).json()["products"]
        return next(int(one["available"]) for one in products if one["sku"] == sku)


async def _put(company: Company, service: str, path: str, body: Any, **query: Any) -> Any:
    """PUT of an admin listener; the console's client has no such call."""
    address = company.system.endpoints.admin[service]
    async with httpx.AsyncClient(trust_env=False, timeout=30) as http:
        answer = await http.put(
            f"{address.base_url}/admin/{path}",
            json=body,
            params=query,
            headers={"authorization": f"Bearer {address.token}"},
        )
    assert answer.is_success, answer.text
    return answer.json()


async def _open_accounts(company: Company, gateway: GatewayClient, page_url: str) -> str:
    """Accounts for cards and Pix; returns the page where a card is typed."""
    told = await gateway.put_account(company.tenant)
    drawn, folder = told["credentials"], Path(told["certificates"])
    stripe = {
        "gateway": "stripe", "environment": "sandbox", "base_url": told["base_url"],
        "merchant": f"acct_{company.tenant}", "settings": {"return_url": f"{page_url}/paid"},
        "credentials": {"secret_key": drawn["secret_key"]},
    }  # fmt: skip
    files = {"certificate_pem": "client.pem", "key_pem": "client.key", "ca_pem": "ca.pem"}
    pix = {
        "gateway": "pix", "environment": "sandbox", "base_url": told["pix_base_url"], "merchant": drawn["client_id"],
        "settings": {"pix_key": told["pix_key"]},
        "credentials": {name: drawn[name] for name in ("client_id", "client_secret")}
        | {name: (folder / file).read_text() for name, file in files.items()},
    }  # fmt: skip
    for account in (stripe, pix):
        kept = await _put(company, "payments", "accounts", {"tenant": company.tenant, **account})
        await company.post("payments", f"accounts/{kept['account_id']}/subscribe")
    return f"{told['base_url']}/sandbox/cards?key={drawn['publishable_key']}"


async def open_own_shop(
    company: Company, storefront: SandboxClient, gateway: GatewayClient, api_url: str, **settings: str
) -> OwnShop:
    """Open a shop with every item on sale at 19.90, and go live; its numbers are shown when it returns."""
    told = await _build(company, storefront)
    card_page = await _open_accounts(company, gateway, told["base_url"])
    rates = [rate | EVERYWHERE | {"up_to_g": 30_000, "currency": "BRL"} for rate in RATES]
    await _put(company, "fulfillment", "rates", rates, tenant=company.tenant)
    await _put(company, "fulfillment", "origins/main", PLACE, tenant=company.tenant)
    return await _connect(company, storefront, gateway, api_url, told, card_page_url=card_page, **settings)


async def add_own_shop(company: Company, storefront: SandboxClient, gateway: GatewayClient, api_url: str) -> OwnShop:
    """The same for a company that has its merchant and its carrier already: one more of its `shops`."""
    told = await _build(company, storefront)
    page = card_page(company.system.endpoints, await gateway.account(company.tenant))
    shop = await _connect(company, storefront, gateway, api_url, told, card_page_url=page)
    records = {row["stock_record"]: row["sku"] for row in await company.listings(shop.connection_id)}
    limits = MARKETS["shop"].send_limits({})
    channel = Channel(shop.connection_id, f"shop/{shop.name}", "shop", shop.name, records, limits)
    company.shops.append(Shop("shop", shop.name, told, shop.connection_id, channel, storefront))
    return shop


async def _build(company: Company, storefront: SandboxClient) -> dict[str, Any]:
    """The shop's own side: products in the storefront."""
    name = f"{company.tenant}-loja"
    told = await storefront.put_shop(name, title="Loja Azul", gateway_account=company.tenant)
    await storefront.put_products(name, _products(company))
    return told


def _products(company: Company) -> list[dict[str, Any]]:
    skus = (*company.plan.opening, *company.plan.kits)
    return [{"sku": sku, "title": f"Produto {sku}", "price_minor": 1990} for sku in skus]


async def _connect(
    company: Company,
    storefront: SandboxClient,
    gateway: GatewayClient,
    api_url: str,
    told: dict[str, Any],
    **settings: str,
) -> OwnShop:
    name = str(told["shop"])
    connection = {
        "connector": "shop", "environment": "sandbox", "account": name, "base_url": told["base_url"],
        "credentials": told["credentials"], "settings": settings,
    }  # fmt: skip
    connection_id = str((await company.post("channels", "connections", connection))["connection_id"])
    await company.post("channels", f"connections/{connection_id}/products", {"rows": _products(company)})
    await until(
        lambda: company.listings(connection_id),
        lambda rows: bool(rows) and all(row["sku"] for row in rows),
        "linking by SKU text",
    )
    validated = await company.post("channels", f"connections/{connection_id}/validate")
    assert not validated["problems"], validated["problems"]
    await company.post("channels", f"connections/{connection_id}/enable")
    key = told["credentials"]["api_key"]
    shop = OwnShop(company, name, connection_id, api_url, told["base_url"], key, storefront, gateway)
    for sku, units in company.plan.opening.items():
        await until(lambda sku=sku: shop.number(sku), lambda number, units=units: number == units, f"{sku} shown")
    return shop
