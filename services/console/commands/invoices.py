"""`saldo order invoice`, `saldo order invoices`, `saldo company`: invoices of orders, and who issues them."""

import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from services.border.reading import minor
from services.console import output
from services.console.client import Admin, AdminError
from services.console.commands.items import print_rejected, read_file
from services.console.commands.orders import Identity, OfConnection, find_order
from services.console.files import INVOICE_CURRENCY, parse_invoices
from services.console.options import DEFAULT_TENANT, Failed, Instance, Json, Tenant, admin, utc

companies = typer.Typer(help="The company as the tax authority knows it.", no_args_is_help=True)

COLUMNS = ("source", "order", "invoice_key", "refused")
# The buyer's order number as the issuer's own system wrote it into the NF-e (group `compra`, or an item's).
_ORDER_NO = re.compile(r"<xPed>\s*([^<]+?)\s*</xPed>")

Given = tuple[str, str, dict[str, Any]]
"""Where an invoice was found, the order it is for, and what erp is given."""


def register(orders: typer.Typer) -> None:
    """Add `invoice` and `invoices` to the commands about orders."""
    orders.command()(invoice)
    orders.command()(invoices)


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
        given["xml"] = _read_xml(file)
    elif key is None or total is None:
        raise Failed("give --file with the XML, or --key and --total")
    if total is not None:
        try:
            given["total_minor"] = minor(total, INVOICE_CURRENCY, "--total", exact=True)
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


def _read_xml(file: Path) -> str:
    try:
        return read_file(file).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Failed(f"{file} is not UTF-8: give the NF-e as it was received") from None


def invoices(
    files: Annotated[
        Path | None,
        typer.Option(help="A folder of NF-e as XML; each names its order in xPed, else by its file's name."),
    ] = None,
    csv: Annotated[Path | None, typer.Option(help="A CSV file: order, key, total, issued_at, replaces.")] = None,
    connection: OfConnection = None,
    tenant: Tenant = DEFAULT_TENANT,
    instance: Instance = None,
    json_wanted: Json = False,
) -> None:
    """Give many orders their invoices. Each is judged by itself; again goes on where it stopped."""
    if (files is None) == (csv is None):
        raise Failed("give --files with a folder of XML files, or --csv with a file")
    with admin(tenant, instance) as client:
        found = _in_folder(files) if files is not None else _in_csv(csv, json_wanted=json_wanted)  # type: ignore[arg-type]
        rows = [_give(client, one, connection) for one in found]
    output.listing(rows, COLUMNS, json_wanted=json_wanted, empty="no invoices were found")
    if refused := sum("refused" in row for row in rows):
        output.errors.print(f"{refused} of {len(rows)} were refused: put them right and run this again")
        raise typer.Exit(1)


def _in_folder(folder: Path) -> Iterator[Given]:
    try:
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".xml")
    except OSError as error:
        raise Failed(f"{folder} cannot be read: {error.strerror}") from None
    for path in paths:
        xml = _read_xml(path)
        named = _ORDER_NO.search(xml)
        yield path.name, named[1] if named else path.stem, {"xml": xml}


def _in_csv(file: Path, *, json_wanted: bool) -> Iterator[Given]:
    parsed = parse_invoices(read_file(file))
    if parsed.rejected:
        print_rejected(parsed.rejected, json_wanted=json_wanted)
    for line, row in parsed.rows:
        yield f"line {line}", row.order, row.model_dump(mode="json", exclude={"order"}, exclude_none=True)


def _give(client: Admin, given: Given, connection: str | None) -> dict[str, Any]:
    """What became of one invoice: its key, or why it was refused. Raises where nothing answers at all."""
    source, order, body = given
    try:
        order_id = find_order(client, order, connection)["order_id"]
        told = client.post("erp", "invoices", {"order_id": order_id, **body})
    except AdminError as error:
        if not error.status:
            raise
        return {"source": source, "order": order, "refused": str(error)}
    except Failed as error:
        return {"source": source, "order": order, "refused": str(error)}
    return {"source": source, "order": order, "invoice_key": told["invoice_key"]}


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
