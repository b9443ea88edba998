"""A process that is killed between any two steps of any path: every order comes to the end that it would have had.

Fault points, found in the code, are armed while orders of all kinds are on their way: each ends its process there once,
and the supervisor starts it again. What is left is judged by everybody's own books. All of them take many minutes:
`SALDO_KILL_WHOLE=1` arms them all; else a sample of them is armed, drawn for each service by a seed.
"""

import asyncio
import math
import os
import random
import re
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Final

import pytest

from contracts.fulfillment.v1 import LabelCreated, ShipmentDelivered
from contracts.inventory.v1 import PutItem
from contracts.orders.v1 import OrderCancelled, OrderDelivered, OrderFact, OrderReturned
from deploy.local import stack
from deploy.local.parts import SERVICES
from services.console.client import AdminError, is_ready
from services.console.demo.journeys import Journey
from services.console.demo.office import NOT_YET, Office
from services.console.options import Failed
from services.console.people import Order, book, new_command_id
from services.sandbox.client import SandboxError
from services.sandbox.gateway_client import GatewayClient
from tests.flow.company import SHOP_SETTINGS, Company, Opener, Shop, System, plan, until
from tests.flow.own_shop import add_own_shop
from tests.flow.retailer import Retailer, at_work

SHOPS = {"azul": "shopify", "norte": "skyhub", "vitrine": "vtex"}
UNITS = 2000
ROUNDS_MAX: Final = 90
_ROUND_S: Final = 10.0
_WORK_S: Final = 4.0

SEED: Final = 1
SHARE: Final = 0.3
"""Of the points, those that the sample arms, drawn by the seed; the whole arms all."""

BUS_IN: Final = ("inventory", "orders")
"""Where the points of bus and runtime are armed: the same code runs in all. A handler's own end is armed everywhere."""

NEXT_TO: Final = {
    "commit.before": "outbox.after",
    "handler.before": "inbox.after",
    "relay.mark.before": "relay.send.after",
}
"""Points with nothing between them and the one before: one death for both."""

_NO_TRYTON = "only where a Tryton is connected: tests/erp/test_booking.py ends the booking at each of them"
_NO_ERASURE = "nobody is forgotten on an order's way: tests/flow/test_erasure.py"
UNREACHED: Final = {
    ("erp", "created"): _NO_TRYTON,
    ("erp", "booking.claimed"): _NO_TRYTON,
    ("erp", "booking.answered"): _NO_TRYTON,
    ("erp", "booking.settled"): _NO_TRYTON,
    ("channels", "handler.after@crm.customers.v1"): _NO_ERASURE,
    ("fulfillment", "handler.after@crm.customers.v1"): _NO_ERASURE,
}

_POINT = re.compile(r'(?:point|reach)\("([a-z.]+)"(, self\.stream)?\)')
_SERVICES = Path(__file__).parents[2] / "services"


def points(service: str, streams: list[str]) -> tuple[list[str], list[str]]:
    """The points in the code of a service, its own and those that all have; where a stream has its turn, for each."""

    def found(*folders: str) -> list[str]:
        texts = [path.read_text() for folder in folders for path in sorted((_SERVICES / folder).rglob("*.py"))]
        names: dict[str, None] = {}
        for text in texts:
            for name, turns in _POINT.findall(text):
                names |= dict.fromkeys([f"{name}@{stream}" for stream in streams] if turns else [name])
        return [name for name in names if name not in NEXT_TO and (service, name) not in UNREACHED]

    shared = found("bus", "runtime")
    return found(service), shared if service in BUS_IN else [name for name in shared if "@" in name]


class Careful(Office):
    """Sends no lamp, so that its buyer can still cancel when the label is there; takes back every vase, and no more."""

    async def _hand_over(self, label: LabelCreated) -> bool:
        return any(line.sku == "LAMP" for line in label.lines) or await super()._hand_over(label)

    async def _take_back(self, parcel: ShipmentDelivered, damaged: bool) -> bool:
        return all(line.sku != "VASE" for line in parcel.lines) or await super()._take_back(parcel, damaged)


