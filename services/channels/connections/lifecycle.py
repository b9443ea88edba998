"""The life of a connection: draft → validated → live → paused, each step refused with its reason."""

import math
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from urllib.parse import SplitResult, urlsplit

from contracts.channels.v1 import ConnectionChanged, ConnectionState
from contracts.envelope import is_tenant
from services.border.vault import SealBroken, Vault
from services.bus import Cause, Transaction
from services.channels import ids
from services.channels.connections import store, tokens
from services.channels.connections.store import Connection
from services.channels.connectors import CONNECTORS
from services.channels.connectors.connector import Limit, Refreshes, Traits

ENVIRONMENTS = ("sandbox", "test", "production")
_TEXT_MAX = 200
_CREDENTIAL_MAX = 4_000


class Refused(Exception):
    """What was asked of a connection is not done; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class NewConnection:
    """What a person gives to add a connection. `credentials` and `settings` are named by the connector's traits."""

    tenant: str
    connector: str
    environment: str
    account: str
    base_url: str
    credentials: Mapping[str, str]
    settings: Mapping[str, str]
    category: str = "marketplace"
    pool: str = "shared"


def check_new(new: NewConnection) -> None:
    """Raises `Refused` naming the first field that cannot be taken."""
    if not is_tenant(new.tenant):
        raise Refused("tenant must match [a-z0-9-]{1,32}")
    connector = CONNECTORS.get(new.connector)
    if connector is None:
        raise Refused(f"no connector is named {new.connector}: choose one of {', '.join(sorted(CONNECTORS))}")
    if new.environment not in ENVIRONMENTS:
        raise Refused(f"environment must be one of {', '.join(ENVIRONMENTS)}")
    if not new.account or not _fits(new.account):
        raise Refused("account must be 1 to 200 characters: the shop's name at the channel")
    for name, text in {"category": new.category, "pool": new.pool}.items():
        if not 1 <= len(text) <= 64 or not text.isprintable():
            raise Refused(f"{name} must be 1 to 64 printable characters")
    url = _address(new.base_url)
    if url is None:
        raise Refused("base_url must be http(s)://host[:port][/path], without user, query or fragment")
    if url.scheme != "https" and new.environment != "sandbox":
        raise Refused("base_url must be https in every environment but sandbox")
    traits = connector.traits
    if missing := [field for field in traits.credentials if not new.credentials.get(field)]:
        raise Refused(f"credentials are missing: {', '.join(missing)}")
    allowed = {*traits.credentials, *traits.credentials_optional, *traits.credentials_drawn}
    if unknown := sorted(set(new.credentials) - allowed):
        raise Refused(f"credentials not known to {new.connector}: {', '.join(unknown)}")
    # They travel in headers, where a line break would begin another one. The text itself is never repeated.
    if unfit := [field for field, text in new.credentials.items() if not _fits(text, _CREDENTIAL_MAX)]:
        raise Refused(f"credentials hold unprintable characters or are too long: {', '.join(unfit)}")
    _check_settings(traits, new.settings)


def _fits(text: str, limit: int = _TEXT_MAX) -> bool:
    """What a table and a header can hold: PostgreSQL has no NUL, UTF-8 no lone surrogate."""
    return len(text) <= limit and text.isprintable()


def _address(text: str) -> SplitResult | None:
    """The parts of a base URL; None where it is none."""
    try:
        url = urlsplit(text)
        sound = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:  # Brackets without an end, or a port that is none.
        return None
    foreign = url.username is not None or url.query or url.fragment or " " in text or not _fits(text)
    return url if sound and not foreign else None


def _check_settings(traits: Traits, settings: Mapping[str, str]) -> None:
    known = {*traits.settings, *(f"limit.{endpoint}" for endpoint in traits.limits)}
    if unknown := sorted(set(settings) - known):
        names = ", ".join(sorted(known))
        raise Refused(f"settings not known to {traits.connector}: {', '.join(unknown)}; it knows {names}")
    if unfit := sorted(name for name, text in settings.items() if not _fits(text)):
        raise Refused(f"settings must be at most {_TEXT_MAX} printable characters: {', '.join(unfit)}")
    hours = settings.get("unpaid_deadline_h", "0")
    if not hours.isdecimal() or len(hours) > 4:
        raise Refused("setting unpaid_deadline_h must be a whole number of hours below 10000, 0 for no deadline")
    days = settings.get("transit_days", "0")
    if not days.isdecimal() or len(days) > 2:
        raise Refused("setting transit_days must be a whole number of days below 100")
    poll_interval_s(traits, settings)
    spacing_ms(traits, settings)
    limits_of(traits, settings)


