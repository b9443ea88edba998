"""A payment ends the same whatever order its commands, answers, looks and hints come in."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.payments.v1 import PaymentFact
from services.payments import domain
from services.payments.domain import (
    Call,
    Close,
    Command,
    Kind,
    Look,
    Outcome,
    Part,
    Pay,
    Portion,
    Seen,
    Status,
    command,
    next_call,
    saw,
)
from services.payments.ledger import Movement, balances
from tests.payments.given import (
    ACCOUNT,
    AMOUNT,
    LATER,
    NOW,
    PAYMENT,
    ModelGateway,
    Refusal,
    authorize,
    capture,
    refund,
    void,
)

BEHAVIOURS = ("done", "lost", "dropped", "throttled", "late")


@dataclass
class World:
    """One payment, its gateway, and everything that was told and booked."""

    gateway: ModelGateway = field(default_factory=ModelGateway)
    pay: Pay | None = None
    facts: list[PaymentFact] = field(default_factory=list)
    booked: list[Movement] = field(default_factory=list)
    late: list[Call] = field(default_factory=list)
    now: datetime = NOW

    def hear(self, *commands: Command) -> None:
        for message in commands:
            self.pay = command(self.pay, message, ACCOUNT)

    def step(self, behaviour: str = "done") -> bool:
        """Take the next step; False where there is none."""
        assert self.pay
        step = next_call(self.pay, self.now)
        match step:
            case None:
                return False
            case Close():
                self._take(domain.close(self.pay, step, self.now))
            case Look():
                self._late()
                self.look()
            case Call():
                self._call(step, behaviour)
        return True

    def look(self) -> None:
        assert self.pay
        self._take(saw(self.pay, self.gateway.seen.get(PAYMENT), self.now, looked=self.pay.hinted))

    def finish(self) -> None:
        for _ in range(100):
            if not self.step():
                return
        raise AssertionError("a payment that never comes to rest")

    def _late(self) -> None:
        for call in self.late:
            self._execute(call)
        self.late.clear()

    def _execute(self, call: Call) -> Seen | None:
        key = domain.key(PAYMENT, call)
        try:
            return self.gateway.execute(PAYMENT, call.kind, call.n, call.amount_minor, key)
        except Refusal:
            return None

    def _call(self, call: Call, behaviour: str) -> None:
        assert self.pay
        self.pay = domain.begun(self.pay, call)
        if behaviour == "throttled":
            self.pay = domain.ended(self.pay, Outcome.AGAIN)
        elif behaviour in ("dropped", "late"):
            self.late += [call] if behaviour == "late" else []
            self.pay = domain.ended(self.pay, Outcome.UNKNOWN)
        elif (seen := self._execute(call)) is None:
            self.pay = domain.ended(self.pay, Outcome.REFUSED)
        elif behaviour == "done":
            self._take(saw(self.pay, seen, self.now, answer=True))
        # "lost": executed, and the process died before it heard of it.

    def _take(self, decision: domain.Decision) -> None:
        self.pay = decision.pay
        self.facts += decision.facts
        self.booked += decision.booked


def told(world: World) -> list[str]:
    return [type(fact).__name__.removeprefix("Payment") for fact in world.facts]


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Command], int, int]:
    """Commands that orders may have sent about one payment, and what is captured and refunded by them in the end."""
    tries = draw(st.integers(1, 2))
    commands: list[Command] = [authorize(number) for number in range(1, tries + 1)]
    if draw(st.booleans()):
        return [*commands, void(tries + 1)], 0, 0
    captured_minor = draw(st.integers(0, AMOUNT + 500))
    commands.append(capture(tries + 1, captured_minor))
    totals = sorted(draw(st.lists(st.integers(1, AMOUNT + 500), max_size=3)))
    commands += [refund(tries + 2 + place, total, captured_minor) for place, total in enumerate(totals)]
    captured_minor = min(captured_minor, AMOUNT)
    return commands, captured_minor, min(totals[-1] if totals else 0, captured_minor)


@given(st.data(), histories())
def test_any_order_ends_with_the_same_sums(data: st.DataObject, history: tuple[list[Command], int, int]) -> None:
    commands, captured_minor, refunded_minor = history
    copies = data.draw(st.lists(st.sampled_from(commands), max_size=3))
    world = World()
    for message in data.draw(st.permutations([*commands, *copies])):
        world.hear(message)
        assert world.pay
        for behaviour in data.draw(st.lists(st.sampled_from((*BEHAVIOURS, "hint", "look")), max_size=4)):
            if behaviour == "hint":
                world.pay = domain.hinted(world.pay)
            elif behaviour == "look" and world.pay.choice:
                world.look()
            else:
                world.step(behaviour)
    world.finish()
    assert world.pay
    sums = world.pay.sums
    assert (sums.captured_minor, sums.refunded_minor) == (captured_minor, refunded_minor)
    for kind in (Kind.OPEN, Kind.CHARGE, Kind.CAPTURE, Kind.VOID):
        assert world.gateway.moved[PAYMENT, kind] <= 1
    at_gateway = world.gateway.seen[PAYMENT] if world.gateway.seen else Seen("", Status.OPEN)
    assert sum(portion.amount_minor for portion in at_gateway.refunds.values()) == refunded_minor
    by_account = balances(world.booked)
    assert sum(by_account.values()) == 0
    assert -by_account.get(("customer:order-a", "BRL"), 0) == captured_minor - refunded_minor
    versions = [fact.version for fact in world.facts]
    assert versions == list(range(1, len(versions) + 1))


parts = st.dictionaries(
    st.sampled_from(["r1", "r2"]),
    st.builds(Portion, st.just(700), st.sampled_from([Part.OPEN, Part.DONE, Part.FAILED])),
)
snapshots = st.builds(
    Seen, st.just("ref"), st.sampled_from(Status), st.just(AMOUNT), st.sampled_from([0, 4000, AMOUNT]), parts,
    st.dictionaries(st.just("d1"), st.builds(Portion, st.just(900), st.sampled_from([Part.OPEN, Part.WON]))),
)  # fmt: skip


@given(st.lists(snapshots, min_size=1, max_size=5), st.data())
def test_looks_in_any_order_and_twice_end_the_same(looks: Sequence[Seen], data: st.DataObject) -> None:
    ends = []
    for order in (looks, data.draw(st.permutations([*looks, *looks]))):
        pay = command(None, authorize(), ACCOUNT)
        booked: list[Movement] = []
        for seen in order:
            before = pay.sums
            decision = saw(pay, seen, NOW)
            pay = decision.pay
            booked += decision.booked
            assert before.captured_minor <= pay.sums.captured_minor
            assert before.refunded_minor <= pay.sums.refunded_minor
        assert pay.seen
        ends.append((pay.seen.status, pay.sums, balances(booked)))
    assert ends[0] == ends[1]
    assert sum(ends[0][2].values()) == 0


@given(st.permutations([authorize(1), authorize(2, amount_minor=900), capture(3), refund(4), refund(5, 700)]))
def test_commands_alone_join_to_one_payment(commands: Sequence[Command]) -> None:
    world = World()
    world.hear(*commands, *commands)
    expected = World()
    expected.hear(authorize(2, amount_minor=900), capture(3), refund(5, 700))
    assert world.pay
    assert expected.pay
    assert replace(world.pay, want=replace(world.pay.want, capture_revision=5)) == expected.pay


def test_the_path_of_a_card_is_told_step_by_step() -> None:
    world = World()
    world.hear(authorize())
    world.finish()
    world.hear(capture(2, 6_000))
    world.finish()
    world.hear(refund(3, 2_000, 6_000))
    world.finish()
    assert told(world) == ["Authorized", "Captured", "Refunded"]
    assert [(fact.captured_minor, fact.refunded_minor) for fact in world.facts] == [(0, 0), (6000, 0), (6000, 2000)]


def test_a_charge_whose_answer_is_lost_is_looked_for_and_not_made_again() -> None:
    world = World()
    world.hear(authorize())
    world.step()
    world.step("lost")
    assert world.pay
    assert next_call(world.pay, NOW) == Look()
    world.finish()
    assert told(world) == ["Authorized"]
    assert world.gateway.moved[PAYMENT, Kind.CHARGE] == 1


def test_a_charge_that_did_not_happen_is_made_again_under_its_key() -> None:
    world = World()
    world.hear(authorize())
    world.step()
    world.step("dropped")
    world.step()
    assert world.pay
    assert next_call(world.pay, NOW) == Call(Kind.CHARGE, 1, AMOUNT, 1)


@pytest.mark.parametrize("opened", [False, True])
def test_nothing_is_charged_after_its_time(opened: bool) -> None:
    world = World()
    world.hear(authorize())
    if opened:
        world.step()
    world.now = LATER
    world.finish()
    assert [(type(fact).__name__, getattr(fact, "reason", "")) for fact in world.facts] == [
        ("PaymentFailed", "expired")
    ]
    assert world.gateway.moved[PAYMENT, Kind.CHARGE] == 0


def test_a_void_before_anything_was_asked_needs_no_gateway() -> None:
    world = World()
    world.hear(void(2), authorize(1))
    world.finish()
    assert told(world) == ["Voided"]
    assert not world.gateway.seen


def test_a_declined_card_ends_the_payment() -> None:
    world = World(ModelGateway(declines=True))
    world.hear(authorize(), capture())
    world.finish()
    assert [(type(fact).__name__, getattr(fact, "reason", "")) for fact in world.facts] == [
        ("PaymentFailed", "declined")
    ]


def test_other_terms_after_the_gateway_was_asked_end_the_payment() -> None:
    world = World()
    world.hear(authorize())
    world.step()
    world.hear(authorize(2, amount_minor=500))
    world.finish()
    assert [(type(fact).__name__, getattr(fact, "reason", "")) for fact in world.facts] == [
        ("PaymentFailed", "changed")
    ]
    assert world.gateway.moved[PAYMENT, Kind.CHARGE] == 0


def test_without_an_account_a_payment_fails() -> None:
    pay = command(None, authorize())
    step = next_call(pay, NOW)
    assert isinstance(step, Close)
    assert domain.close(pay, step, NOW).facts[0].model_dump()["reason"] == "no_gateway"


def test_a_refused_charge_is_let_go_of() -> None:
    world = World()
    world.hear(authorize())
    world.step()
    assert world.pay
    call = next_call(world.pay, NOW)
    assert isinstance(call, Call)
    world.pay = domain.ended(domain.begun(world.pay, call), Outcome.REFUSED)
    world.finish()
    assert world.pay.seen
    assert world.gateway.seen[PAYMENT].status is Status.VOIDED
    assert told(world) == ["Failed"]


def test_a_capture_that_did_not_happen_is_made_anew_where_less_is_wanted() -> None:
    world = World()
    world.hear(authorize(), capture(2, AMOUNT))
    world.step()
    world.step()
    world.step("throttled")
    world.hear(capture(3, 6_000))
    assert world.pay
    assert next_call(world.pay, NOW) == Call(Kind.CAPTURE, 2, 6_000, 3)
    world.finish()
    assert world.pay.sums.captured_minor == 6_000
    assert world.gateway.moved[PAYMENT, Kind.CAPTURE] == 1


@pytest.mark.parametrize("throttled", [False, True])
def test_a_charge_and_its_void_both_refused_end_the_payment(throttled: bool) -> None:
    world = World()
    world.hear(authorize())
    world.step()
    asked = []
    for _ in range(20):
        assert world.pay
        match step := next_call(world.pay, NOW):
            case Call():
                asked.append((step.kind, step.n))
                again = throttled and asked == [(Kind.CHARGE, 1), (Kind.VOID, 1)]
                world.pay = domain.ended(domain.begun(world.pay, step), Outcome.AGAIN if again else Outcome.REFUSED)
            case _:
                world.step()
    assert asked == [(Kind.CHARGE, 1), (Kind.VOID, 1), *([(Kind.VOID, 1)] if throttled else [])]
    assert [(type(fact).__name__, fact.model_dump()["reason"]) for fact in world.facts] == [
        ("PaymentFailed", "gateway")
    ]


def test_a_charge_that_was_answered_and_is_not_to_be_seen_yet_is_waited_for() -> None:
    world = World()
    world.hear(authorize())
    world.step()
    assert world.pay
    call = next_call(world.pay, NOW)
    assert isinstance(call, Call)
    world._take(saw(domain.begun(world.pay, call), world.gateway.seen[PAYMENT], NOW, answer=True))
    look_every = timedelta(seconds=60)
    assert next_call(world.pay, NOW) is None
    assert domain.due(world.pay, NOW, look_every) == NOW + look_every
    world.hear(capture())
    assert next_call(world.pay, NOW) is None
    world.now = LATER
    world.finish()
    assert told(world) == ["Failed"]
    assert world.gateway.seen[PAYMENT].status is Status.VOIDED


def test_a_refund_that_fails_after_it_was_done_is_taken_back() -> None:
    world = World()
    world.hear(authorize(), capture(), refund(3, 500))
    world.finish()
    seen = world.gateway.seen[PAYMENT]
    failed = replace(seen, refunds={domain.refund_id(PAYMENT, 1): Portion(500, Part.FAILED)})
    for look in (failed, seen, failed):
        assert world.pay
        world._take(saw(world.pay, look, NOW))
    assert world.pay
    assert [(fact.refunded_minor, fact.model_dump()["reason"]) for fact in world.facts[2:]] == [
        (500, "returned"), (0, "refund_failed"),
    ]  # fmt: skip
    assert balances(world.booked)["customer:order-a", "BRL"] == -AMOUNT
    assert next_call(world.pay, NOW) is None
    world.hear(refund(4, 500))
    assert next_call(world.pay, NOW) == Call(Kind.REFUND, 2, 500, 4)
    world.finish()
    assert world.facts[-1].refunded_minor == 500
    assert balances(world.booked)["customer:order-a", "BRL"] == 500 - AMOUNT
    assert len({movement.cause for movement in world.booked}) == len(world.booked)


def test_a_failed_refund_waits_for_a_newer_command() -> None:
    world = World(ModelGateway(refunds_pend=True))
    world.hear(authorize(), capture(), refund(3, 500))
    world.finish()
    assert world.pay
    assert "Refunded" not in told(world)
    assert domain.due(world.pay, NOW, timedelta(seconds=60)) == NOW + timedelta(seconds=60)
    seen = world.gateway.seen[PAYMENT]
    failed = replace(seen, refunds={domain.refund_id(PAYMENT, 1): Portion(500, Part.FAILED)})
    world.pay = saw(world.pay, failed, NOW).pay
    assert next_call(world.pay, NOW) is None
    world.hear(refund(4, 500))
    assert next_call(world.pay, NOW) == Call(Kind.REFUND, 2, 500, 4)


def test_a_lost_dispute_takes_the_money_out_of_the_order() -> None:
    world = World()
    world.hear(authorize(), capture())
    world.finish()
    for part in (Part.OPEN, Part.LOST):
        assert world.pay
        seen = replace(world.gateway.seen[PAYMENT], disputes={"d": Portion(3_000, part)})
        world._take(saw(world.pay, seen, NOW))
    assert told(world)[-2:] == ["Disputed", "Disputed"]
    assert balances(world.booked) == {
        ("customer:order-a", "BRL"): 3_000 - AMOUNT,
        ("gateway:model:account-1", "BRL"): AMOUNT - 3_000,
        ("disputed:model", "BRL"): 0,
    }


def test_the_fee_of_a_dispute_is_booked_once_and_back_where_it_is_given_back() -> None:
    world = World()
    world.hear(authorize(), capture())
    world.finish()
    charged = replace(world.gateway.seen[PAYMENT], fee_minor=200, disputes={"d": Portion(3_000, Part.OPEN)})
    opened = replace(charged, dispute_fees={"t1": 1_500})
    won = replace(charged, disputes={"d": Portion(3_000, Part.WON)}, dispute_fees={"t1": 1_500, "t2": -1_500})
    for seen, fees_minor in ((charged, 200), (opened, 1_700), (opened, 1_700), (won, 200), (opened, 200)):
        assert world.pay
        world._take(saw(world.pay, seen, NOW))
        booked = balances(world.booked)
        assert (booked["fees:model", "BRL"], sum(booked.values())) == (fees_minor, 0)
    causes = [one.cause for one in world.booked]
    assert len(causes) == len(set(causes))


@pytest.mark.parametrize("part", [Part.OPEN, Part.LOST])
def test_what_a_bank_holds_or_took_back_is_not_given_back_as_well(part: Part) -> None:
    world = World()
    world.hear(authorize(), capture())
    world.finish()
    seen = replace(world.gateway.seen[PAYMENT], disputes={"d": Portion(AMOUNT - 1_000, part)})
    assert world.pay
    world.pay = saw(world.pay, seen, NOW).pay

    world.hear(refund(3, AMOUNT))  # Sent before the dispute was heard of.

    assert next_call(world.pay, NOW) == Call(Kind.REFUND, 1, 1_000, 3)
    won = replace(seen, disputes={"d": Portion(AMOUNT - 1_000, Part.WON)})
    if part is Part.OPEN:
        assert next_call(saw(world.pay, won, NOW).pay, NOW) == Call(Kind.REFUND, 1, AMOUNT, 3)
