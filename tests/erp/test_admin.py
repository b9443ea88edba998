"""Taking invoices in: every reason is told, the same key is the same answer, and one invoice stands."""

import asyncio
from datetime import date
from typing import Any

import asyncpg
import httpx
import pytest

from contracts.erp.v1 import InvoiceIssued
from contracts.orders.v1 import OrderCancelled, OrderReturned
from services.border.vault import Vault
from services.bus import Cause, Transaction
from services.erp import store
from services.erp.intake import GivenInvoice, take_invoice
from services.erp.settings import ErpSettings
from tests.erp.given import LETTERED_TAX_ID, NOW, SECRETS_KEY, TAX_ID, fact, key, lines, placed, received, xml
from tests.erp.test_handlers import hear, journal

ACME = {"tenant": "acme"}
ISSUED = {"issued_at": "2026-09-14T12:00:00Z"}


@pytest.fixture(autouse=True)
def _september(monkeypatch: pytest.MonkeyPatch) -> None:
    # The service reads the real clock: the invoices of these tests must never lie ahead of it.
    monkeypatch.setattr("services.erp.invoices.CLOCK_TOLERANCE", NOW - NOW.replace(year=2016))


async def known(connection: Any, *facts: Any, tax_id: str = TAX_ID) -> None:
    """An order, and the tax id of the company that sold it."""
    await store.add_company(connection, "acme", tax_id)
    for number, one in enumerate(facts or (placed(),)):
        await hear(connection, [received(one, number)])


async def give(admin: httpx.AsyncClient, **given: Any) -> httpx.Response:
    body = {"order_id": "order-a", "key": key(), "total_minor": 5000} | ISSUED | given
    return await admin.post("/admin/invoices", params=ACME, json=body)


@pytest.mark.asyncio
async def test_an_invoice_is_kept_booked_and_told(connection: asyncpg.Connection) -> None:
    await known(connection)
    settings = ErpSettings(secrets_key=SECRETS_KEY, content_url="http://erp:8099/")
    tx = Transaction(connection, NOW, lambda: "document-1")
    async with connection.transaction():
        answer = await take_invoice(
            GivenInvoice(order_id="order-a", xml=xml()), tx, tenant="acme", vault=Vault(SECRETS_KEY), settings=settings
        )

    [published] = tx.publications
    assert published.message == InvoiceIssued(
        order_id="order-a", document_id="document-1", invoice_no="7", series="1", invoice_key=key(), total_minor=5000,
        currency="BRL", issued_at=NOW.replace(hour=11),
        content_url="http://erp:8099/admin/invoices/document-1/xml?tenant=acme",
    )  # fmt: skip
    assert published.causes == (Cause("event-0", "flow", "trace"),)
    assert answer["keep_until"] == date(2031, 12, 31)
    row = (await journal(connection))[-1]
    assert (row["kind"], row["reference"], row["amount_minor"]) == ("invoice", "document-1", 5000)


@pytest.mark.asyncio
async def test_the_same_key_again_is_the_same_answer(connection: asyncpg.Connection, admin: httpx.AsyncClient) -> None:
    await known(connection)
    first = await give(admin)
    again = await give(admin)
    spaced = await give(admin, key=f"NFe{key()}", total_minor=1)

    assert first.status_code == 200
    assert first.json() == again.json() == spaced.json()
    assert [row["kind"] for row in await journal(connection)].count("invoice") == 1
    assert await connection.fetchval("SELECT count(*) FROM outbox") == 1
    assert (await admin.get("/admin/invoices", params=ACME | {"order_id": "order-a"})).json() == first.json()


@pytest.mark.asyncio
async def test_the_same_key_at_the_same_moment_is_one_document(
    connection: asyncpg.Connection, admin: httpx.AsyncClient
) -> None:
    await known(connection)
    answers = await asyncio.gather(*(give(admin) for _ in range(6)))

    assert [answer.status_code for answer in answers] == [200] * 6
    assert len({answer.json()["document_id"] for answer in answers}) == 1


@pytest.mark.asyncio
async def test_an_order_without_prices_takes_an_invoice_of_any_sum(
    connection: asyncpg.Connection, admin: httpx.AsyncClient
) -> None:
    free = tuple(line.model_copy(update={"unit_price_minor": 0}) for line in lines(MUG=2))
    await known(connection, placed(due_minor=0, total_minor=0, freight_minor=0, lines=free))
    assert (await give(admin)).status_code == 200


