"""The guards of money, each taken away."""

import itertools
from typing import Any

import asyncpg
import pytest

from services.payments import domain
from services.payments.domain import Kind
from tests.guards import both, noticed
from tests.payments import test_charge
from tests.payments.given import PAYMENT, authorize
from tests.payments.till import Till

Connection = asyncpg.Connection
pytestmark = pytest.mark.asyncio


@both
async def test_the_idempotency_key_is_missed(
    connection: Connection, monkeypatch: pytest.MonkeyPatch, missing: bool
) -> None:
    """A gateway did it, said nothing, and does not show it yet: only the key tells that it is the same once more."""
    if missing:
        drawn = itertools.count()
        monkeypatch.setattr(domain, "key", lambda *_: f"key-{next(drawn)}")
    till = Till(connection)
    await till.account()
    till.asked.misbehave[Kind.OPEN] = ["timeout"]
    look, looks = till.asked.look, itertools.count()

    async def late(*asked: Any) -> Any:
        return None if next(looks) == 0 else await look(*asked)

    monkeypatch.setattr(till.asked, "look", late)
    await till.hear(authorize())
    with noticed(missing):
        await till.work()
        assert till.asked.books.moved[PAYMENT, Kind.OPEN] == 1
        assert till.asked.books.moved[PAYMENT, Kind.CHARGE] == 1


@both
async def test_the_key_of_a_booking_is_missed(connection: Connection, missing: bool) -> None:
    if missing:
        await connection.execute("ALTER TABLE money_movements DROP CONSTRAINT money_movements_pkey")
    with noticed(missing):
        await test_charge.test_one_cause_cannot_be_booked_twice(connection)
