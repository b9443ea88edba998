"""`saldo parcel`, `saldo rate`, `saldo mapping`, `saldo carrier`: the packing table, and what parcels are sent by."""

import json
import os
import re
from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from contracts.fulfillment.v1 import TrackingStatus
from services.console import output, pages
from services.console.client import Admin, AdminError
from services.console.commands.connections import find
from services.console.commands.items import print_rejected, read_file
from services.console.commands.orders import find_order
from services.console.files import parse_rates, whole_number
from services.console.options import DEFAULT_TENANT, CommandId, Failed, Instance, Json, Tenant, admin, utc
from services.console.pages import at
from services.console.people import new_command_id

app = typer.Typer(help="Parcels: from the shelf to the door and back.", no_args_is_help=True)
rates = typer.Typer(help="The company's own rates.", no_args_is_help=True)
mappings = typer.Typer(help="What channels call carriers and services, in our words.", no_args_is_help=True)
carriers = typer.Typer(help="Accounts at carriers.", no_args_is_help=True)

_ID = re.compile(r":s[0-9]+$")
_SIZE = re.compile(r"([0-9]{1,6})x([0-9]{1,6})x([0-9]{1,6})")

Parcel = Annotated[
    str, typer.Argument(help="The parcel: <order id>:s<number>, or the number of an order that has only this one.")
]
At = Annotated[datetime | None, typer.Option(help="When; now by default.")]


class Format(StrEnum):
    """What a label is printed as."""

    pdf = "pdf"
    zpl = "zpl"


class Kind(StrEnum):
    """What a name is a name of."""

    carrier = "carrier"
    service = "service"


@app.command("list")
def list_(
    state: Annotated[str | None, typer.Option(help="Only those in this state, as packed.")] = None,
    tenant: Tenant = DEFAULT_TENANT,
    instance: Instance = None,
    json_wanted: Json = False,
) -> None:
    """All parcels, and what each waits for; `--state to_pick` is the pick list."""
    with admin(tenant, instance) as client:
        pages = client.pages("fulfillment", "parcels", "parcels", after="", state=state)
        rows = [row for page in pages for row in page]
    if not json_wanted:
        for row in rows:
            row["lines"] = ", ".join(f"{line['quantity']} × {line['sku']}" for line in row["lines"])
    columns = ("shipment_id", "state", "waits_for", "location", "lines", "carrier", "service", "tracking_code")
    output.listing(rows, columns, json_wanted=json_wanted, empty="no parcels")


@app.command()
def show(parcel: Parcel, tenant: Tenant = DEFAULT_TENANT, instance: Instance = None, json_wanted: Json = False) -> None:
    """One parcel."""
    with admin(tenant, instance) as client:
        _print(client.get("fulfillment", _path(client, parcel)), json_wanted)


@app.command()
def pick(parcel: Parcel, tenant: Tenant = DEFAULT_TENANT, instance: Instance = None, json_wanted: Json = False) -> None:
    """The goods are taken from the shelf."""
    _step(parcel, "pick", {}, tenant, instance, json_wanted=json_wanted)


@app.command()
def pack(
    parcel: Parcel,
    weight_g: Annotated[int | None, typer.Option(help="Grams, packed; as its items weigh by default.")] = None,
    size_mm: Annotated[str | None, typer.Option(help="Length, width, height in millimetres, as 200x150x100.")] = None,
    tenant: Tenant = DEFAULT_TENANT,
    instance: Instance = None,
    json_wanted: Json = False,
) -> None:
    """The goods are in a parcel; its label is bought as soon as nothing else is missing."""
    body: dict[str, Any] = {}
    if weight_g is not None or size_mm is not None:
        size = _SIZE.fullmatch(size_mm or "")
        if weight_g is None or size is None:
            raise Failed("give both --weight-g and --size-mm, as 200x150x100, or neither")
        body = {"weight_g": weight_g, "dimensions_mm": [int(side) for side in size.groups()]}
    _step(parcel, "pack", body, tenant, instance, json_wanted=json_wanted)


