"""Mercado Livre end to end against its sandbox: pointers, tokens that work once, stock by version, lost pushes."""

import asyncio
import itertools
import json
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import httpx
import pytest
import pytest_asyncio

from contracts.channels.v1 import SaleStatus
from services.border import door as border_door
from services.channels.connections import tokens
from services.channels.connections.registry import Open
from services.channels.connectors import CONNECTORS
from services.channels.connectors.connector import (
    Granted,
    OutcomeUnknown,
    Session,
    SignatureInvalid,
    StockWrite,
    TokenEnded,
    Unreachable,
    WriteStatus,
)
from services.channels.connectors.mercadolivre import _concerned
from services.channels.intake import pull
from services.channels.intake.absorb import absorb_loop
from services.channels.intake.door import Door
from services.sandbox.client import SandboxClient
from tests.channels.conftest import Kit
from tests.sandbox.running import TOKEN, Sandbox, running

pytestmark = pytest.mark.asyncio
_names = itertools.count(1)
MELI = CONNECTORS["mercadolivre"]
_GENEROUS = ("orders", "shipments", "stock", "search", "claims", "feeds", "token", "items", "reports")


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    yield from running("mercadolivre", tmp_path_factory)


@pytest_asyncio.fixture
async def meli(sandbox: Sandbox) -> AsyncIterator[SandboxClient]:
    async with SandboxClient(sandbox.base_url, TOKEN) as control:
        yield control


async def opened(kit: Kit, control: SandboxClient, **settings: Any) -> tuple[Open, str]:
    """A live connection to a fresh shop with a hundred of SKU-1, limits out of the way."""
    name = f"loja-{next(_names)}"
    limits = {f"meli_{limit}_per_s": 1000 for limit in _GENEROUS}
    told = await control.put_shop(name, limits=limits, **{"webhook_retry_s": [0.05] * 7, **settings})
    await control.put_products(name, [{"sku": "SKU-1", "title": "t", "quantity": 100, "price_minor": 1990}])
    connection = await kit.connect(
        connector="mercadolivre",
        account=name,
        base_url=told["base_url"],
        credentials=told["credentials"],
        store_id=told["locations"][0],
        **{f"limit.{limit}": "1000/1000" for limit in _GENEROUS},
    )
    entry = kit.intake.registry.get(connection.connection_id)
    assert entry is not None
    return entry, name


@asynccontextmanager
async def at_work(kit: Kit, entry: Open) -> AsyncIterator[str]:
    """The door and the loops of intake; yields the address that the marketplace is to call."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    kit.intake.settings = kit.intake.settings.model_copy(update={"door_port": port})
    opened_door = Door(kit.service, kit.intake)
    loops = [
        asyncio.create_task(opened_door.store_loop()),
        asyncio.create_task(border_door.listen(opened_door.app, host="127.0.0.1", port=port)),
        asyncio.create_task(absorb_loop(kit.service, kit.intake)),
        asyncio.create_task(pull.refetch(kit.service, kit.intake)),
    ]
    address = kit.intake.door_of(entry.connection, entry.session)
    try:
        async with httpx.AsyncClient(trust_env=False) as client:
            for _ in range(500):
                with suppress(httpx.TransportError):
                    await client.get(f"http://127.0.0.1:{port}/")
                    break
                await asyncio.sleep(0.01)
        yield address
    finally:
        for loop in loops:
            loop.cancel()
        await asyncio.gather(*loops, return_exceptions=True)


async def sales(kit: Kit, count: int, *last: str) -> list[dict[str, Any]]:
    """What was published, as soon as there are so many sales and each order's latest state is one of `last`."""
    for _ in range(1500):
        found = await kit.published()
        latest = {one["order_id"]: one["status"] for one in found}
        if len(latest) == count and set(latest.values()) <= set(last):
            return found
        await asyncio.sleep(0.02)
    raise AssertionError(f"published: {[(one['external_id'], one['revision'], one['status']) for one in found]}")


# -- in --------------------------------------------------------------------------------------------------------------


