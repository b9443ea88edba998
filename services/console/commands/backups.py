"""`saldo backup`, `saldo restore`: all databases of a local instance at one point, and the way back."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import asyncpg
import typer

from deploy.local import backup as backups
from deploy.local import stack
from deploy.local.files import keep_secrets
from deploy.local.ports import kept_ports
from deploy.local.postgres import SUPERUSER, Postgres
from services.bus.announce import REPUBLISH
from services.console import instance as instances
from services.console import output
from services.console.options import DEFAULT_TENANT, Failed, Instance, Json, Tenant

EVER = datetime(2000, 1, 1, tzinfo=UTC)
EPOCHS = ("UPDATE skus SET epoch = epoch + 1", "UPDATE items SET epoch = epoch + 1")
"""In inventory's database: versions begin again where the backup stood, and who has seen later ones must take them."""


def register(root: typer.Typer) -> None:
    """Add the commands to the root."""
    for command in (backup, restore):
        root.command()(command)


def backup(
    folder: Annotated[Path, typer.Argument(help="A new folder. It will hold secrets: keep it as you keep those.")],
    tenant: Tenant = DEFAULT_TENANT,
    instance: Instance = None,
    json_wanted: Json = False,
) -> None:
    """Copy all databases of a running instance, as of one moment, while everything goes on."""
    del tenant  # The databases hold every company.
    try:
        with output.errors.status("copying all databases"):
            backups.take(instances.folder(instance or "up"), folder)
    except backups.BackupError as error:
        raise Failed(str(error)) from None
    if json_wanted:
        output.as_json({"folder": str(folder)})
    else:
        output.console.print(f"all databases are in {folder}: `saldo restore {folder}` brings them back")


def restore(
    folder: Annotated[Path, typer.Argument(help="What `saldo backup` wrote.")],
    replace: Annotated[bool, typer.Option("--replace", help="The instance's present data may go.")] = False,
    tenant: Tenant = DEFAULT_TENANT,
    instance: Instance = None,
    json_wanted: Json = False,
) -> None:
    """Bring the databases of a stopped instance back to a backup; `saldo up --empty` then starts it.

    The log of messages begins empty; everything that was kept of what the services had sent goes out again under the
    ids it had, so that what was on its way arrives, and every state is announced.
    """
    del tenant
    place = instances.make_folder(instance or "up")
    if not replace and (Postgres(place / "postgres", 0, "").data / "PG_VERSION").exists():
        raise Failed(f"{place} has data: say --replace to throw it away, or name another --instance")
    try:
        with output.errors.status("bringing the databases back"):
            backups.put_back(place, folder)
            # Servers alone: no service may say a word before what it had said goes out again.
            with stack.start_attached(stack.Stack(place, services=(), sandboxes=())):
                sent = asyncio.run(resynchronise(place))
    except backups.BackupError as error:
        raise Failed(str(error)) from None
    if json_wanted:
        output.as_json({"instance": str(place), "sent_again": sent})
    else:
        rows = [{"service": name, "sent_again": count} for name, count in sent.items()]
        output.table(rows, ("service", "sent_again"))
        output.console.print("start it with `saldo up --empty`, then look with `saldo verify`")


async def resynchronise(place: Path) -> dict[str, int]:
    """Let every service say again what it had said, and raise the epoch of states; the messages by service.

    In the old order, before what was not sent yet: a consumer that had not heard the first of two hears them in order.
    """
    password = keep_secrets(place, ("postgres",))["postgres"]
    postgres = Postgres(place / "postgres", kept_ports(place)["postgres"], password)
    sent = {}
    admin = await asyncpg.connect(postgres.admin_dsn, timeout=30)
    try:
        there = {row[0] for row in await admin.fetch("SELECT datname FROM pg_database")}
    finally:
        await admin.close()
    for name in sorted(there & set(instances.SERVICES)):
        connection = await asyncpg.connect(postgres.dsn(name, SUPERUSER, password), timeout=30)
        try:
            if not await connection.fetchval("SELECT to_regclass('outbox_sent')"):
                continue  # Its service has not begun yet.
            async with connection.transaction():
                sent[name] = int(await connection.fetchval(REPUBLISH, EVER, None, timeout=600))
                await connection.execute("UPDATE announcements SET tenant = NULL, cursor = '', pages = 0")
                for statement in EPOCHS if name == "inventory" else ():
                    await connection.execute(statement, timeout=600)
        finally:
            await connection.close()
    return sent
