"""The demonstration company beyond its shops: a merchant at the gateway, a carrier with its own rates, a tax id.

Everything here can be repeated without harm.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from services.console.client import Admin
from services.console.demo.office import TAX_ID
from services.console.instance import Address, Endpoints
from services.sandbox.carrier_client import CarrierClient
from services.sandbox.gateway_client import GatewayClient

CARRIER_DAYS_PER_S: Final = 1.0
"""So many of a carrier's days pass in a second of the sandbox."""

ORIGIN: Final = {
    "name": "Saldo Demonstração Ltda",
    "street": "Rua do Depósito",
    "house": "100",
    "complement": "",
    "district": "Centro",
    "city": "São Paulo",
    "region": "SP",
    "postal_code": "01000-000",
}
STEPS: Final = ((1_000, 1_490), (5_000, 2_490), (30_000, 4_990))
SERVICES: Final = {"padrao": (2, 5, 100), "expresso": (1, 2, 180)}
"""Of the company's own carrier: days at least and at most, and per cent of the price."""

EXPRESS: Final = ("SEDEX", "Correios SEDEX", "Normal")
"""What marketplaces call the delivery that a buyer chose there; the company sends all of it by express."""


@dataclass(frozen=True, slots=True)
class Outside:
    """The company's accounts at the gateway's and the carrier's sandbox, as these tell them."""

    merchant: Mapping[str, Any]
    carrier: Mapping[str, Any]

    @property
    def courier(self) -> Address:
        """The carrier's own system, with this company's token."""
        return Address(self.carrier["base_url"], self.carrier["credentials"]["access_token"])


async def open_outside(endpoints: Endpoints, tenant: str) -> Outside:
    """Open both accounts, or find them."""
    address = endpoints.sandboxes["gateway"]
    async with GatewayClient(address.base_url, address.token) as gateway:
        merchant = await gateway.put_account(tenant, tax_id=TAX_ID)
    address = endpoints.sandboxes["carrier"]
    async with CarrierClient(address.base_url, address.token) as carrier:
        speed = CARRIER_DAYS_PER_S * 86_400
        account = await carrier.put_shop(tenant, kind="table", speed=speed)
    return Outside(merchant, account)


def card_page(endpoints: Endpoints, merchant: Mapping[str, Any]) -> str:
    """The gateway's page on which a buyer types a card."""
    key = merchant["credentials"]["publishable_key"]
    return f"{endpoints.sandboxes['gateway'].base_url}/sandbox/cards?key={key}"


def register_company(client: Admin) -> None:
    """Its tax id, where it sends from, and what its own carrier charges, by weight."""
    client.post("erp", "companies", {"tax_id": TAX_ID})
    client.put("fulfillment", "origins/main", ORIGIN)
    rates = [
        {
            "carrier": "propria", "service": service, "from_code": "00000-000", "to_code": "99999-999",
            "up_to_g": up_to_g, "price_minor": price_minor * per_cent // 100, "currency": "BRL", "days_min": days_min,
            "days_max": days_max,
        }
        for service, (days_min, days_max, per_cent) in SERVICES.items()
        for up_to_g, price_minor in STEPS
    ]  # fmt: skip
    client.put("fulfillment", "rates", rates)
    for given in EXPRESS:
        client.post("fulfillment", "mappings", {"kind": "service", "given": given, "ours": "expresso"})


def register_merchant(client: Admin, merchant: Mapping[str, Any], return_url: str) -> None:
    """The company's accounts for cards and for Pix, subscribed to what the gateway tells."""
    told = merchant["credentials"]
    certificates = Path(merchant["certificates"])
    accounts = [
        {
            "gateway": "stripe",
            "base_url": merchant["base_url"],
            "merchant": f"acct_{client.tenant}",
            "settings": {"return_url": return_url},
            "credentials": {"secret_key": told["secret_key"]},
        },
        {
            "gateway": "pix",
            "base_url": merchant["pix_base_url"],
            "merchant": told["client_id"],
            "settings": {"pix_key": merchant["pix_key"]},
            "credentials": {
                "client_id": told["client_id"],
                "client_secret": told["client_secret"],
                "certificate_pem": (certificates / "client.pem").read_text(),
                "key_pem": (certificates / "client.key").read_text(),
                "ca_pem": (certificates / "ca.pem").read_text(),
            },
        },
    ]
    for account in accounts:
        added = client.put("payments", "accounts", account | {"tenant": client.tenant, "environment": "sandbox"})
        client.post("payments", f"accounts/{added['account_id']}/subscribe")


async def register_carrier(client: Admin, endpoints: Endpoints, account: Mapping[str, Any]) -> None:
    """The company's account at its carrier, and where the carrier tells what it scanned."""
    added = client.put(
        "fulfillment",
        "carriers",
        {
            "carrier": "table",
            "environment": "sandbox",
            "base_url": account["base_url"],
            "credentials": {name: account["credentials"][name] for name in ("access_token", "client_secret")},
        },
    )
    address = endpoints.sandboxes["carrier"]
    async with CarrierClient(address.base_url, address.token) as carrier:
        await carrier.put_shop(account["shop"], webhook_url=added["door_url"])
