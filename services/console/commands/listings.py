"""`saldo listing`: adverts at the channels, and which of our SKUs each one sells."""

from typing import Annotated, Any

import typer
from rich.markup import escape

from services.console import output
from services.console.adverts import import_adverts
from services.console.commands.connections import find
from services.console.options import DEFAULT_TENANT, Failed, Instance, Json, Tenant, admin

app = typer.Typer(help="Adverts at the channels and their links to SKUs.", no_args_is_help=True)

COLUMNS = ("listing", "sku", "pack", "wanted", "accepted", "observed", "suspect", "channel_sku", "title")
Connection = Annotated[str, typer.Argument(help="A connection's id, account, or connector/account.")]


@app.command("import")
def import_(
    connection: Connection, tenant: Tenant = DEFAULT_TENANT, instance: Instance = None, json_wanted: Json = False
) -> None:
    """Read every advert of a connection from its channel, and link those whose SKU text is one of our SKUs.

    It goes on by itself where this command is stopped, and after a restart; the command joins it again.
    """
    with admin(tenant, instance) as client:
        found = find(client, connection)
        with output.errors.status("reading adverts") as status:
            told = import_adverts(client, found["connection_id"], lambda now: status.update(_progress(now)))
        if json_wanted:
            output.as_json(told)
        else:
            output.fields(told)


def _progress(now: dict[str, Any]) -> str:
    trouble = f"; {escape(now['error'])}, tried {now['tries']} times" if now["error"] else ""
    return f"{now['listings']} adverts read, {now['linked']} linked{trouble}"


@app.command()
def link(
    connection: Connection,
    listing: Annotated[str, typer.Argument(help="The advert's id at the channel.")],
    sku: Annotated[str, typer.Argument(help="Our SKU; a kit's SKU links the kit.")],
    pack: Annotated[int, typer.Option(min=1, help="Units of the SKU in one unit sold.")] = 1,
    tenant: Tenant = DEFAULT_TENANT,
    instance: Instance = None,
    json_wanted: Json = False,
) -> None:
    """Say which SKU an advert sells. Sales that waited for the link go on."""
    with admin(tenant, instance) as client:
        found = find(client, connection)
        body = {"connection_id": found["connection_id"], "listing": listing, "sku": sku, "pack": pack}
        told = client.post("channels", "listings/link", body)
        if json_wanted:
            output.as_json(told)
        else:
            output.console.print(f"{listing} sells {pack} × {sku}", markup=False)


@app.command("list")
def list_(
    connection: Connection, tenant: Tenant = DEFAULT_TENANT, instance: Instance = None, json_wanted: Json = False
) -> None:
    """All adverts of a connection."""
    with admin(tenant, instance) as client:
        found = find(client, connection)
        rows = client.get("channels", f"connections/{found['connection_id']}/listings")["listings"]
        output.listing(rows, COLUMNS, json_wanted=json_wanted, empty="no adverts: `saldo listing import`")


@app.command()
def show(
    connection: Connection,
    listing: Annotated[str, typer.Argument(help="The advert's id at the channel, or its SKU.")],
    tenant: Tenant = DEFAULT_TENANT,
    instance: Instance = None,
    json_wanted: Json = False,
) -> None:
    """One advert with its stock record: wanted, sent, accepted, observed."""
    with admin(tenant, instance) as client:
        connection_id = find(client, connection)["connection_id"]
        rows = client.get("channels", f"connections/{connection_id}/listings")["listings"]
        matching = [row for row in rows if listing in (row["listing"], row.get("sku"))]
        if not matching:
            raise Failed(f"{connection} has no advert {listing}: `saldo listing list {connection}` shows them")
        records = client.get("channels", "records", connection=connection_id)["records"]
        told = [
            row | {"record": next((one for one in records if one["stock_record"] == row["stock_record"]), None)}
            for row in matching
        ]
        if json_wanted:
            output.as_json(told)
        else:
            for row in told:
                output.fields({**row, **(row.pop("record") or {})})
