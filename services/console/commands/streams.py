"""`saldo announce`, `republish`, `topics`, `migrate`: streams and databases as a whole."""

import asyncio
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from contracts.catalogue import CATALOGUE, StreamKind
from deploy.local.supervisor import PROJECT
from services.console import instance as instances
from services.console import output
from services.console.options import DEFAULT_TENANT, Failed, Instance, Json, Tenant, admin, utc


def register(root: typer.Typer) -> None:
    """Add the commands to the root."""
    for command in (announce, republish, topics, migrate):
        root.command()(command)


def announce(
    stream: Annotated[str, typer.Argument(help="A state stream, such as inventory.levels.v1.")],
    every: Annotated[bool, typer.Option("--all-tenants", help="Of every company.")] = False,
    tenant: Tenant = DEFAULT_TENANT,
    instance: Instance = None,
    json_wanted: Json = False,
) -> None:
    """Have the owner publish every state of a stream again; readers compare versions."""
    known = CATALOGUE.streams.get(stream)
    states = ", ".join(sorted(one.name for one in CATALOGUE.streams.values() if one.kind is StreamKind.STATE))
    if known is None or known.kind is not StreamKind.STATE:
        raise Failed(f"{stream} is not a state stream; these are: {states}")
    with admin(tenant, instance) as client:
        told = client.post(known.owner, "announce", stream=stream, tenant=None if every else tenant)
        if json_wanted:
            output.as_json(told)
        else:
            output.console.print(f"{known.owner} announces {stream}")


def republish(
    service: Annotated[str, typer.Argument(help="inventory, orders or channels.")],
    since: Annotated[datetime, typer.Option(help="Everything sent from this moment on.")],
    stream: Annotated[str | None, typer.Option(help="Only this stream.")] = None,
    tenant: Tenant = DEFAULT_TENANT,
    instance: Instance = None,
    json_wanted: Json = False,
) -> None:
    """Send again what a service has sent, under the same event ids: consumers that have seen them do nothing."""
    with admin(tenant, instance) as client:
        told = client.post(service, "republish", since=utc(since).isoformat(), stream=stream)
        if json_wanted:
            output.as_json(told)
        else:
            output.fields(told)


def topics(
    create: Annotated[bool, typer.Option("--create", help="Create what is missing and put settings right.")] = False,
    tenant: Tenant = DEFAULT_TENANT,
    instance: Instance = None,
    json_wanted: Json = False,
) -> None:
    """The topics of the catalogue, and whether the broker has them. Every company shares them; keys keep them apart."""
    del tenant
    kafka = instances.find(instance).kafka
    there = asyncio.run(_existing(kafka, create=create))
    rows = [
        {
            "topic": stream.name,
            "owner": stream.owner,
            "kind": stream.kind.value,
            "partitions": stream.partitions,
            "retention_h": stream.retention_h,
            "personal": stream.personal,
            "exists": stream.name in there,
        }
        for stream in CATALOGUE.streams.values()
    ]
    columns = ("topic", "owner", "kind", "partitions", "retention_h", "personal", "exists")
    output.listing(rows, columns, json_wanted=json_wanted)


async def _existing(kafka: str, *, create: bool) -> set[str]:
    from aiokafka.admin import AIOKafkaAdminClient
    from aiokafka.errors import KafkaError

    from services.runtime.topics import ensure_topics

    admin_client = AIOKafkaAdminClient(bootstrap_servers=kafka)
    try:
        if create:
            await ensure_topics(kafka, CATALOGUE)
        await admin_client.start()
        return set(await admin_client.list_topics())
    except KafkaError as error:
        raise Failed(f"Kafka does not answer at {kafka} ({type(error).__name__}): see `saldo status`") from None
    finally:
        await admin_client.close()


def migrate(
    service: Annotated[str | None, typer.Option(help="Only this service's database.")] = None,
    tenant: Tenant = DEFAULT_TENANT,
    instance: Instance = None,
    json_wanted: Json = False,
) -> None:
    """Bring the services' databases up to date. Every company shares them."""
    import asyncpg

    from services.runtime.migrate import MigrationRefused
    from services.runtime.migrate import migrate as migrate_database

    del tenant
    dsns = instances.find(instance).dsns
    names = [service] if service else sorted(dsns)
    rows = []
    for name in names:
        if name not in dsns:
            raise Failed(f"the database of {name} is not known: set SALDO_{name.upper()}_DSN")
        try:
            applied = asyncio.run(migrate_database(dsns[name], name, migrations_of(name)))
        except (MigrationRefused, OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise Failed(f"{name}: {error}") from error
        rows.append({"service": name, "applied": applied})
    if json_wanted:
        output.as_json(rows)
    else:
        for row in rows:
            output.console.print(f"{row['service']}: {', '.join(row['applied']) or 'up to date'}")


def migrations_of(service: str) -> Path:
    """The folder of a service's migrations, in the checkout or in the installed package."""
    return PROJECT / "services" / service / "migrations"
