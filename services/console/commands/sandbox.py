"""`saldo sandbox`: be a buyer in a sandbox shop, and see what the shop shows; write invoices, carry parcels."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar
from urllib.parse import quote

import typer

from deploy.local import parts
from services.console import instance as instances
from services.console import output
from services.console.commands.orders import find_order
from services.console.commands.parcels import find_parcel
from services.console.files import parse_components
from services.console.options import DEFAULT_TENANT, Failed, Instance, Json, Tenant, admin

app = typer.Typer(help="Be a buyer, an accountant, a courier in the sandboxes.", no_args_is_help=True)

if TYPE_CHECKING:
    from services.sandbox.client import SandboxClient

T = TypeVar("T")
Shop = Annotated[str, typer.Argument(help="A shop's name, such as loja-azul.")]
OrderId = Annotated[str, typer.Argument(help="The number that `buy` told.")]


class Pay(StrEnum):
    """When the buyer pays."""

    NOW = "now"
    LATER = "later"
    NEVER = "never"


@app.command()
def buy(
    shop: Shop,
    lines: Annotated[list[str], typer.Argument(help="SKU, or SKU:QUANTITY; several make one order.")],
    pay: Annotated[Pay, typer.Option(help="When the buyer pays.")] = Pay.NOW,
    tenant: Tenant = DEFAULT_TENANT,
    instance: Instance = None,
    json_wanted: Json = False,
) -> None:
    """A buyer buys in a shop. Prints the order's number, which `order show` and `trace` take."""
    del tenant  # A shop is a marketplace's; which company it sells for is the connection's business.
    try:
        parts = parse_components(" ".join(line if ":" in line else f"{line}:1" for line in lines))
    except ValueError as error:
        raise Failed(str(error)) from None
    wanted = {part.sku: part.quantity for part in parts}
    told = _at(instance, shop, lambda sandbox: sandbox.buy(shop, wanted, pay=pay.value))
    if "order_id" not in told:
        raise Failed(f"{shop} refused: {told.get('reason')} ({told.get('sku')})")
    if json_wanted:
        output.as_json(told)
    else:
        output.console.print(f"[green]bought[/] order {told['order_id']}: `saldo trace {told['order_id']}`")


@app.command()
def fill(
    skus: Annotated[int, typer.Option(min=10, help="SKUs of the demonstration set.")] = 200,
    seed: Annotated[int, typer.Option(help="Of the demonstration set.")] = 1,
    tenant: Tenant = DEFAULT_TENANT,
    instance: Instance = None,
) -> None:
    """Open shops on every kind of channel, with stock, and connect them, as `up` does at its first start."""
    from services.console.demo.seed import set_up

    endpoints = instances.find(instance)
    if missing := [name for name in parts.SANDBOXES if name not in endpoints.sandboxes]:
        variables = ", ".join(f"SALDO_SANDBOX_{name.upper()}_URL" for name in missing)
        raise Failed(f"every sandbox is wanted: set {variables} and SALDO_SANDBOX_TOKEN")
    with output.errors.status("opening the shops") as shown:
        set_up(endpoints, tenant, skus=skus, seed=seed, progress=shown.update)
    output.console.print("the shops are connected: `saldo connection list`")


@app.command()
def pay(
    shop: Shop, order: OrderId, tenant: Tenant = DEFAULT_TENANT, instance: Instance = None, json_wanted: Json = False
) -> None:
    """The buyer of an unpaid order pays."""
    del tenant
    _told(_at(instance, shop, lambda sandbox: sandbox.pay(shop, order)), json_wanted)


@app.command()
def cancel(
    shop: Shop, order: OrderId, tenant: Tenant = DEFAULT_TENANT, instance: Instance = None, json_wanted: Json = False
) -> None:
    """The buyer cancels."""
    del tenant
    _told(_at(instance, shop, lambda sandbox: sandbox.cancel(shop, order)), json_wanted)


@app.command()
def numbers(
    sku: Annotated[str, typer.Argument(help="The SKU to look for.")],
    tenant: Tenant = DEFAULT_TENANT,
    instance: Instance = None,
    json_wanted: Json = False,
) -> None:
    """What every sandbox shop shows of a SKU."""
    del tenant

    async def shown(marketplace: str, sandbox: "SandboxClient") -> list[dict[str, Any]]:
        found = [(shop, (await sandbox.numbers(shop)).get(sku)) for shop in await sandbox.shops()]
        return [{"marketplace": marketplace, "shop": shop, "sku": sku, "shows": number} for shop, number in found]

    rows = [row for rows in _everywhere(instance, shown) for row in rows]
    output.listing(rows, ("marketplace", "shop", "sku", "shows"), json_wanted=json_wanted, empty="no shops")