@app.command()
def label(
    parcel: Parcel,
    file: Annotated[Path, typer.Argument(help="A new file, for its owner's eyes alone.")],
    form: Annotated[Format, typer.Option("--format", help="For a page printer or a Zebra.")] = Format.pdf,
    tenant: Tenant = DEFAULT_TENANT,
    instance: Instance = None,
) -> None:
    """Write the label to a file, for the printer."""
    with admin(tenant, instance) as client:
        content = client.content("fulfillment", f"{_path(client, parcel)}/label", format=form.value)
    try:
        # Never over another file, nor readable by others, from the first byte on.
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise Failed(f"{file} cannot be written ({error.strerror}): name a new file") from None
    with os.fdopen(descriptor, "wb") as out:
        out.write(content)
    output.console.print(f"the label of {parcel} is in {file}", markup=False)


@app.command()
def retry(
    parcel: Parcel, tenant: Tenant = DEFAULT_TENANT, instance: Instance = None, json_wanted: Json = False
) -> None:
    """Ask for a label again that a carrier refused, once the reason is put right."""
    _step(parcel, "label", {}, tenant, instance, json_wanted=json_wanted)


@app.command()
def dispatch(
    parcel: Parcel,
    at: At = None,
    tenant: Tenant = DEFAULT_TENANT,
    instance: Instance = None,
    json_wanted: Json = False,
) -> None:
    """The parcel was handed over: its units have left."""
    _step(parcel, "dispatch", _moment("at", at), tenant, instance, json_wanted=json_wanted)


@app.command()
def event(
    parcel: Parcel,
    status: Annotated[TrackingStatus, typer.Argument(help="Where the carrier says that the parcel is.")],
    at: At = None,
    tenant: Tenant = DEFAULT_TENANT,
    instance: Instance = None,
    json_wanted: Json = False,
) -> None:
    """Tell where a parcel is whose carrier tells nothing itself."""
    body = {"status": status.value} | _moment("happened_at", at)
    _step(parcel, "event", body, tenant, instance, json_wanted=json_wanted)


@app.command("return")
def return_(
    parcel: Parcel,
    available: Annotated[list[str] | None, typer.Option(help="LINE:UNITS that can be sold again.")] = None,
    damaged: Annotated[list[str] | None, typer.Option(help="LINE:UNITS that cannot.")] = None,
    location: Annotated[str | None, typer.Option(help="Where they lie now; where they left from by default.")] = None,
    at: At = None,
    return_id: CommandId = None,
    tenant: Tenant = DEFAULT_TENANT,
    instance: Instance = None,
    json_wanted: Json = False,
) -> None:
    """Goods came back and were looked at. With the id of an earlier return it replaces what was said of that one."""
    if not available and not damaged:
        raise Failed("say what came back: --available LINE:UNITS, --damaged LINE:UNITS")
    return_id = return_id or new_command_id()
    with admin(tenant, instance) as client:
        sent = client.get("fulfillment", _path(client, parcel))
        skus = {line["line_id"]: line["sku"] for line in sent["lines"]}
        place = location or sent["location"]
        lines = [*_lines(available, skus, place, "available"), *_lines(damaged, skus, place, "damaged")]
        body = {"return_id": return_id, "lines": lines} | _moment("received_at", at)
        try:
            told = client.post("fulfillment", f"{_path(client, parcel)}/return", body)
        except AdminError as error:
            if error.status:
                raise
            raise Failed(f"{error}; whether it was booked is not known: try again with --id {return_id}") from None
    _print(told, json_wanted)


