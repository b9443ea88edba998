"""The guards of orders, each taken away."""

import pytest

from services.orders import domain
from tests.guards import both, noticed, without
from tests.orders import test_domain, test_handlers
from tests.orders.test_handlers import Connection


@both
@pytest.mark.rule(24)
def test_the_revision_of_a_sale_is_missed(monkeypatch: pytest.MonkeyPatch, missing: bool) -> None:
    if missing:
        without(monkeypatch, test_domain, "decide", "event.revision <= order.sale.revision", "False")
    with noticed(missing):
        test_domain.test_the_same_and_an_older_snapshot_change_nothing()


@both
@pytest.mark.rule(17)
def test_the_revision_of_an_answer_is_missed(monkeypatch: pytest.MonkeyPatch, missing: bool) -> None:
    if missing:
        without(monkeypatch, domain, "_answer", "event.revision < order.demand.revision", "False")
    with noticed(missing):
        test_domain.test_an_answer_to_an_older_revision_changes_nothing()


@pytest.mark.asyncio
@both
@pytest.mark.rule(24)
async def test_the_key_of_a_sale_is_missed(connection: Connection, missing: bool) -> None:
    if missing:
        await connection.execute("ALTER TABLE orders DROP CONSTRAINT orders_external_id_connection_id_tenant_key")
    with noticed(missing):
        await test_handlers.test_one_sale_cannot_become_two_orders(connection)
