"""Rows by the million: what was written of one thing is written again under other names, by PostgreSQL itself.

Nothing here says what a row looks like: all tables are searched for rows that name the thing, and each is copied with
other ids and an earlier time. So a copy is what its owner writes today, whatever its tables come to be.
"""

from collections.abc import Collection, Mapping
from datetime import datetime

import asyncpg

Connection = asyncpg.Connection

_TABLES = """
SELECT format('%I', relname) AS name, array_agg(attname::text ORDER BY attnum) AS columns,
       array_agg(format_type(atttypid, NULL) ORDER BY attnum) AS types
FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid
WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition
AND attnum > 0 AND NOT attisdropped AND attgenerated = '' AND attidentity = ''
GROUP BY relname ORDER BY relname
"""
_AS_TEXT = {
    "text": ("{}", "{}"),
    "uuid": ("{}::text", "({})::uuid"),
    "bytea": ("convert_from({}, 'UTF8')", "convert_to({}, 'UTF8')"),
}
"""How a column of a type that may hold an id is read as text, and text as it."""


def uuid7(salt: str, now: datetime) -> str:
    """SQL of an id as a UUID of version 7 made `ago` before `now`: the same for the same n, salt and now, anywhere."""
    made = f"lpad(to_hex(({now.timestamp()} * 1000 - extract(epoch FROM ago) * 1000)::bigint), 12, '0')"
    drawn = f"md5(n || '{salt}')"
    return (
        f"substr({made}, 1, 8) || '-' || substr({made}, 9, 4) || '-7' || substr({drawn}, 1, 3)"
        f" || '-8' || substr({drawn}, 4, 3) || '-' || substr({drawn}, 7, 12)"
    )


async def multiply(
    connection: Connection,
    keys: Collection[str],
    names: Mapping[str, str],
    count: int,
    *,
    ago: str = "interval '0'",
    own: Mapping[str, str] | None = None,
) -> dict[str, int]:
    """Copy every row in which one of `keys` stands `count` times, numbered n from 0; returns rows written by table.

    `names` has for each name in those rows the SQL of its copy's, over `n` and `ago`; `ago`, over `n`, is how much
    older a copy is in all its times. `own` has the SQL of columns ("table.column") that are neither, over the row `t`
    and `new` with n. A name must not be one that a copy has.
    """
    values = "".join(f", {expression} AS name_{number}" for number, expression in enumerate(names.values()))
    await connection.execute("DROP TABLE IF EXISTS new")
    await connection.execute(
        f"CREATE TEMP TABLE new AS SELECT n, ago{values}"
        f" FROM (SELECT n, {ago} AS ago FROM generate_series(0, {count - 1}) AS n) AS numbered"
    )
    written = {}
    for table in await connection.fetch(_TABLES):
        name = table["name"]
        found = "EXISTS (SELECT FROM unnest($1::text[]) AS key WHERE strpos(t::text, key) > 0)"
        rows = await connection.fetch(f"SELECT * FROM {name} AS t WHERE {found}", list(keys))
        if not rows:
            continue
        columns = [
            (own or {}).get(f"{name}.{column}") or _copied(column, kind, [row[column] for row in rows], names)
            for column, kind in zip(table["columns"], table["types"], strict=True)
        ]
        listed = ", ".join(f'"{column}"' for column in table["columns"])
        status = await connection.execute(
            f"INSERT INTO {name} ({listed}) SELECT {', '.join(columns)} FROM {name} AS t CROSS JOIN new WHERE {found}",
            list(keys),
        )
        written[name] = int(status.rpartition(" ")[2])
    return written


def _copied(column: str, kind: str, values: Collection[object], names: Mapping[str, str]) -> str:
    """SQL of a column of a copy: other names for those that stand in one of `values`."""
    held = f't."{column}"'
    if kind == "timestamp with time zone":
        return f"{held} - new.ago"
    if kind not in _AS_TEXT:
        return held
    texts = [value.decode() if isinstance(value, bytes) else str(value) for value in values]
    read, write = _AS_TEXT[kind]
    copied = expression = read.format(held)
    for number, name in enumerate(names):
        if any(name in text for text in texts):
            expression = f"replace({expression}, '{name}', new.name_{number})"
    return held if expression == copied else write.format(expression)
