"""Which step a channel is told next."""

from datetime import UTC, datetime, timedelta
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from contracts.channels.v1 import InvoiceTold, OrderProgress, ParcelTold, ProgressLine, TrackingTold
from services.channels.report.domain import Kind, State, is_told, next_step, steps

AT = datetime(2026, 3, 1, tzinfo=UTC)
ALL = frozenset(Kind)
INVOICE = InvoiceTold(
    invoice_id="d1", invoice_key="3" * 44, invoice_no="1", series="1", issued_at=AT, total_minor=100, currency="BRL"
)


def parcel(shipment_id: str = "s1", scans: int = 0, *, delivered: bool = False) -> ParcelTold:
    tracking = tuple(TrackingTold(status="in_transit", happened_at=AT + timedelta(hours=hour)) for hour in range(scans))
    return ParcelTold(
        shipment_id=shipment_id, carrier="ECT", service="SEDEX", tracking_code=f"T-{shipment_id}",
        lines=(ProgressLine(line_id="1", quantity=1),), dispatched_at=AT, tracking=tracking,
        delivered_at=AT if delivered else None,
    )  # fmt: skip


def progress(*parcels: ParcelTold, invoice: InvoiceTold | None = INVOICE, reason: str | None = None) -> OrderProgress:
    return OrderProgress(
        order_id="o1", revision=1, connection_id="c1", state="shipped", state_at=AT, invoice=invoice, parcels=parcels,
        cancelled_reason=reason,
    )  # fmt: skip


def told_in_order(wanted: OrderProgress, reports: frozenset[str] = ALL, refuse: str = "") -> list[str]:
    """Every step that is told, where the channel takes each but one kind."""
    done: dict[str, State] = {}
    names = []
    while step := next_step(wanted, done, reports):
        done[step.name] = State.REFUSED if step.kind == refuse else State.ACCEPTED
        names.append(step.name)
    return names


def test_all_is_told_once_and_in_its_order() -> None:
    wanted = progress(parcel("s1", 2, delivered=True), parcel("s2", 3))
    assert told_in_order(wanted) == ["invoice", "shipment:s1", "delivery:s1", "shipment:s2", "tracking:s2:2"]


def test_a_channel_hears_only_what_it_takes_reports_of() -> None:
    wanted = progress(parcel("s1", 2, delivered=True))
    assert told_in_order(wanted, frozenset({"shipment"})) == ["shipment:s1"]
    assert told_in_order(wanted, frozenset()) == []


def test_nothing_is_told_of_parcels_whose_invoice_was_refused() -> None:
    assert told_in_order(progress(parcel("s1", 1)), refuse="invoice") == ["invoice"]
    without = progress(parcel("s1"), invoice=None)
    assert told_in_order(without) == ["shipment:s1"]


def test_an_invoice_that_takes_the_place_of_one_that_was_told_is_a_step_of_its_own_and_holds_nothing_back() -> None:
    wanted = progress(parcel("s1"))
    done = {"invoice": State.ACCEPTED, "invoice:d0": State.ACCEPTED}
    step = next_step(wanted, done, ALL)
    assert step is not None
    assert (step.kind, step.name) == (Kind.INVOICE_AGAIN, "invoice:d1")
    assert not is_told(step, frozenset({"invoice"}))
    for state in (State.ACCEPTED, State.REFUSED):
        after = next_step(wanted, done | {"invoice:d1": state}, ALL)
        assert after is not None
        assert after.name == "shipment:s1"
    assert next_step(progress(), {"invoice": State.ACCEPTED, "invoice:d1": State.ACCEPTED}, ALL) is None


def test_a_refused_parcel_holds_back_itself_alone_and_a_refused_scan_nothing() -> None:
    wanted = progress(parcel("s1", delivered=True), parcel("s2", 1))
    done = {"invoice": State.ACCEPTED, "shipment:s1": State.REFUSED}
    step = next_step(wanted, done, ALL)
    assert step is not None
    assert step.name == "shipment:s2"
    moved = progress(parcel("s1", 1))
    delivered = progress(parcel("s1", 1, delivered=True))
    done = {"invoice": State.ACCEPTED, "shipment:s1": State.ACCEPTED, "tracking:s1:0": State.REFUSED}
    assert next_step(moved, done, ALL) is None
    last = next_step(delivered, done, ALL)
    assert last is not None
    assert last.name == "delivery:s1"


def test_a_cancel_stands_alone_even_where_a_channel_takes_none() -> None:
    wanted = progress(parcel("s1"), reason="sold_out")
    assert told_in_order(wanted) == ["cancel"]
    assert told_in_order(wanted, frozenset({"invoice"})) == ["cancel"]


def test_a_begun_step_comes_again_and_the_channel_is_asked_whether_it_heard() -> None:
    wanted = progress(parcel("s1"))
    step = next_step(wanted, {"invoice": State.GOING}, ALL)
    assert step is not None
    assert is_told(step, frozenset({"invoice"}))
    assert not is_told(step, frozenset({"shipment"}))
    sent = steps(wanted, ALL)[1]
    assert is_told(sent, frozenset({"shipment:T-s1"}))
    assert not is_told(sent, frozenset({"shipment:T-s2"}))


@given(
    st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=3),
    st.frozensets(st.sampled_from(list(Kind))),
    st.dictionaries(st.sampled_from(["invoice", "shipment:0", "shipment:1", "delivery:0"]), st.sampled_from(State)),
)
def test_telling_always_ends_and_no_parcel_is_told_before_the_invoice(
    parcels: list[tuple[int, bool]], reports: frozenset[Kind], done: dict[str, State]
) -> None:
    wanted = progress(*(parcel(str(n), scans, delivered=end) for n, (scans, end) in enumerate(parcels)))
    names = []
    while step := next_step(wanted, done, reports):
        assert done.get(step.name) not in (State.ACCEPTED, State.REFUSED)
        assert step.kind in reports
        if step.parcel and Kind.INVOICE in reports:
            assert done["invoice"] is State.ACCEPTED
        done = {**done, step.name: State.ACCEPTED}
        names.append(step.name)
    assert len(names) == len(set(names))
    order = [step.name for step in steps(wanted, reports)]
    assert all(order.index(one) < order.index(two) for one, two in pairwise(names))
