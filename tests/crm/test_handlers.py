"""Handlers on a real PostgreSQL: who is recognised, what is told, what the tables hold and refuse."""

import json
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contracts.channels.v1 import BuyerAddress
from contracts.crm.v1 import CustomerIdentified, CustomersMerged, CustomersUnmerged
from contracts.fulfillment.v1 import ShipmentDelivered
from services.border.vault import Vault
from services.crm.handlers import remember
from tests.crm.given import (
    ANA,
    CPF,
    NOW,
    OTHER_CPF,
    SETTINGS,
    buyer,
    groups,
    hear,
    invoiced,
    opened,
    parcel,
    placed,
    received,
)

DATABASE = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
Connection = asyncpg.Connection


@pytest.mark.asyncio
async def test_a_new_buyer_is_a_customer(connection: Connection, vault: Vault) -> None:
    [fact] = await hear(connection, vault, buyer(**ANA))
    assert isinstance(fact, CustomerIdentified)
    assert (fact.version, fact.customer_refs) == (1, ("ref-a",))


@pytest.mark.asyncio
async def test_a_buyer_reported_again_is_no_new_customer(connection: Connection, vault: Vault) -> None:
    await hear(connection, vault, buyer(**ANA))
    assert await hear(connection, vault, buyer(**ANA), buyer(order_id="another", **ANA)) == []
    assert await groups(connection) == {frozenset({"ref-a"})}


@pytest.mark.asyncio
async def test_one_customer_across_channels_is_told_of_with_all_references(
    connection: Connection, vault: Vault
) -> None:
    [first] = await hear(connection, vault, buyer("ref-a", document=CPF))
    [second] = await hear(connection, vault, buyer("ref-b", document="39053344705"))
    assert second == first.model_copy(update={"version": 2, "customer_refs": ("ref-a", "ref-b")})


@pytest.mark.asyncio
async def test_two_customers_become_one_and_are_two_again_when_more_is_known(
    connection: Connection, vault: Vault
) -> None:
    """A buyer without a document fits one customer, until another with another document fits as well."""
    both: dict[str, Any] = {"emails": ANA["emails"], "phones": ANA["phones"]}
    await hear(connection, vault, buyer("ref-a", document=CPF), buyer("ref-b", **both))
    [merged] = await hear(connection, vault, buyer("ref-a", **ANA))
    assert isinstance(merged, CustomersMerged)
    assert (merged.by, merged.customer_refs, merged.version) == ("keys", ("ref-a", "ref-b"), 2)

    told = await hear(connection, vault, buyer("ref-c", document=OTHER_CPF, **both))

    [parted] = [fact for fact in told if isinstance(fact, CustomersUnmerged)]
    assert parted.restored_customer_id == merged.merged_customer_id
    assert (parted.customer_refs, parted.restored_customer_refs) == (("ref-a",), ("ref-b",))
    assert await groups(connection) == {frozenset({"ref-a"}), frozenset({"ref-b"}), frozenset({"ref-c"})}
    assert await connection.fetchval("SELECT count(*) FROM merges WHERE undone_at IS NULL") == 0


@pytest.mark.asyncio
async def test_a_doubt_is_kept_for_a_person_and_goes_with_its_reason(connection: Connection, vault: Vault) -> None:
    await hear(connection, vault, buyer("ref-a", emails=ANA["emails"]), buyer("ref-b", emails=ANA["emails"]))
    assert await connection.fetchval("SELECT reason FROM reviews") == "email"

    await hear(connection, vault, buyer("ref-a", document=CPF), buyer("ref-b", document=CPF))

    assert await connection.fetchval("SELECT count(*) FROM reviews") == 0
    assert len(await groups(connection)) == 1


@pytest.mark.asyncio
async def test_relays_join_nobody(connection: Connection, vault: Vault) -> None:
    same: dict[str, Any] = {"emails": ("x@relay.example",)}
    await hear(connection, vault, buyer("ref-a", **same), buyer("ref-b", **same))
    assert await connection.fetchval("SELECT count(*) FROM reviews") == 0


@pytest.mark.asyncio
async def test_a_key_of_too_many_references_parts_those_that_it_joined(connection: Connection, vault: Vault) -> None:
    few = SETTINGS.model_copy(update={"references_max": 2})
    for number, expected in enumerate((1, 1, 3)):
        moment = NOW + timedelta(seconds=number)
        await hear(connection, vault, buyer(f"ref-{number}", document=CPF), settings=few, now=moment)
        assert len(await groups(connection)) == expected


@pytest.mark.asyncio
async def test_two_companies_never_meet(connection: Connection, vault: Vault) -> None:
    await hear(connection, vault, buyer(**ANA))
    await hear(connection, vault, buyer("ref-b", **ANA), tenant="globex")
    assert (await groups(connection), await groups(connection, "globex")) == (
        {frozenset({"ref-a"})},
        {frozenset({"ref-b"})},
    )
    keys = await connection.fetch("SELECT DISTINCT key FROM keys")
    assert len(keys) == 6


