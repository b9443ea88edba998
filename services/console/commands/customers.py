"""`saldo customer`: who the buyers are, what we may do with what we know, and how it is forgotten."""

import json
import os
import re
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from services.console import output, pages
from services.console.client import Admin
from services.console.commands.orders import find_order
from services.console.options import DEFAULT_TENANT, Failed, Instance, Json, Tenant, admin
from services.console.pages import at, money

app = typer.Typer(help="Customers: one person across all channels.", no_args_is_help=True)

COLUMNS = ("customer_id", "references", "version", "seen_at")
REVIEW_COLUMNS = ("one", "other", "why", "at")
PAGE = 1000
_WORD = re.compile(r"(?<!^)(?=[A-Z])")
ENDED = {"OrderDelivered", "OrderCancelled", "OrderClosed"}
WHY = {
    "fiscal_br": "fiscal document (LGPD 16 I, GDPR 17(3)(b))",
    "order_open": "to deliver it; goes when it ends (LGPD 7 V and 15 I, GDPR 17(1)(a))",
    "parcel_open": "on its way; goes when it arrives (LGPD 7 V and 15 I, GDPR 17(1)(a))",
}
"""The law's reason for what stays, by its word in a `KeptRecord`."""

Identity = Annotated[
    str,
    typer.Argument(
        help="A customer's id, an order (order:NUMBER), a CPF or CNPJ, an e-mail, or a phone with its country."
    ),
]
CustomerId = Annotated[str, typer.Argument(help="A customer's id.")]


@app.command("list")
def list_(tenant: Tenant = DEFAULT_TENANT, instance: Instance = None, json_wanted: Json = False) -> None:
    """All customers, by id alone."""
    rows: list[dict[str, Any]] = []
    after: str | None = ""
    with admin(tenant, instance) as client:
        while after is not None:
            told = client.get("crm", "customers", after=after, limit=PAGE)
            rows += told["customers"]
            after = told["next"]
    output.listing(rows, COLUMNS, json_wanted=json_wanted, empty="no customers: no channel has reported a buyer yet")


@app.command()
def show(
    identity: Identity, tenant: Tenant = DEFAULT_TENANT, instance: Instance = None, json_wanted: Json = False
) -> None:
    """Who a customer is, whether he may be written to and why not, and what became of his orders."""
    with admin(tenant, instance) as client:
        told = _find(client, identity)
    if json_wanted:
        output.as_json(told)
        return
    latest: dict[str, Any] = next(iter(told["reports"]), {})
    head = pages.facts(
        {
            "name": latest.get("name"),
            "CPF or CNPJ": latest.get("document"),
            "e-mail": ", ".join(latest.get("emails") or ()),
            "phone": ", ".join(latest.get("phones") or ()),
            "contact": _contact(told["references"]),
            "last seen": at(told["seen_at"]),
            "merged from": ", ".join(told["merged"]),
        }
    )
    known = [
        (one["customer_ref"], ", ".join(one["connections"]), "yes" if one["allowed"] else "no", one["why"])
        for one in told["references"]
    ]
    happened = [(at(one["at"]), one["order_id"], _happened(one)) for one in told["timeline"]]
    consents = [
        (one["purpose"], "yes" if one["granted"] else "no", one["source"], at(one["at"])) for one in told["consents"]
    ]
    pages.show(
        output.console,
        f"customer {told['customer_id']}",
        head,
        {
            "Known as": pages.rows(("reference", "at", "may be written to", "why"), known),
            "Said yes or no": pages.rows(("to", "said", "where", "at"), consents),
            "Timeline": pages.rows(("at", "order", "what"), happened),
        },
    )


def _contact(references: list[dict[str, Any]]) -> str:
    """Whether he may be written to outside the channels that he bought on. Without a yes of both sides it is no."""
    if allowed := sorted({where for one in references if one["allowed"] for where in one["connections"]}):
        return f"yes, as a buyer of {', '.join(allowed)}"
    return f"no: {'; '.join(sorted({one['why'] for one in references}))}"


def _happened(one: dict[str, Any]) -> str:
    """An entry of the timeline in words: `payment captured, captured BRL 29.25`."""
    what, told = one["what"], []
    for name, value in what.items():
        if name.endswith("_minor"):
            told.append(f"{name.removesuffix('_minor').replace('_', ' ')} {money(value, what.get('currency'))}")
        elif name == "external_id":
            told.append(f"number {value}")
        elif value not in (None, "", False) and name != "currency" and not name.endswith(("_id", "_at")):
            told.append(name.replace("_", " ") if value is True else f"{name.replace('_', ' ')} {value}")
    return ", ".join((_WORD.sub(" ", one["kind"]).lower(), *told))


def _find(client: Admin, identity: str) -> dict[str, Any]:
    """A customer. Only what says that it is an order is asked for by its address: a phone or CPF goes into no address,
    where it might be logged."""
    kind, _, number = identity.partition(":")
    if kind == "order":
        identity = find_order(client, number, None)["order_id"]
    return dict(client.post("crm", "customers/show", {"identity": identity}))


