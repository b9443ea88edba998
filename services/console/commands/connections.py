"""`saldo connection`: who sells where, and in which state."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer
from rich.markup import escape

from services.console import output, pages
from services.console.client import Admin
from services.console.options import DEFAULT_TENANT, Failed, Instance, Json, Tenant, admin

app = typer.Typer(help="Connections to marketplaces and shops.", no_args_is_help=True)

COLUMNS = ("connection_id", "connector", "environment", "account", "state", "pool", "base_url")
_TRAITS = {
    "intake": "orders come by",
    "quantity_trait": "numbers written are",
    "reserves_unpaid": "keeps stock for unpaid orders",
    "restores_on_cancel": "counts up again on a cancel",
    "orders_have_version": "orders have a version",
    "compares": "compares before it writes",
    "max_batch": "numbers a call",
    "hook": "a queue that pushes too",
    "url_secret": "the push address is the secret",
    "reports": "hears of",
    "contact_allowed": "lets us write to its buyers",
    "local": "in our own database",
}
"""What traits are called for people, where their name alone says too little."""

Which = Annotated[str, typer.Argument(help="A connection's id, its account, or connector/account.")]


def listed(client: Admin) -> list[dict[str, Any]]:
    """The tenant's connections."""
    return list(client.get("channels", "connections")["connections"])


def find(client: Admin, which: str) -> dict[str, Any]:
    """One connection by id, account or connector/account. Raises `Failed` naming what there is."""
    known = listed(client)
    found = [
        one for one in known if which in (one["connection_id"], one["account"], f"{one['connector']}/{one['account']}")
    ]
    if len(found) == 1:
        return found[0]
    names = ", ".join(f"{one['connector']}/{one['account']}" for one in found or known) or "none"
    if found:
        raise Failed(f"{which} is more than one connection: say which of {names}")
    raise Failed(f"no connection {which} of tenant {client.tenant}; there are: {names}")


def pairs(given: Sequence[str], what: str) -> dict[str, str]:
    """`name=value` options as a dictionary. Raises `Failed`."""
    values = {}
    for one in given:
        name, separator, value = one.partition("=")
        if not separator or not name:
            raise Failed(f"{what} {one} must be name=value")
        values[name] = value
    return values


