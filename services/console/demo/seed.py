"""The demonstration set: a company, its items and stock, and its shops on every kind of channel, live."""

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from contracts.inventory.v1 import Component, PutItem, PutLocation, ReceiveStock
from services.console.adverts import import_adverts
from services.console.client import Admin
from services.console.demo.company import card_page, open_outside, register_carrier, register_company, register_merchant
from services.console.demo.evidence import Channel, Plan
from services.console.demo.markets import MARKETS
from services.console.instance import Address, Endpoints
from services.console.options import Failed
from services.console.people import Order, book, derived_command_id
from services.sandbox.client import SandboxClient

LOCATION = "main"
SHOPS = (
    ("shopify", "loja-azul"),
    ("shopify", "loja-verde"),
    ("skyhub", "casa-norte"),
    ("skyhub", "casa-sul"),
    ("mercadolivre", "feira-livre"),
    ("vtex", "vitrine"),
    OWN_SHOP := ("shop", "loja-propria"),
)
LINKS_TIMEOUT_S, NUMBERS_TIMEOUT_S = 30.0, 90.0
BEGUN = ("live", "paused")
SCARCE_SHARE, KIT_SHARE = 0.03, 0.05

Progress = Callable[[str], None]
Way = Callable[[str], str]
"""From the address of a sandbox to the one at which services reach it."""


def straight(base_url: str) -> str:
    """No detour."""
    return base_url


@dataclass(frozen=True, slots=True)
class Catalogue:
    """What is on sale: names and prices by SKU, the plan of stock and kits, and the few SKUs that will run out."""

    names: Mapping[str, str]
    prices_minor: Mapping[str, int]
    plan: Plan
    scarce: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Scene:
    """Everything that a run needs to know about what was set up."""

    catalogue: Catalogue
    channels: tuple[Channel, ...]
    limits: Mapping[str, Mapping[str, Any]]
    courier: Address | None


def make_catalogue(skus: int, seed: int, depth: int = 1) -> Catalogue:
    """`skus` SKUs, one in twenty a kit of two others, a few with hardly any stock; the same for the same seed.

    There is `depth` times as much of the others.
    """
    draw = random.Random(f"catalogue {seed}")  # noqa: S311 - a repeatable set, not a secret
    kits_count, scarce_count = max(1, round(skus * KIT_SHARE)), max(2, round(skus * SCARCE_SHARE))
    plain = [f"SKU-{number:04}" for number in range(1, skus - kits_count + 1)]
    scarce = tuple(plain[:scarce_count])
    opening = {sku: draw.randint(5, 20) if sku in scarce else draw.randint(60, 240) * depth for sku in plain}
    kits = {
        f"KIT-{number:04}": {sku: draw.choice((1, 1, 2)) for sku in draw.sample(plain[scarce_count:], 2)}
        for number in range(1, kits_count + 1)
    }
    names = {sku: f"Produto {sku[4:]}" for sku in plain} | {sku: f"Kit {sku[4:]}" for sku in kits}
    return Catalogue(names, {sku: draw.randint(990, 19_990) for sku in names}, Plan(opening, kits), scarce)


