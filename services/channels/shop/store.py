"""Rows of baskets and of the keys under which they were changed. The connection comes first."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, final

import asyncpg
from pydantic import TypeAdapter

from services.bus import array
from services.channels.alerts import Database
from services.channels.shop.domain import Basket

_basket: Final = TypeAdapter(Basket)
_SELECT: Final = "SELECT basket, token FROM shop_baskets "


@final
@dataclass(slots=True)
class Kept:
    """A basket as it is kept, with the token, sealed for payments, of a try to pay that orders has not told of."""

    basket: Basket
    token: bytes | None = None


def _kept(row: asyncpg.Record) -> Kept:
    return Kept(_basket.validate_json(row["basket"]), row["token"])


async def lock(connection: Database, order_ids: Sequence[str], basket_ids: Sequence[str] = ()) -> dict[str, Kept]:
    """Lock baskets by order or by their own id; returns them by order."""
    rows = await connection.fetch(
        _SELECT + "WHERE order_id = ANY($1::text::text[]) OR basket_id = ANY($2::text::text[])"
        " ORDER BY order_id FOR UPDATE",
        array(order_ids),
        array(basket_ids),
    )
    found = [_kept(row) for row in rows]
    return {kept.basket.order_id: kept for kept in found}


async def by_basket(connection: Database, connection_id: str, basket_id: str) -> Basket | None:
    """A basket of a shop."""
    row = await connection.fetchrow(_SELECT + "WHERE basket_id = $1 AND connection_id = $2", basket_id, connection_id)
    return _kept(row).basket if row else None


async def by_external_id(connection: Database, connection_id: str, external_id: str) -> Basket | None:
    """The basket that a shop knows by this number."""
    row = await connection.fetchrow(
        _SELECT + "WHERE connection_id = $1 AND external_id = $2", connection_id, external_id
    )
    return _kept(row).basket if row else None


async def by_order(connection: Database, order_id: str) -> Basket | None:
    """The basket of an order."""
    row = await connection.fetchrow(_SELECT + "WHERE order_id = $1", order_id)
    return _kept(row).basket if row else None


async def save(connection: Database, rows: Sequence[Kept], now: datetime) -> None:
    """Write new and changed baskets."""
    await connection.executemany(
        """
        INSERT INTO shop_baskets (order_id, tenant, connection_id, basket_id, external_id, state, change, basket, token,
            created_at, changed_at, ended_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8::jsonb, $9, $10, $11, $12)
        ON CONFLICT (order_id) DO UPDATE SET state = excluded.state, change = excluded.change,
            basket = excluded.basket, token = excluded.token, changed_at = excluded.changed_at,
            ended_at = excluded.ended_at
        """,
        [
            (
                one.basket.order_id, one.basket.tenant, one.basket.connection_id, one.basket.basket_id,
                one.basket.external_id, one.basket.state.value, one.basket.change,
                _basket.dump_json(one.basket).decode(), one.token, one.basket.created_at, now,
                one.basket.ended_at,
            )
            for one in rows
        ],
    )  # fmt: skip


async def forget(connection: Database, before: datetime, limit: int) -> int:
    """Delete baskets whose orders ended before a moment, the oldest first; returns how many."""
    status = await connection.execute(
        "DELETE FROM shop_baskets WHERE order_id IN (SELECT order_id FROM shop_baskets WHERE ended_at < $1"
        " ORDER BY ended_at LIMIT $2 FOR UPDATE SKIP LOCKED)",
        before,
        limit,
    )
    return int(status.rpartition(" ")[2])


@final
@dataclass(frozen=True, slots=True)
class Key:
    """What was done under an idempotency key: the body's fingerprint and the order it was about."""

    connection_id: str
    key: str
    digest: bytes
    order_id: str


async def keys(connection: Database, wanted: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Key]:
    """Keys that were used before, by (connection, key)."""
    rows = await connection.fetch(
        """
        SELECT k.connection_id, k.key, k.digest, k.order_id FROM shop_keys k
        JOIN unnest($1::text::text[], $2::text::text[]) AS w (connection_id, key) USING (connection_id, key)
        """,
        array([connection_id for connection_id, _ in wanted]),
        array([key for _, key in wanted]),
    )
    return {(row["connection_id"], row["key"]): Key(**row) for row in rows}


async def keep_keys(connection: Database, used: Sequence[Key], now: datetime) -> None:
    """Remember what was done under these keys."""
    await connection.executemany(
        "INSERT INTO shop_keys (connection_id, key, digest, order_id, at) VALUES ($1, $2, $3, $4, $5)",
        [(one.connection_id, one.key, one.digest, one.order_id, now) for one in used],
    )
