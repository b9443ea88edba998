"""What people's commands do: given books, when a command arrives, then …"""

from datetime import timedelta

import pytest

from contracts.inventory.v1 import (
    AccountState,
    AdjustStock,
    Component,
    CountStock,
    PutItem,
    PutLocation,
    ReceiveStock,
    TransferStock,
)
from services.inventory.commands import Since
from services.inventory.ledger import Location
from tests.inventory.given import NOW, Store, demand, line, stands

MAIN = ("main", "shared")
PLACES = (Location("main", "Main"), Location("annex", "Annex"), Location("full", "Full", held_by="marketplace"))


def receive(quantity: int, **fields: object) -> ReceiveStock:
    return ReceiveStock(**({"sku": "MUG", "location": "main", "quantity": quantity} | fields))


def count(counted: int, **fields: object) -> CountStock:
    return CountStock(**({"sku": "MUG", "location": "main", "counted": counted, "counted_at": NOW} | fields))


@pytest.mark.rule(17)
def test_a_receipt_fills_open_shortfalls_before_it_is_shown() -> None:
    store = Store()
    store.meet(demand("younger", line(ordered=2), minute=9))
    store.meet(demand("older", line(ordered=2), minute=1))
    store.do(receive(3))
    assert stands(store.outcomes("older")[-1]) == (2, 0)
    assert stands(store.outcomes("younger")[-1]) == (1, 1)
    assert store.units("MUG") == 0


def test_a_receipt_into_stock_that_a_channel_holds_fills_nobody() -> None:
    store = Store(locations=PLACES)
    store.meet(demand("ours"))
    store.do(receive(3, location="full"))
    assert stands(store.outcomes("ours")[-1]) == (0, 1)


def test_a_command_repeated_is_answered_as_before_and_books_nothing() -> None:
    store = Store()
    first = store.do(receive(3), "once")
    assert store.do(receive(3), "once") == first
    assert store.units("MUG") == 3


def test_opening_stock_is_taken_on_once_per_location() -> None:
    store = Store(locations=PLACES)
    assert store.do(receive(3, opening=True), "first").booked
    again = store.do(receive(3, opening=True))
    assert not again.booked
    assert "first" in again.outcome
    assert store.do(receive(3, opening=True, location="annex")).booked
    assert store.units("MUG") == 6


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (receive(1, sku="NOPE"), "put the item first"),
        (receive(1, location="nowhere"), "add the location first"),
        (receive(1, sku="SET"), "name its components (MUG, TRAY)"),
        (AdjustStock(sku="MUG", location="main", quantity=-6, reason="", effective_at=NOW), "only 5 available"),
        (AdjustStock(sku="MUG", location="main", quantity=0, reason="", effective_at=NOW), "signed difference"),
        (
            AdjustStock(
                sku="MUG", location="main", quantity=1, reason="", effective_at=NOW, state=AccountState.RESERVED
            ),
            "follows the orders",
        ),
        (TransferStock(sku="MUG", quantity=6, from_location="main", to_location="annex"), "at most 5"),
        (TransferStock(sku="MUG", quantity=1, from_location="main", to_location="main"), "another location or pool"),
        (TransferStock(sku="MUG", quantity=1, from_location="main", to_location="nowhere"), "add the location first"),
        (count(1, epoch=3), "count again"),
        (count(1, counted_at=NOW + timedelta(hours=1)), "check the clock"),
        (PutItem(sku="A", name="", components=(Component(sku="A", quantity=1),)), "not itself"),
        (PutItem(sku="A", name="", components=(Component(sku="B", quantity=1),)), "put the component first"),
        (PutItem(sku="A", name="", components=(Component(sku="SET", quantity=1),)), "one level deep"),
        (PutItem(sku="TRAY", name="", components=(Component(sku="MUG", quantity=1),)), "component of SET"),
        (PutItem(sku="MUG2", name="", components=(Component(sku="MUG", quantity=1),)), "open demand of its own"),
        (PutLocation(location="main", name="Main", held_by="marketplace"), "move it away"),
    ],
)
def test_what_cannot_be_obeyed_is_refused_in_words_that_help(command: object, words: str) -> None:
    parts = (Component(sku="MUG", quantity=2), Component(sku="TRAY", quantity=1))
    store = Store(
        PutItem(sku="MUG", name="Mug"),
        PutItem(sku="TRAY", name="Tray"),
        PutItem(sku="MUG2", name="Mug"),
        PutItem(sku="SET", name="Set", components=parts),
        stock={"MUG": {MAIN: 5}},
        locations=PLACES,
    )
    store.meet(demand("waiting", line("MUG2")))
    before = len(store.ledger.movements)
    result = store.do(command)
    assert not result.booked
    assert words in result.outcome
    assert (len(store.ledger.movements), store.units("MUG")) == (before, 5)