def poll_interval_s(traits: Traits, settings: Mapping[str, str]) -> float:
    """Seconds between two polls, as the setting of that name says where the connector has it.

    Raises `Refused` where it is no number from 0.05 (a queue) or 1 (what looks for lost pushes) to 3600.
    """
    least = 0.05 if traits.intake == "queue" else 1
    return _number(settings, "poll_interval_s", traits.poll_interval_s, (least, 3600))


def spacing_ms(traits: Traits, settings: Mapping[str, str]) -> float:
    """The least milliseconds between two writes of one record that the channel wants, or the setting of that name.

    Raises `Refused` where it is no number from 0 to 60000.
    """
    return _number(settings, "spacing_ms", traits.spacing_ms, (0, 60_000))


def _number(settings: Mapping[str, str], name: str, default: float, bounds: tuple[float, float]) -> float:
    least, most = bounds
    try:
        number = float(settings.get(name) or default)
    except ValueError:
        number = math.nan
    if not least <= number <= most:
        raise Refused(f"setting {name} must be a number from {least:g} to {most:g}")
    return number


def limits_of(traits: Traits, settings: Mapping[str, str]) -> dict[str, Limit]:
    """The documented limits, each replaced by the setting `limit.<endpoint>` = `<rate per s>/<burst>` where given.

    Raises `Refused` where such a setting is no pair of numbers above zero.
    """
    limits = dict(traits.limits)
    for endpoint in traits.limits:
        if text := settings.get(f"limit.{endpoint}"):
            try:
                rate, burst = (float(part) for part in text.split("/"))
            except ValueError:
                rate = burst = 0.0
            if not all(math.isfinite(number) and number > 0 for number in (rate, burst)):
                raise Refused(f"setting limit.{endpoint} must be <rate per s>/<burst>, such as 2/40")
            limits[endpoint] = Limit(rate, burst)
    return limits


def seal_credentials(vault: Vault, tenant: str, connection_id: str, values: Mapping[str, str]) -> dict[str, bytes]:
    """Each credential sealed in its place."""
    return {
        field: vault.seal(value.encode(), tenant=tenant, owner=connection_id, field=f"credential:{field}")
        for field, value in values.items()
        if value
    }


def open_credentials(vault: Vault, connection: Connection, sealed: Mapping[str, bytes]) -> dict[str, str]:
    """The credentials of a connection. Raises `SealBroken`."""
    return {
        field: vault.open(
            blob, tenant=connection.tenant, owner=connection.connection_id, field=f"credential:{field}"
        ).decode()
        for field, blob in sealed.items()
    }


async def add(tx: Transaction, vault: Vault, new: NewConnection) -> Connection:
    """Add a connection, or change the one of the same tenant, connector, environment and account.

    Another address or other credentials send it back to draft; adding the same again changes nothing.
    """
    check_new(new)
    connection_id = ids.connection_id(new.tenant, new.connector, new.environment, new.account)
    fresh = Connection(
        connection_id=connection_id,
        tenant=new.tenant,
        connector=new.connector,
        environment=new.environment,
        account=new.account,
        category=new.category,
        base_url=new.base_url.rstrip("/"),
        pool=new.pool,
        settings=dict(new.settings),
        state=ConnectionState.DRAFT,
        version=1,
        created_at=tx.now,
        validated_at=None,
    )
    key = vault.seal(secrets.token_bytes(32), tenant=new.tenant, owner="", field="customer key")
    await store.insert_tenant_key(tx.connection, new.tenant, key)
    added = await store.insert(tx.connection, fresh)
    kept = await store.lock(tx.connection, connection_id, new.tenant)
    assert kept is not None
    connector = CONNECTORS[new.connector]
    old = {} if added else await _credentials_of(tx, vault, kept)
    drawn = {field: old.get(field) or secrets.token_urlsafe(24) for field in connector.traits.credentials_drawn}
    credentials = drawn | {field: value for field, value in new.credentials.items() if value}
    same_credentials = credentials == old
    if not added:
        same_place = same_credentials and kept.base_url == fresh.base_url
        fresh = replace(
            fresh,
            state=kept.state if same_place else ConnectionState.DRAFT,
            validated_at=kept.validated_at,
            version=kept.version,
            created_at=kept.created_at,
        )
        if same_credentials and fresh == kept:
            return kept
        fresh = replace(fresh, version=kept.version + 1)
        await store.update(tx.connection, fresh)
    if not same_credentials:
        sealed = seal_credentials(vault, new.tenant, connection_id, credentials)
        await store.replace_credentials(tx.connection, connection_id, sealed)
        if isinstance(connector, Refreshes) and credentials["refresh_token"] != old.get("refresh_token"):
            await tokens.authorised(tx.connection, vault, fresh, credentials["refresh_token"])
    publish(tx, fresh)
    return fresh


