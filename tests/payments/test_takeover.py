"""What marketplaces take and give back is told once, booked once, and always what the buyer owes."""

from datetime import timedelta
from typing import Any

import asyncpg
import httpx
import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st

from contracts.channels.v1 import PaymentCollector
from contracts.envelope import Envelope
from contracts.orders.v1 import (
    OrderCancelled,
    OrderChanged,
    OrderClosed,
    OrderDelivered,
    OrderPaid,
    OrderPlaced,
    OrderReturned,
)
from contracts.payments.v1 import PaymentTakenOver
from services.bus import Received, Transaction
from services.payments.accounts import Accounts
from services.payments.admin import admin_router
from services.payments.gateways import gateways
from services.payments.handlers import take_over
from services.payments.ledger import Movement, balances
from services.payments.takeover import OrderHeard, Taken, booked, heard, told
from tests.payments.given import NOW, ORDER
from tests.payments.till import SETTINGS, VAULT

AFTER = (OrderPaid, OrderChanged, OrderCancelled, OrderDelivered, OrderReturned, OrderClosed)
_WITH_LINES = (OrderChanged, OrderReturned)
_WITH_REASON = (OrderCancelled, OrderClosed)


def fact(kind: type[Any], version: int, due_minor: int | None = None, **more: Any) -> Any:
    given_: dict[str, Any] = {
        "order_id": ORDER, "version": version, "connection_id": "shop", "external_id": "1", "sale_revision": version,
        "at": NOW, "due_minor": due_minor, "currency": "BRL" if due_minor is not None else None,
    }  # fmt: skip
    if kind in _WITH_LINES:
        given_["lines"] = ()
    if kind in _WITH_REASON:
        given_["reason"] = "channel"
    return kind(**given_ | more)


def placed(due_minor: int | None = 5_000, *, paid: bool = True, by: PaymentCollector = PaymentCollector.CHANNEL) -> Any:
    more = {"sold_at": NOW, "customer_ref": "c", "paid": paid, "payment_by": by, "lines": ()}
    return fact(OrderPlaced, 1, due_minor, **more)


@st.composite
def histories(draw: st.DrawFn) -> list[Any]:
    """Facts of an order in order, some of them told again later."""
    sums = st.none() | st.integers(0, 10_000)
    facts = [placed(draw(sums), paid=draw(st.booleans()))]
    for version, kind in enumerate(draw(st.lists(st.sampled_from(AFTER), max_size=8)), start=2):
        facts.append(fact(kind, version, draw(sums)))
    heard_ = []
    for number, one in enumerate(facts):
        heard_.append(one)
        heard_ += draw(st.lists(st.sampled_from(facts[: number + 1]), max_size=2))
    return heard_


@given(histories())
def test_any_order_of_facts_keeps_what_is_due(history: list[Any]) -> None:
    taken: Taken | None = None
    movements: list[Movement] = []
    for one in history:
        before = taken
        taken = heard(before, one)
        assert taken is not None
        movements += booked(ORDER, before, taken)
        if before:
            assert taken.captured_minor >= before.captured_minor
            assert taken.refunded_minor >= before.refunded_minor
    assert taken
    assert taken.kept_minor == (taken.due_minor if taken.paid and taken.currency else 0)
    assert len({one.cause for one in movements}) == len(movements)
    sums = balances(movements)
    assert sums.get(("channel:shop", "BRL"), 0) == taken.kept_minor == -sums.get((f"customer:{ORDER}", "BRL"), 0)
    distinct = sorted({one.version: one for one in history}.values(), key=lambda one: one.version)
    undisturbed: Taken | None = None
    for one in distinct:
        undisturbed = heard(undisturbed, one)
    assert undisturbed == taken


def after(*facts: OrderHeard) -> Taken:
    taken: Taken | None = None
    for one in facts:
        taken = heard(taken, one)
    assert taken
    return taken


def test_an_unpaid_order_brings_nothing_until_it_is_paid() -> None:
    assert after(placed(paid=False)).version == 0
    assert after(placed(paid=False), fact(OrderCancelled, 2, 0)).version == 0
    taken = after(placed(paid=False), fact(OrderPaid, 2))
    assert (taken.captured_minor, taken.version) == (5_000, 1)


def test_a_marketplace_gives_back_what_is_owed_less() -> None:
    taken = after(placed(), fact(OrderChanged, 2, 3_000), fact(OrderCancelled, 3))
    assert (taken.captured_minor, taken.refunded_minor, taken.due_minor, taken.version) == (5_000, 5_000, 0, 3)
    returned = told(ORDER, after(placed(), fact(OrderReturned, 2, 1_000)), NOW)
    assert (returned.amount_minor, returned.captured_minor, returned.refunded_minor) == (1_000, 5_000, 4_000)
    assert (returned.payment_id, returned.method, returned.gateway) == (f"{ORDER}:channel", "channel", "channel")