@app.command()
def origin(
    location: str,
    name: Annotated[str, typer.Option(help="Who sends, as the label shows it.")],
    street: Annotated[str, typer.Option(help="Street.")],
    house: Annotated[str, typer.Option(help="Number in the street.")],
    city: Annotated[str, typer.Option(help="City.")],
    region: Annotated[str, typer.Option(help="State, as SP.")],
    postal_code: Annotated[str, typer.Option(help="Postcode, as 01001-000.")],
    district: Annotated[str, typer.Option(help="District.")] = "",
    complement: Annotated[str, typer.Option(help="Floor, hall, gate.")] = "",
    tenant: Tenant = DEFAULT_TENANT,
    instance: Instance = None,
) -> None:
    """Say where a location is: parcels leave from there, and those that waited for it go."""
    place = {
        "name": name, "street": street, "house": house, "complement": complement, "district": district, "city": city,
        "region": region, "postal_code": postal_code,
    }  # fmt: skip
    with admin(tenant, instance) as client:
        told = client.put("fulfillment", f"origins/{quote(location, safe='')}", place)
    output.console.print(f"{location} is kept; {told['released']} parcels go on", markup=False)


@rates.command("import")
def import_rates(
    file: Annotated[
        Path,
        typer.Argument(help="CSV: carrier, service, from_code, to_code, up_to_g, price, currency, days_min, days_max."),
    ],
    tenant: Tenant = DEFAULT_TENANT,
    instance: Instance = None,
    json_wanted: Json = False,
) -> None:
    """Put the rates of a file in the place of all that its services had: the whole file or nothing of it."""
    parsed = parse_rates(read_file(file))
    if parsed.rejected:
        print_rejected(parsed.rejected, json_wanted=json_wanted)
    with admin(tenant, instance) as client:
        told = client.put("fulfillment", "rates", [row for _, row in parsed.rows])
    if json_wanted:
        output.as_json(told)
    else:
        output.console.print(f"{told['rates']} rates are kept; {told['released']} parcels go on")


@rates.command("list")
def list_rates(tenant: Tenant = DEFAULT_TENANT, instance: Instance = None, json_wanted: Json = False) -> None:
    """The company's own rates."""
    with admin(tenant, instance) as client:
        rows = client.get("fulfillment", "rates")["rates"]
    columns = (
        "carrier", "service", "from_code", "to_code", "up_to_g", "price_minor", "currency", "days_min", "days_max",
    )  # fmt: skip
    output.listing(rows, columns, json_wanted=json_wanted, empty="no rates: `saldo rate import`")


@mappings.command("add")
def add_mapping(
    kind: Kind,
    given: Annotated[str, typer.Argument(help="What the channel calls it, as Correios.")],
    ours: Annotated[str, typer.Argument(help="What we call it, as ECT.")],
    connection: Annotated[str | None, typer.Option(help="Only for this connection; for all by default.")] = None,
    tenant: Tenant = DEFAULT_TENANT,
    instance: Instance = None,
) -> None:
    """Say what a name means; the parcels that waited for it go on."""
    with admin(tenant, instance) as client:
        body = {"kind": kind.value, "given": given, "ours": ours}
        if connection is not None:
            body["connection_id"] = find(client, connection)["connection_id"]
        told = client.post("fulfillment", "mappings", body)
    output.console.print(f"{given} is {ours}; {told['released']} parcels go on", markup=False)


@mappings.command("list")
def list_mappings(tenant: Tenant = DEFAULT_TENANT, instance: Instance = None, json_wanted: Json = False) -> None:
    """What names mean; what every company starts with comes first."""
    with admin(tenant, instance) as client:
        rows = client.get("fulfillment", "mappings")["mappings"]
    output.listing(rows, ("kind", "given", "ours", "connection_id"), json_wanted=json_wanted)


@carriers.command("add")
def add_carrier(
    file: Annotated[
        Path, typer.Argument(help="JSON: carrier, environment (sandbox, production), base_url, settings, credentials.")
    ],
    tenant: Tenant = DEFAULT_TENANT,
    instance: Instance = None,
    json_wanted: Json = False,
) -> None:
    """Keep an account at a carrier, read from a file, because what is typed is kept in histories."""
    try:
        account = json.loads(read_file(file))
    except ValueError:
        raise Failed(f"{file} is no JSON in UTF-8") from None
    with admin(tenant, instance) as client:
        told = client.put("fulfillment", "carriers", account)
    if json_wanted:
        output.as_json(told)
    else:
        output.fields(told, title="account; give its door to the carrier for webhooks")


