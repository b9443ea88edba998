"""Which running Saldo a command talks to: a local instance's folder, or addresses from the environment."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.local import parts, stack
from deploy.local.supervisor import PROJECT

SERVICES = tuple(parts.SERVICES)
_ADMIN_URL = re.compile(r"SALDO_ADMIN_([A-Z][A-Z0-9_]*)_URL")


class NotRunning(Exception):
    """Nothing answers for this instance; the text says how to start it."""


class CannotKeep(Exception):
    """An instance's folder cannot be made; the text says which."""


def var() -> Path:
    """The folder of all local instances: `SALDO_VAR`, else `var` of the checkout, else of the current folder."""
    if given := os.environ.get("SALDO_VAR"):
        return Path(given)
    return (PROJECT if (PROJECT / "pyproject.toml").exists() else Path.cwd()) / "var"


@dataclass(frozen=True, slots=True)
class Address:
    """An HTTP listener and the bearer token that it wants."""

    base_url: str
    token: str


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where the parts of a running Saldo are. `spans` is the folder of the span files, if they are kept locally."""

    kafka: str
    admin: Mapping[str, Address]
    sandboxes: Mapping[str, Address]
    verify_dsns: Mapping[str, str]
    dsns: Mapping[str, str]
    webhooks: str
    spans: Path | None


def read_endpoints(told: Mapping[str, Any], folder: Path) -> Endpoints:
    """The endpoints as a local instance's state tells them."""
    return Endpoints(
        kafka=told["kafka"]["bootstrap_servers"],
        admin={name: Address(one["base_url"], one["token"]) for name, one in told["admin"].items()},
        sandboxes={name: Address(one["base_url"], one["control_token"]) for name, one in told["sandboxes"].items()},
        verify_dsns={name: one["verify_dsn"] for name, one in told["databases"].items()},
        dsns={name: one["dsn"] for name, one in told["databases"].items()},
        webhooks=told["webhooks"]["base_url"],
        spans=folder / "spans",
    )


def from_environment(environ: Mapping[str, str]) -> Endpoints | None:
    """Endpoints of servers started by other means, or None where `SALDO_ADMIN_<SERVICE>_URL` is set for no service.

    Any service can be named so, those too that the local stack does not start.
    `SALDO_ADMIN_TOKEN`, `KAFKA_BOOTSTRAP_SERVERS`, `SALDO_VERIFY_<SERVICE>_DSN`, `SALDO_<SERVICE>_DSN`,
    `SALDO_SANDBOX_<MARKETPLACE>_URL`, `SALDO_SANDBOX_TOKEN` and `SALDO_SPANS_FOLDER` say the rest.
    """
    token = environ.get("SALDO_ADMIN_TOKEN", "")
    admin = {
        named[1].lower(): Address(url.rstrip("/"), token)
        for variable, url in environ.items()
        if url and (named := _ADMIN_URL.fullmatch(variable))
    }
    if not admin:
        return None
    control_token = environ.get("SALDO_SANDBOX_TOKEN", "")
    sandboxes = {
        name: Address(environ[variable].rstrip("/"), control_token)
        for name in parts.SANDBOXES
        if environ.get(variable := f"SALDO_SANDBOX_{name.upper()}_URL")
    }
    spans = environ.get("SALDO_SPANS_FOLDER")
    return Endpoints(
        kafka=environ.get("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:9092"),
        admin=admin,
        sandboxes=sandboxes,
        verify_dsns=_by_service(environ, "SALDO_VERIFY_{}_DSN"),
        dsns=_by_service(environ, "SALDO_{}_DSN"),
        webhooks=environ.get("SALDO_DOOR_URL", ""),
        spans=Path(spans) if spans else None,
    )


def _by_service(environ: Mapping[str, str], pattern: str) -> dict[str, str]:
    named = {name: environ.get(pattern.format(name.upper()), "") for name in SERVICES}
    return {name: value for name, value in named.items() if value}


def folder(instance: str) -> Path:
    """The folder of an instance named on the command line: a name below `var`, or a path."""
    return Path(instance) if os.sep in instance else var() / instance


def make_folder(instance: str) -> Path:
    """The folder of an instance, made where it is not there yet. Raises `CannotKeep`."""
    at = folder(instance)
    try:
        at.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CannotKeep(f"{at} cannot be made ({error.strerror}): name another folder with --instance") from None
    return at


def find(instance: str | None) -> Endpoints:
    """The endpoints to use: the named instance's, else the environment's, else the first that runs of `up` and `demo`.

    Raises `NotRunning`.
    """
    if instance is None and (given := from_environment(os.environ)):
        return given
    names = [instance] if instance else ["up", "demo"]
    for name in names:
        at = folder(name)
        state = stack.status(at)
        if state.get("running") and state.get("endpoints"):
            return read_endpoints(state["endpoints"], at)
    raise NotRunning(
        f"no Saldo is running in {' or '.join(str(folder(name)) for name in names)}: start it with `saldo up`, or set "
        "SALDO_ADMIN_INVENTORY_URL, SALDO_ADMIN_ORDERS_URL, SALDO_ADMIN_CHANNELS_URL and SALDO_ADMIN_TOKEN"
    )
