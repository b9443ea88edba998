"""`saldo payment`: what buyers paid, through which gateway, and what a person has to see to."""

from itertools import chain
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.text import Text

from services.console import output, pages
from services.console.commands.connections import check_url, pairs, read_credentials
from services.console.options import DEFAULT_TENANT, Instance, Json, Tenant, admin
from services.console.pages import at, money

app = typer.Typer(help="Payments of buyers, and the accounts at gateways they go through.", no_args_is_help=True)

COLUMNS = ("payment_id", "status", "captured_minor", "refunded_minor", "concern", "reference")
ACCOUNT_COLUMNS = ("account_id", "gateway", "environment", "merchant", "state", "base_url")
STRANGER_COLUMNS = ("received_at", "account_id", "strangers")


@app.command("list")
def list_(
    order: Annotated[str | None, typer.Option(help="Of this order's id alone.")] = None,
    status: Annotated[
        str | None, typer.Option(help="asked, open, pending, authorized, captured, voided, failed.")
    ] = None,
    concerning: Annotated[bool, typer.Option("--concerning", help="Those alone that a person has to see to.")] = False,
    tenant: Tenant = DEFAULT_TENANT,
    instance: Instance = None,
    json_wanted: Json = False,
) -> None:
    """Payments through gateways, by id. A concern: disputed, another_amount, refund_failed, refused."""
    with admin(tenant, instance) as client:
        pages = client.pages(
            "payments", "payments", "payments", order_id=order, status=status, concerning=concerning or None
        )
        rows = list(chain.from_iterable(pages))
    output.listing(rows, COLUMNS, json_wanted=json_wanted, empty="no payments")


@app.command()
def show(
    payment: Annotated[str, typer.Argument(help="A payment's id, as `list` tells it.")],
    tenant: Tenant = DEFAULT_TENANT,
    instance: Instance = None,
    json_wanted: Json = False,
) -> None:
    """One payment, with every call of its gateway and what came of it."""
    with admin(tenant, instance) as client:
        told = client.get("payments", f"payments/{quote(payment, safe='')}")
    if json_wanted:
        output.as_json(told)
    else:
        _show(told)


def _show(told: dict[str, Any]) -> None:
    currency = told.get("currency")
    head = pages.facts(
        {
            "state": pages.state(told["status"], told.get("method") or ""),
            "concern": told["concern"] and Text(told["concern"].replace("_", " "), "red"),
            "taken": money(told["captured_minor"], currency),
            "given back": money(told["refunded_minor"], currency),
            "looked at again": at(told["due_at"]),
            "order id": told["order_id"],
            "account": told["account_id"],
            "at the gateway": told["reference"],
        }
    )
    calls = [
        (
            call["kind"], pages.state(call["outcome"]), money(call["amount_minor"], currency), call["tries"],
            at(call.get("begun_at")), at(call.get("ended_at")),
        )
        for call in told["calls"]
    ]  # fmt: skip
    listed = pages.rows(("call", "outcome", "sum", "tries", "begun", "ended"), calls)
    pages.show(output.console, f"payment {told['payment_id']}", head, {"Calls of the gateway": listed})


@app.command()
def accounts(tenant: Tenant = DEFAULT_TENANT, instance: Instance = None, json_wanted: Json = False) -> None:
    """The company's accounts at gateways; new payments go through the live ones."""
    with admin(tenant, instance) as client:
        rows = client.get("payments", "accounts")
    output.listing(rows, ACCOUNT_COLUMNS, json_wanted=json_wanted, empty="no accounts: `saldo payment add`")


@app.command()
def strangers(tenant: Tenant = DEFAULT_TENANT, instance: Instance = None, json_wanted: Json = False) -> None:
    """What gateways told of payments that are none of ours; an empty name is a Pix without a charge."""
    with admin(tenant, instance) as client:
        rows = client.get("payments", "strangers")
    output.listing(rows, STRANGER_COLUMNS, json_wanted=json_wanted, empty="gateways spoke of payments of ours alone")


@app.command()
def add(
    gateway: Annotated[str, typer.Argument(help="stripe or pix.")],
    merchant: Annotated[str, typer.Argument(help="Who we are there: Stripe's account id, or Pix's client id.")],
    base_url: Annotated[str, typer.Option(help="Where its API is: the gateway, or a sandbox.")],
    credentials: Annotated[str, typer.Option(help="A JSON file of the credentials, - for standard input.")],
    environment: Annotated[str, typer.Option(help="sandbox, test or production.")] = "sandbox",
    setting: Annotated[list[str] | None, typer.Option(help="A setting of the account, name=value.")] = None,
    subscribe: Annotated[bool, typer.Option(help="Have its webhooks sent to our door.")] = True,
    tenant: Tenant = DEFAULT_TENANT,
    instance: Instance = None,
    json_wanted: Json = False,
) -> None:
    """Add an account at a gateway and make it the live one there; the same again changes it and doubles nothing."""
    check_url(base_url)
    body = {
        "tenant": tenant,
        "gateway": gateway,
        "environment": environment,
        "base_url": base_url,
        "merchant": merchant,
        "settings": pairs(setting or [], "--setting"),
        "credentials": read_credentials(credentials),
    }
    with admin(tenant, instance) as client:
        told = client.put("payments", "accounts", body)
        if subscribe:
            told = client.post("payments", f"accounts/{told['account_id']}/subscribe")
    if json_wanted:
        output.as_json(told)
    else:
        output.fields(told, title=f"account at {gateway}")