async def _credentials_of(tx: Transaction, vault: Vault, kept: Connection) -> dict[str, str]:
    """The credentials kept; none where they do not open."""
    sealed = await store.sealed_credentials(tx.connection, [kept.connection_id])
    try:
        return open_credentials(vault, kept, sealed[kept.connection_id])
    except SealBroken:
        return {}


async def mark_validated(tx: Transaction, connection_id: str, version: int) -> Connection:
    """The channel answered well to this version of the connection: a draft becomes validated."""
    kept = await store.lock(tx.connection, connection_id, None)
    if kept is None or kept.version != version:
        raise Refused("the connection was changed while it was being validated: validate it again")
    state = ConnectionState.VALIDATED if kept.state is ConnectionState.DRAFT else kept.state
    return await _move(tx, kept, state, kept.validated_at or tx.now)


def refusal_to_enable(kept: Connection, owner: str | None) -> str:
    """Why this connection must not go live, or nothing."""
    if kept.environment == "production":
        return (
            "environment production cannot go live yet: onboarding (opening import, dry run, mass-change brake) does "
            "not exist, and without it the first push could empty a running shop; use environment sandbox or test"
        )
    if kept.state is ConnectionState.DRAFT:
        return "the connection is not validated: run `saldo connection validate` first"
    if owner:
        # Without its id: it may be another company's.
        return (
            "another connection owns this account already, and two would undo each other: use that one if "
            "`saldo connection list` shows it; if not, another company has connected the account"
        )
    return ""


async def enable(tx: Transaction, connection_id: str, tenant: str | None) -> Connection:
    """Make a connection live. Raises `Refused` with the reason."""
    kept = await _locked(tx, connection_id, tenant)
    if kept.state is ConnectionState.LIVE:
        return kept
    if reason := refusal_to_enable(kept, await store.owner_of_account(tx.connection, kept)):
        raise Refused(reason)
    return await _move(tx, kept, ConnectionState.LIVE, kept.validated_at)


async def pause(tx: Transaction, connection_id: str, tenant: str | None) -> Connection:
    """Stop pushing and reporting; what the channel sends meanwhile is kept and absorbed when it is live again."""
    kept = await _locked(tx, connection_id, tenant)
    if kept.state is ConnectionState.PAUSED:
        return kept
    if kept.state is not ConnectionState.LIVE:
        raise Refused(f"only a live connection can be paused; this one is {kept.state}")
    return await _move(tx, kept, ConnectionState.PAUSED, kept.validated_at)


async def _locked(tx: Transaction, connection_id: str, tenant: str | None) -> Connection:
    kept = await store.lock(tx.connection, connection_id, tenant)
    if kept is None:
        raise Refused(f"there is no connection {connection_id}: `saldo connection list` shows them")
    return kept


async def _move(tx: Transaction, kept: Connection, state: ConnectionState, validated_at: datetime | None) -> Connection:
    changed = replace(kept, state=state, validated_at=validated_at, version=kept.version + 1)
    await store.update(tx.connection, changed)
    publish(tx, changed)
    return changed


def changed_message(connection: Connection, traits: Traits) -> ConnectionChanged:
    """The connection as others see it."""
    return ConnectionChanged(
        connection_id=connection.connection_id,
        version=connection.version,
        connector=connection.connector,
        environment=connection.environment,
        account=connection.account,
        state=connection.state,
        pool=connection.pool,
        quantity_trait=traits.quantity_trait,
        reserves_unpaid=traits.reserves_unpaid,
        restores_on_cancel=traits.restores_on_cancel,
    )


def publish(tx: Transaction, connection: Connection) -> None:
    """Announce the connection; the caller holds its row's lock."""
    message = changed_message(connection, CONNECTORS[connection.connector].traits)
    tx.publish(
        message,
        tenant=connection.tenant,
        cause=Cause(event_id="", correlation_id=connection.connection_id),
        correlation_id=connection.connection_id,
    )


async def announce_connections(tx: Transaction, tenant: str | None, after: str, limit: int) -> str | None:
    """Announce one page of connections; returns where the next begins, or None after the last."""
    page: Sequence[Connection] = await store.lock_page(tx.connection, tenant, after, limit)
    for connection in page:
        publish(tx, connection)
    return page[-1].connection_id if len(page) == limit else None
