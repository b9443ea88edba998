"""The ledger and its reservations as a state machine: demands in any order and again, deeds of people, and time."""

from collections import Counter
from datetime import timedelta
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from contracts.inventory.v1 import Component, OrderDemand, PutItem
from services.inventory.domain import expire
from services.inventory.ledger import AVAILABLE, COUNTED, RESERVED, SHORT, Account, Line, Location
from tests.inventory.given import Store
from tests.inventory.test_any_order import COMMANDS, SET, SKUS, demands


class Warehouse(RuleBasedStateMachine):
    """What was asked for is remembered beside the ledger; what was moved is added up again."""

    asked = Bundle("asked")

    def __init__(self) -> None:
        super().__init__()
        parts = tuple(Component(sku=sku, quantity=units) for sku, units in SET.items())
        self.store = Store(
            *(PutItem(sku=sku, name=sku) for sku in SKUS),
            PutItem(sku="SET", name="Set", components=parts),
            kits={"SET": tuple(SET.items())},
            locations=(
                Location("main", "Main", priority=1),
                Location("annex", "Annex", priority=2),
                Location("full", "Full", held_by="marketplace"),
            ),
        )
        self.newest: dict[str, OrderDemand] = {}
        self.added_up: Counter[tuple[str, Account]] = Counter()
        self.moved = self.told = 0

    @rule(target=asked, wanted=demands())
    def demand(self, wanted: OrderDemand) -> OrderDemand:
        known = self.newest.get(wanted.order_id)
        before = len(self.store.ledger.movements), len(self.store.ledger.reports)
        self.store.meet(wanted)
        if known is None or known.revision < wanted.revision:
            self.newest[wanted.order_id] = wanted
            told = {report.order.order_id for report in self.store.ledger.reports[before[1] :]}
            assert wanted.order_id in told, "every revision that is taken up is answered"
        else:
            assert (len(self.store.ledger.movements), len(self.store.ledger.reports)) == before, "an old one moved"
        return wanted

    @rule(wanted=asked)
    def demand_again(self, wanted: OrderDemand) -> None:
        self.demand(wanted)

    @rule(command=COMMANDS, number=st.integers(0, 30))
    def command(self, command: Any, number: int) -> None:
        command_id = f"command-{number}"
        known = self.store.warehouse.done.get(command_id)
        before = len(self.store.ledger.movements)
        result = self.store.do(command, command_id)
        if known is not None:
            assert (result, len(self.store.ledger.movements)) == (known, before), "an id that was used booked again"

    @rule(minutes=st.sampled_from([1, 40]))
    def time_passes(self, minutes: int) -> None:
        self.store.ledger.now += timedelta(minutes=minutes)
        for order in list(self.store.ledger.orders.values()):
            held = order.hold_until is not None and order.hold_until > self.store.ledger.now
            before = len(self.store.ledger.movements)
            expire(self.store.ledger, order, next(self.store._triggers))
            assert not held or len(self.store.ledger.movements) == before, "a hold that lasts was ended"

    @rule(wanted=consumes(asked))
    def forget(self, wanted: OrderDemand) -> None:
        """So that what comes again is not always the oldest."""

    def lines(self) -> list[Line]:
        return [line for order in self.store.ledger.orders.values() for line in order.lines.values()]

    @invariant()
    def counters_are_what_was_moved(self) -> None:
        for movement in self.store.ledger.movements[self.moved :]:
            assert movement.quantity > 0
            self.added_up[movement.sku, movement.source] -= movement.quantity
            self.added_up[movement.sku, movement.target] += movement.quantity
        self.moved = len(self.store.ledger.movements)
        for code, sku in self.store.ledger.skus.items():
            counted = {(code, account): units for account, units in sku.counters.items() if units}
            assert min(counted.values(), default=1) > 0, f"{code} is below zero"
            assert counted == {
                key: n for key, n in self.added_up.items() if n and key[0] == code and key[1][2] in COUNTED
            }

    @invariant()
    def what_is_reserved_is_reserved_for_somebody(self) -> None:
        held: Counter[tuple[str, Account]] = Counter()
        for line in self.lines():
            for (state, location, pool, _), units in line.units.items():
                if state == RESERVED:
                    held[line.sku, (location, pool, RESERVED)] += units
        counted = {
            (code, account): units
            for code, sku in self.store.ledger.skus.items()
            for account, units in sku.counters.items()
            if account[2] == RESERVED and units
        }
        assert +held == counted

    @invariant()
    def every_unit_asked_for_is_somewhere_or_missing(self) -> None:
        for order_id, wanted in self.newest.items():
            order = self.store.ledger.orders[order_id]
            if order.expired:
                continue
            for part in wanted.lines:
                kept = max(part.ordered - part.cancelled, sum(one.quantity for one in part.shipped))
                for sku, per_unit in SET.items() if part.sku == "SET" else {part.sku: 1}.items():
                    claimed = sum(
                        line.claimed()
                        for line in order.lines.values()
                        if (line.line_id, line.sku) == (part.line_id, sku)
                    )
                    assert claimed >= kept * per_unit

    @invariant()
    def nobody_free_to_take_it_waits_for_what_is_there(self) -> None:
        for line in self.lines():
            free = line.order.policy == "other_location" and not line.order.all_or_nothing and line.location is None
            if free and line.units.get(SHORT):
                there = [
                    units
                    for (location, _, state), units in self.store.sku(line.sku).counters.items()
                    if state == AVAILABLE and location != "full"
                ]
                assert sum(there) == 0, f"{line.name} waits for {line.sku}"


TestWarehouse = Warehouse.TestCase
TestWarehouse.settings = settings(max_examples=60, stateful_step_count=25)