@app.command()
def reviews(tenant: Tenant = DEFAULT_TENANT, instance: Instance = None, json_wanted: Json = False) -> None:
    """Pairs that may be one customer: merge them, or keep them."""
    with admin(tenant, instance) as client:
        rows = client.get("crm", "reviews", limit=PAGE)["reviews"]
    output.listing(rows, REVIEW_COLUMNS, json_wanted=json_wanted, empty="nobody is doubtful")


@app.command()
def merge(one: CustomerId, other: CustomerId, tenant: Tenant = DEFAULT_TENANT, instance: Instance = None) -> None:
    """Two customers are one; the one that has been known for longer goes on."""
    with admin(tenant, instance) as client:
        told = client.post("crm", "customers/merge", {"one": one, "other": other})
    output.console.print(f"{told['customer_id']} stands for both", markup=False)


@app.command()
def keep(one: CustomerId, other: CustomerId, tenant: Tenant = DEFAULT_TENANT, instance: Instance = None) -> None:
    """Two customers stay two, and nobody is asked about them again."""
    with admin(tenant, instance) as client:
        client.post("crm", "customers/keep", {"one": one, "other": other})
    output.console.print(f"{one} and {other} stay two", markup=False)


@app.command()
def unmerge(gone: CustomerId, tenant: Tenant = DEFAULT_TENANT, instance: Instance = None) -> None:
    """Undo a merge, given the customer that went: both have again what was theirs."""
    with admin(tenant, instance) as client:
        told = client.post("crm", "customers/unmerge", {"customer_id": gone})
    output.console.print(f"{gone} is a customer again, apart from {told['customer_id']}", markup=False)


@app.command()
def consent(
    identity: Identity,
    granted: Annotated[bool, typer.Option("--yes/--no", help="What the customer said.")],
    purpose: Annotated[str, typer.Option(help="What for.")] = "marketing",
    source: Annotated[str, typer.Option(help="Where it was said.")] = "support",
    tenant: Tenant = DEFAULT_TENANT,
    instance: Instance = None,
) -> None:
    """Keep what a customer said about being written to. Without a word the answer is no."""
    with admin(tenant, instance) as client:
        customer_id = _find(client, identity)["customer_id"]
        body = {"purpose": purpose, "granted": granted, "source": source}
        client.post("crm", f"customers/{quote(customer_id, safe='')}/consent", body)
    output.console.print(f"{customer_id}: {'yes' if granted else 'no'} to {purpose}", markup=False)


@app.command()
def export(
    identity: Identity,
    file: Annotated[Path | None, typer.Argument(help="A new file, for its owner's eyes alone; none: printed.")] = None,
    tenant: Tenant = DEFAULT_TENANT,
    instance: Instance = None,
) -> None:
    """Everything that is known of a customer, as JSON, to be handed to him."""
    with admin(tenant, instance) as client:
        told = _find(client, identity)
    if file is None:
        output.as_json(told)
        return
    try:
        # Never over another file, nor readable by others, from the first byte on.
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise Failed(f"{file} cannot be written ({error.strerror}): name a new file") from None
    with os.fdopen(descriptor, "w", encoding="utf-8") as out:
        json.dump(told, out, indent=2, ensure_ascii=False)
    output.console.print(f"{told['customer_id']} is in {file}", markup=False)


def _open_orders(timeline: list[dict[str, Any]]) -> list[str]:
    """Orders that have not come to their end, by id."""
    ended = {one["order_id"] for one in timeline if one["kind"] in ENDED}
    return list(dict.fromkeys(one["order_id"] for one in timeline if one["order_id"] not in ended))


@app.command()
def erase(
    identity: Identity,
    sure: Annotated[bool, typer.Option("--yes", help="Do not ask: it cannot be undone.")] = False,
    tenant: Tenant = DEFAULT_TENANT,
    instance: Instance = None,
    json_wanted: Json = False,
) -> None:
    """Forget a customer everywhere. What the law or an open order keeps is listed with its reason and end."""
    with admin(tenant, instance) as client:
        found = _find(client, identity)
        customer_id = found["customer_id"]
        if open_orders := _open_orders(found["timeline"]):
            output.errors.print(
                f"[yellow]on their way:[/] {', '.join(open_orders)}. What these need to arrive is kept until they end; "
                "all else goes now",
                highlight=False,
                soft_wrap=True,
            )
        if not sure and not typer.confirm(f"Erase customer {customer_id}? It cannot be undone", err=True):
            raise Failed("nothing was erased")
        told = client.post("crm", f"customers/{quote(customer_id, safe='')}/erase")
    if json_wanted:
        output.as_json(told)
        return
    output.console.print(f"{customer_id} is erased, with {len(told['order_ids'])} orders", markup=False)
    kept = [one | {"reason": WHY.get(one["reason"], one["reason"]), "until": at(one["until"])} for one in told["kept"]]
    output.table(kept, ("kind", "reference", "reason", "until"), empty="nothing is kept")