async def test_a_sale_is_pushed_as_a_pointer_read_paid_sent_and_delivered(kit: Kit, meli: SandboxClient) -> None:
    entry, name = await opened(kit, meli)
    await kit.link(entry.connection, "SKU-1")
    async with at_work(kit, entry) as address:
        await meli.put_shop(name, callback_url=address)
        bought = await meli.buy(name, {"SKU-1": 2}, pay="later")
        first = (await sales(kit, 1, "awaiting_payment"))[-1]
        assert (first["external_id"], first["currency"], first["total_minor"]) == (bought["order_id"], "BRL", 3980)
        assert [(line["quantity"], line["unit_price_minor"]) for line in first["lines"]] == [(2, 1990)]
        assert await kit.published("channels.buyers.v1") == []
        await meli.pay(name, bought["order_id"])
        await sales(kit, 1, "paid")
        (buyer,) = await kit.published("channels.buyers.v1")
        assert buyer["name"]
        assert not buyer["contact_allowed"]
        # Where the parcel is, is told by a push that names the shipment alone.
        await meli.move(name, bought["order_id"], "shipped")
        await sales(kit, 1, "shipped")
        await meli.move(name, bought["order_id"], "delivered")
        await sales(kit, 1, "delivered")
    assert await kit.count("intake", "state = 'poisoned'") == 0


async def test_orders_of_one_purchase_share_a_shipment_and_are_read_again_together(
    kit: Kit, meli: SandboxClient
) -> None:
    entry, name = await opened(kit, meli)
    async with at_work(kit, entry) as address:
        await meli.put_shop(name, callback_url=address)
        orders = [(await meli.buy(name, {"SKU-1": 1}, pack="p1"))["order_id"] for _ in range(2)]
        await sales(kit, 2, "paid")
        for order in orders:
            await meli.move(name, order, "shipped")
        await sales(kit, 2, "shipped")


async def test_a_shipment_that_moves_while_its_order_is_read_for_the_first_time_is_not_missed(
    kit: Kit, meli: SandboxClient
) -> None:
    entry, name = await opened(kit, meli)
    bought = await meli.buy(name, {"SKU-1": 1})
    order = MELI.to_order((await MELI.fetch(entry.session, bought["order_id"])).body)
    await kit.deliver(entry.connection, {"resource": f"/orders/{bought['order_id']}"}, topic="orders_v2")
    await kit.absorb()
    async with kit.service.pool.acquire() as database:
        free = {entry.connection.connection_id: 1}
        [wanted] = await pull.store.claim_fetches(database, free, kit.service.clock(), timedelta(seconds=60))
    answer = await pull.fetch_one(kit.service, kit.intake, entry, wanted)
    # Heard after the order was read and before anybody here knows whose shipment it is.
    await kit.deliver(entry.connection, {"resource": f"/{order.aliases[0]}"}, topic="shipments")
    await kit.absorb()
    await pull.keep_fetched(kit.service, kit.intake, [answer])
    await kit.absorb()
    assert [sale["status"] for sale in await kit.published()] == ["paid"]
    assert await kit.count("intake_orders", "notified_seq > fetched_seq") == 1