def set_up(
    endpoints: Endpoints,
    tenant: str,
    *,
    skus: int,
    seed: int,
    progress: Progress,
    depth: int = 1,
    way: Way = straight,
) -> Scene:
    """Put the demonstration set there, or find it as it was left. Everything in it can be repeated without harm.

    Shops are opened on the marketplaces that are there; without a gateway's sandbox the company sells and no more.
    Raises `Failed` where something is refused or the sandboxes do not show the numbers in time.
    """
    catalogue = make_catalogue(skus, seed, depth)
    progress("opening a shop on every channel, an account at the gateway and one at a carrier")
    shops = asyncio.run(_open_shops(endpoints, tenant, catalogue))
    outside = asyncio.run(open_outside(endpoints, tenant)) if "gateway" in endpoints.sandboxes else None
    with Admin(endpoints, tenant) as client:
        # Who has sold here before keeps the stock as it is: opening stock is taken on once, for ever.
        # A connection that a person has paused stays paused.
        begun = [one for one in client.get("channels", "connections")["connections"] if one["state"] in BEGUN]
        known = {(one["connector"], one["account"]): one["connection_id"] for one in begun}
        fresh = not known
        if fresh:
            progress(f"putting {skus} items with their stock")
            _put_stock(client, catalogue)
            if outside:
                progress("registering the company: tax id, rates, gateway, carrier")
                register_company(client)
                merchant = {**outside.merchant, "base_url": way(outside.merchant["base_url"])}
                register_merchant(client, merchant, f"{shops[OWN_SHOP]['base_url']}/paid")
                carrier = {**outside.carrier, "base_url": way(outside.carrier["base_url"])}
                asyncio.run(register_carrier(client, endpoints, carrier))
        if outside:
            shops[OWN_SHOP]["card_page_url"] = card_page(endpoints, outside.merchant)
        channels = []
        for marketplace, shop in shops:
            progress(f"connecting {marketplace}/{shop}")
            connection_id = known.get((marketplace, shop)) or _connect(
                client, marketplace, shops[marketplace, shop], catalogue, way
            )
            channels.append(_channel(client, connection_id, marketplace, shops[marketplace, shop]))
    if fresh:
        progress("waiting until every shop shows its numbers")
        asyncio.run(_await_numbers(endpoints, catalogue.plan, channels))
    limits = {f"{marketplace}/{shop}": told["limits"] for (marketplace, shop), told in shops.items()}
    return Scene(catalogue, tuple(channels), limits, outside.courier if outside else None)


async def _open_shops(endpoints: Endpoints, tenant: str, catalogue: Catalogue) -> dict[tuple[str, str], dict[str, Any]]:
    opened = {}
    for marketplace, shop in SHOPS:
        if marketplace not in endpoints.sandboxes:
            continue
        address = endpoints.sandboxes[marketplace]
        own = {"gateway_account": tenant} if marketplace == "shop" else {}
        async with SandboxClient(address.base_url, address.token) as sandbox:
            opened[marketplace, shop] = await sandbox.put_shop(shop, **MARKETS[marketplace].shop, **own)
            # Numbers start at zero: what a shop has to sell, Saldo tells it.
            products = [
                {"sku": sku, "title": name, "quantity": 0, "price_minor": catalogue.prices_minor[sku]}
                for sku, name in catalogue.names.items()
            ]
            await sandbox.put_products(shop, products)
    return opened


def _put_stock(client: Admin, catalogue: Catalogue) -> None:
    plan = catalogue.plan

    def identified(message: PutItem | PutLocation | ReceiveStock) -> Order:
        return Order(derived_command_id("seed", client.tenant, message.model_dump_json()), message)

    draw = random.Random("weights")  # noqa: S311 - a repeatable set, not a secret
    plain = [
        PutItem(
            sku=sku,
            name=catalogue.names[sku],
            weight_g=draw.randrange(100, 1500, 50),
            dimensions_mm=(draw.randrange(80, 300, 10), draw.randrange(60, 200, 10), draw.randrange(20, 120, 10)),
        )
        for sku in plan.opening
    ]
    kits = [
        PutItem(
            sku=sku,
            name=catalogue.names[sku],
            components=tuple(Component(sku=part, quantity=quantity) for part, quantity in parts.items()),
        )
        for sku, parts in plan.kits.items()
    ]
    stock = [
        ReceiveStock(sku=sku, location=LOCATION, quantity=units, opening=True) for sku, units in plan.opening.items()
    ]
    for messages in ([PutLocation(location=LOCATION, name="Depósito central")], plain, kits, stock):
        answers = book(client, [identified(message) for message in messages])
        if refused := [answer.text for answer in answers if not answer.booked]:
            raise Failed(f"inventory refused {len(refused)} commands of the demonstration set, first: {refused[0]}")


