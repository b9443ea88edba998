"""A batch of commands, or of facts about orders, leaves what its events one by one leave."""

from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.payments.given import ACCOUNT, authorize, capture, refund, void
from tests.payments.test_takeover import AFTER, fact, placed, take
from tests.payments.till import VAULT, Till

pytestmark = pytest.mark.asyncio
Connection = asyncpg.Connection
DATABASE = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])

revisions = st.integers(1, 6)
payment_ids = st.sampled_from(["order-a:p1", "order-a:p2", "order-b:p1"])
amounts = st.integers(0, 10_000)
tokens = st.sampled_from(["", "pm_1", "pm_2", "4242424242424242"])
commands = st.lists(
    st.one_of(
        st.builds(
            authorize, revisions, payment_id=payment_ids, token=tokens, gateway=st.sampled_from(["model", "none"])
        ),
        st.builds(capture, revisions, amounts, payment_id=payment_ids),
        st.builds(refund, revisions, amounts, payment_id=payment_ids),
        st.builds(void, revisions, payment_id=payment_ids),
    ),
    min_size=1,
    max_size=10,
)


async def emptied(connection: Connection) -> None:
    for table in ("payment_calls", "payments", "taken_over", "money_movements", "money_balances", "gateway_accounts"):
        await connection.execute(f"DELETE FROM {table}")


def told(till: Till) -> list[tuple[str, Any]]:
    return [(type(one).__name__, one.model_dump()) for _, one in till.published]


@given(given_commands=commands)
@DATABASE
@pytest.mark.rule(4)
async def test_a_batch_of_commands_is_as_each(connection: Connection, given_commands: list[Any]) -> None:
    await emptied(connection)
    batch, each = Till(connection, "batch"), Till(connection, "each")
    for till in (batch, each):
        await till.account(account_id=f"{ACCOUNT}-{till.tenant}")
    await batch.hear(*given_commands)
    for one in given_commands:
        await each.hear(one)
    assert told(batch) == told(each)
    left = []
    for till in (batch, each):
        rows = await till.rows("payments", "payment_id, status, due_at, body, token_sealed")
        opened = [
            row["token_sealed"]
            and VAULT.open(row["token_sealed"], tenant=till.tenant, owner=row["payment_id"], field="token")
            for row in rows
        ]
        shown = [
            (row["payment_id"], row["status"], row["due_at"], row["body"].replace(till.tenant, "")) for row in rows
        ]
        left.append((opened, shown))
    assert left[0] == left[1]


@st.composite
def orders(draw: st.DrawFn) -> list[Any]:
    """Facts about two orders, each in its order, mixed, and some of them again."""
    sums = st.none() | st.integers(0, 10_000)
    histories = []
    for order_id in ("order-a", "order-b"):
        facts = [placed(draw(sums), paid=draw(st.booleans()))]
        facts += [
            fact(kind, version, draw(sums))
            for version, kind in enumerate(draw(st.lists(st.sampled_from(AFTER), max_size=4)), start=2)
        ]
        histories.append([one.model_copy(update={"order_id": order_id}) for one in facts])
    mixed = []
    while any(histories):
        history = draw(st.sampled_from([one for one in histories if one]))
        mixed.append(history.pop(0))
        mixed += draw(st.lists(st.sampled_from(mixed), max_size=1))
    return mixed


@given(facts=orders())
@DATABASE
@pytest.mark.rule(4)
async def test_a_batch_of_orders_is_as_each(connection: Connection, facts: list[Any]) -> None:
    await emptied(connection)
    batch: Any = await take(connection, [("batch", one) for one in facts])
    each: Any = await take(connection, *([("each", one)] for one in facts))
    assert [one for _, one in batch] == [one for _, one in each]
    left = []
    for tenant in ("batch", "each"):
        tables = {}
        for table in ("taken_over", "money_movements", "money_balances"):
            rows = await connection.fetch(f"SELECT * FROM {table} WHERE tenant = $1 ORDER BY 2, 3", tenant)
            tables[table] = [{**row, "tenant": ""} for row in rows]
        left.append(tables)
    assert left[0] == left[1]
    assert sum(row["amount_minor"] for row in left[0]["money_balances"]) == 0
