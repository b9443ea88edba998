"""`saldo erp`: the company's own ERP, what came from it and what was booked there."""

import time
from datetime import datetime
from typing import Annotated, Any
from urllib.parse import quote

import typer

from services.console import output
from services.console.client import Admin
from services.console.commands.connections import read_credentials
from services.console.commands.orders import Identity, OfConnection, find_order
from services.console.options import DEFAULT_TENANT, Failed, Instance, Json, Tenant, admin, utc

app = typer.Typer(help="The company's ERP: products in, sales and their stock moves out.", no_args_is_help=True)

COLUMNS = ("order_id", "target", "state", "reference", "reason", "tries", "changed_at")
PAGE = 1000
PATIENCE_S = 600
_POLL_S = 0.5


@app.command()
def add(
    target: Annotated[str, typer.Argument(help="tryton.")],
    base_url: Annotated[str, typer.Option(help="Where the server answers.")],
    database: Annotated[str, typer.Option(help="The database's name there.")],
    credentials: Annotated[str, typer.Option(help="A JSON file with user and password, - for standard input.")],
    environment: Annotated[str, typer.Option(help="sandbox, test or production.")] = "production",
    warehouse: Annotated[str, typer.Option(help="Code of the warehouse that goods leave; none: the only one.")] = "",
    since: Annotated[datetime | None, typer.Option(help="Book what left from then on; now by default.")] = None,
    tenant: Tenant = DEFAULT_TENANT,
    instance: Instance = None,
) -> None:
    """Add the company's ERP; given again, it is changed."""
    login = read_credentials(credentials)
    if set(login) != {"user", "password"}:
        raise Failed(f"--credentials {credentials} must hold user and password")
    body: dict[str, Any] = {
        "target": target, "environment": environment, "base_url": base_url, "database": database,
        "warehouse": warehouse, **login,
    }  # fmt: skip
    if since is not None:
        body["since"] = utc(since).isoformat()
    with admin(tenant, instance) as client:
        client.put("erp", "targets", body)
    output.console.print(f"{target} is added; `saldo erp sync` looks at it now", markup=False)


@app.command()
def sync(
    target: Annotated[str, typer.Argument(help="The ERP.")] = "tryton",
    tenant: Tenant = DEFAULT_TENANT,
    instance: Instance = None,
    json_wanted: Json = False,
) -> None:
    """Take products from the ERP and book what left, now; exit code 1 where the ERP does not do it."""
    with admin(tenant, instance) as client:
        asked_at = datetime.fromisoformat(client.post("erp", f"targets/{quote(target, safe='')}/sync")["asked_at"])
        told = _await(client, target, asked_at)
    if json_wanted:
        output.as_json(told)
    else:
        output.fields({**told["told"], "waiting": told["waiting"]}, title=f"{target} at {told['looked_at']}")
    if told["told"]["error"]:
        raise Failed(f"{target}: {told['told']['error']}")


def _await(client: Admin, target: str, asked_at: datetime) -> dict[str, Any]:
    """The target as it is once a look that began after `asked_at` is over. Raises `Failed`."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        told = next(one for one in client.get("erp", "targets")["targets"] if one["target"] == target)
        if told["looked_at"] and datetime.fromisoformat(told["looked_at"]) > asked_at:
            return dict(told)
        time.sleep(_POLL_S)
    raise Failed(f"{target} is still at work after {PATIENCE_S} s: see `saldo erp bookings`")


@app.command()
def bookings(
    state: Annotated[str | None, typer.Option(help="wanted, going, booked or rejected alone.")] = None,
    tenant: Tenant = DEFAULT_TENANT,
    instance: Instance = None,
    json_wanted: Json = False,
) -> None:
    """What is booked in the ERP, what waits, and what it refused."""
    with admin(tenant, instance) as client:
        pages = client.pages("erp", "bookings", "bookings", after="", limit=PAGE, state=state)
        rows = [row for page in pages for row in page]
    output.listing(rows, COLUMNS, json_wanted=json_wanted, empty="nothing is booked elsewhere")


@app.command()
def retry(
    order: Identity,
    connection: OfConnection = None,
    tenant: Tenant = DEFAULT_TENANT,
    instance: Instance = None,
) -> None:
    """Try again what the ERP refused of an order, after it was put right there."""
    with admin(tenant, instance) as client:
        found = find_order(client, order, connection)
        told = client.post("erp", f"bookings/{quote(found['order_id'], safe='')}/retry")
    output.console.print(f"order {found['external_id']} is tried again in {', '.join(told['targets'])}", markup=False)
