"""What a case of the conformance suite gives: a connector, and an account to sell from and to look into."""

import itertools
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Self

from contracts.channels.v1 import InvoiceTold, OrderProgress, ParcelTold, ProgressLine
from contracts.envelope import Envelope
from services.bus import Received
from services.channels.connections.registry import Open
from services.channels.connectors.connector import ChannelOrder, Connector, Session, Traits
from services.channels.intake import pull, store
from services.channels.report import loop
from services.channels.report.handlers import take_progress
from services.sandbox.client import SandboxClient
from tests.channels.conftest import Kit
from tests.sandbox.running import TOKEN

LEASE = timedelta(seconds=60)

_names = itertools.count(1)
NFE_KEY = "35260312345678000195550010000000011000000017"
NFE = f'<nfeProc><infNFe Id="NFe{NFE_KEY}"/></nfeProc>'.encode()


def _same(told: dict[str, Any]) -> dict[str, str]:
    del told
    return {}


def _shop_name(told: dict[str, Any]) -> str:
    return str(told["shop"])


@dataclass(frozen=True)
class Case:
    """A connector in the suite. `told` is what the sandbox answers when a shop is made.

    `limits` take the sandbox's limits, and settings `limit.*` the connector's, out of the way. `unknown` makes an
    order's body one in a state that nobody documents; `sees_part_refunds` says that an order tells of returned units,
    `says_ship_by` that it tells by when it has to leave.
    """

    connector: str
    unknown: Callable[[dict[str, Any]], Any]
    sees_part_refunds: bool
    says_ship_by: bool = False
    limits: Mapping[str, float] = field(default_factory=dict)
    shop: Mapping[str, Any] = field(default_factory=dict)
    settings: Callable[[dict[str, Any]], Mapping[str, str]] = _same
    name: Callable[[dict[str, Any]], str] = _shop_name


