"""`saldo deadletters` and `saldo consumer`: what could not be handled, and what stopped because of it."""

from collections.abc import Callable
from typing import Annotated, Any
from urllib.parse import quote

import typer

from services.console import output
from services.console.client import Admin, AdminError
from services.console.options import DEFAULT_TENANT, Failed, Instance, Json, Tenant, admin

app = typer.Typer(help="Records that could not be handled.", no_args_is_help=True)
consumers = typer.Typer(help="Consumers and their brakes.", no_args_is_help=True)

COLUMNS = ("id", "service", "stream", "aggregate", "type", "state", "error", "attempts", "first_at")
Letter = Annotated[str, typer.Argument(help="The dead letter's id.")]
OfService = Annotated[str | None, typer.Option("--service", help="inventory, orders or channels; all by default.")]
NOT_FOUND = 404


def all_letters(client: Admin, service: str | None = None, state: str | None = "open") -> list[dict[str, Any]]:
    """The dead letters of every service (or one), each with the service that holds it."""
    services = [service] if service else sorted(client.endpoints.admin)
    return [
        {"service": name, **letter}
        for name in services
        for letter in client.get(name, "deadletters", tenant=None, state=state, limit=1000)
        # A record whose envelope cannot be read belongs to nobody yet, so everybody is shown it.
        if letter["tenant"] in (client.tenant, None)
    ]


def _on_holder(client: Admin, service: str | None, call: Callable[[str], Any]) -> dict[str, Any]:
    """Ask the services one after another, until one has the dead letter. `call` gets a service's name."""
    for name in [service] if service else sorted(client.endpoints.admin):
        try:
            return {"service": name, **call(name)}
        except AdminError as error:
            if error.status != NOT_FOUND:
                raise
    raise Failed("no service has this dead letter, or not as an open one: `saldo deadletters list --all` shows them")


def _tell(told: dict[str, Any], json_wanted: bool) -> None:
    if json_wanted:
        output.as_json(told)
    else:
        output.fields(told)


@app.command("list")
def list_(
    service: OfService = None,
    every: Annotated[bool, typer.Option("--all", help="Replayed and discarded ones too.")] = False,
    tenant: Tenant = DEFAULT_TENANT,
    instance: Instance = None,
    json_wanted: Json = False,
) -> None:
    """Dead letters, open ones by default."""
    with admin(tenant, instance) as client:
        rows = all_letters(client, service, None if every else "open")
        output.listing(rows, COLUMNS, json_wanted=json_wanted, empty="no dead letters")


@app.command()
def show(
    letter: Letter,
    service: OfService = None,
    tenant: Tenant = DEFAULT_TENANT,
    instance: Instance = None,
    json_wanted: Json = False,
) -> None:
    """One dead letter with its cause, its payload and what waits behind it."""
    with admin(tenant, instance) as client:
        _tell(
            _on_holder(
                client, service, lambda name: client.get(name, f"deadletters/{quote(letter, safe='')}", payload=1)
            ),
            json_wanted,
        )


@app.command()
def replay(
    letter: Letter,
    service: OfService = None,
    tenant: Tenant = DEFAULT_TENANT,
    instance: Instance = None,
    json_wanted: Json = False,
) -> None:
    """Handle it again; if that succeeds, what waits behind it follows in order."""
    with admin(tenant, instance) as client:
        _tell(
            _on_holder(client, service, lambda name: client.post(name, f"deadletters/{quote(letter, safe='')}/replay")),
            json_wanted,
        )


@app.command()
def discard(
    letter: Letter,
    reason: Annotated[str, typer.Option(help="Why it may be dropped; it is kept.")],
    service: OfService = None,
    tenant: Tenant = DEFAULT_TENANT,
    instance: Instance = None,
    json_wanted: Json = False,
) -> None:
    """Give it up for good; what waits behind it follows in order."""
    with admin(tenant, instance) as client:
        discarded = _on_holder(
            client,
            service,
            lambda name: client.post(name, f"deadletters/{quote(letter, safe='')}/discard", reason=reason),
        )
        _tell(discarded, json_wanted)


@consumers.command("list")
def list_consumers(tenant: Tenant = DEFAULT_TENANT, instance: Instance = None, json_wanted: Json = False) -> None:
    """Every consumer with its lag and whether it is braked."""
    with admin(tenant, instance) as client:
        rows = [
            {"service": name, **one, "behind": sum(one["lag"].values())}
            for name in sorted(client.endpoints.admin)
            for one in client.get(name, "consumers")
        ]
        output.listing(rows, ("service", "stream", "group", "behind", "braked", "reason"), json_wanted=json_wanted)


@consumers.command()
def resume(
    service: Annotated[str, typer.Argument(help="inventory, orders or channels.")],
    stream: Annotated[str, typer.Argument(help="The stream whose consumer stands still.")],
    tenant: Tenant = DEFAULT_TENANT,
    instance: Instance = None,
    json_wanted: Json = False,
) -> None:
    """Release the brake of a consumer that met too much poison."""
    with admin(tenant, instance) as client:
        told = client.post(service, "consumers/resume", stream=stream)
        if json_wanted:
            output.as_json(told)
        else:
            output.console.print(f"{stream} goes on" if told["resumed"] else f"{stream} had no brake on")