@carriers.command("list")
def list_carriers(tenant: Tenant = DEFAULT_TENANT, instance: Instance = None, json_wanted: Json = False) -> None:
    """The company's accounts at carriers, without what is secret."""
    with admin(tenant, instance) as client:
        rows = client.get("fulfillment", "carriers")["carriers"]
    columns = ("account_id", "carrier", "environment", "base_url", "state")
    output.listing(rows, columns, json_wanted=json_wanted, empty="no accounts: `saldo carrier add`")


def find_parcel(client: Admin, parcel: str) -> str:
    """A parcel's id: as it is given, or that of an order's only parcel. Raises `Failed` naming what there is."""
    if _ID.search(parcel):
        return parcel
    ids = [str(one["shipment_id"]) for one in find_order(client, parcel, None).get("parcels", ())]
    if len(ids) == 1:
        return ids[0]
    if not ids:
        raise Failed(f"order {parcel} has no parcel yet: `saldo order show` says what it waits for")
    raise Failed(f"order {parcel} has several parcels: say which of {', '.join(ids)}")


def _path(client: Admin, parcel: str) -> str:
    return f"parcels/{quote(find_parcel(client, parcel), safe='')}"


def _moment(name: str, at: datetime | None) -> dict[str, str]:
    return {} if at is None else {name: utc(at).isoformat()}


def _step(
    parcel: str, step: str, body: dict[str, Any], tenant: str, instance: str | None, *, json_wanted: bool
) -> None:
    with admin(tenant, instance) as client:
        _print(client.post("fulfillment", f"{_path(client, parcel)}/{step}", body), json_wanted)


def _lines(given: Sequence[str] | None, skus: dict[str, str], location: str, state: str) -> list[dict[str, Any]]:
    lines = []
    for one in given or ():
        line_id, _, units = one.rpartition(":")
        if line_id not in skus:
            raise Failed(f"{one} is no LINE:UNITS of this parcel: its lines are {', '.join(skus)}")
        try:
            quantity = whole_number(units, "UNITS")
        except ValueError as error:
            raise Failed(f"{one}: {error}") from None
        lines.append(
            {"line_id": line_id, "sku": skus[line_id], "quantity": quantity, "location": location, "state": state}
        )
    return lines


def _print(told: dict[str, Any], json_wanted: bool) -> None:
    if json_wanted:
        output.as_json(told)
        return
    scan = told.get("tracked")
    size = " × ".join(map(str, told.get("dimensions_mm") or ()))
    head = pages.facts(
        {
            "state": pages.state(told["state"], f"waits for {told['waits_for']}" if told["waits_for"] else ""),
            "from": told["location"],
            "carrier": " ".join(filter(None, (told["carrier"], told["service"]))),
            "asked for": " ".join(filter(None, (told.get("asked_carrier"), told.get("asked_service")))),
            "tracking code": told["tracking_code"],
            "tracking page": told.get("tracking_url"),
            "last scan": scan and f"{scan['status'].replace('_', ' ')}, {at(scan['happened_at'])}",
            "weight": f"{told['weight_g']} g" if told.get("weight_g") else "",
            "size": f"{size} mm" if size else "",
            "to leave by": at(told.get("ship_by")),
            "left": at(told.get("dispatched_at")),
            "delivered": at(told.get("delivered_at")),
            "came back": ", ".join(told.get("returns") or ()),
            "NF-e": told.get("invoice_key"),
            "order id": told.get("order_id"),
        }
    )
    lines = [(line["line_id"], line["sku"], line["quantity"]) for line in told["lines"]]
    listed = pages.rows(("line", "SKU", "units"), lines)
    pages.show(output.console, f"parcel {told['shipment_id']}", head, {"Lines": listed})
