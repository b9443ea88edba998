"""What waits in an outbox, record by record."""

from typing import Any, NamedTuple

from services.bus.outbox import unpack


class Waiting(NamedTuple):
    """One record of the outbox."""

    topic: str
    key: str
    headers: dict[str, str]
    payload: bytes


async def waiting(connection: Any, topic: str | None = None, table: str = "outbox") -> list[Waiting]:
    """The records of the outbox behind a connection or pool, in order of their rows; of one topic, if given."""
    rows = await connection.fetch(
        f"SELECT topic, records FROM {table} WHERE $1::text IS NULL OR topic = $1 ORDER BY seq", topic
    )
    return [
        Waiting(row["topic"], key.decode(), {name: value.decode() for name, value in headers}, payload)
        for row in rows
        for key, headers, payload in unpack(row["records"])
    ]