async def test_pushes_without_the_secret_or_of_another_seller_are_refused_and_nothing_is_called_out(
    kit: Kit, meli: SandboxClient, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    entry, _ = await opened(kit, meli)
    credentials = entry.session.credentials
    own = {
        "_id": "n1", "resource": "/orders/1", "topic": "orders_v2", "user_id": int(credentials["user_id"]),
        "application_id": int(credentials["client_id"]), "attempts": 1,
    }  # fmt: skip

    async def called_out(*_: Any, **__: Any) -> Any:
        raise AssertionError("the door called the marketplace")

    monkeypatch.setattr("services.border.calls.send", called_out)
    opened_door = Door(kit.service, kit.intake)
    writer = asyncio.create_task(opened_door.store_loop())
    secret = credentials["hook_secret"]
    path = f"/hooks/{entry.connection.connection_id}"
    transport = httpx.ASGITransport(opened_door.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://door") as client:
        for where, body, status in (
            (path, own, 404),
            (f"{path}/{secret[:-1]}", own, 404),
            (f"{path}/{secret}", own | {"user_id": 1}, 401),
            (f"{path}/{secret}", own | {"application_id": "1"}, 401),
            (f"{path}/{secret}", [own], 401),
            (f"{path}/{secret}", own | {"topic": "questions", "resource": "/questions/1"}, 200),
        ):
            assert (await client.post(where, json=body)).status_code == status, (where.replace(secret, "*"), body)
        assert await kit.count("intake") == 0
        for attempts in (1, 2):
            assert (await client.post(f"{path}/{secret}", json=own | {"attempts": attempts})).status_code == 200
        assert await kit.count("intake") == 1
    writer.cancel()
    await asyncio.gather(writer, return_exceptions=True)
    printed = capfd.readouterr()
    assert secret not in printed.out + printed.err


async def test_lost_pushes_are_found_in_the_feed_and_by_search_and_what_is_known_is_not_read_again(
    kit: Kit, meli: SandboxClient
) -> None:
    entry, name = await opened(kit, meli, callback_url="http://127.0.0.1:9/nobody", webhook_retry_s=[])
    first = (await meli.buy(name, {"SKU-1": 1}))["order_id"]
    since = datetime.now(UTC) - timedelta(minutes=1)
    for _ in range(500):
        polled = [one async for one in MELI.poll(entry.session, since)]
        if any(not one.version for one in polled):
            break
        await asyncio.sleep(0.02)
    assert {one.external_id for one in polled if one.version} == {first}
    assert {MELI.points_to("poll", one.body) for one in polled} >= {first}
    begun_at = kit.service.clock()
    async with at_work(kit, entry):
        assert await pull.repair(kit.service, kit.intake, entry, begun_at) > 0
        await sales(kit, 1, "paid")
    before = await kit.count("intake")
    await pull.repair(kit.service, kit.intake, entry, begun_at)
    assert await kit.count("intake") == before


async def test_a_state_that_no_page_names_and_an_order_that_came_back_are_told_as_what_they_are() -> None:
    item = {"item": {"id": "MLB1", "seller_sku": "A"}, "quantity": 2, "unit_price": 10, "full_unit_price": 12.5}
    own = {
        "item": {"id": "MLB2", "variation_id": 7},
        "quantity": 1,
        "unit_price": 1,
        "stock": {"node_id": "meli_facility"},
    }
    moment = "2026-03-01T09:00:00.000-04:00"
    order = {
        "id": 7, "status": "under_review", "date_created": moment, "currency_id": "BRL", "total_amount": 21,
        "order_items": [item, item, own], "buyer": {"id": 5}, "shipping": {"id": 9}, "pack_id": 3,
    }  # fmt: skip
    shipment = {"status": "delivered", "last_updated": "2026-03-01T09:00:01.000-04:00"}

    def read(status: str, where: dict[str, Any] | None = None) -> Any:
        return MELI.to_order(json.dumps({"order": order | {"status": status}, "shipment": where}).encode())

    unknown = read("under_review")
    assert (unknown.status, unknown.unresolved, unknown.reference) == (SaleStatus.UNKNOWN, ("status",), "3/9")
    assert [(line.line_id, line.fulfilled_by, line.discount_minor) for line in unknown.lines] == [
        ("MLB1", "us", 500), ("MLB1#2", "us", 500), ("MLB2:7", "meli_facility", 0),
    ]  # fmt: skip
    back = read("cancelled", shipment)
    assert (back.status, [line.returned for line in back.lines]) == (SaleStatus.RETURNED, [2, 2, 1])
    assert [line.cancelled for line in read("cancelled").lines] == [2, 2, 1]
    assert back.version > unknown.version
    assert read("paid", shipment).told == {"invoice", "shipment", "delivery"}
    assert read("paid", {"status": "ready_to_ship", "substatus": "invoice_pending"}).told == frozenset()


async def test_what_a_buyer_sends_back_is_found_by_its_claim_and_followed_until_it_is_here(
    kit: Kit, meli: SandboxClient
) -> None:
    entry, name = await opened(kit, meli)
    await kit.link(entry.connection, "SKU-1")

    async def said(*last: str) -> tuple[str, int]:
        sale = (await sales(kit, 1, *last))[-1]
        return sale["status"], sale["lines"][0]["returned"]

    async def after(count: int) -> None:
        """Wait until so many reports were made."""
        for _ in range(1500):
            if len(await kit.published()) >= count:
                return
            await asyncio.sleep(0.02)
        raise AssertionError(f"fewer than {count} reports")

    async with at_work(kit, entry) as address:
        await meli.put_shop(name, callback_url=address)
        order = (await meli.buy(name, {"SKU-1": 3}))["order_id"]
        for status in ("shipped", "delivered"):
            await meli.move(name, order, status)
        assert await said("delivered") == ("delivered", 0)
        claim = await meli.claim(name, order, {"SKU-1": 1})
        # Nobody knows yet whose claim it is: the poll finds out, and that a return which has not begun is none.
        await pull.repair(kit.service, kit.intake, entry, kit.service.clock())
        for _ in range(1500):
            if await kit.count("intake_aliases", f"alias = '@claims/{claim}' AND external_id <> ''"):
                break
            await asyncio.sleep(0.02)
        else:
            raise AssertionError("nobody found out whose claim it is")
        assert await said("delivered") == ("delivered", 0)
        before = len(await kit.published())
        await meli.move_claim(name, claim, "shipped")
        await after(before + 1)
        assert await said("delivered") == ("delivered", 1)
        await meli.move_claim(name, claim, "cancelled")
        await after(before + 2)
        assert await said("delivered") == ("delivered", 0)
        whole = await meli.claim(name, order, {"SKU-1": 3})
        await meli.move_claim(name, whole, "shipped")
        await pull.repair(kit.service, kit.intake, entry, kit.service.clock())
        await after(before + 3)
        assert await said("delivered") == ("delivered", 3)
        await meli.move_claim(name, whole, "delivered")
        assert await said("returned") == ("returned", 3)
    assert await kit.count("intake", "state = 'poisoned'") == 0


async def test_a_claim_about_a_shipment_or_a_payment_leads_to_its_order_and_one_about_money_brings_nothing_back(
    kit: Kit, meli: SandboxClient
) -> None:
    entry, name = await opened(kit, meli)
    order = (await meli.buy(name, {"SKU-1": 2}))["order_id"]
    await meli.move(name, order, "shipped")
    claim = await meli.claim(name, order, {"SKU-1": 1}, low_cost=True)
    read = MELI.to_order((await MELI.fetch(entry.session, order)).body)
    assert (read.status, [line.returned for line in read.lines]) == (SaleStatus.SHIPPED, [0])
    assert f"claims/{claim}" in read.aliases
    since = datetime.now(UTC) - timedelta(minutes=1)
    by_order = [one async for one in MELI.poll(entry.session, since)]
    assert {one.external_id for one in by_order} == {order}
    told: dict[str, Any] = {"id": int(claim), "resource": "shipment", "resource_id": 77}
    assert await _concerned(entry.session, told) == ["/shipments/77"]
    assert await _concerned(entry.session, told | {"resource": "payment"}) == [f"/orders/{order}"]
    assert await _concerned(entry.session, {"id": 1, "resource": "purchase", "resource_id": 8}) == []
    assert MELI.points_to("post_purchase", b'{"resource": "post-purchase/v1/claims/51"}') == "@claims/51"
    with pytest.raises(ValueError, match="nor a claim"):
        MELI.points_to("post_purchase", b'{"resource": "post-purchase/v1/claims/51/actions-history"}')


async def test_no_deadline_is_asked_for_what_nobody_sends(kit: Kit, meli: SandboxClient) -> None:
    entry, name = await opened(kit, meli, dispatch_h=24)
    unpaid = (await meli.buy(name, {"SKU-1": 1}, pay="later"))["order_id"]
    paid = (await meli.buy(name, {"SKU-1": 1}))["order_id"]
    await meli.put_products(name, [{"sku": "FULL", "quantity": 5, "price_minor": 100, "location": "meli_facility"}])
    full = (await meli.buy(name, {"FULL": 1}))["order_id"]
    gone = (await meli.buy(name, {"SKU-1": 1}))["order_id"]
    await meli.cancel(name, gone)
    found = {one: MELI.to_order((await MELI.fetch(entry.session, one)).body) for one in (unpaid, paid, full, gone)}
    assert [one for one, read in found.items() if read.ship_by] == [paid]
    assert found[paid].ship_by == found[paid].sold_at + timedelta(hours=24)


async def test_only_the_account_itself_is_verified() -> None:
    with pytest.raises(SignatureInvalid, match="user_id"):
        MELI.verify({}, b'{"user_id": 2, "application_id": 3}', {"user_id": "1", "client_id": "3"})
    with pytest.raises(SignatureInvalid, match="no notification"):
        MELI.verify({}, b"\xff", {"user_id": "1", "client_id": "3"})


# -- tokens ----------------------------------------------------------------------------------------------------------


async def exchanges_of(meli: SandboxClient, name: str) -> list[str]:
    return [row["action"] async for row in meli.books() if row["shop"] == name and row["kind"] == "token"]


async def test_twenty_calls_at_once_in_two_processes_exchange_the_token_once(kit: Kit, meli: SandboxClient) -> None:
    entry, name = await opened(kit, meli)
    assert isinstance(MELI, tokens.Refreshes)
    other = tokens.Keeper(kit.service.pool, kit.vault, entry.connection, MELI, entry.session)
    mine = entry.session.token
    assert mine is not None
    given = await asyncio.gather(*(mine() for _ in range(10)), *(other.token() for _ in range(10)))
    assert len(set(given)) == 1
    assert await exchanges_of(meli, name) == ["refreshed"]


async def test_a_token_taken_for_ended_is_exchanged_and_the_call_made_again(kit: Kit, meli: SandboxClient) -> None:
    entry, name = await opened(kit, meli)
    assert await MELI.check(entry.session, "") == []
    await meli.put_vices(name, token_refused={"probability": 0.5}, seed=3)
    for _ in range(6):
        with suppress(Exception):
            await MELI.read_stock(entry.session, [("MLBU1", "1")])
    await meli.put_vices(name)
    assert await MELI.check(entry.session, "") == []
    done = await exchanges_of(meli, name)
    assert len(done) > 1
    assert set(done) == {"refreshed"}


async def test_the_new_tokens_survive_a_restart_and_short_lives_are_renewed(kit: Kit, meli: SandboxClient) -> None:
    entry, name = await opened(kit, meli, access_token_s=0.2)
    token = entry.session.token
    assert token is not None
    first = await token()
    for _ in range(200):
        if await token() != first:
            break
        await asyncio.sleep(0.01)
    else:
        raise AssertionError("the token was never renewed")
    later = tokens.Keeper(kit.service.pool, kit.vault, entry.connection, MELI, entry.session)  # type: ignore[arg-type]
    assert await later.token()
    assert set(await exchanges_of(meli, name)) == {"refreshed"}


async def test_a_lost_answer_is_asked_for_again_where_the_channel_repeats_it(kit: Kit, meli: SandboxClient) -> None:
    entry, name = await opened(kit, meli)

    class Lost:
        """The exchange happens and its answer is lost, once or for good."""

        def __init__(self, times: int) -> None:
            self.times = times

        async def refresh(self, session: Session, refresh_token: str) -> Granted:
            granted = await MELI.refresh(session, refresh_token)  # type: ignore[attr-defined]
            self.times -= 1
            if self.times >= 0:
                raise OutcomeUnknown("token: timeout")
            assert isinstance(granted, Granted)
            return granted

    def keeper(times: int) -> tokens.Keeper:
        return tokens.Keeper(kit.service.pool, kit.vault, entry.connection, Lost(times), entry.session)

    await meli.put_shop(name, refresh_reuse_s=60)
    assert await keeper(1).token()
    await kit.service.pool.execute("UPDATE tokens SET renew_at = to_timestamp(0)")
    with pytest.raises(Unreachable):
        await keeper(2).token()
    assert await kit.count("tokens", "claimed_until IS NULL AND NOT broken") == 1
    assert await keeper(0).token()
    # Where it is not repeated, the tokens are lost and a person has to authorise the account again.
    await meli.put_shop(name, refresh_reuse_s=0)
    await kit.service.pool.execute("UPDATE tokens SET renew_at = to_timestamp(0)")
    with pytest.raises(TokenEnded):
        await keeper(1).token()
    assert await kit.count("alerts", "kind = 'reauthorise' AND urgent AND resolved_at IS NULL") == 1
    with pytest.raises(TokenEnded, match="authorised again"):
        await keeper(0).token()


async def test_a_caller_that_is_cancelled_loses_no_token(kit: Kit, meli: SandboxClient) -> None:
    entry, name = await opened(kit, meli)
    answered, go_on = asyncio.Event(), asyncio.Event()

    class Slow:
        """The answer is there before the caller is cancelled, and read after it."""

        async def refresh(self, session: Session, refresh_token: str) -> Granted:
            granted = await MELI.refresh(session, refresh_token)  # type: ignore[attr-defined]
            answered.set()
            await go_on.wait()
            assert isinstance(granted, Granted)
            return granted

    exchanges: set[asyncio.Task[None]] = set()
    keeper = tokens.Keeper(kit.service.pool, kit.vault, entry.connection, Slow(), entry.session, exchanges=exchanges)
    caller = asyncio.create_task(keeper.token())
    await answered.wait()
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)
    go_on.set()
    await asyncio.gather(*exchanges)
    assert entry.session.token is not None
    assert await entry.session.token()
    assert await exchanges_of(meli, name) == ["refreshed"]


async def test_a_claim_of_a_process_that_died_before_it_asked_is_taken_up(kit: Kit, meli: SandboxClient) -> None:
    entry, name = await opened(kit, meli)
    assert isinstance(MELI, tokens.Refreshes)

    def dies(_point: str) -> None:
        raise InterruptedError

    dead = tokens.Keeper(kit.service.pool, kit.vault, entry.connection, MELI, entry.session, dies, lease_s=0.3)
    with pytest.raises(InterruptedError):
        await dead.token()
    assert entry.session.token is not None
    assert await entry.session.token()
    assert await exchanges_of(meli, name) == ["refreshed"]


async def test_authorising_again_begins_anew_and_adding_the_same_again_does_not(kit: Kit, meli: SandboxClient) -> None:
    entry, name = await opened(kit, meli)
    token = entry.session.token
    assert token is not None
    await token()
    await kit.service.pool.execute("UPDATE tokens SET broken = true")
    given = {key: value for key, value in entry.session.credentials.items() if key != "hook_secret"}
    settings = dict(entry.session.settings)

    async def add(**more: str) -> Open:
        connection = await kit.connect(
            connector="mercadolivre",
            account=name,
            base_url=entry.session.base_url,
            credentials=given | more,
            **settings,
        )
        again = kit.intake.registry.get(connection.connection_id)
        assert again is not None
        return again

    assert (await add()).session.credentials == entry.session.credentials
    assert await kit.count("tokens", "broken") == 1
    anew = "TG-authorised-again"
    await meli.put_shop(name, credentials={**given, "refresh_token": anew})
    again = await add(refresh_token=anew)
    assert again.session.credentials["hook_secret"] == entry.session.credentials["hook_secret"]
    assert again.session.token is not None
    assert await again.session.token()


# -- stock -----------------------------------------------------------------------------------------------------------


async def test_a_number_is_written_on_the_version_it_was_compared_with(kit: Kit, meli: SandboxClient) -> None:
    entry, name = await opened(kit, meli, locations=["10", "20"])
    session = entry.session
    adverts = [one async for one in MELI.listings(session)]
    assert [(one.sku, one.location, one.quantity) for one in adverts] == [("SKU-1", "10", 100)]
    item = adverts[0].item
    assert await MELI.read_stock(session, [(item, "10"), (item, "20"), ("MLBU0", "10")]) == {
        (item, "10"): 100,
        (item, "20"): 0,
    }

    async def write(quantity: int, expected: int | None, product: str = item) -> WriteStatus:
        return (await MELI.write_stock(session, [StockWrite(product, "10", quantity, expected)]))[0].status

    assert await write(7, 100) is WriteStatus.ACCEPTED
    assert await write(8, 100) is WriteStatus.STALE
    assert await write(8, None) is WriteStatus.ACCEPTED
    assert await write(1, None, "MLBU0") is WriteStatus.REFUSED
    await meli.put_vices(name, version_moves={})
    assert await write(9, 8) is WriteStatus.STALE
    assert await meli.numbers(name) == {"SKU-1": 8}
    await meli.put_vices(name)
    two = await MELI.write_stock(session, [StockWrite(item, "10", 3, 8), StockWrite(item, "20", 4, 1)])
    assert [one.status for one in two] == [WriteStatus.ACCEPTED, WriteStatus.STALE]
    assert await meli.numbers(name) == {"SKU-1": 3}


async def test_what_the_last_write_showed_is_not_read_again_until_something_else_changes_it(
    kit: Kit, meli: SandboxClient
) -> None:
    entry, name = await opened(kit, meli)
    limiter = Counted()
    session = replace(entry.session, limiter=limiter)
    [advert] = [one async for one in MELI.listings(session)]
    written = partial(StockWrite, advert.item, entry.session.settings["store_id"])

    async def calls(quantity: int, expected: int | None) -> tuple[WriteStatus, int]:
        before = limiter.calls
        [outcome] = await MELI.write_stock(session, [written(quantity, expected)])
        return outcome.status, limiter.calls - before

    assert await calls(7, 100) == (WriteStatus.ACCEPTED, 2)
    assert await calls(6, 7) == (WriteStatus.ACCEPTED, 1)
    assert await calls(5, 7) == (WriteStatus.STALE, 1), "another number than ours is only believed where it is read"
    assert await calls(5, 6) == (WriteStatus.ACCEPTED, 2), "what was read for nothing is not kept"
    # A sale of the channel's own moves the version: refused, read, and found to be another number.
    await meli.buy(name, {"SKU-1": 2})
    assert await calls(4, 5) == (WriteStatus.STALE, 2)
    assert await calls(2, 3) == (WriteStatus.ACCEPTED, 2)
    await meli.put_vices(name, version_moves={})
    assert await calls(1, 2) == (WriteStatus.STALE, 3)
    await meli.put_vices(name)
    assert await calls(1, 2) == (WriteStatus.ACCEPTED, 2)
    assert await meli.numbers(name) == {"SKU-1": 1}


async def test_what_a_batch_could_not_write_is_left_for_later_and_what_it_could_is_known(
    kit: Kit, meli: SandboxClient
) -> None:
    entry, name = await opened(kit, meli)
    await meli.put_products(name, [{"sku": "SKU-2", "title": "t", "quantity": 5, "price_minor": 1990}])
    items = {one.sku: one.item async for one in MELI.listings(entry.session)}
    limited = replace(entry.session, limiter=Second())
    store_id = entry.session.settings["store_id"]
    outcomes = await MELI.write_stock(
        limited, [StockWrite(items["SKU-1"], store_id, 1, 100), StockWrite(items["SKU-2"], store_id, 1, 5)]
    )
    assert sorted(one.status for one in outcomes) == [WriteStatus.ACCEPTED, WriteStatus.BUSY]
    assert [one.retry_after_s for one in outcomes if one.status is WriteStatus.BUSY] == [7.0]
    shown = await meli.numbers(name)
    written = {sku for sku, one in zip(("SKU-1", "SKU-2"), outcomes, strict=True) if one.status is WriteStatus.ACCEPTED}
    assert {sku for sku in ("SKU-1", "SKU-2") if shown[sku] == 1} == written


class Counted:
    """A limiter that counts the calls about stock."""

    def __init__(self) -> None:
        self.calls = 0

    async def acquire(self, endpoint: str, cost: float = 1.0) -> None:
        self.calls += int(cost) * (endpoint == "stock")

    def throttled(self, endpoint: str, retry_after_s: float) -> None: ...

    def observed(self, endpoint: str, available: float, restore_per_s: float) -> None: ...


class Second:
    """A limiter at which the second write finds the channel away."""

    def __init__(self) -> None:
        self.calls = 0.0

    async def acquire(self, endpoint: str, cost: float = 1.0) -> None:
        self.calls += cost * (endpoint == "stock")
        if self.calls > 3:  # Both are read, and one is written.
            raise Unreachable(7.0)

    def throttled(self, endpoint: str, retry_after_s: float) -> None: ...

    def observed(self, endpoint: str, available: float, restore_per_s: float) -> None: ...
