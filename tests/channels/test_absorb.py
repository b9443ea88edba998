"""What comes in becomes one sale, whatever the order and however often it is told."""

import asyncio
import json
from dataclasses import asdict, replace
from datetime import timedelta
from typing import Any

import pytest

from contracts.crm.v1 import CustomerErased
from contracts.envelope import Envelope
from services.bus import Received, Transaction
from services.channels import handlers
from services.channels.connectors import CONNECTORS
from services.channels.intake import absorb, store
from services.channels.intake.absorb import absorb_loop
from services.channels.linking import link
from services.deadletters.lists import LetterPage, listed
from tests.channels.conftest import START, Kit, shopify_order, skyhub_order
from tests.outbox import waiting

pytestmark = pytest.mark.asyncio

PERSONAL = ("Ana", "Souza", "ana@example.com", "Rua das Flores", "Recife", "50000-000", "12345678909")


async def statuses(kit: Kit) -> list[tuple[int, str]]:
    return [(sale["revision"], sale["status"]) for sale in await kit.published()]


async def test_two_lines_with_one_id_are_set_aside_and_the_others_go_on(kit: Kit) -> None:
    shop = await kit.connect()
    await kit.link(shop, "SKU-1")
    hub = await kit.connect(connector="skyhub", account="casa")
    twice = shopify_order(2)
    twice["line_items"] *= 2
    await kit.deliver(shop, twice)
    await kit.deliver(shop, shopify_order(1))
    await kit.deliver(hub, skyhub_order(3, lines={"SKU-1": 1}))
    await kit.absorb()
    assert await kit.count("intake", "state = 'poisoned'") == 1
    assert len(await kit.published()) == 2


@pytest.mark.rule(24)
async def test_the_same_webhook_five_times_is_one_order(kit: Kit) -> None:
    shop = await kit.connect()
    await kit.link(shop, "SKU-1")
    for _ in range(3):
        await kit.deliver(shop, shopify_order(), delivery_id="one")
    for _ in range(2):
        await kit.deliver(shop, shopify_order())
    await kit.absorb()
    assert await statuses(kit) == [(1, "paid")]
    assert len(await kit.published("channels.buyers.v1")) == 1
    assert await kit.count("intake") == 3
    assert await kit.count("own_sales") == 1


@pytest.mark.rule(24)
async def test_an_update_heard_before_the_create_wins(kit: Kit) -> None:
    shop = await kit.connect()
    await kit.link(shop, "SKU-1")
    await kit.deliver(shop, shopify_order(status="paid", minute=2))
    await kit.deliver(shop, shopify_order(status="pending", minute=0))
    await kit.absorb()
    assert await statuses(kit) == [(1, "paid")]


@pytest.mark.parametrize("together", [True, False], ids=["in one batch", "one by one"])
@pytest.mark.rule(24)
async def test_a_cancel_before_the_payment_ends_cancelled(kit: Kit, together: bool) -> None:
    shop = await kit.connect()
    await kit.link(shop, "SKU-1")
    steps: list[dict[str, Any]] = [
        {"status": "pending", "minute": 0},
        {"status": "voided", "minute": 3, "cancelled": True},
        {"status": "paid", "minute": 1},
        {"status": "voided", "minute": 3, "cancelled": True},
    ]
    for step in steps:
        await kit.deliver(shop, shopify_order(**step))
        if not together:
            await kit.absorb()
    await kit.absorb()
    assert await statuses(kit) == [(1, "awaiting_payment"), (2, "cancelled")]
    assert (await kit.published())[-1]["lines"][0]["cancelled"] == 2


@pytest.mark.rule(24)
async def test_an_equal_version_with_another_body_is_fetched_again_and_what_was_fetched_is_taken(kit: Kit) -> None:
    shop = await kit.connect()
    await kit.link(shop, "SKU-1")
    await kit.deliver(shop, shopify_order(status="pending", minute=1))
    await kit.deliver(shop, shopify_order(status="paid", minute=1))
    await kit.absorb()
    assert await statuses(kit) == [(1, "awaiting_payment")]
    async with kit.service.transaction() as tx:
        free = {shop.connection_id: 2}
        [wanted] = await store.claim_fetches(tx.connection, free, tx.now, timedelta(seconds=60))
        assert await store.claim_fetches(tx.connection, free, tx.now, timedelta(seconds=60)) == []
        await store.fetched(tx.connection, [wanted], tx.now)
    await kit.deliver(shop, shopify_order(status="paid", minute=1), topic="fetch", fetch_seq=wanted.seq)
    await kit.absorb()
    assert await statuses(kit) == [(1, "awaiting_payment"), (2, "paid")]


