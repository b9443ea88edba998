"""A company of a test's own on the running system, set up and asked in the ways that a person has."""

import asyncio
import base64
import hashlib
import hmac
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx

from contracts.inventory.v1 import Component, PutItem, PutLocation, ReceiveStock
from deploy.local import stack
from services.channels import ids
from services.console.client import Admin, AdminError
from services.console.demo.collector import BookReader, Collector, settle
from services.console.demo.evidence import Channel, Evidence, Plan
from services.console.demo.markets import MARKETS
from services.console.demo.seed import LOCATION
from services.console.demo.verdict import unsettled
from services.console.instance import Endpoints
from services.console.people import Order, book, new_command_id
from services.sandbox.client import SandboxClient

PATIENCE_S = 60.0
"""How long a condition may take before a test gives up on it: generous, because no test is about time."""

SHOP_SETTINGS: Mapping[str, Any] = {"webhook_retry_s": [0.3] * 30, "queue_redelivery_ms": 2000}
"""How soon the sandboxes' shops tell again what nobody took."""

_SALDO = "from services.console.cli import main; main()"

_T = TypeVar("_T")
Asked = Callable[[], Awaitable[_T]]


@dataclass(frozen=True, slots=True)
class System:
    """The running instance."""

    folder: Path
    endpoints: Endpoints

    def process(self, name: str) -> dict[str, Any]:
        """What the supervisor says of a process: pid, health, restarts."""
        return dict(stack.status(self.folder)["processes"][name])

    def metrics(self, service: str) -> dict[str, float]:
        """The service's metrics, by name and labels as they are printed."""
        text = httpx.get(f"{self.endpoints.admin[service].base_url}/metrics", timeout=30, trust_env=False).text
        lines = [line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#")]
        return {name: float(value) for name, _, value in lines}


async def until(ask: Asked[_T], good: Callable[[_T], bool], what: str, timeout_s: float = PATIENCE_S) -> _T:
    """Ask again until the answer is good; the last answer is in the failure."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while True:
        answer = await ask()
        if good(answer):
            return answer
        assert loop.time() < deadline, f"{what} did not come about; last seen: {answer}"
        await asyncio.sleep(0.05)


@dataclass(frozen=True, slots=True)
class Shop:
    """A shop in a sandbox and the connection to it."""

    marketplace: str
    name: str
    told: Mapping[str, Any]
    connection_id: str
    channel: Channel
    sandbox: SandboxClient

    async def buy(self, lines: Mapping[str, int], pay: Any = "now") -> str:
        """A buyer buys; returns the shop's order id."""
        told = await self.sandbox.buy(self.name, lines, pay=pay)
        assert "order_id" in told, f"{self.name} refused: {told}"
        return str(told["order_id"])

    async def number(self, sku: str) -> int:
        """What the shop shows of a SKU."""
        return (await self.sandbox.numbers(self.name))[sku]

    async def read_order(self, order_id: str) -> bytes:
        """The order as the shop shows it now, in the bytes that its webhooks carry (Shopify)."""
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.get(
                f"{self.told['base_url']}/admin/api/2026-01/orders/{order_id}.json",
                headers={"x-shopify-access-token": self.told["credentials"]["access_token"]},
            )
        answer.raise_for_status()
        return json.dumps(answer.json()["order"], ensure_ascii=False, separators=(",", ":")).encode()

    def sign(self, body: bytes) -> str:
        """The signature that Shopify sends with a body."""
        digest = hmac.digest(self.told["credentials"]["webhook_secret"].encode(), body, hashlib.sha256)
        return base64.b64encode(digest).decode()


@dataclass
class Company:
    """A tenant with shops, items and stock. `plan` is what was put there, `patience_s` how long opening may take."""

    system: System
    tenant: str
    plan: Plan
    admin: Admin
    sandboxes: Mapping[str, SandboxClient]
    shops: list[Shop] = field(default_factory=list)
    patience_s: float = PATIENCE_S

    # -- setting up ------------------------------------------------------------------------------------------------

    async def book(self, *messages: Any) -> None:
        """A person's stock commands, each booked."""
        orders = [Order(new_command_id(), message) for message in messages]
        answers = await asyncio.to_thread(book, self.admin, orders)
        assert all(answer.booked for answer in answers), [answer.text for answer in answers]

    async def put_stock(self) -> None:
        """Location, items, kits, and what lies there."""
        await self.book(PutLocation(location=LOCATION, name="Depósito"))
        await self.book(*(PutItem(sku=sku, name=f"Produto {sku}") for sku in self.plan.opening))
        kits = [
            PutItem(sku=sku, name=sku, components=tuple(Component(sku=part, quantity=n) for part, n in parts.items()))
            for sku, parts in self.plan.kits.items()
        ]
        if kits:
            await self.book(*kits)
        await self.book(
            *(
                ReceiveStock(sku=sku, location=LOCATION, quantity=units, opening=True)
                for sku, units in self.plan.opening.items()
            )
        )

    async def open_shop(
        self,
        marketplace: str,
        name: str,
        *,
        account: str = "",
        host: str = "127.0.0.1",
        packs: Mapping[str, int] | None = None,
        connection: Mapping[str, str] | None = None,
        **settings: Any,
    ) -> Shop:
        """Open a shop with every item on sale, connect it, link its adverts, and go live.

        `packs` gives adverts of their own, by SKU, that sell so many units at once; such an advert has the SKU text
        `<sku>-PACK`. `host` is the name under which the connection knows the sandbox. `connection` are settings of the
        connection, `settings` those of the shop in its sandbox.
        """
        sandbox = self.sandboxes[marketplace]
        told = await sandbox.put_shop(name, **{**MARKETS[marketplace].shop, **settings})
        texts = [*self.plan.opening, *self.plan.kits, *(f"{sku}-PACK" for sku in packs or {})]
        await sandbox.put_products(name, [{"sku": text, "title": text, "quantity": 0} for text in texts])
        added = await self.post(
            "channels",
            "connections",
            {
                "connector": marketplace,
                "environment": "sandbox",
                "account": account or name,
                "base_url": told["base_url"].replace("127.0.0.1", host),
                "credentials": told["credentials"],
                "settings": {**MARKETS[marketplace].settings(told), **(connection or {})},
            },
        )
        connection_id = str(added["connection_id"])
        await self.post("channels", f"connections/{connection_id}/listings")
        await until(
            lambda: self.get("channels", f"connections/{connection_id}/import"),
            lambda told: told["state"] == "done",
            "reading the adverts",
            self.patience_s,
        )
        rows = await until(
            lambda: self.listings(connection_id),
            lambda rows: all(row["sku"] or row["channel_sku"].endswith("-PACK") for row in rows),
            "linking by SKU text",
            self.patience_s,
        )
        for row in rows:
            if row["channel_sku"].endswith("-PACK"):
                sku = row["channel_sku"].removesuffix("-PACK")
                body = {
                    "connection_id": connection_id,
                    "listing": row["listing"],
                    "sku": sku,
                    "pack": (packs or {})[sku],
                }
                await self.post("channels", "listings/link", body)
        validated = await self.post("channels", f"connections/{connection_id}/validate")
        assert not validated["problems"], validated["problems"]
        await self.post("channels", f"connections/{connection_id}/enable")
        if MARKETS[marketplace].by_hand:
            door = await self.get("channels", f"connections/{connection_id}/door")
            await sandbox.put_shop(name, callback_url=door["door_url"])
        records = {row["stock_record"]: row["sku"] for row in rows if row["sku"]}
        channel = Channel(
            connection_id,
            f"{marketplace}/{name}",
            marketplace,
            name,
            records,
            MARKETS[marketplace].send_limits(told["limits"]),
        )
        shop = Shop(marketplace, name, told, connection_id, channel, sandbox)
        self.shops.append(shop)
        return shop

    async def close(self) -> None:
        """Pause every connection, so that a finished test costs the next ones nothing."""
        for shop in self.shops:
            await shop.sandbox.put_vices(shop.name)
            await self.post("channels", f"connections/{shop.connection_id}/pause")
        self.admin.__exit__(None, None, None)

    # -- asking ----------------------------------------------------------------------------------------------------

    async def get(self, service: str, path: str, **query: Any) -> Any:
        """GET of an admin listener, for this tenant."""
        return await asyncio.to_thread(lambda: self.admin.get(service, path, **query))

    async def post(self, service: str, path: str, body: Any = None, **query: Any) -> Any:
        """POST of an admin listener, for this tenant."""
        return await asyncio.to_thread(lambda: self.admin.post(service, path, body, **query))

    async def listings(self, connection_id: str) -> list[dict[str, Any]]:
        """The adverts of a connection."""
        return list((await self.get("channels", f"connections/{connection_id}/listings"))["listings"])

    def order_id(self, shop: Shop, external_id: str) -> str:
        """Our id of a shop's order."""
        return ids.order_id(self.tenant, shop.connection_id, external_id)

    async def order(self, shop: Shop, external_id: str) -> dict[str, Any] | None:
        """A shop's order as orders knows it, None before it does."""
        try:
            return dict(await self.get("orders", f"orders/{self.order_id(shop, external_id)}"))
        except AdminError as error:
            if error.status != httpx.codes.NOT_FOUND:
                raise
            return None

    async def until_order(self, shop: Shop, external_id: str, **wanted: Any) -> dict[str, Any]:
        """The order as soon as its fields (`state`, `status`, …) are as wanted and inventory has answered."""

        def good(order: dict[str, Any] | None) -> bool:
            return (
                order is not None
                and order["answered_revision"] is not None
                and order["answered_revision"] == order["demand_revision"]
                and all(order[name] == value for name, value in wanted.items())
            )

        found = await until(lambda: self.order(shop, external_id), good, f"order {external_id} with {wanted}")
        assert found is not None
        return found

    async def stock(self, sku: str) -> tuple[int, int]:
        """(available, reserved) of a SKU."""
        (row,) = (await self.get("inventory", "stock", sku=sku))["stock"]
        return row["available"], row["reserved"]

    async def until_shown(self, wanted: Mapping[str, int], *shops: Shop) -> None:
        """Wait until the shops (all by default) show these numbers."""
        for shop in shops or self.shops:
            await until(
                lambda shop=shop: shop.sandbox.numbers(shop.name),  # type: ignore[misc]
                lambda numbers: wanted.items() <= numbers.items(),
                f"{shop.name} showing {wanted}",
                self.patience_s,
            )

    async def until_opening_is_shown(self) -> None:
        """Wait until every shop shows what the plan put there."""
        skus = (*self.plan.opening, *self.plan.kits)
        await self.until_shown({sku: self.plan.shown(sku, self.plan.opening) for sku in skus})

    async def intake(self, **query: Any) -> list[dict[str, Any]]:
        """Bodies that came in for this company."""
        return list((await self.get("channels", "intake", **query))["intake"])

    async def assert_conserved(self) -> None:
        """Every counter is the sum of its movements, every reserved unit belongs to an order line."""
        ledger = await self.get("inventory", "ledger")
        assert ledger["conserved"], ledger["faults"]

    async def deliver(self, shop: Shop, body: bytes, topic: str, **headers: str) -> httpx.Response:
        """Push a body to the shop's door as Shopify does, signed, under a delivery id of its own unless given."""
        given = {
            "content-type": "application/json",
            "x-shopify-topic": topic,
            "x-shopify-webhook-id": str(uuid.uuid4()),
            "x-shopify-hmac-sha256": shop.sign(body),
        }
        async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
            return await client.post(
                f"{self.system.endpoints.webhooks}/hooks/{shop.connection_id}",
                content=body,
                headers=given | {name.replace("_", "-"): value for name, value in headers.items()},
            )

    async def evidence(self, timeout_s: float = PATIENCE_S) -> Evidence:
        """The sandboxes' books and the public streams, once nothing is open and every number is right."""
        collector = Collector(self.system.endpoints.kafka, self.tenant)
        await collector.start()
        try:
            channels = [shop.channel for shop in self.shops]
            return await settle(
                collector,
                BookReader(self.sandboxes),
                lambda seen: unsettled(seen) == (0, 0),
                self.plan,
                channels,
                timeout_s,
            )
        finally:
            await collector.stop()

    def saldo(self, *arguments: str, code: int = 0) -> str:
        """Run the `saldo` command as a person of this company; returns what it printed."""
        run = subprocess.run(
            [sys.executable, "-c", _SALDO, *arguments, "--tenant", self.tenant],
            env=os.environ | {"SALDO_INSTANCE": str(self.system.folder), "COLUMNS": "200"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == code, run.stdout + run.stderr
        return run.stdout + run.stderr


def plan(kits: Mapping[str, Mapping[str, int]] | None = None, **opening: int) -> Plan:
    """A plan of stock, `plan(A=10, B=5, kits={"K": {"A": 2}})`."""
    return Plan(opening, kits or {})


Opener = Callable[..., Awaitable[Company]]
