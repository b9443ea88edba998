"""What a person has to look at: one open row per matter, however often it comes up."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias

import asyncpg

Database: TypeAlias = "asyncpg.pool.PoolConnectionProxy[asyncpg.Record] | asyncpg.Connection[asyncpg.Record]"


@dataclass(frozen=True, slots=True)
class Alert:
    """A matter for a person. `subject` identifies it within its kind; `text` says what is wrong and what to do."""

    tenant: str
    connection_id: str
    kind: str
    subject: str
    text: str
    urgent: bool = False


async def raise_alerts(connection: Database, alerts: Sequence[Alert], now: datetime) -> None:
    """Open an alert for each matter, or count it once more where it is open already."""
    distinct = {(alert.tenant, alert.connection_id, alert.kind, alert.subject): alert for alert in alerts}
    rows = [distinct[key] for key in sorted(distinct)]
    if not rows:
        return
    await connection.execute(
        """
        INSERT INTO alerts (tenant, connection_id, kind, subject, text, urgent, first_at, last_at)
        SELECT *, $7, $7 FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bool[])
        ON CONFLICT (tenant, connection_id, kind, subject) WHERE resolved_at IS NULL
        DO UPDATE SET count = alerts.count + 1, last_at = excluded.last_at, text = excluded.text
        """,
        [alert.tenant for alert in rows],
        [alert.connection_id for alert in rows],
        [alert.kind for alert in rows],
        [alert.subject for alert in rows],
        [alert.text for alert in rows],
        [alert.urgent for alert in rows],
        now,
    )


async def resolve_alerts(
    connection: Database, connection_id: str, kind: str, subjects: Sequence[str], now: datetime
) -> None:
    """Close the open alerts of one kind about these subjects."""
    await connection.execute(
        """
        UPDATE alerts SET resolved_at = $4
        WHERE connection_id = $1 AND kind = $2 AND subject = ANY($3::text[]) AND resolved_at IS NULL
        """,
        connection_id,
        kind,
        subjects,
        now,
    )


async def open_alerts(connection: Database, tenant: str | None, limit: int) -> list[dict[str, Any]]:
    """Open alerts, urgent and newest first."""
    rows = await connection.fetch(
        """
        SELECT alert_id, tenant, connection_id, kind, subject, text, urgent, count, first_at, last_at FROM alerts
        WHERE resolved_at IS NULL AND ($1::text IS NULL OR tenant = $1) ORDER BY urgent DESC, last_at DESC LIMIT $2
        """,
        tenant,
        limit,
    )
    return [dict(row) for row in rows]