@pytest.mark.rule(24)
async def test_without_versions_a_final_state_is_never_left(kit: Kit) -> None:
    hub = await kit.connect(connector="skyhub", account="casa")
    await kit.link(hub, "SKU-1")
    for kind in ("NEW", "APPROVED", "NEW", "CANCELED", "APPROVED", "SHIPPED", "CANCELED"):
        await kit.deliver(hub, skyhub_order(kind=kind), topic="queue")
    await kit.absorb()
    assert await statuses(kit) == [(1, "awaiting_payment"), (2, "paid"), (3, "cancelled")]
    first = (await kit.published())[0]
    assert first["payment_due"] == "2026-03-06T12:00:00Z"


@pytest.mark.rule(24)
async def test_a_state_that_no_mapping_covers_delays_nothing_about_stock(kit: Kit) -> None:
    hub = await kit.connect(connector="skyhub", account="casa")
    await kit.link(hub, "SKU-1")
    await kit.deliver(hub, skyhub_order(1, "SOMETHING_NEW"), topic="queue")
    await kit.deliver(hub, skyhub_order(2, "APPROVED"), topic="queue")
    await kit.deliver(hub, skyhub_order(2, "SOMETHING_NEW"), topic="queue")
    await kit.absorb()
    told = [(sale["external_id"], sale["status"], sale["unresolved"]) for sale in await kit.published()]
    assert told == [
        ("Marketplace-1", "unknown", ["status"]),
        ("Marketplace-2", "paid", []),
        ("Marketplace-2", "paid", ["status"]),
    ]


@pytest.mark.rule(24)
async def test_a_line_with_an_unknown_sku_waits_alone_and_exactly_its_orders_follow(kit: Kit) -> None:
    shop = await kit.connect()
    await kit.link(shop, "SKU-1")
    await kit.deliver(shop, shopify_order(1, lines={"SKU-1": 1, "SKU-2": 3}))
    await kit.deliver(shop, shopify_order(2, lines={"SKU-1": 1}))
    await kit.absorb()
    first = (await kit.published())[0]
    assert [(line["sku"], line["quantity"]) for line in first["lines"]] == [("SKU-1", 1), (None, 3)]
    assert first["unresolved"] == ["sku of item sku-2"]
    alerts = await kit.service.pool.fetch("SELECT kind, subject, urgent FROM alerts WHERE resolved_at IS NULL")
    assert [dict(alert) for alert in alerts] == [{"kind": "unknown_sku", "subject": "sku-2", "urgent": True}]

    await kit.link(shop, "SKU-3")
    async with kit.service.transaction() as tx:
        assert await link(tx, shop, "nowhere", "SKU-2", 2) is None
    assert len(await kit.published()) == 2

    async with kit.service.transaction() as tx:
        await store.absorb_lock(tx.connection)
        await tx.connection.execute(
            "INSERT INTO items (tenant, sku, epoch, version, components) VALUES ('loja', 'SKU-2', 0, 1, '[]')"
        )
    await kit.service.pool.execute(
        """
        WITH r AS (
            INSERT INTO stock_records (tenant, stock_record, connection_id, item, location, restores_on_cancel)
            VALUES ('loja', 'r2', $1, 'i2', '1', true)
        ) INSERT INTO listings VALUES ('loja', $1, 'sku-2', 'r2', '', '')
        """,
        shop.connection_id,
    )
    async with kit.service.transaction() as tx:
        assert await link(tx, shop, "sku-2", "SKU-2", 2) == 1
    sales = await kit.published()
    assert [(sale["external_id"], sale["revision"]) for sale in sales] == [("1", 1), ("2", 1), ("1", 2)]
    assert [(line["sku"], line["quantity"]) for line in sales[-1]["lines"]] == [("SKU-1", 1), ("SKU-2", 6)]
    assert sales[-1]["unresolved"] == []
    assert await kit.count("alerts", "resolved_at IS NULL") == 0