def _connect(client: Admin, marketplace: str, shop: Mapping[str, Any], catalogue: Catalogue, way: Way) -> str:
    """Add, import, link, validate, enable: the way a person takes too. Returns the connection's id."""
    added = client.post(
        "channels",
        "connections",
        {
            "connector": marketplace,
            "environment": "sandbox",
            "account": shop["shop"],
            "base_url": way(shop["base_url"]),
            "credentials": shop["credentials"],
            "settings": dict(MARKETS[marketplace].settings(shop)),
        },
    )
    connection_id = str(added["connection_id"])
    if marketplace == "shop":
        rows = [
            {"sku": sku, "title": name, "price_minor": catalogue.prices_minor[sku]}
            for sku, name in catalogue.names.items()
        ]
        client.post("channels", f"connections/{connection_id}/products", {"rows": rows})
    import_adverts(client, connection_id)
    _await_links(client, connection_id)
    validated = client.post("channels", f"connections/{connection_id}/validate")
    if problems := validated.get("problems"):
        raise Failed(f"{marketplace}/{shop['shop']} is not valid: {'; '.join(problems)}")
    client.post("channels", f"connections/{connection_id}/enable")
    if MARKETS[marketplace].by_hand:
        door = client.get("channels", f"connections/{connection_id}/door")["door_url"]
        asyncio.run(_tell_door(client.endpoints, marketplace, shop["shop"], door))
    return connection_id


async def _tell_door(endpoints: Endpoints, marketplace: str, shop: str, door_url: str) -> None:
    """What a seller does by hand: put the address for pushes into the marketplace's own settings."""
    address = endpoints.sandboxes[marketplace]
    async with SandboxClient(address.base_url, address.token) as sandbox:
        await sandbox.put_shop(shop, callback_url=door_url)


def _await_links(client: Admin, connection_id: str) -> None:
    """Adverts link themselves by their SKU text once channels has heard of the items."""
    deadline = time.monotonic() + LINKS_TIMEOUT_S
    while True:
        rows = client.get("channels", f"connections/{connection_id}/listings")["listings"]
        unlinked = [row["listing"] for row in rows if not row["sku"]]
        if rows and not unlinked:
            return
        if time.monotonic() > deadline:
            raise Failed(
                f"{len(unlinked)} of {len(rows)} adverts are linked to no SKU: `saldo listing list` shows them"
            )
        time.sleep(0.1)


def _channel(client: Admin, connection_id: str, marketplace: str, shop: Mapping[str, Any]) -> Channel:
    rows = client.get("channels", f"connections/{connection_id}/listings")["listings"]
    return Channel(
        connection_id=connection_id,
        name=f"{marketplace}/{shop['shop']}",
        marketplace=marketplace,
        shop=shop["shop"],
        records={row["stock_record"]: row["sku"] for row in rows if row["sku"]},
        limits=MARKETS[marketplace].send_limits(shop["limits"]),
    )


async def _await_numbers(endpoints: Endpoints, plan: Plan, channels: list[Channel]) -> None:
    deadline = time.monotonic() + NUMBERS_TIMEOUT_S
    while True:
        wrong = await _wrong_numbers(endpoints, plan, channels)
        if not wrong:
            return
        if time.monotonic() > deadline:
            raise Failed(
                f"{len(wrong)} numbers are not shown after {NUMBERS_TIMEOUT_S:g} s, first: {wrong[0]}; "
                "see `saldo status`, `saldo deadletters list` and the logs of channels"
            )
        await asyncio.sleep(0.2)


async def _wrong_numbers(endpoints: Endpoints, plan: Plan, channels: list[Channel]) -> list[str]:
    wrong = []
    for channel in channels:
        address = endpoints.sandboxes[channel.marketplace]
        async with SandboxClient(address.base_url, address.token) as sandbox:
            shown = await sandbox.numbers(channel.shop)
        wrong += [
            f"{channel.name} {sku} shows {shown.get(sku)}"
            for sku in (*plan.opening, *plan.kits)
            if shown.get(sku) != plan.shown(sku, plan.opening)
        ]
    return wrong
