"""Sales from feed and hook, and totals written, between a channels process and VTEX's sandbox over real HTTP."""

from datetime import UTC, datetime
from typing import Any

import httpx
import pytest

from contracts.channels.v1 import InvoiceTold, SaleStatus
from services.channels.connectors.connector import Reporter, Told
from tests.channels.vtex.conftest import VTEX, House

pytestmark = pytest.mark.asyncio


async def hooks_kept(house: House, count: int) -> None:
    """The hook's calls have come in, so many of them."""
    await house.account.wait_for_rows("webhook", count)
    assert await house.kit.count("intake", "topic = 'hook'") == count


async def invoice(house: House, order_id: str, cents: int) -> None:
    told = InvoiceTold(
        invoice_id="document",
        invoice_key="35260111222333000181550010000001231000001239",
        invoice_no="123",
        series="1",
        issued_at=datetime(2026, 1, 2, 10, tzinfo=UTC),
        total_minor=cents,
        currency="BRL",
    )
    assert isinstance(VTEX, Reporter)
    await VTEX.report_invoice(house.entry.session, Told(order_id, ""), told)


async def test_a_sale_is_heard_by_hook_and_by_feed_and_absorbed_once(house: House) -> None:
    sold = await house.buy(a=2)
    await hooks_kept(house, 3)
    await house.read()
    heard = await house.sales()
    assert [(sale.external_id, sale.status, sale.lines[0].quantity) for sale in heard] == [(sold, SaleStatus.PAID, 2)]
    assert await house.feed() == 3
    await house.read()
    assert await house.sales() == heard, "the feed brings the same and changes nothing"
    assert await house.feed() == 0
    acknowledged = [row for row in await house.account.rows("queue") if row["action"] == "acknowledged"]
    assert len(acknowledged) == 3
    assert await house.kit.count("intake", "state <> 'absorbed'") == 0


async def test_without_the_hook_the_feed_alone_brings_every_change(house: House) -> None:
    await house.account.control.put_vices(house.account.name, webhook_missing={})
    sold = await house.buy("later", a=1)
    await house.hear()
    await house.account.control.pay(house.account.name, sold)
    await house.hear()
    await house.account.control.cancel(house.account.name, sold)
    await house.hear()
    seen = [(sale.revision, sale.status) for sale in await house.sales()]
    assert seen == [(1, SaleStatus.AWAITING_PAYMENT), (2, SaleStatus.PAID), (3, SaleStatus.CANCELLED)]


