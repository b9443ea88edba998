"""`saldo shop`: the retailer's own shop, what it sells, and how its storefront signs in."""

from pathlib import Path
from typing import Annotated

import typer

from services.console import output
from services.console.commands.connections import find
from services.console.commands.items import print_rejected, read_file
from services.console.files import parse_products
from services.console.options import DEFAULT_TENANT, Instance, Json, Tenant, admin

app = typer.Typer(help="The own shop: its products, and the key of its storefront.", no_args_is_help=True)

CURRENCY = "BRL"
Connection = Annotated[str, typer.Argument(help="A connection's id, account, or connector/account.")]


@app.command()
def products(
    connection: Connection,
    file: Annotated[Path, typer.Argument(help="CSV: sku, title, price (as 19.90).")],
    tenant: Tenant = DEFAULT_TENANT,
    instance: Instance = None,
    json_wanted: Json = False,
) -> None:
    """Put the products of a file on sale, or change their titles and prices; those not named stay as they are."""
    raw = read_file(file)
    with admin(tenant, instance) as client:
        shop = find(client, connection)
        parsed = parse_products(raw, shop.get("settings", {}).get("currency") or CURRENCY)
        if parsed.rejected:
            print_rejected(parsed.rejected, json_wanted=json_wanted)
        rows = [row for _, row in parsed.rows]
        told = client.post("channels", f"connections/{shop['connection_id']}/products", {"rows": rows})
    if json_wanted:
        output.as_json(told)
    else:
        output.console.print(f"{told['kept']} products are on sale, {told['linked']} linked to a SKU of the stock")


@app.command()
def key(
    connection: Connection, tenant: Tenant = DEFAULT_TENANT, instance: Instance = None, json_wanted: Json = False
) -> None:
    """Where the shop's API is, and the key with which its storefront's server signs in: a secret."""
    with admin(tenant, instance) as client:
        shop = find(client, connection)
        told = client.get("channels", f"connections/{shop['connection_id']}/shop")
    if json_wanted:
        output.as_json(told)
    else:
        output.fields(told)
