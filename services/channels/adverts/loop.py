"""Reads the adverts of connections whose import is due, lot by lot.

What a lot brought is kept together with the note of it, so that after a kill, or a channel that asked to wait, only the
rest is asked for: channels that are asked for each advert by itself are told which are there (`Connector.listings`).
"""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import structlog

from services.border.vault import SealBroken
from services.bus.failures import waited
from services.channels.adverts import store
from services.channels.adverts.store import Import
from services.channels.connections import lifecycle
from services.channels.connections import store as connection_store
from services.channels.connections.lifecycle import Refused
from services.channels.connections.registry import open_session
from services.channels.connections.store import Connection
from services.channels.connectors import CONNECTORS
from services.channels.connectors.connector import Rejected, Session, Throttled
from services.channels.intake.context import Intake
from services.channels.linking import found_row, keep_listings
from services.channels.stock.listings import ListingRow

if TYPE_CHECKING:
    from services.runtime import Service

LEASE: Final = timedelta(seconds=60)
"""Renewed with each lot, which takes seconds; so long after a kill somebody else goes on."""
TRIES_MAX: Final = 5
"""So often in a row nothing comes before a person has to look."""
_LOT: Final = 100
_LOT_AGE: Final = timedelta(seconds=2)
_LOOK_S: Final = 2.0

_log = structlog.get_logger(__name__)


class _Overtaken(Exception):
    """Another process has the claim."""


async def import_loop(service: "Service", intake: Intake) -> None:
    """Work at imports that are due, several at once, until cancelled."""
    async with asyncio.TaskGroup() as working:
        while True:
            async with service.pool.acquire() as database:
                job = await store.claim(database, service.clock(), LEASE)
            if job is not None:
                working.create_task(run(service, intake, job), name=f"import {job.connection_id}")
            elif await waited(intake.importing, _LOOK_S):
                intake.importing.clear()


async def run(service: "Service", intake: Intake, job: Import) -> None:
    """Go on with an import until it is done, put off, or found to be of no use."""
    error = ""
    try:
        await _read(service, intake, job)
    except _Overtaken:
        return
    except Throttled as later:
        error = f"the channel cannot be asked now ({later or type(later).__name__})"
        if await _put_off(service, job, later.retry_after_s, error) < TRIES_MAX:
            return
    except asyncio.CancelledError:
        await _put_off(service, job, 0.0, "")
        raise
    except (Rejected, ValueError, SealBroken, Refused) as failure:
        error = str(failure)
    if error:
        _log.error("an import of adverts failed", connection=job.connection_id, error=error)
    async with service.transaction() as tx:
        await store.finish(tx.connection, job, error, tx.now)


async def _put_off(service: "Service", job: Import, pause_s: float, error: str) -> int:
    now = service.clock()
    async with service.pool.acquire() as database:
        return await store.put_off(database, job, now + timedelta(seconds=pause_s), error, now)


async def _read(service: "Service", intake: Intake, job: Import) -> None:
    async with service.pool.acquire() as database:
        connection = await connection_store.find(database, job.connection_id, job.tenant)
        assert connection is not None, "an import's connection is a foreign key"
        done = await store.kept(database, job.connection_id)
    session = await session_of(service, intake, connection)
    rows: list[ListingRow] = []
    begun_at = service.clock()
    try:
        async for advert in CONNECTORS[connection.connector].listings(session, done):
            if advert.listing in done:
                continue
            done.add(advert.listing)
            rows.append(found_row(advert))
            if len(rows) >= _LOT or service.clock() - begun_at >= _LOT_AGE:
                await _keep(service, intake, job, connection, rows)
                rows, begun_at = [], service.clock()
    except (Throttled, Rejected):
        # What came before it came.
        await _keep(service, intake, job, connection, rows)
        raise
    finally:
        await session.http.aclose()
    await _keep(service, intake, job, connection, rows)


async def _keep(
    service: "Service", intake: Intake, job: Import, connection: Connection, rows: Sequence[ListingRow]
) -> None:
    if not rows:
        return
    async with service.transaction() as tx:
        linked = await keep_listings(tx, connection, rows)
        if not await store.note(tx.connection, job, [row.listing for row in rows], linked, tx.now, LEASE):
            raise _Overtaken
    intake.stock.dirtied()


async def session_of(service: "Service", intake: Intake, connection: Connection) -> Session:
    """A way to an account, live or not; the caller closes `session.http`. Raises `SealBroken`, `Refused`."""
    async with service.pool.acquire() as database:
        sealed = await connection_store.sealed_credentials(database, [connection.connection_id])
    credentials = lifecycle.open_credentials(intake.vault, connection, sealed[connection.connection_id])
    return open_session(connection, credentials, service.pool, intake.vault)