def test_without_a_word_about_it_the_total_is_due() -> None:
    taken = after(placed(None).model_copy(update={"total_minor": 700, "currency": "BRL"}))
    assert taken.captured_minor == 700
    assert after(placed(None)).captured_minor == 0


@pytest.mark.parametrize("by", [PaymentCollector.US, PaymentCollector.UNKNOWN])
def test_what_we_collect_is_not_taken_over(by: PaymentCollector) -> None:
    assert heard(None, placed(by=by)) is None
    assert heard(None, fact(OrderPaid, 2, 5_000)) is None


async def take(connection: "asyncpg.Connection[asyncpg.Record]", *batches: list[Any]) -> list[PaymentTakenOver]:
    published = []
    for batch in batches:
        tx = Transaction(connection, NOW + timedelta(seconds=1), lambda: "id")
        received = [Received(one, _envelope(one, tenant), "key") for tenant, one in batch]
        async with connection.transaction():
            await take_over(received, tx)
        published += [(one.tenant, one.message) for one in tx.publications]
    return published  # type: ignore[return-value]


def _envelope(one: Any, tenant: str) -> Envelope:
    return Envelope(f"event-{one.version}", "", "/test", NOW, "", tenant, ORDER)


HISTORY = [
    (tenant, one)
    for one in (placed(), fact(OrderChanged, 2, 3_000), fact(OrderDelivered, 3, 3_000), fact(OrderReturned, 4, 500))
    for tenant in ("acme", "zeta")
]


@pytest.mark.asyncio
async def test_a_marketplace_s_money_is_told_once_and_booked(connection: "asyncpg.Connection[asyncpg.Record]") -> None:
    published: list[Any] = await take(connection, HISTORY, HISTORY)
    told_ = [(tenant, one.version, one.captured_minor, one.refunded_minor) for tenant, one in published]
    sums = [(1, 5_000, 0), (2, 5_000, 2_000), (3, 5_000, 4_500)]
    assert sorted(told_) == [(tenant, *one) for tenant in ("acme", "zeta") for one in sums]
    rows = await connection.fetch("SELECT * FROM money_balances WHERE tenant = 'acme' ORDER BY account")
    assert [(row["account"], row["amount_minor"]) for row in rows] == [
        ("channel:shop", 500),
        (f"customer:{ORDER}", -500),
    ]


@pytest.mark.asyncio
async def test_what_a_marketplace_took_of_an_order_is_shown_to_its_company_alone(
    connection: "asyncpg.Connection[asyncpg.Record]", database: str
) -> None:
    await take(connection, HISTORY)
    async with asyncpg.create_pool(database, min_size=1, max_size=1) as pool:
        app = FastAPI()
        app.include_router(admin_router(lambda: pool, Accounts(lambda: pool, VAULT, gateways()), SETTINGS))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://admin") as http:
            shown = await http.get(f"/taken-over/{ORDER}", params={"tenant": "acme"})
            foreign = await http.get(f"/taken-over/{ORDER}", params={"tenant": "globex"})
    assert shown.json() == {
        "connection_id": "shop", "currency": "BRL", "paid": True, "due_minor": 500, "captured_minor": 5_000,
        "refunded_minor": 4_500,
    }  # fmt: skip
    assert foreign.status_code == 404


@pytest.mark.asyncio
@pytest.mark.parametrize("size", [1, 3, len(HISTORY)])
@pytest.mark.rule(4)
async def test_a_batch_is_as_each(connection: "asyncpg.Connection[asyncpg.Record]", size: int) -> None:
    batches = [HISTORY[start : start + size] for start in range(0, len(HISTORY), size)]
    published = await take(connection, *batches)
    kept = await connection.fetch(
        "SELECT cause, from_account, to_account, amount_minor FROM money_movements ORDER BY tenant, cause"
    )
    assert len(published) == 6
    assert [tuple(row.values()) for row in kept] == 2 * [
        (f"{ORDER}:channel:captured:5000", f"customer:{ORDER}", "channel:shop", 5_000),
        (f"{ORDER}:channel:refunded:2000", "channel:shop", f"customer:{ORDER}", 2_000),
        (f"{ORDER}:channel:refunded:4500", "channel:shop", f"customer:{ORDER}", 2_500),
    ]
