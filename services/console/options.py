"""Options that many commands share, and the way from them to a running Saldo."""

import re
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from contracts.envelope import is_tenant
from services.console import given
from services.console import instance as instances
from services.console.client import Admin

DEFAULT_TENANT = "demo"
_COMMAND_ID = re.compile(r"[A-Za-z0-9._:-]{1,100}")


class Failed(Exception):
    """A command could not do what it was asked; the text says why and what to do."""


def _tenant(value: str) -> str:
    if not is_tenant(value):
        raise typer.BadParameter("a tenant is 1 to 32 characters of a-z, 0-9 and -")
    return value


def _command_id(value: str | None) -> str | None:
    if value is not None and not _COMMAND_ID.fullmatch(value):
        raise typer.BadParameter("an id is 1 to 100 letters, digits and . _ : -")
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
    str | None,
    typer.Option("--id", callback=_command_id, help="The id of an earlier try: what it booked is not booked again."),
]


def admin(tenant: str, instance: str | None) -> Admin:
    """The admin listeners of the instance in use. Raises `NotRunning`."""
    return Admin(instances.find(instance), tenant)


def made(model: type[given.M], **values: Any) -> given.M:
    """A message of what a person gave. Raises `Failed` naming each value that is wrong."""
    try:
        return given.make(model, **values)
    except ValueError as error:
        raise Failed(str(error)) from None


def utc(moment: datetime) -> datetime:
    """A moment that a person typed; without an offset it is meant in this machine's own time. Raises `Failed`."""
    try:
        return moment.astimezone(UTC)
    except (OverflowError, OSError, ValueError):
        raise Failed(f"{moment} is no moment that this machine can place in UTC: give one nearer to now") from None