class Account:
    """A live connection to a fresh shop of a sandbox: short ways to do what buyers do and to see what came of it."""

    def __init__(self, kit: Kit, case: Case, control: SandboxClient, shop: str, entry: Open) -> None:
        self.kit, self.case, self.control, self.shop, self.entry = kit, case, control, shop, entry
        self._revision = 0

    @classmethod
    @asynccontextmanager
    async def opened(cls, kit: Kit, case: Case, base_url: str, *, strict: bool = False) -> AsyncIterator[Self]:
        """An account of the case, live; `strict` keeps the limits that both sides have by themselves."""
        shop = f"conform-{next(_names)}"
        async with SandboxClient(base_url, TOKEN) as control:
            told = await control.put_shop(shop, **({} if strict else {"limits": dict(case.limits)}), **case.shop)
            settings = case.settings(told)
            if strict:
                settings = {name: text for name, text in settings.items() if not name.startswith("limit.")}
            connection = await kit.connect(
                connector=case.connector,
                account=case.name(told),
                base_url=told["base_url"],
                credentials=told["credentials"],
                **settings,
            )
            entry = kit.intake.registry.get(connection.connection_id)
            assert entry is not None
            await entry.connector.subscribe(entry.session, kit.intake.door_of(connection, entry.session))
            yield cls(kit, case, control, shop, entry)

    @property
    def connector(self) -> Connector:
        return self.entry.connector

    @property
    def traits(self) -> Traits:
        return self.entry.connector.traits

    @property
    def session(self) -> Session:
        return self.entry.session

    # -- what buyers do ----------------------------------------------------------------------------------------------

    async def put(self, **quantities: int) -> None:
        """Products on sale."""
        rows = [
            {"sku": sku, "title": f"Produto {sku}", "quantity": quantity, "price_minor": 1990}
            for sku, quantity in quantities.items()
        ]
        await self.control.put_products(self.shop, rows)

    async def sell(self, *, paid: bool = True, **quantities: int) -> str:
        """A buyer buys; returns the channel's id of the order."""
        bought = await self.control.buy(self.shop, quantities, pay="now" if paid else "later", buyer=7)
        return str(bought["order_id"])

    async def pay(self, external_id: str) -> None:
        await self.control.pay(self.shop, external_id)

    async def cancel(self, external_id: str) -> None:
        await self.control.cancel(self.shop, external_id)

    async def refund(self, external_id: str, **quantities: int) -> None:
        await self.control.refund(self.shop, external_id, quantities)

    async def vices(self, **vices: Any) -> None:
        """How the channel misbehaves from now on."""
        await self.control.put_vices(self.shop, **vices)

    # -- what is seen ------------------------------------------------------------------------------------------------

    async def numbers(self) -> dict[str, int]:
        """What can be bought, as the channel's own books say."""
        return await self.control.numbers(self.shop)

    async def places(self) -> dict[str, tuple[str, str]]:
        """(item, location) by SKU."""
        return {one.sku: (one.item, one.location) async for one in self.connector.listings(self.session)}

    async def body(self, external_id: str) -> bytes:
        """The order as it is read now."""
        return (await self.connector.fetch(self.session, external_id)).body

    async def order(self, external_id: str) -> ChannelOrder:
        return self.connector.to_order(await self.body(external_id))

    async def receive(self) -> None:
        """Everything that pulling brings, absorbed, with what has to be read for it."""
        if self.traits.intake == "queue":
            await pull.empty_queue(self.kit.service, self.kit.intake, self.entry)
        else:
            await pull.repair(self.kit.service, self.kit.intake, self.entry, self.kit.service.clock())
        await self.settle()

    async def settle(self) -> None:
        """Absorb what came in, and read again what has to be."""
        while True:
            await self.kit.absorb()
            async with self.kit.service.pool.acquire() as database:
                free = {self.entry.connection.connection_id: 10}
                wanted = await store.claim_fetches(database, free, self.kit.service.clock(), LEASE)
            if not wanted:
                return
            answers = [await pull.fetch_one(self.kit.service, self.kit.intake, self.entry, one) for one in wanted]
            await pull.keep_fetched(self.kit.service, self.kit.intake, answers)

    async def sales(self) -> list[dict[str, Any]]:
        """What was reported, in order."""
        return [row for row in await self.kit.published() if "external_id" in row]

    async def sale(self, external_id: str) -> dict[str, Any]:
        """The newest report of an order."""
        return [row for row in await self.sales() if row["external_id"] == external_id][-1]

    # -- telling -----------------------------------------------------------------------------------------------------

    async def progress(self, sale: Mapping[str, Any], *, delivered: bool = False, reason: str | None = None) -> None:
        """Orders says that the order is invoiced and on its way, or cancelled by us."""
        self._revision += 1
        now = self.kit.service.clock()
        lines = tuple(ProgressLine(line_id=line["line_id"], quantity=line["quantity"]) for line in sale["lines"])
        message = OrderProgress(
            order_id=sale["order_id"], revision=self._revision, connection_id=sale["connection_id"], state="shipped",
            state_at=now, cancelled_reason=reason,
            invoice=None if reason else InvoiceTold(
                invoice_id="d1", invoice_key=NFE_KEY, invoice_no="1", series="1", issued_at=now,
                total_minor=sale["total_minor"], currency="BRL", content_url="http://erp/admin/invoices/d1/xml",
            ),
            parcels=() if reason else (
                ParcelTold(
                    shipment_id="s1", carrier="Correios", service="SEDEX", tracking_code="SD123456789BR",
                    tracking_url="https://rastreio.example.com/SD123456789BR", lines=lines, dispatched_at=now,
                    delivered_at=now if delivered else None,
                ),
            ),
        )  # fmt: skip
        event = Received(message, Envelope(f"e{self._revision}", "t", "s", now, "", "loja", sale["order_id"]), "k")
        async with self.kit.service.transaction() as tx:
            await take_progress([event], tx, self.kit.intake)

    async def tell(self) -> None:
        """Tell what is not told yet, as if every pause were over."""
        await self.kit.service.pool.execute(
            "UPDATE progress SET due_at = now() - interval '1 s', claimed_until = NULL WHERE due_at IS NOT NULL"
        )
        teller = loop.Teller(self.kit.service, self.kit.intake.telling.set)
        connection_id = self.entry.connection.connection_id
        for claimed, first in await teller.begin({connection_id: self.entry}, {connection_id: 10}, LEASE):
            await teller.tell(self.entry, claimed, first)

    async def heard(self, external_id: str) -> list[str]:
        """The steps of an order's progress that the channel has heard, as its own books say."""
        rows = [row async for row in self.control.books() if row["shop"] == self.shop and row["kind"] == "told"]
        steps = {"invoice", "shipment", "tracking", "delivery", "cancel"}
        return [row["step"] for row in rows if row["order_id"] == external_id and row["step"] in steps]

    async def answers(self) -> list[tuple[str, str | None]]:
        """(step, reason) answered to orders; no reason: accepted."""
        return [(row["step"], row.get("reason")) for row in await self.kit.published() if "step" in row]
