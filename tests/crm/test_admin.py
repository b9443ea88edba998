"""What people ask of crm and decide in it, and that what is erased is gone."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import httpx
import pytest
import pytest_asyncio
from fastapi import FastAPI
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contracts.channels.v1 import BuyerAddress
from contracts.crm.v1 import CustomerErased, CustomersMerged, CustomersUnmerged
from contracts.envelope import Message
from contracts.fulfillment.v1 import LabelCreated, ShipmentDelivered
from contracts.orders.v1 import OrderCancelled, OrderClosed, OrderDelivered
from services.border.vault import Vault
from services.crm import decisions, store
from services.crm.admin import admin_router
from services.crm.erase import fiscal_until, sweep
from tests.crm.given import (
    ANA,
    CPF,
    NOW,
    OTHER_CPF,
    SETTINGS,
    Running,
    buyer,
    ended,
    groups,
    hear,
    invoiced,
    opened,
    parcel,
    placed,
)

DATABASE = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
Connection = asyncpg.Connection
SAME_EMAIL: dict[str, Any] = {"emails": ANA["emails"]}


class Asking:
    """The routes of crm, and what they published."""

    def __init__(self, client: httpx.AsyncClient, published: list[Any]) -> None:
        self.client, self.published = client, published

    async def get(self, path: str, **query: Any) -> httpx.Response:
        return await self.client.get(f"/admin/{path}", params={"tenant": "acme", **query})

    async def post(self, path: str, body: Any = None, tenant: str = "acme") -> httpx.Response:
        return await self.client.post(f"/admin/{path}", json=body, params={"tenant": tenant})

    async def ids(self) -> list[str]:
        return [one["customer_id"] for one in (await self.get("customers")).json()["customers"]]


@pytest_asyncio.fixture
async def admin(running: Running, vault: Vault) -> AsyncIterator[Asking]:
    app = FastAPI()
    app.include_router(admin_router(lambda: running.service, vault, SETTINGS), prefix="/admin")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://crm") as client:
        yield Asking(client, running.published)


@pytest.mark.asyncio
@pytest.mark.parametrize("identity", ["39053344705", CPF, "ANA@loja.example", "+55 11 98765-4321", "order-of-ref-a"])
async def test_a_customer_is_found_by_whatever_names_him(
    connection: Connection, vault: Vault, admin: Asking, identity: str
) -> None:
    await hear(connection, vault, placed(), buyer(name="Ana", **ANA), parcel(ShipmentDelivered, delivered_at=NOW))
    told = (await admin.post("customers/show", {"identity": identity})).json()
    assert told["reports"][0]["name"] == "Ana"
    assert told["references"][0]["connections"] == ["connection-a"]
    assert {entry["kind"] for entry in told["timeline"]} == {"OrderPlaced", "ShipmentDelivered"}
    assert (await admin.post("customers/show", {"identity": identity}, tenant="globex")).status_code == 404


@pytest.mark.asyncio
async def test_what_several_customers_have_asks_which(connection: Connection, vault: Vault, admin: Asking) -> None:
    await hear(connection, vault, buyer("ref-a", **SAME_EMAIL), buyer("ref-b", **SAME_EMAIL))
    refused = await admin.post("customers/show", {"identity": "ana@loja.example"})
    assert refused.status_code == 409
    assert all(one in refused.json()["detail"] for one in await admin.ids())


@pytest.mark.asyncio
async def test_contact_is_no_until_channel_and_customer_say_yes(
    connection: Connection, vault: Vault, admin: Asking
) -> None:
    await hear(connection, vault, buyer("market", **ANA), buyer("shop", contact_allowed=True, **ANA))
    [customer_id] = await admin.ids()

    async def allowed() -> dict[str, bool]:
        told = (await admin.post("customers/show", {"identity": customer_id})).json()
        assert all(one["why"] for one in told["references"])
        return {one["customer_ref"]: one["allowed"] for one in told["references"]}

    assert await allowed() == {"market": False, "shop": False}
    said = {"purpose": "marketing", "granted": True, "source": "shop"}
    fact = (await admin.post(f"customers/{customer_id}/consent", said)).json()
    assert fact["granted"]
    assert await allowed() == {"market": False, "shop": True}
    await admin.post(f"customers/{customer_id}/consent", said | {"granted": False})
    assert await allowed() == {"market": False, "shop": False}


@pytest.mark.asyncio
async def test_a_review_is_decided_and_the_decision_undone(connection: Connection, vault: Vault, admin: Asking) -> None:
    await hear(connection, vault, buyer("ref-a", **SAME_EMAIL), buyer("ref-b", **SAME_EMAIL))
    [review] = (await admin.get("reviews")).json()["reviews"]
    assert (review["reason"], review["why"]) == ("email", "only the e-mail is equal")

    merged = await admin.post("customers/merge", {"one": review["other"], "other": review["one"]})
    assert merged.json() == {"customer_id": review["one"]}
    assert (await admin.get("reviews")).json() == {"reviews": []}
    again = await admin.post("customers/merge", {"one": review["one"], "other": review["other"]})
    assert again.status_code == 409

    undone = await admin.post("customers/unmerge", {"customer_id": review["other"]})
    assert undone.json() == {"customer_id": review["one"], "restored_customer_id": review["other"]}
    told, taken_back = admin.published
    assert isinstance(told, CustomersMerged)
    assert isinstance(taken_back, CustomersUnmerged)
    assert told.by == "review"
    assert [one["reason"] for one in (await admin.get("reviews")).json()["reviews"]] == ["email"]
    assert (await admin.post("customers/unmerge", {"customer_id": review["other"]})).status_code == 409


@pytest.mark.asyncio
async def test_a_pair_kept_apart_is_not_asked_again(connection: Connection, vault: Vault, admin: Asking) -> None:
    await hear(connection, vault, buyer("ref-a", **SAME_EMAIL), buyer("ref-b", **SAME_EMAIL))
    one, other = await admin.ids()
    assert (await admin.post("customers/keep", {"one": other, "other": one})).is_success
    await hear(connection, vault, buyer("ref-b", order_id="another", **SAME_EMAIL))
    assert (await admin.get("reviews")).json() == {"reviews": []}


@pytest.mark.asyncio
async def test_what_keys_have_joined_a_person_parts_for_good(
    connection: Connection, vault: Vault, admin: Asking
) -> None:
    await hear(connection, vault, buyer("ref-a", document=CPF), buyer("ref-b", **SAME_EMAIL))
    [_, gone] = await admin.ids()
    await hear(connection, vault, buyer("ref-b", document=CPF))
    assert len(await admin.ids()) == 1

    assert (await admin.post("customers/unmerge", {"customer_id": gone})).is_success
    await hear(connection, vault, buyer("ref-b", order_id="another", document=CPF), buyer("ref-c", document=CPF))

    assert await groups(connection) == {frozenset({"ref-a", "ref-c"}), frozenset({"ref-b"})}
    assert (await admin.get("reviews")).json()["reviews"] == []


@pytest.mark.asyncio
async def test_one_customer_is_not_kept_apart_from_himself(connection: Connection, vault: Vault, admin: Asking) -> None:
    await hear(connection, vault, buyer("ref-a", **SAME_EMAIL), buyer("ref-b", **SAME_EMAIL))
    one, other = await admin.ids()
    refused = await admin.post("customers/keep", {"one": one, "other": one})
    assert refused.status_code == 409
    assert "give two customers" in refused.json()["detail"]
    await admin.post("customers/merge", {"one": one, "other": other})
    assert (await admin.post("customers/keep", {"one": one, "other": other})).status_code == 409
    assert await connection.fetchval("SELECT count(*) FROM reviews") == 0


@pytest.mark.asyncio
async def test_a_question_writes_nothing_not_even_a_key(connection: Connection, admin: Asking) -> None:
    assert (await admin.post("customers/show", {"identity": CPF}, tenant="ghost")).status_code == 404
    assert await connection.fetchval("SELECT count(*) FROM tenant_keys") == 0


KNOWN = st.lists(
    st.fixed_dictionaries(
        {
            "document": st.sampled_from(["", CPF, OTHER_CPF]),
            "emails": st.sampled_from([(), ("a@x.example",)]),
            "phones": st.sampled_from([(), ("11987654321",)]),
        }
    ),
    min_size=2,
    max_size=5,
)


@pytest.mark.asyncio
@given(known=KNOWN, data=st.data())
@DATABASE
async def test_unmerge_is_the_exact_inverse_of_merge(
    connection: Connection, vault: Vault, known: list[dict[str, Any]], data: st.DataObject
) -> None:
    for table in ("reviews", "merges", "links", "keys", "orders", "customers"):
        await connection.execute(f"DELETE FROM {table}")
    for number, fields in enumerate(known):
        await hear(connection, vault, buyer(f"ref-{number}", **fields))

    async def state() -> list[dict[str, Any]]:
        statements = (
            "SELECT customer_id, stands_for, apart FROM customers ORDER BY seq",
            "SELECT one, other, reason, state FROM reviews ORDER BY 1, 2",
            "SELECT * FROM links ORDER BY 1, 2, 3",
        )
        return [dict(row) for statement in statements for row in await connection.fetch(statement)]

    before = await state()
    customers = [row["customer_id"] for row in before if row.get("stands_for") == row.get("customer_id", "")]
    if len(customers) < 2:
        return
    one, other = data.draw(st.permutations(customers))[:2]
    async with connection.transaction():
        kept = await decisions.merge(opened(connection), "acme", one, other, SETTINGS)
    assert await state() != before
    async with connection.transaction():
        gone = other if kept == one else one
        await decisions.unmerge(opened(connection), "acme", gone, SETTINGS)
    assert await state() == before


def test_a_fiscal_document_is_kept_to_the_end_of_the_fifth_year() -> None:
    assert fiscal_until(NOW, 5) == datetime(2031, 12, 31, 23, 59, 59, tzinfo=UTC)


@pytest.mark.asyncio
async def test_an_erased_customer_is_gone_and_what_stays_is_listed(
    connection: Connection, vault: Vault, admin: Asking
) -> None:
    address = BuyerAddress(kind="delivery", street="Rua das Acacias")
    await hear(
        connection, vault, placed("ref-a"), placed("ref-b"), invoiced("ref-a"), parcel(LabelCreated, label_id="l1"),
        parcel(ShipmentDelivered, "ref-b", delivered_at=NOW), buyer("ref-a", name="Ana", addresses=(address,), **ANA),
        buyer("ref-b", **ANA), buyer("ref-c", phones=ANA["phones"]), ended("ref-a"), ended("ref-b"),
    )  # fmt: skip
    [customer_id, stays] = await admin.ids()

    told = (await admin.post(f"customers/{customer_id}/erase")).json()

    [fact] = admin.published
    assert isinstance(fact, CustomerErased)
    assert fact.model_dump(mode="json") == told
    assert (fact.customer_refs, fact.order_ids) == (("ref-a", "ref-b"), ("order-of-ref-a", "order-of-ref-b"))
    assert [(one.kind, one.reference, one.reason) for one in fact.kept] == [
        ("invoice", "document-of-ref-a", "fiscal_br"),
        ("parcel", "order-of-ref-a:s1", "parcel_open"),
    ]
    assert (await admin.post("customers/show", {"identity": CPF})).status_code == 404
    assert await admin.ids() == [stays]
    for table in ("orders", "events", "invoices", "keys", "customers"):
        rows = await connection.fetch(f"SELECT * FROM {table}")
        assert not [row for row in rows if set(row.values()) & {"ref-a", "ref-b", *fact.order_ids, customer_id}]
    assert (await admin.get("reviews")).json() == {"reviews": []}
    assert (await admin.post(f"customers/{customer_id}/erase")).status_code == 404


OPEN, OVER = "order-of-ref-a", "order-of-ref-b"


async def erased_with_an_open_order(connection: Connection, vault: Vault, admin: Asking) -> str:
    """Ana, erased while one of her two orders is open; returns her id."""
    await hear(
        connection, vault, placed("ref-a"), placed("ref-b"), buyer("ref-a", name="Ana", **ANA), buyer("ref-b", **ANA),
        ended("ref-b"),
    )  # fmt: skip
    [customer_id] = await admin.ids()
    assert (await admin.post(f"customers/{customer_id}/erase")).is_success
    return customer_id


@pytest.mark.asyncio
@pytest.mark.parametrize("end", [OrderCancelled, OrderClosed, OrderDelivered])
async def test_an_open_order_is_erased_when_it_ends(
    connection: Connection, vault: Vault, admin: Asking, running: Running, end: Any
) -> None:
    customer_id = await erased_with_an_open_order(connection, vault, admin)
    [told] = admin.published
    assert told.order_ids == (OVER,)
    [kept] = told.kept
    assert (kept.kind, kept.reference, kept.reason, kept.until) == (
        "order", OPEN, "order_open", NOW + SETTINGS.order_keep,
    )  # fmt: skip
    # Of her nothing is left here, and what is asked by her order or her old id says why and until when.
    for table in ("customers", "keys", "orders"):
        assert await connection.fetchval(f"SELECT count(*) FROM {table}") == 0
    assert (await admin.post("customers/show", {"identity": CPF})).status_code == 404
    for identity in (OPEN, customer_id):
        answer = await admin.post("customers/show", {"identity": identity})
        assert answer.status_code == 410
        assert all(part in answer.json()["detail"] for part in (OPEN, "2026-06-12", "LGPD", "was erased on 2026-03-14"))
    await sweep(running.service, vault=vault, settings=SETTINGS)
    assert running.erased == [OPEN, OVER], "dead letters of both go at once"

    # What is heard of it goes on, but for who placed it.
    assert await hear(connection, vault, buyer("ref-a", **ANA), placed("ref-a"), at=NOW + timedelta(days=1)) == []
    assert await hear(connection, vault, invoiced(), parcel(LabelCreated, label_id="l1")) == []
    assert [await connection.fetchval(f"SELECT count(*) FROM {name}") for name in ("orders", "unplaced")] == [0, 0]

    [last] = await hear(connection, vault, ended("ref-a", end))
    assert (last.customer_id, last.customer_refs, last.order_ids) == (customer_id, (), (OPEN,))
    assert last.version == told.version + 1
    assert [(one.kind, one.reason) for one in last.kept] == [("invoice", "fiscal_br"), ("parcel", "parcel_open")]
    for table in ("held_orders", "events", "invoices"):
        assert await connection.fetchval(f"SELECT count(*) FROM {table}") == 0
    assert await hear(connection, vault, ended("ref-a"), buyer("ref-a", **ANA), at=NOW + timedelta(days=2)) == []
    assert (await admin.post("customers/show", {"identity": OPEN})).status_code == 404


@pytest.mark.asyncio
async def test_each_open_order_is_told_of_once_when_it_ends_and_versions_grow(
    connection: Connection, vault: Vault, admin: Asking
) -> None:
    await hear(connection, vault, buyer(order_id="one", **ANA), buyer(order_id="two", **ANA), buyer(**ANA))
    [customer_id] = await admin.ids()
    await admin.post(f"customers/{customer_id}/erase")
    [told] = admin.published
    assert told.order_ids == ()
    ends = [ended().model_copy(update={"order_id": order_id}) for order_id in ("two", "one", OPEN)]
    [first] = await hear(connection, vault, ends[0])
    [both] = await hear(connection, vault, *ends)
    assert [first.order_ids, both.order_ids] == [("two",), ("one", OPEN)]
    assert [first.version, both.version] == [told.version + 1, told.version + 2]
    assert await hear(connection, vault, *ends) == []


@pytest.mark.asyncio
async def test_an_open_order_is_held_for_so_long_and_no_longer(
    connection: Connection, vault: Vault, admin: Asking, running: Running
) -> None:
    await erased_with_an_open_order(connection, vault, admin)
    await sweep(running.service, vault=vault, settings=SETTINGS)
    assert len(running.published) == 1
    await connection.execute("UPDATE held_orders SET until = $1", NOW)
    await sweep(running.service, vault=vault, settings=SETTINGS)
    await sweep(running.service, vault=vault, settings=SETTINGS)
    assert [fact.order_ids for fact in running.published] == [(OVER,), (OPEN,)]
    assert await connection.fetchval("SELECT count(*) FROM held_orders") == 0


@pytest.mark.asyncio
async def test_an_order_that_nobody_has_heard_of_for_long_is_not_open(
    connection: Connection, vault: Vault, admin: Asking
) -> None:
    long_ago = NOW - SETTINGS.order_keep - timedelta(days=1)
    await hear(connection, vault, buyer(order_id="forgotten", **ANA), at=long_ago)
    await admin.post(f"customers/{(await admin.ids())[0]}/erase")
    assert admin.published[0].order_ids == ("forgotten",)


@pytest.mark.asyncio
async def test_what_was_on_its_way_when_a_customer_was_erased_is_not_taken_in(
    connection: Connection, vault: Vault, admin: Asking
) -> None:
    await hear(connection, vault, placed(), buyer(**ANA), ended())
    [customer_id] = await admin.ids()
    await admin.post(f"customers/{customer_id}/erase")
    later = NOW + timedelta(days=1)

    assert await hear(connection, vault, buyer(order_id="earlier", **ANA), placed(), invoiced()) == []
    assert await hear(connection, vault, buyer(**ANA), at=later) == []
    assert await connection.fetchval("SELECT count(*) FROM orders") == 0
    assert await connection.fetchval("SELECT count(*) FROM events") == 0

    [back] = await hear(connection, vault, buyer(order_id="next", **ANA), at=later)
    assert back.customer_id != customer_id


@pytest.mark.asyncio
async def test_who_is_silent_for_too_long_is_found(connection: Connection, vault: Vault) -> None:
    await hear(connection, vault, buyer("ref-a", document=CPF), placed("ref-b"))
    await hear(connection, vault, buyer("ref-b", document=OTHER_CPF), now=NOW - timedelta(days=9))
    await hear(connection, vault, buyer("ref-c"), now=NOW - timedelta(days=9))
    await hear(connection, vault, buyer("ref-a", order_id="old", document=CPF), now=NOW - timedelta(days=9))
    silent = await store.silent(connection, NOW - timedelta(days=1), 10)
    refs = await connection.fetch(
        "SELECT customer_ref FROM customers WHERE customer_id = ANY($1::text[]) ORDER BY 1", [one for _, one in silent]
    )
    assert [row["customer_ref"] for row in refs] == ["ref-a", "ref-c"]


LONG_AGO = NOW - SETTINGS.silent_keep - timedelta(days=1)


async def silent_one(connection: Connection, vault: Vault) -> None:
    """A customer of whom nothing was heard for too long."""
    await hear(connection, vault, buyer(**ANA), at=LONG_AGO, now=LONG_AGO)


@pytest.mark.asyncio
async def test_who_is_silent_for_too_long_is_erased(connection: Connection, vault: Vault, running: Running) -> None:
    await silent_one(connection, vault)
    await sweep(running.service, vault=vault, settings=SETTINGS)
    [fact] = running.published
    assert fact.customer_refs == ("ref-a",)
    assert running.erased == ["order-of-ref-a"]
    assert await groups(connection) == set()


@pytest.mark.asyncio
@pytest.mark.parametrize("heard", [buyer(order_id="next", **ANA), placed()], ids=["reported", "ordered"])
async def test_who_orders_while_the_silent_are_erased_stays(
    connection: Connection, vault: Vault, running: Running, heard: Message
) -> None:
    await silent_one(connection, vault)
    running.before = lambda: hear(connection, vault, heard)
    await sweep(running.service, vault=vault, settings=SETTINGS)
    assert running.published == []
    assert await groups(connection) == {frozenset({"ref-a"})}


@pytest.mark.asyncio
@pytest.mark.parametrize("last", [placed("late"), buyer("late", **ANA)], ids=["placed", "reported"])
@pytest.mark.parametrize("at_once", [True, False])
async def test_an_order_that_is_known_to_be_his_only_after_the_erasure_goes_too(
    connection: Connection, vault: Vault, admin: Asking, running: Running, last: Message, at_once: bool
) -> None:
    """Events of an order may be heard before it is known whose it is."""
    label = parcel(LabelCreated, "late", label_id="l1", tracking_code="BR1")
    reference = {"customer_ref": "ref-a"}
    await hear(connection, vault, buyer("ref-a", **ANA))
    await hear(connection, vault, invoiced("late"), label)
    [customer_id] = await admin.ids()
    await admin.post(f"customers/{customer_id}/erase")
    assert await connection.fetchval("SELECT count(*) FROM events") == 2

    events = [last.model_copy(update=reference), parcel(ShipmentDelivered, "late", delivered_at=NOW)]
    for batch in [events] if at_once else [[event] for event in events]:
        assert await hear(connection, vault, *batch) == []

    for table in ("orders", "events", "invoices", "unplaced"):
        assert await connection.fetchval(f"SELECT count(*) FROM {table}") == 0
    await sweep(running.service, vault=vault, settings=SETTINGS)
    assert running.erased == ["order-of-ref-a", "order-of-late"]


@pytest.mark.asyncio
async def test_an_order_reported_after_the_erasure_outlives_older_news_of_it(
    connection: Connection, vault: Vault, admin: Asking
) -> None:
    await hear(connection, vault, buyer("ref-a", order_id="first", **ANA))
    await admin.post(f"customers/{(await admin.ids())[0]}/erase")
    await hear(connection, vault, buyer("ref-a", **ANA), at=NOW + timedelta(days=1))
    await hear(connection, vault, placed("ref-a"))
    assert await connection.fetchval("SELECT order_id FROM orders") == "order-of-ref-a"
    assert await connection.fetchval("SELECT count(*) FROM events") == 0


@pytest.mark.asyncio
async def test_what_nobody_placed_goes_in_time(connection: Connection, vault: Vault, running: Running) -> None:
    too_old = NOW - SETTINGS.unplaced_keep - timedelta(days=1)
    await hear(connection, vault, invoiced("lost"), invoiced("found"), now=too_old)
    await hear(connection, vault, placed("found"), invoiced("new"))
    await sweep(running.service, vault=vault, settings=SETTINGS)
    for table in ("events", "invoices"):
        orders = await connection.fetch(f"SELECT DISTINCT order_id FROM {table} ORDER BY 1")
        assert [row["order_id"] for row in orders] == ["order-of-found", "order-of-new"]
    assert await connection.fetchval("SELECT array_agg(order_id) FROM unplaced") == ["order-of-new"]
    await hear(connection, vault, placed("lost"))
    assert await connection.fetchval("SELECT count(*) FROM orders") == 2


@pytest.mark.asyncio
async def test_dead_letters_of_an_erased_order_are_erased_whatever_happens_in_between(
    connection: Connection, vault: Vault, admin: Asking, running: Running
) -> None:
    await hear(connection, vault, buyer(**ANA), buyer(order_id="another", **ANA))
    [customer_id] = await admin.ids()
    running.broken = True
    assert (await admin.post(f"customers/{customer_id}/erase")).is_success
    running.broken = False
    await sweep(running.service, vault=vault, settings=SETTINGS)
    assert running.erased == ["another", "order-of-ref-a"]
    await sweep(running.service, vault=vault, settings=SETTINGS)
    assert len(running.erased) == 2
