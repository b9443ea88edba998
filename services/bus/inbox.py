"""The statements by which a record takes effect once, waits, or becomes a dead letter. Connection first."""

import contextlib
from collections.abc import Collection, Sequence
from hashlib import sha256
from itertools import groupby
from operator import itemgetter
from typing import Any, Final

import asyncpg

from services.bus.arrays import array
from services.bus.record import KEY_LIMIT, Incoming, pack
from services.bus.sealing import Seal
from services.bus.transaction import Transaction

_LOCK: Final = "SELECT key FROM parked_keys WHERE consumer = $1 AND key = ANY($2::text::text[]) ORDER BY key FOR SHARE"
_INBOX: Final = ("day", "consumer", "source", "id")
_CLAIM: Final = """
INSERT INTO inbox (day, consumer, source, id)
SELECT $2, $1, $3, id FROM unnest($4::text::text[]) AS t (id) ON CONFLICT DO NOTHING RETURNING id
"""
_PARK: Final = """
INSERT INTO parked (consumer, key, source, id, stream, partition, "offset", record, correlation_id)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) ON CONFLICT (consumer, source, id) DO NOTHING
"""
_DEAD_LETTER: Final = """
INSERT INTO dead_letters (id, consumer, stream, partition, "offset", key, aggregate, event_id, type, tenant, error,
                          traceparent, correlation_id, record)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
ON CONFLICT (consumer, stream, partition, "offset", event_id) DO NOTHING RETURNING id
"""


async def locked_keys(connection: Any, consumer: str, batch: Sequence[Incoming]) -> Collection[str]:
    """The parked ones among the aggregates of `batch`, locked against being freed before the records are put there."""
    keys = sorted({event.aggregate for event in batch if event.aggregate})
    return {row[0] for row in await connection.fetch(_LOCK, consumer, array(keys))} if keys else ()


async def park(connection: Any, consumer: str, events: Sequence[Incoming], seal: Seal) -> None:
    """Put records behind their parked keys, in order, without inbox rows; a redelivered one waits already."""
    await connection.executemany(
        _PARK,
        [
            (
                consumer, event.aggregate, *event.parked_as, event.record.topic, event.record.partition,
                event.record.offset, seal.sealed(event.record.topic, pack(event.record)), correlation_id(event),
            )
            for event in events
        ],
    )  # fmt: skip


async def claim(connection: Any, consumer: str, events: Sequence[Incoming]) -> list[Incoming]:
    """Those of `events` that have not taken effect yet, each once, in order; their inbox rows are written.

    Sorted by key, so that two members with one partition (a rebalance) wait for each other instead of deadlocking.
    """
    first = {event.identity: event for event in reversed(events)}
    identities = sorted(identity for identity in first if identity)
    if not identities:
        return []
    if len(identities) == len(events):
        # Nearly always all of them are new. Saying so beforehand halves what a row costs; if it is wrong, ask below.
        rows = [(day, consumer, source, id_) for day, source, id_ in identities]
        with contextlib.suppress(asyncpg.UniqueViolationError):
            async with connection.transaction():
                await connection.copy_records_to_table("inbox", records=rows, columns=_INBOX)
            return list(events)
    claimed = set()
    for (day, source), group in groupby(identities, key=itemgetter(0, 1)):
        ids = array([id_ for _, _, id_ in group])
        claimed |= {(day, source, row[0]) for row in await connection.fetch(_CLAIM, consumer, day, source, ids)}
    return [event for event in events if event.identity in claimed and first[event.identity] is event]


async def dead_letter(tx: Transaction, consumer: str, event: Incoming, error: str, seal: Seal) -> bool:
    """Write the dead letter of a record; False if this very record has one already."""
    headers, record, packed = event.headers, event.record, pack(event.record)
    event_id = headers.get("ce_id", "")
    if not event_id or "\x00" in event_id or len(event_id) > KEY_LIMIT:
        event_id = f"sha256:{sha256(packed).hexdigest()}"
    inserted = await tx.connection.fetchval(
        _DEAD_LETTER, tx.new_id(), consumer, record.topic, record.partition, record.offset, _text(event.key),
        event.aggregate, event_id, _text(headers.get("ce_type")), _text(headers.get("ce_tenant")), _text(error),
        _text(headers.get("traceparent")) or "", correlation_id(event), seal.sealed(record.topic, packed),
    )  # fmt: skip
    return inserted is not None


async def park_key(connection: Any, consumer: str, key: str) -> bool:
    """Park an aggregate; False if it is parked already (waits for one who is about to)."""
    statement = "INSERT INTO parked_keys (consumer, key) VALUES ($1, $2) ON CONFLICT DO NOTHING RETURNING true"
    return bool(await connection.fetchval(statement, consumer, key))


def correlation_id(event: Incoming) -> str:
    """The flow of a record, as far as its headers can be read."""
    return _text(event.headers.get("ce_correlationid")) or ""


def _text(value: str | None) -> str | None:
    """PostgreSQL's text has no NUL, a header may."""
    return value.replace("\x00", "\\0")[:500] if value else value