@app.command()
def invoice(
    order: Annotated[str, typer.Argument(help="Our order id, or the number that the channel shows.")],
    file: Annotated[Path, typer.Argument(help="A new file, for `order invoice --file`.")],
    tenant: Tenant = DEFAULT_TENANT,
    instance: Instance = None,
) -> None:
    """Write the NF-e of an order as the demonstration company's accounting would, over what its buyer owes."""
    from services.console.demo.office import invoice_xml

    with admin(tenant, instance) as client:
        told = find_order(client, order, None)
    if told.get("due_minor") is None:
        raise Failed(f"what the buyer of {order} owes is not known yet: try again in a moment")
    now = datetime.now(UTC)
    number = int(now.timestamp() * 10) % 1_000_000_000  # A new one ten times a second; a book of numbers is an ERP's.
    try:
        with file.open("x", encoding="utf-8") as out:
            out.write(invoice_xml(number, now, told["due_minor"], told["order_id"]))
    except OSError as error:
        raise Failed(f"{file} cannot be written ({error.strerror}): name a new file") from None
    output.console.print(
        f"the invoice of {order} is in {file}: `saldo order invoice {order} --file {file}`", markup=False
    )


@app.command()
def collect(
    parcel: Annotated[str, typer.Argument(help="The parcel: <order id>:s<number>, or the number of its order.")],
    days: Annotated[float, typer.Option(min=0, max=365, help="Of the carrier's, until it is delivered.")] = 3.0,
    tenant: Tenant = DEFAULT_TENANT,
    instance: Instance = None,
) -> None:
    """The demonstration company's carrier takes a labelled parcel to its buyer; a day of his passes in a second."""
    import httpx

    with admin(tenant, instance) as client:
        shipment_id = find_parcel(client, parcel)
        told = client.get("fulfillment", f"parcels/{quote(shipment_id, safe='')}")
        address = client.endpoints.sandboxes.get("carrier")
    if not told["tracking_code"]:
        raise Failed(f"{shipment_id} has no label yet: `saldo parcel pack {parcel}`")
    if address is None:
        raise Failed("no sandbox of a carrier is known: set SALDO_SANDBOX_CARRIER_URL, and its token")

    async def account(carrier: "SandboxClient") -> dict[str, Any]:
        return await carrier.shop(tenant)

    known = _asked(address, account)
    body = {"tracking_code": told["tracking_code"], "shipment_id": shipment_id, "days": days}
    headers = {"Authorization": f"Bearer {known['credentials']['access_token']}"}
    try:
        answer = httpx.post(f"{known['base_url']}/table/v1/parcels", json=body, headers=headers, trust_env=False)
    except httpx.TransportError as error:
        raise Failed(f"the carrier's sandbox does not answer ({type(error).__name__}): see `saldo status`") from None
    if answer.is_error:
        raise Failed(f"the carrier refused: {answer.json().get('error')}")
    output.console.print(f"{shipment_id} is on its way: `saldo parcel show {parcel}`", markup=False)


def _told(told: Mapping[str, Any], json_wanted: bool) -> None:
    if json_wanted:
        output.as_json(told)
    else:
        output.fields(told)


def _at(instance: str | None, shop: str, ask: Callable[["SandboxClient"], Awaitable[T]]) -> T:
    """Ask the sandbox that has the shop. Raises `Failed` naming the shops there are."""

    async def look(_: str, sandbox: "SandboxClient") -> tuple[list[str], list[T]]:
        shops = await sandbox.shops()
        return shops, [await ask(sandbox)] if shop in shops else []

    found = _everywhere(instance, look)
    for _, answers in found:
        if answers:
            return answers[0]
    names = ", ".join(name for shops, _ in found for name in shops) or "none: `saldo up` opens some"
    raise Failed(f"no sandbox has a shop {shop}; there are: {names}")


def _everywhere(instance: str | None, ask: Callable[[str, "SandboxClient"], Awaitable[T]]) -> list[T]:
    """The answers of all sandbox marketplaces. Raises `Failed` in the words of the one that refuses."""
    from services.console.demo.markets import MARKETS

    known = instances.find(instance).sandboxes
    sandboxes = {name: address for name, address in known.items() if name in MARKETS}
    if not sandboxes:
        raise Failed("no sandbox is known: set SALDO_SANDBOX_SHOPIFY_URL or SALDO_SANDBOX_SKYHUB_URL, and its token")

    return [_asked(address, partial(ask, name)) for name, address in sandboxes.items()]


def _asked(address: instances.Address, ask: Callable[["SandboxClient"], Awaitable[T]]) -> T:
    """The answer of one sandbox. Raises `Failed` in its words where it refuses."""
    import aiohttp

    from services.sandbox.client import SandboxClient, SandboxError

    async def once() -> T:
        async with SandboxClient(address.base_url, address.token) as sandbox:
            return await ask(sandbox)

    try:
        return asyncio.run(once())
    except SandboxError as error:
        raise Failed(f"the sandbox refused: {error.body.get('error', error)}") from None
    except (aiohttp.ClientError, OSError) as error:
        raise Failed(f"a sandbox does not answer ({type(error).__name__}): see `saldo status`") from None
