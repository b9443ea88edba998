"""What comes in from any channel: read or refused by name, the same end in any order, nothing lost, nothing twice."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.channels.v1 import SaleStatus
from services.channels.connectors import CONNECTORS
from services.channels.connectors.connector import ChannelOrder, Fetched, Session, SignatureInvalid
from services.channels.intake import pull
from services.channels.intake.domain import from_snapshot, to_snapshot, without_person
from tests.channels.conformance.account import Account
from tests.channels.conformance.cases import CASES


def test_every_listed_connector_has_a_case() -> None:
    assert set(CASES) == set(CONNECTORS), "give each connector a file in tests/channels/conformance/cases"


def test_no_marketplace_lets_us_write_to_its_buyers() -> None:
    assert {name for name, one in CONNECTORS.items() if one.traits.contact_allowed} <= {"shop"}


JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.just("1e900000"), st.just("\x00"),
    st.just([]), st.just({}), st.just([None]), st.just([[]]), st.just({"id": None}), st.just("2026-13-45T00:00:00Z"),
)  # fmt: skip


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, one in inner for place in _places(one, (*path, key)))]


def _put(value: Any, path: Sequence[Any], junk: Any) -> Any:
    """A copy of `value` with junk at a place."""
    if not path:
        return junk
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = _put(copy[path[0]], path[1:], junk)
    return copy


@pytest.mark.asyncio
async def test_junk_in_an_order_is_read_or_refused_by_its_name(seller: Account) -> None:
    await seller.put(A=9)
    external_id = await seller.sell(A=2)
    if seller.case.sees_part_refunds:
        await seller.refund(external_id, A=1)
    real = json.loads(await seller.body(external_id))
    places = _places(real)

    def read(body: bytes) -> None:
        problem = "none"
        try:
            order = seller.connector.to_order(body)
            assert isinstance(order, ChannelOrder)
            assert from_snapshot(to_snapshot(order)) == without_person(order)
        except ValueError as error:
            problem = str(error)
        assert problem
        assert "Comprador" not in problem

    @settings(max_examples=150, deadline=None)
    @given(st.lists(st.tuples(st.sampled_from(places), JUNK), min_size=1, max_size=2))
    def mutated(changes: list[tuple[tuple[Any, ...], Any]]) -> None:
        body = real
        for place, junk in changes:
            try:
                body = _put(body, place, junk)
            except (KeyError, IndexError, TypeError):
                continue  # The first change took the second one's place away.
        read(json.dumps(body).encode())

    mutated()
    for bytes_ in (b"", b"\xff\xfe", b"[" * 100_000, b"null", b"[]", b'"x"', b"{}"):
        read(bytes_)


@pytest.mark.asyncio
async def test_an_order_is_reserved_paid_and_cancelled_with_its_lines(seller: Account) -> None:
    await seller.put(A=9, B=9)
    external_id = await seller.sell(A=2, B=1, paid=False)
    placed = await seller.order(external_id)
    assert (placed.external_id, placed.currency, placed.status) == (external_id, "BRL", SaleStatus.AWAITING_PAYMENT)
    assert sorted((line.sku, line.quantity, line.unit_price_minor) for line in placed.lines) == [
        ("A", 2, 1990),
        ("B", 1, 1990),
    ]
    assert placed.total_minor == 3 * 1990
    assert {line.item for line in placed.lines} <= {
        one.listing async for one in seller.connector.listings(seller.session)
    }
    await seller.pay(external_id)
    assert (await seller.order(external_id)).status is SaleStatus.PAID
    await seller.cancel(external_id)
    gone = await seller.order(external_id)
    assert gone.status is SaleStatus.CANCELLED
    assert sorted((line.sku, line.cancelled) for line in gone.lines) == [("A", 2), ("B", 1)]
    assert sorted(line.line_id for line in gone.lines) == sorted(line.line_id for line in placed.lines)


@pytest.mark.asyncio
async def test_units_given_back_are_told_by_line(seller: Account) -> None:
    if not seller.case.sees_part_refunds:
        pytest.skip(f"orders of {seller.traits.connector} do not tell which units came back")
    await seller.put(A=9)
    external_id = await seller.sell(A=3)
    await seller.refund(external_id, A=1)
    (line,) = (await seller.order(external_id)).lines
    assert (line.quantity, line.cancelled + line.returned) == (3, 1)


@pytest.mark.asyncio
async def test_a_paid_order_tells_by_when_it_has_to_leave(seller: Account) -> None:
    if not seller.case.says_ship_by:
        pytest.skip(f"orders of {seller.traits.connector} do not tell when they have to leave")
    await seller.put(A=9)
    external_id = await seller.sell(A=1)
    order = await seller.order(external_id)
    assert order.ship_by is not None
    assert order.ship_by > order.sold_at
    await seller.receive()
    assert (await seller.sale(external_id))["ship_by"] == order.ship_by.isoformat().replace("+00:00", "Z")


@pytest.mark.asyncio
async def test_a_state_that_nobody_documents_lowers_stock_and_waits(seller: Account) -> None:
    await seller.put(A=9)
    body = seller.case.unknown(json.loads(await seller.body(await seller.sell(A=2))))
    order = seller.connector.to_order(json.dumps(body).encode())
    assert order.status is SaleStatus.UNKNOWN
    assert order.unresolved
    assert [line.quantity for line in order.lines] == [2]
    assert not order.lines[0].cancelled


@pytest.mark.asyncio
@pytest.mark.rule(24)
async def test_snapshots_in_any_order_and_often_end_the_same(seller: Account) -> None:
    await seller.put(A=9)
    bodies: dict[str, list[bytes]] = {}
    for _ in range(3):
        external_id = await seller.sell(A=1, paid=False)
        bodies[external_id] = [await seller.body(external_id)]
        for step in (seller.pay, seller.cancel):
            await step(external_id)
            bodies[external_id].append(await seller.body(external_id))
    for (_, told), order in zip(bodies.items(), ((0, 1, 2), (2, 0, 1), (1, 2, 0, 0, 2, 1)), strict=True):
        for place in order:
            await seller.kit.deliver(seller.entry.connection, told[place], topic="fetch")
    await seller.settle()
    for external_id in bodies:
        sale = await seller.sale(external_id)
        assert (sale["status"], [line["cancelled"] for line in sale["lines"]]) == ("cancelled", [1])
    before = len(await seller.sales())
    for told in bodies.values():
        for body in told:
            await seller.kit.deliver(seller.entry.connection, body, topic="fetch")
    await seller.settle()
    assert len(await seller.sales()) == before, "an older snapshot changed something"
    assert await seller.kit.count("intake", "state = 'poisoned'") == 0


@pytest.mark.asyncio
async def test_what_no_push_told_is_found_once(seller: Account) -> None:
    await seller.put(A=9)
    orders = {await seller.sell(A=1) for _ in range(3)}
    await seller.receive()
    assert {(sale["external_id"], sale["status"]) for sale in await seller.sales()} == {
        (external_id, "paid") for external_id in orders
    }
    before = len(await seller.sales())
    await seller.receive()
    assert len(await seller.sales()) == before
    changed = orders.pop()
    await asyncio.sleep(1.1 if seller.traits.intake == "push" else 0)  # A clock that counts seconds has to move on.
    await seller.cancel(changed)
    await seller.receive()
    assert (await seller.sale(changed))["status"] == "cancelled"


@pytest.mark.asyncio
async def test_a_lot_is_acknowledged_only_when_it_is_ours_and_as_often_as_one_likes(
    account: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    if account.traits.intake != "queue":
        pytest.skip(f"traits.intake of {account.traits.connector} is {account.traits.intake}")
    await account.put(A=9)
    await account.sell(A=1)
    real = account.connector.acknowledge

    async def dies(session: Session, lot: Sequence[Fetched]) -> None:
        assert await account.kit.count("intake") == len(lot) > 0
        raise ConnectionError("the process is gone")

    async def twice(session: Session, lot: Sequence[Fetched]) -> None:
        await real(session, lot)
        await real(session, lot)

    monkeypatch.setattr(type(account.connector), "acknowledge", staticmethod(dies))
    with pytest.raises(ConnectionError):
        await pull.empty_queue(account.kit.service, account.kit.intake, account.entry)
    monkeypatch.setattr(type(account.connector), "acknowledge", staticmethod(twice))
    for _ in range(500):
        if await pull.empty_queue(account.kit.service, account.kit.intake, account.entry):
            break
        await asyncio.sleep(0.02)
    else:
        raise AssertionError("what was not acknowledged never came again")
    await account.settle()
    assert [sale["revision"] for sale in await account.sales()] == [1]
    assert await pull.empty_queue(account.kit.service, account.kit.intake, account.entry) == 0


@pytest.mark.asyncio
async def test_a_push_that_nobody_signed_is_refused_before_it_is_read(account: Account) -> None:
    for body in (b"{}", b"\xff", b"[" * 100_000, json.dumps({"id": 1, "user_id": 1}).encode()):
        with pytest.raises(SignatureInvalid):
            account.connector.verify({}, body, account.session.credentials)