@pytest.mark.rule(18)
def test_moving_stock_to_a_pool_fills_who_waits_for_it() -> None:
    store = Store(stock={"MUG": {("main", "b2b"): 2}})
    store.meet(demand("a", shortfall_policy="shared_pool"))
    store.do(TransferStock(sku="MUG", quantity=2, from_location="main", from_pool="b2b", to_location="main"))
    assert stands(store.outcomes("a")[-1]) == (1, 0)
    assert store.units("MUG") == 1


@pytest.mark.rule(21)
def test_a_count_books_the_difference_on_hand() -> None:
    store = Store(stock={"MUG": {MAIN: 10}})
    store.meet(demand("a", line(ordered=4)))
    store.do(count(12))
    assert (store.units("MUG"), store.units("MUG", "reserved")) == (8, 4)


@pytest.mark.rule(21)
def test_a_count_knows_what_was_booked_since_it_was_taken() -> None:
    # Ten were there at 10:00 and nine were counted; two were shipped since and an adjustment effective at 9:00 took the
    # missing one off the books at 11:00.
    store = Store(stock={"MUG": {MAIN: 7}})
    store.do(count(9, counted_at=NOW - timedelta(hours=2)), since=Since(change=-3, corrected=-1))
    assert store.units("MUG") == 7


@pytest.mark.rule(21)
def test_a_count_sees_what_its_own_batch_booked_since() -> None:
    store = Store(stock={"MUG": {MAIN: 10}})
    store.do(receive(5))
    store.do(count(10, counted_at=NOW - timedelta(minutes=5)))
    assert store.units("MUG") == 15
    store.do(
        AdjustStock(sku="MUG", location="main", quantity=-2, reason="broken", effective_at=NOW - timedelta(days=1))
    )
    store.do(count(8, counted_at=NOW - timedelta(minutes=4)))
    assert store.units("MUG") == 13


@pytest.mark.rule(21)
def test_a_count_at_a_version_compares_with_that_version() -> None:
    store = Store(stock={"MUG": {MAIN: 10}})
    store.do(receive(5))
    store.do(count(10, epoch=0, version=0))
    assert store.units("MUG") == 15


@pytest.mark.rule(21)
def test_a_count_older_than_the_newest_changes_nothing() -> None:
    store = Store(stock={"MUG": {MAIN: 10}})
    store.do(count(8))
    older = store.do(count(3, counted_at=NOW - timedelta(minutes=1)))
    assert (older.booked, store.units("MUG")) == (False, 8)


@pytest.mark.rule(21)
def test_what_a_count_misses_is_taken_from_the_youngest_reservations_last() -> None:
    store = Store(stock={"MUG": {MAIN: 4, ("main", "b2b"): 1}})
    store.meet(demand("older", minute=1))
    store.meet(demand("younger", line(ordered=2), minute=2))
    store.do(count(2))
    assert [store.units("MUG"), store.units("MUG", "reserved")] == [0, 2]
    assert stands(store.outcomes("older")[-1]) == (1, 0)
    assert stands(store.outcomes("younger")[-1]) == (1, 1)
    assert store.causes("MUG")[-1] == ("younger", 1, "revoked")
    lost = [movement.source for movement in store.ledger.movements[-3:]]
    assert lost == [(*MAIN, "available"), ("main", "b2b", "available"), (*MAIN, "reserved")]


def test_who_loses_a_reservation_to_a_count_gets_what_lies_elsewhere() -> None:
    store = Store(stock={"MUG": {MAIN: 1, ("annex", "shared"): 1}}, locations=PLACES[:2])
    store.meet(demand("a", line(location=None)))
    where = next(iter(store.outcomes("a")[-1].lines[0].locations))[0]
    store.do(count(0, location=where))
    assert stands(store.outcomes("a")[-1]) == (1, 0)


def test_an_item_changes_its_version_only_when_it_changes() -> None:
    store = Store()
    store.do(PutItem(sku="MUG", name="Mug"))
    assert store.warehouse.items["MUG"].version == 1
    store.do(PutItem(sku="MUG", name="Big mug"))
    assert store.warehouse.items["MUG"].version == 2


def test_a_new_priority_is_followed() -> None:
    store = Store(stock={"MUG": {MAIN: 5, ("annex", "shared"): 5}}, locations=PLACES)
    store.meet(demand("a"))
    store.do(PutLocation(location="main", name="Main", priority=1))
    store.do(PutLocation(location="annex", name="Annex", priority=2))
    store.meet(demand("b", line(ordered=2)))
    assert store.ledger.movements[-1].source[0] == "main"
