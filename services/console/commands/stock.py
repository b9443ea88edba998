"""`saldo stock`: receive, adjust, count, take on; show a number and take it apart."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import typer

from contracts.inventory.v1 import AccountState, AdjustStock, CountStock, ReceiveStock
from services.console import output
from services.console.commands.items import all_items, print_rejected, read_file, send_many, send_one
from services.console.files import parse_takeon
from services.console.options import DEFAULT_TENANT, CommandId, Failed, Instance, Json, Tenant, admin, made, utc
from services.console.people import Order, derived_command_id

app = typer.Typer(help="Stock: change it, see it, have it explained.", no_args_is_help=True)

Location = Annotated[str, typer.Option(help="Where the stock lies.")]
CLOCK_TOLERANCE = timedelta(minutes=1)
Pool = Annotated[str, typer.Option(help="The pool it belongs to.")]


def _utc(moment: datetime | None) -> datetime:
    return datetime.now(UTC) if moment is None else utc(moment)


@app.command()
def receive(
    sku: str,
    quantity: int,
    location: Location = "main",
    pool: Pool = "shared",
    reference: Annotated[str, typer.Option(help="Invoice or delivery note.")] = "",
    command_id: CommandId = None,
    tenant: Tenant = DEFAULT_TENANT,
    instance: Instance = None,
    json_wanted: Json = False,
) -> None:
    """Goods came in from a supplier."""
    message = made(ReceiveStock, sku=sku, location=location, pool=pool, quantity=quantity, reference=reference)
    with admin(tenant, instance) as client:
        send_one(client, message, command_id, json_wanted=json_wanted)


@app.command()
def adjust(
    sku: str,
    by: Annotated[int, typer.Option(help="Signed units: --by -3 takes three away.")],
    reason: Annotated[str, typer.Option(help="Why; it stays in the ledger.")],
    location: Location = "main",
    pool: Pool = "shared",
    state: Annotated[str, typer.Option(help="available or damaged.")] = "available",
    effective_at: Annotated[datetime | None, typer.Option(help="When it was so; now by default.")] = None,
    command_id: CommandId = None,
    tenant: Tenant = DEFAULT_TENANT,
    instance: Instance = None,
    json_wanted: Json = False,
) -> None:
    """Correct stock by a signed quantity."""
    if state not in ("available", "damaged"):
        raise Failed("--state must be available or damaged")
    effective = _utc(effective_at)
    if effective > datetime.now(UTC) + CLOCK_TOLERANCE:
        raise Failed(f"--effective-at {effective_at} has not come yet: give the moment since which it is so")
    message = made(
        AdjustStock,
        sku=sku,
        location=location,
        pool=pool,
        state=AccountState(state),
        quantity=by,
        reason=reason,
        effective_at=effective,
    )
    with admin(tenant, instance) as client:
        send_one(client, message, command_id, json_wanted=json_wanted)


@app.command()
def count(
    sku: str,
    counted: Annotated[int, typer.Argument(help="What is on hand: available, reserved and damaged together.")],
    location: Location = "main",
    counted_at: Annotated[datetime | None, typer.Option(help="When it was counted; now by default.")] = None,
    epoch: Annotated[int | None, typer.Option(help="Epoch of the level it was counted against.")] = None,
    version: Annotated[int | None, typer.Option(help="Version of that level.")] = None,
    reference: Annotated[str, typer.Option(help="The count sheet.")] = "",
    command_id: CommandId = None,
    tenant: Tenant = DEFAULT_TENANT,
    instance: Instance = None,
    json_wanted: Json = False,
) -> None:
    """Somebody counted what is really there."""
    message = made(
        CountStock,
        sku=sku,
        location=location,
        counted=counted,
        counted_at=_utc(counted_at),
        epoch=epoch,
        version=version,
        reference=reference,
    )
    with admin(tenant, instance) as client:
        send_one(client, message, command_id, json_wanted=json_wanted)


@app.command()
def takeon(
    file: Annotated[Path, typer.Argument(help="CSV: sku, location, quantity, pool, reference in UTF-8.")],
    tenant: Tenant = DEFAULT_TENANT,
    instance: Instance = None,
    json_wanted: Json = False,
) -> None:
    """Opening stock from a CSV file, once per SKU and location.

    The whole file is judged first; sending it again goes on where it stopped.
    """
    raw = read_file(file)
    with admin(tenant, instance) as client:
        skus = {item["sku"]: bool(item.get("components")) for item in all_items(client)}
        known = [one["location"] for one in client.get("inventory", "locations")["locations"]]
        parsed = parse_takeon(raw, skus=skus, locations=known)
        if parsed.rejected:
            print_rejected(parsed.rejected, json_wanted=json_wanted)
        orders = [
            (line, Order(derived_command_id("takeon", tenant, message.model_dump_json()), message))
            for line, message in parsed.rows
        ]
        send_many(client, orders, json_wanted=json_wanted)


@app.command()
def show(
    sku: Annotated[str | None, typer.Argument(help="One SKU; all of them where it is left out.")] = None,
    tenant: Tenant = DEFAULT_TENANT,
    instance: Instance = None,
    json_wanted: Json = False,
) -> None:
    """What is there of a SKU by location and pool, or the sums of all SKUs."""
    with admin(tenant, instance) as client:
        if sku is None:
            rows = list(chain.from_iterable(client.pages("inventory", "stock", "stock")))
            output.listing(
                rows,
                ("sku", "available", "reserved", "epoch", "version"),
                json_wanted=json_wanted,
                empty="no stock: `saldo stock receive` or `saldo stock takeon`",
            )
            return
        told = client.get("inventory", "stock", sku=sku)["stock"][0]
        if json_wanted:
            output.as_json(told)
        else:
            output.fields(told)


@app.command()
def explain(sku: str, tenant: Tenant = DEFAULT_TENANT, instance: Instance = None, json_wanted: Json = False) -> None:
    """The same number taken apart: ledger sums, the order lines that hold or miss units, movements, kits."""
    with admin(tenant, instance) as client:
        told = client.get("inventory", "stock/explain", sku=sku)
    if json_wanted:
        output.as_json(told)
        return
    for place in told["places"]:
        place.pop("drawn_on_by")
        ledger = place.pop("ledger")
        place["from_the_ledger"] = "; ".join(
            _summed(state, account) for state, account in ledger.items() if account["parts"]
        )
    for claim in (*told["reservations"], *told["shortfalls"]):
        for name in ("correlation_id", "traceparent"):
            claim.pop(name, None)
    output.fields(told)


def _summed(state: str, account: Mapping[str, Any]) -> str:
    """`available 7 = +10 command (supplier) -3 order (reserved)`."""
    parts = " ".join(f"{part['quantity']:+} {part['cause']} ({part['other']})" for part in account["parts"])
    return f"{state} {account['sum']} = {parts}"