async def test_a_lease_that_ran_out_is_handed_out_again_and_makes_one_order(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.account.control.put_vices(house.account.name, webhook_missing={}, queue_redelivery={})
    await house.buy(a=1)

    def dies(name: str) -> None:
        if name == "intake.acknowledge.before":
            raise ConnectionError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(house.kit.service.faults, "point", dies)
        with pytest.raises(ConnectionError):
            await house.feed()
    await house.account.control.put_vices(house.account.name, webhook_missing={})
    assert await house.feed() == 3
    await house.read()
    assert len(await house.sales()) == 1
    delivered = [row["deliveries"] for row in await house.account.rows("queue") if row["action"] == "acknowledged"]
    assert delivered == [2, 2, 2]
    assert await house.kit.count("intake_orders") == 1


async def test_the_total_leaves_vtex_its_own_reservations_and_shows_what_is_free(house: House) -> None:
    sold = await house.buy(a=3)
    assert await house.inventory("a") == (10, 3)
    await house.settle()
    assert (house.available["a"], await house.numbers()) == (7, {"a": 7, "b": 10})
    opened = [row["requested"] for row in await house.account.rows("write")]
    assert opened == [10, 10], "the total stays what it was, so nothing is written"
    await house.elsewhere("a", 2)
    await house.push()
    assert (await house.inventory("a"), (await house.numbers())["a"]) == ((8, 3), 5)
    await invoice(house, sold, 5970)
    await house.settle()
    assert (await house.inventory("a"), (await house.numbers())["a"]) == ((5, 0), 5)
    steps = [row["step"] for row in await house.account.rows("told", "told_refused")]
    assert steps == ["handling", "invoice"]


async def test_a_number_does_not_forget_an_order_whose_handling_is_not_known_yet(house: House) -> None:
    """Dated by the request itself, it would drop a reservation that it still counts, and sell those units twice."""
    sold = await house.buy(a=3)
    await house.settle()
    await invoice(house, sold, 5970)
    await house.elsewhere("a", 1)
    await house.push()
    assert (await house.inventory("a"), (await house.numbers())["a"]) == ((9, 3), 6)
    await house.settle()
    assert (await house.inventory("a"), (await house.numbers())["a"], house.available["a"]) == ((6, 0), 6, 6)


async def test_what_is_in_handling_before_inventory_has_decided_stays_reserved(house: House) -> None:
    sold = await house.buy(a=3)
    await invoice(house, sold, 5970)
    await house.hear()
    await house.elsewhere("a", 1)
    await house.push()
    assert (await house.inventory("a"), (await house.numbers())["a"]) == ((9, 3), 6)
    await house.decide()
    await house.push()
    assert (await house.inventory("a"), (await house.numbers())["a"], house.available["a"]) == ((6, 0), 6, 6)


async def test_the_same_number_is_said_again_to_let_go_of_what_was_handled(house: House) -> None:
    sold = await house.buy(a=3)
    await house.settle()
    await invoice(house, sold, 5970)
    await house.hear()
    await house.elsewhere("a", -3)
    await house.push()
    assert (await house.inventory("a"), (await house.numbers())["a"]) == ((10, 0), 10)
    writes = len(await house.account.rows("write"))
    await house.elsewhere("a", 0)
    await house.push()
    assert len(await house.account.rows("write")) == writes, "once is enough"


async def test_a_cancelled_order_is_on_sale_again_at_vtex_and_everywhere(house: House) -> None:
    first, second = await house.buy(a=4), await house.buy(a=1)
    await house.settle()
    assert (house.available["a"], (await house.numbers())["a"]) == (5, 5)
    await house.account.control.cancel(house.account.name, first)
    await house.settle()
    assert (house.available["a"], (await house.numbers())["a"], await house.inventory("a")) == (9, 9, (10, 1))
    assert isinstance(VTEX, Reporter)
    await VTEX.cancel(house.entry.session, Told(second, ""), "no stock")
    await house.settle()
    assert (house.available["a"], (await house.numbers())["a"]) == (10, 10)
    assert (await house.sales())[-1].status is SaleStatus.CANCELLED


async def test_a_locked_record_is_written_later_and_nothing_is_suspect(house: House) -> None:
    await house.account.control.put_shop(house.account.name, inventory_lock_s=3600)
    await house.elsewhere("a", 2)
    await house.push()
    assert [row["why"] for row in await house.account.rows("write_refused")] == ["locked"]
    record = await house.record("a")
    assert (record["accepted"], record["attempts"], record["suspect"]) == (10, "[]", False)
    await house.account.control.put_shop(house.account.name, inventory_lock_s=0)
    await house.push()
    assert (await house.numbers())["a"] == 8


async def test_503_and_timeouts_are_read_back_and_end_at_the_right_number(house: House) -> None:
    await house.account.control.put_vices(house.account.name, write_error={})
    await house.elsewhere("a", 4)
    await house.push()
    record = await house.record("a")
    assert (record["suspect"], (await house.numbers())["a"]) == (True, 10)
    await house.account.control.put_vices(house.account.name)
    await house.push()
    house.ahead *= 2
    await house.reconciler().reconcile(house.kit.service, house.entry)
    await house.push()
    record = await house.record("a")
    assert (record["suspect"], record["accepted"], (await house.numbers())["a"]) == (False, 6, 6)


async def test_429_pauses_the_endpoint_for_a_minute_and_leaves_the_rest_for_later(house: House) -> None:
    paused: list[tuple[str, float]] = house.pushers[1]._limiter._turnstile.limiter.paused  # type: ignore[attr-defined]
    await house.account.control.put_vices(house.account.name, write_throttled={})
    await house.elsewhere("a", 8)
    await house.push()
    assert paused == [("stock", 60.0)]
    record = await house.record("a")
    assert (record["attempts"], record["accepted"]) == ("[]", 10)
    await house.account.control.put_vices(house.account.name)
    house.ahead *= 10
    await house.push()
    assert (await house.numbers())["a"] == 2


async def test_a_feed_and_a_hook_that_vtex_removed_are_set_up_again(house: House) -> None:
    session = house.entry.session
    credentials = house.account.told["credentials"]
    headers = {"x-vtex-api-appkey": credentials["app_key"], "x-vtex-api-apptoken": credentials["app_token"]}
    async with httpx.AsyncClient(headers=headers, base_url=session.base_url) as vtex:
        for what in ("feed", "hook"):
            assert (await vtex.delete(f"/api/orders/{what}/config")).status_code == 200
        assert await house.feed() == 0
        door = house.kit.intake.door_of(house.entry.connection, session)
        for _ in range(2):
            await VTEX.subscribe(session, door)
    set_up = [row["what"] for row in await house.account.rows("config") if row["action"] == "set"]
    assert set_up == ["feed", "hook", "feed", "hook"]
    await house.buy(a=1)
    await hooks_kept(house, 3)


async def test_the_door_takes_only_calls_with_the_secret_and_keeps_no_ping(house: House) -> None:
    door = house.kit.intake.door_of(house.entry.connection, house.entry.session)
    secret = house.entry.session.credentials["hook_secret"]
    event: dict[str, Any] = {"OrderId": "1-01", "State": "payment-approved", "LastChange": "2026-01-01T00:00:00Z"}
    async with httpx.AsyncClient() as caller:
        for headers in ({}, {"x-saldo-hook": "another"}):
            assert (await caller.post(door, json=event, headers=headers)).status_code == 401
        assert (await caller.post(door, json={"hookConfig": "ping"}, headers={"x-saldo-hook": secret})).is_success
        assert await house.kit.count("intake") == 0
        for _ in range(2):
            assert (await caller.post(door, json=event, headers={"x-saldo-hook": secret})).is_success
    assert await house.kit.count("intake") == 1