@pytest.mark.asyncio
async def test_an_order_of_which_all_came_back_takes_no_invoice_of_another_sum(
    connection: asyncpg.Connection, admin: httpx.AsyncClient
) -> None:
    back = fact(OrderReturned, 2, lines=lines(MUG=2), due_minor=0, currency="BRL")
    await known(connection, placed(), back)
    refused = await give(admin)

    assert refused.status_code == 422
    assert [one["msg"] for one in refused.json()["detail"]] == ["the invoice is over 5000 cents, the order over 0"]


@pytest.mark.asyncio
async def test_every_reason_is_told(connection: asyncpg.Connection, admin: httpx.AsyncClient) -> None:
    await known(connection, placed(), fact(OrderCancelled, 2, reason="person", due_minor=0, currency="BRL"))
    refused = await give(admin, key=key(state="10", model="57", tax_id=LETTERED_TAX_ID))

    assert refused.status_code == 422
    reasons = [one["msg"] for one in refused.json()["detail"]]
    assert len(reasons) == 5
    assert "the order is cancelled" in reasons
    assert await connection.fetchval("SELECT count(*) FROM documents") == 0


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"key": None}, "give the XML"),
        ({"xml": xml(cStat="110"), "key": None}, "did not authorise"),
        ({"xml": xml(), "key": key(number=8)}, "another key"),
        ({"xml": xml(), "total_minor": 1}, "another total"),
        ({"issued_at": "2026-08-14T12:00:00Z"}, "month"),
        ({"issued_at": "0001-01-01T00:00:00Z"}, "no NF-e"),
        ({"issued_at": "0001-01-01T00:00:00+05:00"}, "issued_at"),
        ({"issued_at": "9999-12-31T23:59:59-05:00"}, "issued_at"),
        ({"issued_at": "1926-09-14T12:00:00Z"}, "no NF-e"),
        ({"xml": xml(issued="0001-01-01T00:00:00Z"), "key": None}, "no NF-e"),
    ],
)
async def test_what_contradicts_itself_is_refused(
    connection: asyncpg.Connection, admin: httpx.AsyncClient, given: dict[str, Any], reason: str
) -> None:
    await known(connection)
    refused = await give(admin, **given)
    assert refused.status_code == 422
    assert reason in refused.json()["detail"][0]["msg"]


@pytest.mark.asyncio
async def test_an_order_that_is_not_here_yet_says_try_again(
    connection: asyncpg.Connection, admin: httpx.AsyncClient
) -> None:
    refused = await give(admin)
    assert refused.status_code == 409
    assert "not here yet" in refused.json()["detail"]


@pytest.mark.asyncio
async def test_who_knows_the_order_better_than_erp_is_told_to_try_again(
    connection: asyncpg.Connection, admin: httpx.AsyncClient
) -> None:
    await known(connection)
    early = await give(admin, order_version=2, total_minor=1)
    assert early.status_code == 409
    assert "version 1: try again" in early.json()["detail"]
    assert (await give(admin, order_version=1)).status_code == 200


@pytest.mark.asyncio
async def test_another_invoice_needs_to_say_which_it_replaces(
    connection: asyncpg.Connection, admin: httpx.AsyncClient
) -> None:
    await known(connection)
    first = await give(admin)
    refused = await give(admin, key=key(number=8))
    stale = await give(admin, key=key(number=8), replaces=key(number=9))
    taken = await give(admin, key=key(number=8), replaces=key())
    again = await give(admin, key=key(number=8), replaces=key())

    assert (refused.status_code, stale.status_code) == (409, 409)
    assert key() in refused.json()["detail"]
    assert taken.status_code == 200
    assert again.json() == taken.json()
    assert (await give(admin, key=key())).status_code == 409
    standing = await admin.get("/admin/invoices", params=ACME | {"order_id": "order-a"})
    assert standing.json()["document_id"] == taken.json()["document_id"] != first.json()["document_id"]
    assert await connection.fetchval("SELECT count(*) FROM outbox") == 2
    booked = [(row["reference"], row["amount_minor"]) for row in await journal(connection) if row["kind"] == "invoice"]
    old, new = first.json()["document_id"], taken.json()["document_id"]
    assert booked == [(old, 5000), (new, 5000), (old, -5000)]
    assert sum(amount for _, amount in booked) == 5000


