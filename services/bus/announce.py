"""State streams are announced anew once in 24 h and on command; sent events can be published again from copies."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from typing import Final

from services.bus.transaction import Transaction
from services.bus.work import Work

Announcer = Callable[[Transaction, str | None, str, int], Awaitable[str | None]]
"""`(tx, tenant or None for all, cursor, limit)` publishes one page of states and returns the next cursor, or None."""

PAGE: Final = 200
PACE_S: Final = 0.2

_BEGIN: Final = """
UPDATE announcements SET cursor = '', tenant = NULL, pages = 0
WHERE stream = $1 AND cursor IS NULL AND ended_at < now() - interval '24 hours'
"""
REPUBLISH: Final = """
WITH again AS (DELETE FROM outbox_sent WHERE sent_at >= $1 AND ($2::text IS NULL OR topic = $2)
               RETURNING seq, topic, slot, count, records, created_at),
waiting AS (INSERT INTO outbox (seq, topic, slot, personal, count, records, created_at) OVERRIDING SYSTEM VALUE
            SELECT seq, topic, slot, false, count, records, created_at FROM again ON CONFLICT DO NOTHING
            RETURNING count)
SELECT coalesce(sum(count), 0) FROM waiting
"""


async def request(work: Work, stream: str, tenant: str | None) -> None:
    """Ask for an announcement now; one under way starts again. The row outlives a restart."""
    await work.pool.execute(
        "INSERT INTO announcements (stream, tenant, cursor) VALUES ($1, $2, '') "
        "ON CONFLICT (stream) DO UPDATE SET tenant = excluded.tenant, cursor = '', pages = 0",
        stream, tenant,
    )  # fmt: skip


async def announce_due(work: Work, announcers: Mapping[str, Announcer]) -> int:
    """Announce what is due, page by page, paced; returns the pages. One process at a time works on a stream."""
    pages = 0
    for stream, announcer in announcers.items():
        await work.pool.execute("INSERT INTO announcements (stream) VALUES ($1) ON CONFLICT DO NOTHING", stream)
        await work.pool.execute(_BEGIN, stream)
        while await _page(work, stream, announcer):
            pages += 1
            await asyncio.sleep(PACE_S)
    return pages


async def _page(work: Work, stream: str, announcer: Announcer) -> bool:
    async with work.transaction() as tx:
        due = await tx.connection.fetchrow(
            "SELECT tenant, cursor FROM announcements WHERE stream = $1 AND cursor IS NOT NULL FOR UPDATE SKIP LOCKED",
            stream,
        )
        if due is None:
            return False
        cursor = await announcer(tx, due["tenant"], due["cursor"], PAGE)
        await tx.connection.execute(
            "UPDATE announcements SET cursor = $2, pages = pages + 1, ended_at = CASE WHEN $2::text IS NULL THEN now() "
            "ELSE ended_at END WHERE stream = $1",
            stream, cursor,
        )  # fmt: skip
    return True


async def republish(work: Work, since: datetime, stream: str | None) -> int:
    """Send again what was sent since a moment and is still kept, under the same event ids and in the old order.

    Returns the number of records.
    """
    count = await work.pool.fetchval(REPUBLISH, since, stream, timeout=300)
    work.wake_relay()
    return int(count)