class Reaper:
    """Arms the points of every service until each has ended its process once.

    A service's own points are armed together, as only some step passes each; of those that all have one at a time.
    Several services die at once. Each dies in the midst of work: nothing is armed while it comes back, and for so long
    after that it can take up what waits.
    """

    def __init__(self, system: System, company: Company, *, whole: bool) -> None:
        self._system, self._company, self._whole = system, company, whole
        self.task: asyncio.Task[None] | None = None
        self.left: dict[str, list[str]] = {service: [] for service in SERVICES}
        self.reached: list[tuple[str, str]] = []

    async def run(self) -> None:
        """Go on until every point was reached."""
        async with asyncio.TaskGroup() as group:
            for service in SERVICES:
                consumers = await self._company.get(service, "consumers")
                own, shared = points(service, [one["stream"] for one in consumers])
                armed = own + shared
                if not self._whole:
                    drawn = random.Random(f"{SEED} {service}").sample(armed, math.ceil(len(armed) * SHARE))
                    armed = [name for name in armed if name in drawn]
                self.left[service] = armed
                group.create_task(self._reap(service, set(own)))

    async def _reap(self, service: str, own: set[str]) -> None:
        folder = self._system.folder / "faults" / service
        folder.mkdir(parents=True, exist_ok=True)
        while left := self.left[service]:
            await self._until_ready(service)
            await asyncio.sleep(_WORK_S)
            together = [name for name in left if name in own or "@" in name]
            armed = [folder / name for name in together + [name for name in left if name not in together][:1]]
            for point in armed:
                point.touch()
            try:
                await _until_gone(armed)
            finally:
                for point in armed:
                    if not _disarmed(point):
                        left.remove(point.name)
                        self.reached.append((service, point.name))

    async def until_ready(self) -> None:
        """Every service is back."""
        await asyncio.gather(*(self._until_ready(service) for service in SERVICES))

    async def _until_ready(self, service: str) -> None:
        address = self._system.endpoints.admin[service]
        while True:
            ready, _ = await asyncio.to_thread(is_ready, address)
            if ready:
                return
            await asyncio.sleep(0.05)


async def _until_gone(armed: Sequence[Path]) -> None:
    while True:
        if not all(point.exists() for point in armed):
            return
        await asyncio.sleep(0.02)


def _disarmed(point: Path) -> bool:
    """Whether the point was still armed; it is no more."""
    try:
        point.unlink()
    except FileNotFoundError:
        return False
    return True


class Crowd:
    """Buyers of every kind, and the end that each order is to come to."""

    def __init__(self, retailer: Retailer, own: Shop, gateway: GatewayClient) -> None:
        self._retailer, self._own, self._gateway = retailer, own, gateway
        self._company = retailer.company
        self.ends: dict[str, tuple[str, type[OrderFact]]] = {}

    @property
    def _markets(self) -> list[Shop]:
        return [shop for shop in self._company.shops if shop is not self._own]

    def journey(self, order_id: str) -> Journey:
        return self._retailer.collector.journeys.by_order.get(order_id, Journey())

    async def round(self, number: int) -> None:
        """Everybody buys once."""
        azul, *others = self._markets
        deeds: list[Awaitable[Any]] = []
        for shop in self._markets[number % 2 :: 2]:
            deeds.append(self._buy(shop, {"CUP": 1}, OrderDelivered))
            deeds.append(self._cancel_late(shop))
        market = self._markets[number % len(self._markets)]
        deeds += [
            self._buy(market, {"SET": 1, "SPOON": 2}, OrderDelivered),
            self._buy(market, {"VASE": 2}, OrderReturned),
        ]
        later = others[number % len(others)]
        deeds += [self._pay_later(later), self._give_up(later)]
        deeds.append(self._refund_a_part(azul))
        # By card and by Pix, in turn.
        deeds += [
            self._buy(self._own, {"CUP": 1}, OrderDelivered, number),
            self._cancel_late(self._own, number + 1),
            self._buy(self._own, {"VASE": 1}, OrderReturned, number),
            self._pay_later(self._own) if number % 2 else self._give_up(self._own),
            self._announce(),
            self._command(),
        ]
        await asyncio.gather(*deeds)
        await self._gateway.pay_out(self._company.tenant)

    async def _buy(
        self, shop: Shop, lines: dict[str, int], end: type[OrderFact], buyer: int = 0, pay: Any = "now"
    ) -> tuple[str, str]:
        told = await shop.sandbox.buy(shop.name, lines, pay=pay, buyer=buyer)
        assert "order_id" in told, f"{shop.name} refused: {told}"
        if pay == "now" and not told["paid"]:
            await self._pay(shop, told["order_id"])
        order_id = self._company.order_id(shop, told["order_id"])
        self.ends[order_id] = f"{shop.marketplace} {lines} {pay}", end
        return told["order_id"], order_id

    async def _pay(self, shop: Shop, external_id: str) -> None:
        """A buyer whose patience ended before all were back comes again."""

        async def paid() -> bool:
            try:
                await shop.sandbox.pay(shop.name, external_id)
            except SandboxError as error:
                if error.body.get("reason") == "cancelled":
                    raise
                return False
            return True

        await until(paid, bool, f"the payment of {external_id}", 300)

    async def _cancel_late(self, shop: Shop, buyer: int = 0) -> None:
        external_id, order_id = await self._buy(shop, {"LAMP": 1}, OrderCancelled, buyer)

        async def labelled() -> bool:
            return any(LabelCreated in parcel.facts for parcel in self.journey(order_id).parcels.values())

        await until(labelled, bool, f"the label of {order_id}", 300)
        await shop.sandbox.cancel(shop.name, external_id)

        async def ended() -> bool:
            if shop is self._own and not self.journey(order_id).ended:
                # Who has paid asks, and a person says yes.
                await self._ask("orders", f"orders/{order_id}/answer", {"answer": "cancel"})
                await asyncio.sleep(0.5)
            return self.journey(order_id).ended

        await until(ended, bool, f"the end of {order_id}", 300)

    async def _pay_later(self, shop: Shop) -> None:
        external_id, _ = await self._buy(shop, {"CUP": 1}, OrderDelivered, pay="later")
        await self._pay(shop, external_id)

    async def _give_up(self, shop: Shop) -> None:
        external_id, _ = await self._buy(shop, {"CUP": 1}, OrderCancelled, pay="later")
        await shop.sandbox.cancel(shop.name, external_id)

    async def _refund_a_part(self, shop: Shop) -> None:
        external_id, _ = await self._buy(shop, {"CUP": 1, "SPOON": 2}, OrderDelivered)
        await shop.sandbox.refund(shop.name, external_id, {"SPOON": 1})

    async def _announce(self) -> None:
        """What is told once, of items and connections, is told again."""
        await self._ask("inventory", "announce", stream="inventory.items.v1")
        await self._ask("channels", "announce", stream="channels.connections.v1")

    async def _command(self) -> None:
        """A person's command; one that is not answered is sent again, as the same."""
        order = Order(new_command_id(), PutItem(sku="CUP", name="Produto CUP"))

        async def booked() -> bool:
            with suppress(Failed, AdminError):
                answers = await asyncio.to_thread(book, self._company.admin, [order])
                return all(answer.booked for answer in answers)
            return False

        await until(booked, bool, "the answer to a person's command", 300)

    async def _ask(self, service: str, path: str, body: Any = None, **query: Any) -> None:
        """Whoever is asked may be dead; the next round asks again."""
        try:
            await self._company.post(service, path, body, **query)
        except AdminError as error:
            if error.status not in NOT_YET:
                raise