@pytest.mark.asyncio
async def test_no_table_shows_a_person(connection: Connection, vault: Vault) -> None:
    address = BuyerAddress(kind="delivery", street="Rua das Acacias", city="Recife")
    await hear(connection, vault, buyer(name="Ana Marker", addresses=(address,), **ANA), placed(), invoiced())
    tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    seen = ""
    for (table,) in map(tuple, tables):
        for row in await connection.fetch(f'SELECT * FROM "{table}"'):
            seen += "".join(str(value) for value in row.values())
    for word in ("Marker", "Acacias", "ana@loja", "98765", "39053344705", CPF):
        assert word not in seen


@pytest.mark.asyncio
async def test_an_older_report_takes_no_newer_one_s_place(connection: Connection, vault: Vault) -> None:
    newer, older = buyer(sale_revision=2, name="New"), buyer(sale_revision=1, name="Old")
    await hear(connection, vault, newer, placed())
    await hear(connection, vault, older)
    row = await connection.fetchrow("SELECT * FROM orders")
    assert row
    opened_report = vault.open(row["sealed"], tenant="acme", owner=newer.order_id, field="buyer")
    assert json.loads(opened_report)["name"] == "New"
    assert row["connection_id"] == "connection-a"


@pytest.mark.asyncio
async def test_a_copy_of_an_event_is_told_once(connection: Connection, vault: Vault) -> None:
    event = received(parcel(ShipmentDelivered, delivered_at=NOW, tracking_code="BR1"))
    for _ in range(2):
        async with connection.transaction():
            await remember([event], opened(connection), vault=vault, settings=SETTINGS)
    [row] = await connection.fetch("SELECT * FROM events")
    assert row["kind"] == "ShipmentDelivered"
    assert json.loads(row["what"])["tracking_code"] == "BR1"


@pytest.mark.asyncio
async def test_nobody_stands_for_who_is_gone(connection: Connection, vault: Vault) -> None:
    await hear(connection, vault, buyer("ref-a", **ANA), buyer("ref-b", **ANA))
    with pytest.raises(asyncpg.ForeignKeyViolationError):
        await connection.execute("DELETE FROM customers WHERE customer_ref = 'ref-a'")


@pytest.mark.asyncio
async def test_the_newest_merge_is_the_one_that_stands(connection: Connection, vault: Vault) -> None:
    await hear(connection, vault, buyer("ref-a"), buyer("ref-b"))
    one, other = [row[0] for row in await connection.fetch("SELECT customer_id FROM customers ORDER BY seq")]
    statement = "INSERT INTO merges VALUES ('acme', $1, $2, $3, '{}', 'keys', now())"
    await connection.execute(statement, "m1", one, other)
    with pytest.raises(asyncpg.UniqueViolationError):
        await connection.execute(statement, "m2", one, other)


reports = st.lists(
    st.builds(
        buyer,
        ref=st.sampled_from(["ref-a", "ref-b", "ref-c", "ref-d"]),
        document=st.sampled_from(["", CPF, OTHER_CPF]),
        emails=st.sampled_from([(), ("a@x.example",), ("b@x.example",)]),
        phones=st.sampled_from([(), ("11987654321",), ("11987654322",)]),
    ),
    min_size=1,
    max_size=6,
)


@pytest.mark.asyncio
@given(given_reports=reports)
@DATABASE
@pytest.mark.rule(4)
async def test_a_batch_is_the_same_as_each(connection: Connection, vault: Vault, given_reports: list[Any]) -> None:
    async def left(tenant: str) -> Any:
        customers = await connection.fetch(
            "SELECT c.customer_ref, s.customer_ref AS by FROM customers c JOIN customers s "
            "ON s.tenant = c.tenant AND s.customer_id = c.stands_for WHERE c.tenant = $1 ORDER BY 1",
            tenant,
        )
        asked = await connection.fetch(
            "SELECT a.customer_ref AS one, b.customer_ref AS other, reason, state FROM reviews "
            "JOIN customers a ON a.tenant = reviews.tenant AND a.customer_id = one "
            "JOIN customers b ON b.tenant = reviews.tenant AND b.customer_id = other "
            "WHERE reviews.tenant = $1 ORDER BY 1, 2",
            tenant,
        )
        return [dict(row) for row in (*customers, *asked)]

    for tenant in ("batch", "each"):
        for table in ("reviews", "merges", "keys", "orders", "customers"):
            await connection.execute(f"DELETE FROM {table} WHERE tenant = $1", tenant)
    await hear(connection, vault, *given_reports, tenant="batch")
    for report in given_reports:
        await hear(connection, vault, report, tenant="each")
    assert await left("batch") == await left("each")
