"""`saldo order` and `saldo trace`: an order's story, and how long each step of it took."""

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Annotated, Any
from urllib.parse import quote

import typer
from rich.markup import escape
from rich.tree import Tree

from services.console import order_page, output
from services.console.client import Admin, AdminError
from services.console.commands.connections import find
from services.console.options import DEFAULT_TENANT, Failed, Instance, Json, Tenant, admin
from services.console.spans import Node, flatten, read_spans, tree

app = typer.Typer(help="Orders.", no_args_is_help=True)

NOT_FOUND = 404

Identity = Annotated[str, typer.Argument(help="Our order id, or the number that the channel shows.")]
OfConnection = Annotated[str | None, typer.Option("--connection", help="Where several connections have the number.")]


@app.command()
def show(
    order: Identity,
    connection: OfConnection = None,
    tenant: Tenant = DEFAULT_TENANT,
    instance: Instance = None,
    json_wanted: Json = False,
) -> None:
    """What became of an order, what it waits for, and its story step by step with times and traces."""
    with admin(tenant, instance) as client:
        told = find_order(client, order, connection)
        told["reservations"] = _reservations(client, told["order_id"])
        parcels = _parcels(client, told)
        invoice = _found(client, "erp", "invoices", order_id=told["order_id"])
        if taken := _found(client, "payments", f"taken-over/{quote(told['order_id'], safe='')}"):
            told["taken_over"] = taken
        steps = [*told.get("story", ()), *_calls(client, told), *_elsewhere(parcels.values(), invoice)]
        told["story"] = sorted(steps, key=lambda step: datetime.fromisoformat(step["at"]))
    if json_wanted:
        output.as_json(told)
    else:
        order_page.show(output.console, told, parcels, invoice)


@app.command()
def answer(
    order: Identity,
    said: Annotated[str, typer.Argument(help="One of the answers that `order show` lists, as `cancel`.")],
    connection: OfConnection = None,
    tenant: Tenant = DEFAULT_TENANT,
    instance: Instance = None,
) -> None:
    """Answer what an order waits for, before the clock does."""
    with admin(tenant, instance) as client:
        order_id = find_order(client, order, connection)["order_id"]
        told = client.post("orders", f"orders/{quote(order_id, safe='')}/answer", {"answer": said})
    output.console.print(f"the order is {told['state']} and waits for {told['waits_for']}", markup=False)


def _parcels(client: Admin, told: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Fulfillment's parcels of the order by id, those that it knows."""
    ids = [one["shipment_id"] for one in told.get("parcels", ())]
    found = {one: _found(client, "fulfillment", f"parcels/{quote(one, safe='')}") for one in ids}
    return {one: parcel for one, parcel in found.items() if parcel}


def _calls(client: Admin, told: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What gateways were asked about the order."""
    for payment in told.get("payments", ()):
        payment_id = payment["payment_id"]
        for call in _found(client, "payments", f"payments/{quote(payment_id, safe='')}").get("calls", ()):
            about = {"payment_id": payment_id, "amount_minor": call["amount_minor"], "tries": call["tries"]}
            yield _step(call["begun_at"], "payments", f"gateway {call['kind']}: {call['outcome']}", about)


def _elsewhere(parcels: Iterable[dict[str, Any]], invoice: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What fulfillment and erp tell of the order."""
    for parcel in parcels:
        wanted = ("shipment_id", "waits_for", "carrier", "service", "weight_g", "tracking_code")
        about = {name: parcel[name] for name in wanted if parcel[name]}
        yield _step(parcel["changed_at"], "fulfillment", f"parcel {parcel['state']}", about)
    if invoice:
        about = {name: invoice[name] for name in ("document_id", "invoice_key", "total_minor")}
        yield _step(invoice["issued_at"], "erp", "invoice issued", about)


def _step(at: str, service: str, what: str, detail: dict[str, Any]) -> dict[str, Any]:
    return {"at": at, "service": service, "what": what, "detail": detail, "trace": ""}


def _found(client: Admin, service: str, path: str, **query: Any) -> dict[str, Any]:
    """What a service knows of it; nothing where it knows nothing, or does not run here."""
    if service not in client.endpoints.admin:
        return {}
    try:
        return dict(client.get(service, path, **query))
    except AdminError as error:
        if error.status != NOT_FOUND:
            raise
        return {}


def _reservations(client: Admin, order_id: str) -> list[dict[str, Any]]:
    """Where the order's units are; nothing before inventory has heard of it."""
    try:
        found = client.get("inventory", "reservations", order_id=order_id)["reservations"]
    except AdminError as error:
        if error.status != NOT_FOUND:
            raise
        return []
    wanted = ("line_id", "sold_sku", "sku", "state", "location", "pool", "quantity")
    return [{name: row[name] for name in wanted} for row in found if row["quantity"]]


def find_order(client: Admin, order: str, connection: str | None) -> dict[str, Any]:
    """An order by its id or its number. Raises `AdminError`, `Failed`."""
    connection_id = find(client, connection)["connection_id"] if connection else None
    told = client.get("orders", f"orders/{quote(order, safe='')}", connection_id=connection_id)
    if "order_id" not in told:  # The path of a list, or of a summary.
        raise Failed(f"no order {order}: give an order id, or the number the channel shows")
    return dict(told)


def register(root: typer.Typer) -> None:
    """Add `trace` to the root command."""
    root.command()(trace)


def trace(
    order: Identity,
    connection: OfConnection = None,
    tenant: Tenant = DEFAULT_TENANT,
    instance: Instance = None,
    json_wanted: Json = False,
) -> None:
    """One sale as a tree: webhook, intake, order, reservation, level, each connection's accepted push."""
    with admin(tenant, instance) as client:
        folder = client.endpoints.spans
        if folder is None:
            raise Failed("spans are not kept here: set SALDO_SPANS_FOLDER, or look in the collector that gets them")
        order_id = find_order(client, order, connection)["order_id"]
    try:
        roots = tree(read_spans(folder, order_id), order_id)
    except FileNotFoundError as error:
        raise Failed(f"{error}: a collector gets them, or tracing is off") from None
    if not roots:
        raise Failed(f"no spans of order {order_id}: it was not sampled, or is older than a day")
    if json_wanted:
        output.as_json({"order_id": order_id, "spans": flatten(roots)})
        return
    begun_ns = min(root.span.start_ns for root in roots)
    shown = Tree(f"[bold]order {escape(order)}[/] [dim]{order_id}[/]")
    for root in roots:
        _grow(shown, root, begun_ns)
    output.console.print(shown)


def _grow(shown: Tree, node: Node, begun_ns: int) -> None:
    span = node.span
    offset_ms = (span.start_ns - begun_ns) / 1e6
    label = f"[cyan]{span.service}[/] {span.name} [bold]{span.duration_ms:.1f} ms[/] [dim]+{offset_ms:.1f}[/]"
    if node.linked:
        label = f"[yellow]linked[/] {label}"
    if span.status == "ERROR":
        label += " [red]failed[/]"
    branch = shown.add(label, highlight=False)
    for child in node.children:
        _grow(branch, child, begun_ns)