@asynccontextmanager
async def reaping(system: System, company: Company, *, whole: bool) -> AsyncIterator[Reaper]:
    """Services die while it is open; all are back when it is left."""
    reaper = Reaper(system, company, whole=whole)
    reaper.task = asyncio.create_task(reaper.run())
    try:
        yield reaper
    finally:
        reaper.task.cancel()
        with suppress(asyncio.CancelledError):
            await reaper.task
        await reaper.until_ready()


@pytest.mark.timeout(1500)
@pytest.mark.parametrize(
    "whole",
    [
        pytest.param(False, id="sample"),
        pytest.param(
            True,
            id="whole",
            marks=pytest.mark.skipif(
                "SALDO_KILL_WHOLE" not in os.environ, reason="takes many minutes: set SALDO_KILL_WHOLE=1 to run it"
            ),
        ),
    ],
)
@pytest.mark.asyncio
async def test_every_order_ends_as_it_would_have(open_company: Opener, system: System, whole: bool) -> None:
    opening = dict.fromkeys(("CUP", "SPOON", "LAMP", "VASE"), UNITS)
    company = await open_company(plan(kits={"SET": {"CUP": 1, "SPOON": 2}}, **opening), SHOPS)
    # Its tokens are renewed all the time.
    short_lived = {**SHOP_SETTINGS, "access_token_s": 20, "refresh_reuse_s": 600}
    await company.open_shop("mercadolivre", f"{company.tenant}-feira", **short_lived)
    await company.until_opening_is_shown()
    address = system.endpoints.sandboxes["gateway"]
    async with (
        at_work(company, return_share=1.0, office=Careful) as retailer,
        GatewayClient(address.base_url, address.token) as gateway,
    ):
        begun = time.monotonic()
        api_url = stack.status(system.folder)["endpoints"]["shop"]["base_url"]
        await add_own_shop(company, company.sandboxes["shop"], gateway, api_url)
        crowd = Crowd(retailer, company.shops[-1], gateway)
        async with reaping(system, company, whole=whole) as reaper, asyncio.TaskGroup() as rounds:
            for number in range(ROUNDS_MAX):
                rounds.create_task(crowd.round(number))
                await asyncio.sleep(_ROUND_S)
                left = {service: names for service, names in reaper.left.items() if names}
                print(f"{time.monotonic() - begun:.0f} s: {len(crowd.ends)} orders, {len(reaper.reached)} deaths", left)
                if reaper.task is None or reaper.task.done():
                    break
        print(f"{time.monotonic() - begun:.0f} s: all back, {len(crowd.ends)} orders")
        await retailer.until_over(len(crowd.ends))
        print(f"{time.monotonic() - begun:.0f} s: all over")
        path, wrong = await retailer.verdicts()
        ends = {order_id: type(crowd.journey(order_id).newest) for order_id in crowd.ends}
    print(f"\n{len(reaper.reached)} points ended their process, {len(crowd.ends)} orders")
    assert ends == {order_id: end for order_id, (_, end) in crowd.ends.items()}
    assert path.failures == wrong == []
    assert not any(reaper.left.values()), f"points that no order reached: {reaper.left}"
    await company.assert_conserved()
    await asyncio.to_thread(company.saldo, "verify")
    for service in SERVICES:
        assert await company.get(service, "deadletters") == []
