"""An account of the running carrier for tests: its control client, and calls as a sender makes them."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp

from services.sandbox.carrier_client import CarrierClient
from tests.sandbox.running import TOKEN, Sandbox

SENDER = {"name": "Loja de Exemplo", "address": "Rua A", "number": "1", "city": "São Paulo", "postal_code": "01001-000"}
RECIPIENT = {"name": "Comprador 7", "address": "Rua B", "number": "2", "city": "Recife", "postal_code": "50000-000"}
VOLUME = {"height": 10, "width": 20, "length": 30, "weight": 0.9}
INVOICE_KEY = "35" + "1" * 42
_names = itertools.count(1)


@dataclass
class CarrierAccount:
    """What `PUT /shops` answered, the control client, and a session with the account's token."""

    name: str
    told: dict[str, Any]
    control: CarrierClient
    http: aiohttp.ClientSession

    async def call(self, method: str, path: str, body: Any = None, **more: Any) -> tuple[int, Any]:
        async with self.http.request(method, f"{self.told['base_url']}{path}", json=body, **more) as answer:
            return answer.status, await answer.json() if answer.status != 204 else None

    async def me(self, path: str, body: Any = None) -> Any:
        """POST (or GET without a body) to `/api/v2/me`, which must go well."""
        status, told = await self.call("GET" if body is None else "POST", f"/api/v2/me{path}", body)
        assert status in (200, 201), told
        return told

    async def cart(self, shipment_id: str = "p1:s1", **more: Any) -> str:
        return str((await self.me("/cart", cart_body(shipment_id) | more))["id"])

    async def bought(self, shipment_id: str = "p1:s1") -> str:
        """A parcel with a label."""
        order_id = await self.cart(shipment_id)
        await self.me("/shipment/checkout", {"orders": [order_id]})
        await self.me("/shipment/generate", {"orders": [order_id]})
        return order_id

    async def rows(self, *kinds: str) -> list[dict[str, Any]]:
        found = [row async for row in self.control.books() if row["shop"] == self.name]
        return [row for row in found if not kinds or row["kind"] in kinds]

    async def wait_for_rows(self, kind: str, count: int) -> list[dict[str, Any]]:
        """The rows of a kind, as soon as there are so many."""
        for _ in range(1000):
            if len(rows := await self.rows(kind)) >= count:
                return rows
            await asyncio.sleep(0.02)
        raise AssertionError(f"there are only {len(rows)} rows of kind {kind}, not {count}")

    async def scanned(self, count: int) -> Sequence[str]:
        return [row["status"] for row in await self.wait_for_rows("scan", count)]


def cart_body(shipment_id: str) -> dict[str, Any]:
    options = {"invoice": {"key": INVOICE_KEY}, "insurance_value": 90.0, "tags": [{"tag": shipment_id, "url": None}]}
    return {"service": 1, "from": SENDER, "to": RECIPIENT, "volumes": [VOLUME], "options": options}


async def open_account(process: Sandbox, **settings: Any) -> AsyncIterator[CarrierAccount]:
    name = f"conta-{next(_names)}"
    async with CarrierClient(process.base_url, TOKEN) as control:
        told = await control.put_shop(name, **{"requests_per_minute": 100_000, "auto_post": False, **settings})
        headers = {
            "Authorization": f"Bearer {told['credentials']['access_token']}",
            "User-Agent": "Loja de Exemplo (ti@example.com)",
        }
        async with aiohttp.ClientSession(headers=headers) as http:
            yield CarrierAccount(name, told, control, http)