def read_credentials(source: str | None) -> Mapping[str, str]:
    """Credentials from a JSON file, `-` for standard input: never from the command line, which everybody can list."""
    if source is None:
        return {}
    try:
        told = json.loads(sys.stdin.read() if source == "-" else Path(source).read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise Failed(f"--credentials {source} cannot be read as JSON ({type(error).__name__})") from None
    if not isinstance(told, dict) or not all(isinstance(value, str) for value in told.values()):
        raise Failed(f"--credentials {source} must be a JSON object of names and texts")
    return told


def check_url(text: str) -> None:
    """Raises `Failed` unless `text` is an address of HTTP; of what may be a password nothing is repeated."""
    try:
        parts = urlsplit(text)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # Brackets without an end, or a port that is none.
        fits = False
    if not fits:
        raise Failed(f"--base-url {_without_user(text)} must be http(s)://host[:port][/path]")


def _without_user(text: str) -> str:
    """An address without what stands before its @, which may be a password."""
    scheme, separator, rest = text.rpartition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"


@app.command()
def add(
    connector: Annotated[
        str, typer.Argument(help="shopify, skyhub, mercadolivre, vtex, shop, or one that is installed beside them.")
    ],
    account: Annotated[str, typer.Argument(help="The shop's name at the channel.")],
    base_url: Annotated[str, typer.Option(help="Where its API is: the marketplace, a sandbox, a test double.")],
    credentials: Annotated[
        str | None, typer.Option(help="A JSON file of the channel's credentials, - for standard input.")
    ] = None,
    environment: Annotated[str, typer.Option(help="sandbox, test or production.")] = "sandbox",
    setting: Annotated[list[str] | None, typer.Option(help="A setting of the connector, name=value.")] = None,
    pool: Annotated[str, typer.Option(help="The pool that its sales draw on.")] = "shared",
    tenant: Tenant = DEFAULT_TENANT,
    instance: Instance = None,
    json_wanted: Json = False,
) -> None:
    """Add a connection as a draft; adding the same again changes it and doubles nothing.

    Credentials, by kind:

    - shopify: access_token, webhook_secret; during a rotation also webhook_secret_previous

    - skyhub: user_email, api_key, accountmanager_key

    - mercadolivre: client_id, client_secret, user_id, refresh_token

    - vtex: app_key, app_token

    - shop: none; `saldo shop key` tells the key that is drawn for it

    A setting says which stock is written, as --setting store=NAME: location (shopify), store (skyhub), store_id
    (mercadolivre), warehouse_id (vtex). `validate` says what is missing and names those there are.
    """
    check_url(base_url)
    body = {
        "connector": connector,
        "environment": environment,
        "account": account,
        "base_url": base_url,
        "credentials": read_credentials(credentials),
        "settings": pairs(setting or [], "--setting"),
        "pool": pool,
    }
    with admin(tenant, instance) as client:
        _print_one(client.post("channels", "connections", body), json_wanted)


@app.command("list")
def list_(tenant: Tenant = DEFAULT_TENANT, instance: Instance = None, json_wanted: Json = False) -> None:
    """All connections of the company."""
    with admin(tenant, instance) as client:
        output.listing(listed(client), COLUMNS, json_wanted=json_wanted, empty="no connections: `saldo connection add`")


@app.command()
def show(
    connection: Which, tenant: Tenant = DEFAULT_TENANT, instance: Instance = None, json_wanted: Json = False
) -> None:
    """One connection with its traits, limits and figures."""
    with admin(tenant, instance) as client:
        found = find(client, connection)
        _print_one(client.get("channels", f"connections/{found['connection_id']}"), json_wanted)


@app.command()
def door(
    connection: Which, tenant: Tenant = DEFAULT_TENANT, instance: Instance = None, json_wanted: Json = False
) -> None:
    """The address that a marketplace pushes to, for one that takes it by hand: a secret.

    Mercado Livre signs nothing, so its address holds the secret: it goes into the application's notifications there.
    Others are told it by `enable`.
    """
    with admin(tenant, instance) as client:
        found = find(client, connection)
        _print_one(client.get("channels", f"connections/{found['connection_id']}/door"), json_wanted)


@app.command()
def validate(
    connection: Which, tenant: Tenant = DEFAULT_TENANT, instance: Instance = None, json_wanted: Json = False
) -> None:
    """Ask the channel whether everything is right; a draft becomes validated."""
    _do("validate", connection, tenant, instance, json_wanted=json_wanted)


@app.command()
def enable(
    connection: Which, tenant: Tenant = DEFAULT_TENANT, instance: Instance = None, json_wanted: Json = False
) -> None:
    """Go live: take in sales and push stock. Says why where it is refused."""
    _do("enable", connection, tenant, instance, json_wanted=json_wanted)


@app.command()
def pause(
    connection: Which, tenant: Tenant = DEFAULT_TENANT, instance: Instance = None, json_wanted: Json = False
) -> None:
    """Stop pushing and taking in; what comes meanwhile is kept."""
    _do("pause", connection, tenant, instance, json_wanted=json_wanted)


def _do(verb: str, connection: str, tenant: str, instance: str | None, *, json_wanted: bool) -> None:
    with admin(tenant, instance) as client:
        found = find(client, connection)
        told = client.post("channels", f"connections/{found['connection_id']}/{verb}")
        problems = told.get("problems") or []
        if problems and not json_wanted:
            for problem in problems:
                output.errors.print(f"[red]-[/] {escape(problem)}", highlight=False, soft_wrap=True)
        else:
            _print_one(told, json_wanted)
        if problems:
            raise typer.Exit(1)


def _print_one(told: Any, json_wanted: bool) -> None:
    if json_wanted:
        output.as_json(told)
    elif "account" in told:
        _show(told)
    else:
        output.fields(told)


def _show(told: dict[str, Any]) -> None:
    traits = dict(told.get("traits") or {})
    limits = traits.pop("limits", {})
    head = pages.facts(
        {
            "state": pages.state(told["state"]),
            "connection id": told["connection_id"],
            "environment": told["environment"],
            "category": told.get("category"),
            "base URL": told["base_url"],
            "pool": told["pool"],
            "added": pages.at(told.get("created_at")),
            "validated": pages.at(told.get("validated_at")),
        }
    )
    paces = [(name, f"{one['rate_per_s']:g} a second", f"{one['burst']:g} at once") for name, one in limits.items()]
    pages.show(
        output.console,
        f"connection {told['connector']}/{told['account']}",
        head,
        {
            "Settings": pages.facts(told["settings"]) if told.get("settings") else None,
            "How this kind of channel behaves": pages.facts(
                {_TRAITS.get(name, name.replace("_", " ")): _trait(value) for name, value in traits.items()}
            )
            if traits
            else None,
            "Its pace, where no setting says another": pages.rows(("calls", "rate", "burst"), paces),
        },
    )


def _trait(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