@pytest.mark.asyncio
async def test_an_invoice_may_be_dated_before_the_one_it_replaces(
    connection: asyncpg.Connection, admin: httpx.AsyncClient
) -> None:
    await known(connection)
    first = await give(admin)
    second = await give(admin, key=key(number=8), replaces=key(), issued_at=NOW.replace(hour=1).isoformat())

    assert second.json()["issued_at"] < first.json()["issued_at"]
    assert (first.json()["version"], second.json()["version"]) == (1, 2)


@pytest.mark.asyncio
async def test_nothing_is_replaced_where_nothing_stands(
    connection: asyncpg.Connection, admin: httpx.AsyncClient
) -> None:
    await known(connection)
    assert (await give(admin, replaces=key(number=9))).status_code == 409


@pytest.mark.asyncio
async def test_one_key_never_stands_for_two_orders(connection: asyncpg.Connection, admin: httpx.AsyncClient) -> None:
    await known(connection, placed(), placed(order_id="order-b"))
    assert (await give(admin)).status_code == 200
    refused = await give(admin, order_id="order-b")
    assert refused.status_code == 409
    assert "order-a" in refused.json()["detail"]
    with pytest.raises(asyncpg.UniqueViolationError):
        await connection.execute(
            "INSERT INTO documents SELECT tenant, 'd-2', 'order-b', invoice_key, invoice_no, series, total_minor, "
            "currency, issued_at, state, content_url, content_sealed, sha256, keep_until FROM documents"
        )


@pytest.mark.asyncio
async def test_the_table_refuses_a_second_standing_invoice(
    connection: asyncpg.Connection, admin: httpx.AsyncClient
) -> None:
    await known(connection)
    await give(admin)
    with pytest.raises(asyncpg.UniqueViolationError, match="documents_standing"):
        await connection.execute(
            "INSERT INTO documents SELECT tenant, 'd-2', order_id, reverse(invoice_key), invoice_no, series, "
            "total_minor, currency, issued_at, state, content_url, content_sealed, sha256, keep_until FROM documents"
        )


@pytest.mark.asyncio
async def test_the_xml_is_sealed_and_read_back(connection: asyncpg.Connection, admin: httpx.AsyncClient) -> None:
    await known(connection)
    document_id = (await give(admin, xml=xml())).json()["document_id"]

    kept = await connection.fetchval("SELECT content_sealed FROM documents")
    assert b"A Buyer" not in kept
    path = f"/admin/invoices/{document_id}/xml"
    assert (await admin.get(path, params=ACME)).text == xml()
    assert (await admin.get(path, params={"tenant": "globex"})).status_code == 404


@pytest.mark.asyncio
async def test_a_tax_id_with_letters_is_known_by_its_plain_form(
    connection: asyncpg.Connection, admin: httpx.AsyncClient
) -> None:
    await known(connection)
    added = await admin.post("/admin/companies", params=ACME, json={"tax_id": "12.ABC.345/01DE-35"})
    wrong = await admin.post("/admin/companies", params=ACME, json={"tax_id": "12.ABC.345/01DE-36"})

    assert added.json() == {"tax_ids": [TAX_ID, LETTERED_TAX_ID]}
    assert wrong.status_code == 422
    assert "no CNPJ" in wrong.json()["detail"]
    assert (await give(admin, key=key(tax_id=LETTERED_TAX_ID))).status_code == 200


@pytest.mark.asyncio
async def test_the_journal_is_read_page_by_page(connection: asyncpg.Connection, admin: httpx.AsyncClient) -> None:
    await known(connection)
    await give(admin)
    first = (await admin.get("/admin/journal", params=ACME | {"limit": 2})).json()
    rest = (await admin.get("/admin/journal", params=ACME | {"limit": 2, "after": first["next"]})).json()

    assert [row["kind"] for row in first["rows"] + rest["rows"]] == ["sale", "sale", "invoice"]
    assert rest["next"] is None
    assert (await admin.get("/admin/journal", params={"tenant": "globex"})).json() == {"rows": [], "next": None}


@pytest.mark.asyncio
@pytest.mark.parametrize("tenant", ["", "Acme", "a/b", "a\n", "a" * 33])
async def test_what_can_be_no_tenant_is_refused(admin: httpx.AsyncClient, tenant: str) -> None:
    assert (await admin.get("/admin/journal", params={"tenant": tenant})).status_code == 422
