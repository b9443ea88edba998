"""Two majors of one message side by side, and two builds within one major."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.catalogue import Catalogue, MessageType, Stream, StreamKind, kebab, split_type
from contracts.envelope import Message, OpenEnum

V1 = Stream("parcels.parcels.v1", "parcels", StreamKind.FACTS, 24, "Parcels, first major.")
V2 = Stream("parcels.parcels.v2", "parcels", StreamKind.FACTS, 24, "Parcels, second major.")


class First:
    class ParcelSent(Message):
        parcel_id: str
        weight_kg: float


class Second:
    class ParcelSent(Message):
        parcel_id: str
        weight_g: int
        carrier: str = ""


def to_second(old: First.ParcelSent) -> Second.ParcelSent:
    return Second.ParcelSent(parcel_id=old.parcel_id, weight_g=round(old.weight_kg * 1000))


def to_first(new: Second.ParcelSent) -> First.ParcelSent:
    return First.ParcelSent(parcel_id=new.parcel_id, weight_kg=new.weight_g / 1000)


PARCELS = Catalogue(
    (
        MessageType(First.ParcelSent, V1, ("parcel_id",), upcast=to_second, downcast=to_first),
        MessageType(Second.ParcelSent, V2, ("parcel_id",), since="0.2.0"),
    )
)


@pytest.mark.rule(2)
def test_a_message_is_published_in_every_major_newest_first() -> None:
    published = PARCELS.publications(Second.ParcelSent(parcel_id="p", weight_g=1500, carrier="c"))

    assert [(entry.name, entry.stream.name, message.model_dump()) for entry, message in published] == [
        ("saldo.parcels.parcel-sent.v2", V2.name, {"parcel_id": "p", "weight_g": 1500, "carrier": "c"}),
        ("saldo.parcels.parcel-sent.v1", V1.name, {"parcel_id": "p", "weight_kg": 1.5}),
    ]


@given(grams=st.integers(0, 10**9))
@pytest.mark.rule(2)
def test_handlers_see_only_the_newest_whichever_was_read(grams: int) -> None:
    sent = Second.ParcelSent(parcel_id="p", weight_g=grams)

    for entry, message in PARCELS.publications(sent):
        assert PARCELS.newest(entry, message) == sent


def test_a_major_that_is_no_longer_published_is_still_read() -> None:
    parcels = Catalogue(
        (
            MessageType(First.ParcelSent, V1, ("parcel_id",), upcast=to_second),
            MessageType(Second.ParcelSent, V2, ("parcel_id",)),
        )
    )
    old = First.ParcelSent(parcel_id="p", weight_kg=2)

    assert len(parcels.publications(Second.ParcelSent(parcel_id="p", weight_g=2000))) == 1
    assert parcels.newest(parcels.types[0], old) == Second.ParcelSent(parcel_id="p", weight_g=2000)


class OldState(OpenEnum):
    SENT = "sent"
    UNKNOWN = "unknown"


class NewState(OpenEnum):
    SENT = "sent"
    LOST = "lost"
    UNKNOWN = "unknown"


class OldLeg(Message):
    state: OldState


class NewLeg(Message):
    state: NewState
    delay_s: int = 0


class OldRoute(Message):
    route_id: str
    at: datetime
    legs: tuple[OldLeg, ...]


class NewRoute(Message):
    route_id: str
    at: datetime
    legs: tuple[NewLeg, ...]
    note: str | None = None


moments = st.datetimes(min_value=datetime(2020, 1, 1), max_value=datetime(2040, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


@given(st.builds(NewRoute, at=moments))
def test_an_old_reader_reads_a_new_writer(new: NewRoute) -> None:
    old = OldRoute.model_validate_json(new.model_dump_json(), extra="ignore")

    assert (old.route_id, old.at) == (new.route_id, new.at)
    assert [leg.state.value for leg in old.legs] == [
        "sent" if leg.state is NewState.SENT else "unknown" for leg in new.legs
    ]


@given(st.builds(OldRoute, at=moments))
def test_a_new_reader_reads_an_old_writer(old: OldRoute) -> None:
    new = NewRoute.model_validate_json(old.model_dump_json(), extra="ignore")

    assert (new.route_id, new.at, new.note) == (old.route_id, old.at, None)
    assert [(leg.state.value, leg.delay_s) for leg in new.legs] == [(leg.state.value, 0) for leg in old.legs]


def test_a_writer_is_held_to_its_schema() -> None:
    with pytest.raises(ValueError, match="Extra inputs are not permitted"):
        OldRoute.model_validate({"route_id": "r", "at": datetime.now(UTC), "legs": (), "note": "x"})


def test_two_types_of_one_name_are_refused() -> None:
    entry = MessageType(First.ParcelSent, V1, ("parcel_id",))
    with pytest.raises(ValueError, match="share one name"):
        Catalogue((entry, entry))


def test_a_message_outside_the_catalogue_says_where_to_add_it() -> None:
    with pytest.raises(KeyError, match="add it to contracts/catalogue"):
        PARCELS.of(OldLeg(state=OldState.SENT))


@pytest.mark.rule(3)
def test_a_segment_longer_than_a_day_is_refused() -> None:
    long = Stream("parcels.parcels.v1", "parcels", StreamKind.FACTS, 24, "Parcels.", segment_h=25)
    with pytest.raises(ValueError, match="outlives"):
        Catalogue((MessageType(First.ParcelSent, long, ("parcel_id",)),))


@pytest.mark.parametrize(
    ("name", "parts"),
    [("saldo.a.b.v12", ("saldo.a.b", 12)), ("saldo.a.b", ("saldo.a.b", 0)), ("saldo.a.vx", ("saldo.a.vx", 0))],
)
def test_a_type_name_splits_into_stem_and_major(name: str, parts: tuple[str, int]) -> None:
    assert split_type(name) == parts


def test_a_class_name_becomes_kebab_case() -> None:
    assert kebab("StockLevelChanged") == "stock-level-changed"


@pytest.mark.parametrize("name", ["evil.thing.v" + "9" * 5_000, "evil.thing.v²", "evil.thing.v", ".v", "v1", ""])
def test_a_type_name_may_be_anything(name: str) -> None:
    # Whoever writes to a topic chooses it: an error here would stand in the way of every record behind it.
    assert split_type(name) == (name, 0)