async def test_a_body_stored_while_somebody_absorbs_is_absorbed_as_soon_as_that_ends(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Told to look while the lock is taken, the loop waits for it, and not for its next look an hour later. The moment
    of its transaction is not from before the wait: what came meanwhile would seem to be younger.
    """
    shop = await kit.connect()
    await kit.link(shop, "SKU-1")
    kit.intake.settings.absorb_idle_s = 3600
    waiting_for, moments = absorb._absorb_waiting, []

    async def noted(tx: Transaction, *rest: Any) -> int:
        moments.append(tx.now)
        return await waiting_for(tx, *rest)

    monkeypatch.setattr(absorb, "_absorb_waiting", noted)
    async with kit.service.transaction() as tx:
        await store.absorb_lock(tx.connection)
        kit.intake.arrived.set()
        absorbing = asyncio.create_task(absorb_loop(kit.service, kit.intake))
        async with asyncio.timeout(20):
            while not await kit.count("pg_locks", "locktype = 'advisory' AND NOT granted"):  # noqa: ASYNC110 - the database has no event
                await asyncio.sleep(0.01)
        await kit.deliver(shop, shopify_order())
        stored_at = kit.service.clock()
    try:
        async with asyncio.timeout(20):
            while not await kit.published():  # noqa: ASYNC110 - the database has no event
                await asyncio.sleep(0.01)
    finally:
        absorbing.cancel()
        await asyncio.gather(absorbing, return_exceptions=True)
    assert moments[0] >= stored_at


async def test_malformed_json_is_stored_and_dead_lettered_and_the_rest_goes_on(kit: Kit) -> None:
    shop = await kit.connect()
    await kit.link(shop, "SKU-1")
    await kit.deliver(shop, b'{"id": 1, "customer": {"email": "ana@example.com"')
    await kit.deliver(shop, b"\xff\xfe")
    await kit.deliver(shop, {"id": 5, "currency": "BRL"})
    await kit.deliver(shop, shopify_order())
    await kit.absorb()
    assert await statuses(kit) == [(1, "paid")]
    letters = await listed(kit.service._work, LetterPage(tenant="loja", state="open"))
    assert len(letters) == 3
    assert {letter["stream"] for letter in letters} == {"channels.intake"}
    told = json.dumps([dict(letter) for letter in letters], default=str)
    assert "ana@example.com" not in told
    assert "updated_at is no ISO 8601 moment" in told
    await kit.service.dead_letters.discard(letters[0]["id"], reason="junk", author="ana")
    await kit.service.dead_letters.replay(letters[1]["id"])
    async with kit.service.pool.acquire() as database:
        assert await store.follow_letters(database, "channels.intake")
    assert await kit.count("intake", "state = 'poisoned'") == 1
    await kit.absorb()
    assert await kit.count("intake", "state = 'poisoned'") == 2
    open_letters = await listed(kit.service._work, LetterPage(state="open"))
    assert [(one["id"], one["attempts"]) for one in open_letters] == [(letters[1]["id"], 2), (letters[2]["id"], 1)]


@pytest.mark.rule(30)
async def test_nothing_personal_is_published_but_on_the_stream_for_it(kit: Kit) -> None:
    shop = await kit.connect()
    hub = await kit.connect(connector="skyhub", account="casa")
    await kit.deliver(shop, shopify_order(lines={"SKU-1": 1, "SKU-9": 1}))
    await kit.deliver(hub, skyhub_order(), topic="queue")
    await kit.deliver(hub, b'{"code": "Ana Souza"', topic="queue")
    await kit.absorb()
    open_text = " ".join(
        f"{one.key} {one.headers} {one.payload.decode()}"
        for one in await waiting(kit.service.pool)
        if one.topic != "channels.buyers.v1"
    )
    for table in ("intake", "intake_orders", "buyers", "alerts", "dead_letters"):
        open_text += " ".join(str(dict(row)) for row in await kit.service.pool.fetch(f"SELECT * FROM {table}"))
    for word in PERSONAL:
        assert word not in open_text
    buyers = await kit.published("channels.buyers.v1")
    assert sorted(buyer["name"] for buyer in buyers) == ["Ana Souza", "Ana Souza"]


async def test_a_changed_buyer_is_reported_again_and_the_same_one_is_not(kit: Kit) -> None:
    shop = await kit.connect()
    await kit.deliver(shop, shopify_order(status="pending", minute=0))
    await kit.deliver(shop, shopify_order(status="paid", minute=1))
    await kit.absorb()
    await kit.deliver(shop, shopify_order(status="paid", minute=2, buyer="Ana Lima"))
    await kit.absorb()
    buyers = await kit.published("channels.buyers.v1")
    assert [buyer["name"] for buyer in buyers] == ["Ana Souza", "Ana Lima"]
    assert len({buyer["customer_ref"] for buyer in buyers}) == 1
    assert await kit.count("buyers", "erase_at IS NOT NULL") == 0
    await kit.deliver(shop, shopify_order(minute=3, cancelled=True, buyer="Ana Lima"))
    await kit.absorb()
    assert await kit.count("buyers", "erase_at IS NOT NULL") == 1


async def test_two_companies_with_the_same_external_id_never_meet(kit: Kit) -> None:
    mine = await kit.connect(tenant="loja", base_url="http://127.0.0.1:9")
    theirs = await kit.connect(tenant="outra", base_url="http://127.0.0.2:9")
    assert mine.connection_id != theirs.connection_id
    await kit.link(mine, "SKU-1")
    await kit.deliver(mine, shopify_order(status="pending", minute=0))
    await kit.deliver(theirs, shopify_order(status="paid", minute=5, buyer="Bia Reis"))
    await kit.absorb()
    sales = await kit.published()
    assert [(sale["status"], sale["revision"]) for sale in sales] == [("awaiting_payment", 1), ("paid", 1)]
    assert sales[0]["order_id"] != sales[1]["order_id"]
    assert sales[0]["customer_ref"] != sales[1]["customer_ref"]
    assert [sale["lines"][0]["sku"] for sale in sales] == ["SKU-1", None]
    published = await waiting(kit.service.pool, "channels.sales.v1")
    assert [one.key.partition(":")[0] for one in published] == ["loja", "outra"]


async def test_what_comes_while_a_connection_is_paused_is_kept_and_absorbed_later(kit: Kit) -> None:
    shop = await kit.connect()
    await kit.service.pool.execute("UPDATE connections SET state = 'paused', version = version + 1")
    await kit.intake.registry.refresh(kit.service.pool)
    await kit.deliver(shop, shopify_order())
    await kit.absorb()
    assert await kit.published() == []
    await kit.service.pool.execute("UPDATE connections SET state = 'live', version = version + 1")
    await kit.intake.registry.refresh(kit.service.pool)
    await kit.absorb()
    assert await statuses(kit) == [(1, "paid")]


@pytest.mark.rule(30)
async def test_an_order_is_found_and_erased_by_its_id(kit: Kit) -> None:
    shop = await kit.connect()
    await kit.deliver(shop, shopify_order(1))
    await kit.deliver(shop, shopify_order(2))
    await kit.absorb()
    order_id = (await kit.published())[0]["order_id"]
    async with kit.service.transaction() as tx:
        assert await store.erase_orders(tx.connection, "outra", [order_id]) == (0, 0)
        assert await store.erase_orders(tx.connection, "loja", [order_id]) == (1, 1)
        left = await store.list_bodies(tx.connection, "loja", None, None, 10)
    assert [body["order_id"] == order_id for body in left] == [False]
    assert await kit.count("intake_orders") == 2


@pytest.mark.rule(30)
async def test_old_bodies_are_forgotten_and_waiting_ones_are_not(kit: Kit) -> None:
    shop = await kit.connect()
    await kit.deliver(shop, shopify_order(1))
    await kit.absorb()
    await kit.deliver(shop, shopify_order(2))
    await kit.service.pool.execute("UPDATE intake SET received_at = received_at - interval '31 days'")
    now = kit.service.clock()
    async with kit.service.transaction() as tx:
        assert await store.prune(tx.connection, now - timedelta(days=30), now) == (1, 0)
    assert await kit.count("intake", "state = 'new'") == 1


@pytest.mark.rule(24)
async def test_adding_a_connection_again_doubles_nothing(kit: Kit) -> None:
    first = await kit.connect()
    again = await kit.connect(live=False)
    assert asdict(again) == asdict(first)
    changed = await kit.connect(credentials={"access_token": "other", "webhook_secret": "shop secret"}, live=False)
    assert (changed.connection_id, changed.state) == (first.connection_id, "draft")
    assert await kit.count("connections") == 1


async def test_what_comes_in_of_an_erased_order_is_not_kept(kit: Kit) -> None:
    shop = await kit.connect()
    for number in (1, 2):
        await kit.deliver(shop, shopify_order(number))
    await kit.absorb()
    first, second = [sale["order_id"] for sale in await kit.published()]
    message = CustomerErased(
        customer_id="c1", version=2, customer_refs=(), order_ids=(first, "never came in"), at=kit.service.clock()
    )
    event = Received(message, Envelope("e1", "t", "s", START, "c1", "loja", "c1"), "c1")
    for _ in range(2):
        async with kit.service.transaction() as tx:
            await handlers.forget([event], tx)
    assert await kit.count("buyers") == await kit.count("intake") == 1
    await kit.deliver(shop, shopify_order(1, minute=5, buyer="Ana Lima"))
    await kit.deliver(shop, shopify_order(2, minute=5, buyer="Rui Lima"))
    await kit.absorb()
    assert [sale["order_id"] for sale in (await kit.published())[2:]] == [first, second], "the sale itself goes on"
    assert [buyer["order_id"] for buyer in await kit.published("channels.buyers.v1")] == [first, second, second]
    assert await kit.count("buyers", f"order_id = '{first}'") == await kit.count("intake", f"order_id = '{first}'") == 0


async def test_a_buyer_may_not_be_contacted_unless_the_connector_says_so(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = await kit.connect()
    await kit.deliver(shop, shopify_order(1))
    await kit.absorb()
    allows = replace(CONNECTORS["shopify"].traits, contact_allowed=True)
    monkeypatch.setattr(type(CONNECTORS["shopify"]), "traits", allows)
    await kit.deliver(shop, shopify_order(2))
    await kit.absorb()
    told = [(one["contact_allowed"], one["sale_revision"]) for one in await kit.published("channels.buyers.v1")]
    assert told == [(False, 1), (True, 1)]
