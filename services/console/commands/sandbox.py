"""`saldo sandbox`: be a buyer in a sandbox shop, and see what the shop shows."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from deploy.local import parts
from services.console import instance as instances
from services.console import output
from services.console.files import parse_components
from services.console.options import DEFAULT_TENANT, Failed, Instance, Json, Tenant

app = typer.Typer(help="Buy in the sandbox shops, and see what they show.", no_args_is_help=True)

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
    import aiohttp

    from services.console.demo.markets import MARKETS
    from services.sandbox.client import SandboxClient, SandboxError

    known = instances.find(instance).sandboxes
    sandboxes = {name: address for name, address in known.items() if name in MARKETS}
    if not sandboxes:
        raise Failed("no sandbox is known: set SALDO_SANDBOX_SHOPIFY_URL or SALDO_SANDBOX_SKYHUB_URL, and its token")

    async def ask_all() -> list[T]:
        answers = []
        for name, address in sandboxes.items():
            async with SandboxClient(address.base_url, address.token) as sandbox:
                answers.append(await ask(name, sandbox))
        return answers

    try:
        return asyncio.run(ask_all())
    except SandboxError as error:
        raise Failed(f"the sandbox refused: {error.body.get('error', error)}") from None
    except (aiohttp.ClientError, OSError) as error:
        raise Failed(f"a sandbox does not answer ({type(error).__name__}): see `saldo status`") from None
