"""`saldo order invoice`, `saldo company`: invoices of orders, and the tax ids that they are issued under."""

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from services.border.reading import minor
from services.console import output
from services.console.commands.items import read_file
from services.console.commands.orders import Identity, OfConnection, find_order
from services.console.options import DEFAULT_TENANT, Failed, Instance, Json, Tenant, admin, utc

companies = typer.Typer(help="The company as the tax authority knows it.", no_args_is_help=True)

CURRENCY = "BRL"


def register(orders: typer.Typer) -> None:
    """Add `invoice` to the commands about orders."""
    orders.command()(invoice)


def invoice(
    order: Identity,
    key: Annotated[str | None, typer.Option(help="The access key, 44 characters.")] = None,
    total: Annotated[str | None, typer.Option(help="What the invoice is over, as 50.00.")] = None,
    issued_at: Annotated[datetime | None, typer.Option(help="When it was issued; now by default.")] = None,
    file: Annotated[Path | None, typer.Option(help="The XML of the NF-e, instead of key and total.")] = None,
    replaces: Annotated[str | None, typer.Option(help="Key of the order's void invoice whose place it takes.")] = None,
    connection: OfConnection = None,
    tenant: Tenant = DEFAULT_TENANT,
    instance: Instance = None,
    json_wanted: Json = False,
) -> None:
    """Give an order its invoice, by its XML or by key and total; again changes nothing."""
    given: dict[str, str | int] = {}
    if file is not None:
        try:
            given["xml"] = read_file(file).decode("utf-8-sig")
        except UnicodeDecodeError:
            raise Failed(f"{file} is not UTF-8: give the NF-e as it was received") from None
    elif key is None or total is None:
        raise Failed("give --file with the XML, or --key and --total")
    if total is not None:
        try:
            given["total_minor"] = minor(total, CURRENCY, "--total", exact=True)
        except ValueError as error:
            raise Failed(f"{error}: write it as 50.00") from None
    if issued_at is not None:
        given["issued_at"] = utc(issued_at).isoformat()
    given |= {name: value for name, value in (("key", key), ("replaces", replaces)) if value is not None}
    with admin(tenant, instance) as client:
        found = find_order(client, order, connection)
        told = client.post("erp", "invoices", {"order_id": found["order_id"], **given})
    if json_wanted:
        output.as_json(told)
    else:
        output.fields(told, title=f"invoice of order {found['external_id']}")


@companies.command()
def add(
    tax_id: Annotated[str, typer.Argument(help="A CNPJ, with or without its punctuation.")],
    tenant: Tenant = DEFAULT_TENANT,
    instance: Instance = None,
    json_wanted: Json = False,
) -> None:
    """Add a tax id of the company: only invoices issued under one of these are taken."""
    with admin(tenant, instance) as client:
        told = client.post("erp", "companies", {"tax_id": tax_id})
    if json_wanted:
        output.as_json(told)
    else:
        output.fields(told, title="company")
