"""`saldo item` and `saldo location`: what there is to sell, and where it lies."""

from collections.abc import Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from contracts.inventory.v1 import PutItem, PutLocation
from services.console import output
from services.console.client import Admin
from services.console.files import Rejected, parse_components, parse_items
from services.console.options import DEFAULT_TENANT, CommandId, Failed, Instance, Json, Tenant, admin, made
from services.console.people import Answer, Order, book, derived_command_id, earlier_answer, new_command_id

app = typer.Typer(help="Items of the catalogue, kits included.", no_args_is_help=True)
locations = typer.Typer(help="Places where stock lies.", no_args_is_help=True)


def all_items(client: Admin) -> list[dict[str, Any]]:
    """Every item of the tenant."""
    return list(chain.from_iterable(client.pages("inventory", "items", "items")))


def print_rejected(rejected: list[Rejected], *, json_wanted: bool) -> None:
    """Say for each row why it cannot be taken, and end with exit code 1."""
    if json_wanted:
        output.as_json({"sent": 0, "rejected": [{"line": one.line, "reason": one.reason} for one in rejected]})
    else:
        for one in rejected:
            output.errors.print(f"[red]line {one.line}:[/] {escape(one.reason)}", highlight=False, soft_wrap=True)
        output.errors.print(f"{len(rejected)} rows are rejected, nothing was sent: correct the file and send it again")
    raise typer.Exit(1)


def send_one(client: Admin, message: Any, command_id: str | None, *, json_wanted: bool) -> None:
    """Book one command and print its answer; exit code 1 where it is refused.

    Raises `Failed` where the id was used for something else before.
    """
    order = Order(command_id or new_command_id(), message)
    answer = (earlier_answer(client, order) if command_id else None) or book(client, [order])[0]
    if json_wanted:
        told = {"id": order.command_id, "state": "booked" if answer.booked else "refused", "text": answer.text}
        output.as_json(told)
    elif answer.booked:
        output.console.print(f"[green]booked[/] {escape(answer.text)} [dim]{order.command_id}[/]", highlight=False)
    else:
        output.errors.print(f"[red]refused:[/] {escape(answer.text)}", highlight=False, soft_wrap=True)
    if not answer.booked:
        raise typer.Exit(1)


def send_many(client: Admin, *groups: Sequence[tuple[int, Order]], json_wanted: bool) -> None:
    """Book the commands of a file, group after group, with progress; refused lines are named, exit code 1 then."""
    from rich.progress import Progress

    orders = [entry for group in groups for entry in group]
    answers: list[Answer] = []
    with Progress(console=output.errors, transient=True) as bar:
        task = bar.add_task("booking", total=len(orders))
        for group in groups:
            answers += book(client, [order for _, order in group], partial(bar.advance, task))
    refused = [(line, answer.text) for (line, _), answer in zip(orders, answers, strict=True) if not answer.booked]
    booked = len(answers) - len(refused)
    if json_wanted:
        output.as_json({"booked": booked, "refused": [{"line": line, "reason": reason} for line, reason in refused]})
    else:
        for line, reason in refused:
            output.errors.print(f"[red]line {line} refused:[/] {escape(reason)}", highlight=False, soft_wrap=True)
        output.console.print(f"{booked} booked, {len(refused)} refused")
    if refused:
        raise typer.Exit(1)


def read_file(path: Path) -> bytes:
    """The bytes of a file. Raises `Failed`."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise Failed(f"{path} cannot be read: {error.strerror}") from None


@app.command()
def put(
    sku: str,
    name: Annotated[str, typer.Option(help="What people call it.")],
    component: Annotated[list[str] | None, typer.Option(help="SKU:QUANTITY; makes it a kit.")] = None,
    gtin: Annotated[str | None, typer.Option(help="EAN or other GTIN.")] = None,
    unit: Annotated[str, typer.Option(help="Unit of measure.")] = "un",
    weight_g: Annotated[int | None, typer.Option(help="Weight in grams.")] = None,
    tax_class: Annotated[str | None, typer.Option(help="NCM code in Brazil.")] = None,
    active: Annotated[bool, typer.Option(help="Whether it is for sale.")] = True,
    command_id: CommandId = None,
    tenant: Tenant = DEFAULT_TENANT,
    instance: Instance = None,
    json_wanted: Json = False,
) -> None:
    """Create or change an item; the whole item is given."""
    try:
        components = parse_components(" ".join(component or []))
    except ValueError as error:
        raise Failed(str(error)) from None
    message = made(
        PutItem,
        sku=sku,
        name=name,
        active=active,
        unit=unit,
        gtin=gtin,
        weight_g=weight_g,
        tax_class=tax_class,
        components=components,
    )
    with admin(tenant, instance) as client:
        send_one(client, message, command_id, json_wanted=json_wanted)


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="CSV: sku, name, components, ... in UTF-8.")],
    tenant: Tenant = DEFAULT_TENANT,
    instance: Instance = None,
    json_wanted: Json = False,
) -> None:
    """Import items from a CSV file. The whole file is judged first; sending it again goes on where it stopped."""
    raw = read_file(file)
    with admin(tenant, instance) as client:
        known = [item["sku"] for item in all_items(client) if not item.get("components")]
        parsed = parse_items(raw, known=known)
        if parsed.rejected:
            print_rejected(parsed.rejected, json_wanted=json_wanted)
        groups: tuple[list[tuple[int, Order]], list[tuple[int, Order]]] = ([], [])
        for line, message in parsed.rows:
            # Kits follow when their components are booked.
            order = Order(derived_command_id("item", tenant, message.model_dump_json()), message)
            groups[bool(message.components)].append((line, order))
        send_many(client, *groups, json_wanted=json_wanted)


@app.command("list")
def list_(tenant: Tenant = DEFAULT_TENANT, instance: Instance = None, json_wanted: Json = False) -> None:
    """All items."""
    with admin(tenant, instance) as client:
        output.listing(
            all_items(client),
            ("sku", "name", "active", "gtin", "components"),
            json_wanted=json_wanted,
            empty="no items: `saldo item put` or `saldo item import`",
        )


@locations.command("add")
def add_location(
    location: str,
    name: Annotated[str | None, typer.Option(help="What people call it.")] = None,
    held_by: Annotated[str | None, typer.Option(help="Id of the connection that holds this stock itself.")] = None,
    priority: Annotated[int, typer.Option(help="Reservations draw on the lowest number first.")] = 100,
    command_id: CommandId = None,
    tenant: Tenant = DEFAULT_TENANT,
    instance: Instance = None,
    json_wanted: Json = False,
) -> None:
    """Create or change a location."""
    message = made(PutLocation, location=location, name=name or location, held_by=held_by, priority=priority)
    with admin(tenant, instance) as client:
        send_one(client, message, command_id, json_wanted=json_wanted)


@locations.command("list")
def list_locations(tenant: Tenant = DEFAULT_TENANT, instance: Instance = None, json_wanted: Json = False) -> None:
    """All locations."""
    with admin(tenant, instance) as client:
        output.listing(
            client.get("inventory", "locations")["locations"],
            ("location", "name", "priority", "held_by"),
            json_wanted=json_wanted,
            empty="no locations: `saldo location add`",
        )
