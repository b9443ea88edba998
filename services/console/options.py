"""Options that many commands share, and the way from them to a running Saldo."""

from typing import Annotated

import typer

from contracts.envelope import TENANT_PATTERN
from services.console import instance as instances
from services.console.client import Admin

DEFAULT_TENANT = "demo"


class Failed(Exception):
    """A command could not do what it was asked; the text says why and what to do."""


def _tenant(value: str) -> str:
    if not TENANT_PATTERN.fullmatch(value):
        raise typer.BadParameter("a tenant is 1 to 32 characters of a-z, 0-9 and -")
    return value


Tenant = Annotated[
    str, typer.Option("--tenant", envvar="SALDO_TENANT", callback=_tenant, help="The company it is about.")
]
Instance = Annotated[
    str | None,
    typer.Option(
        "--instance", envvar="SALDO_INSTANCE", help="A local instance: a name below var/ (up, demo), or a folder."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON with every field instead of a table.")]
CommandId = Annotated[
    str | None, typer.Option("--id", help="The id of an earlier try: what it booked is not booked again.")
]


def admin(tenant: str, instance: str | None) -> Admin:
    """The admin listeners of the instance in use. Raises `NotRunning`."""
    return Admin(instances.find(instance), tenant)
