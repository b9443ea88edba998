"""The tolerant parser: nothing in a record makes it raise, and everything has a verdict with its cause."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.catalogue import Catalogue, MessageType, Stream, StreamKind
from contracts.envelope import Message
from services.bus.failures import Halt
from services.bus.record import Packed, Reader, Verdict, pack, unpack
from tests.bus.model import Deposited, Sent, make_streams, record

NOW = datetime(2026, 7, 1, 12, tzinfo=UTC)
STREAMS = make_streams()
READER = Reader(STREAMS.deposits.name, (Deposited,), lambda key, _: key, STREAMS.catalogue, timedelta(days=3))


def read(one: Sent, reader: Reader = READER):
    return reader.read(Packed(STREAMS.deposits.name, 0, 7, one.key, one.value, one.headers), NOW)


def changed(
    *, key: bytes | str | None = "", value: bytes | str | None = "", headers: list | None = None, **more
) -> Sent:
    one = record(STREAMS, "a", time=more.pop("time", NOW), **more)
    return Sent(
        one.key if key == "" else key, one.value if value == "" else value, one.headers if headers is None else headers
    )


def with_header(name: str, header: bytes | None) -> Sent:
    one = changed()
    return Sent(one.key, one.value, [pair for pair in one.headers if pair[0] != name] + [(name, header)])


def test_a_good_record_is_an_event_with_its_envelope() -> None:
    incoming = read(changed(event_id="e1", traceparent="00-" + "a" * 32 + "-" + "b" * 16 + "-01"))
    assert incoming.verdict is Verdict.EVENT
    assert incoming.received.message == Deposited(account="a", amount=1)
    assert incoming.received.cause.event_id == "e1"
    assert incoming.received.body == incoming.record.value
    assert incoming.identity == (NOW.date(), "test", "e1")


@pytest.mark.parametrize(
    "broken",
    ["not a trace", "00-" + "z" * 32 + "-" + "y" * 16 + "-01", f"00-{'0' * 32}-{'0' * 16}-01", "00-" + "a" * 3997],
)
def test_a_broken_trace_is_none_and_is_not_handed_on(broken: str) -> None:
    incoming = read(changed(traceparent=broken))
    assert incoming.verdict is Verdict.EVENT
    assert incoming.received.cause.traceparent == ""


@pytest.mark.parametrize(
    ("one", "cause"),
    [
        (with_header("x-proxy", None), "header x-proxy is null"),
        (with_header("x-proxy", b"\xff\xfe"), "header x-proxy is not UTF-8"),
        (with_header("ce_id", None), "header ce_id is null"),
        (with_header("ce_tenant", b"UPPER"), "header ce_tenant must match [a-z0-9-]{1,32}"),
        (with_header("ce_time", b"yesterday"), "header ce_time is not an RFC 3339 moment"),
        (with_header("ce_time", b"2026-07-01T12:00:00"), "header ce_time has no offset: send UTC, ending in Z"),
        (changed(headers=[]), "header ce_time is missing: send CloudEvents 1.0 binary mode"),
        (changed(type_name=""), "header ce_type is missing: send CloudEvents 1.0 binary mode"),
        (changed(key=b"acme:\xff"), "key is not UTF-8"),
        (changed(key=b"other:a"), "the key does not begin with ce_tenant: key it tenant:…"),
        (changed(key=b"acme:\x00"), "key holds NUL"),
        (changed(event_id="e\x00"), "ce_id or ce_source holds NUL or is too long"),
        (changed(event_id="e" * 501), "ce_id or ce_source holds NUL or is too long"),
        (changed(value=None), "the body is null: streams of facts have no tombstones"),
        (changed(value=b"{"), "ValidationError: : json_invalid"),
        (changed(value=b'{"account": "a", "amount": "many"}'), "ValidationError: amount: int_parsing"),
        (changed(value=b"[" * 100_000), "ValidationError: : json_invalid"),
    ],
)
@pytest.mark.rule(6)
def test_an_unreadable_record_parks_its_aggregate_and_names_the_cause(one: Sent, cause: str) -> None:
    incoming = read(one)
    assert (incoming.verdict, incoming.error) == (Verdict.UNREADABLE, cause)
    assert incoming.aggregate == incoming.key


@pytest.mark.parametrize(
    ("one", "cause"),
    [
        (changed(key=None), "record has no key"),
        (changed(key=b""), "record has no key"),
        (changed(key=b"acme:" + b"a" * 500), "record has a key of more than 500 characters"),
        (changed(type_name="saldo.stranger.deposited.v1"), "foreign type 'saldo.stranger.deposited.v1'"),
        (changed(time=NOW - timedelta(days=3, seconds=1)), "is outside the inbox"),
        (changed(time=NOW + timedelta(days=1, seconds=1)), "is outside the inbox"),
    ],
)
@pytest.mark.rule(1)
def test_a_refused_record_parks_nothing(one: Sent, cause: str) -> None:
    incoming = read(one)
    assert incoming.verdict is Verdict.REFUSED
    assert incoming.aggregate is None
    assert cause in incoming.error


@pytest.mark.rule(3)
def test_age_is_judged_on_arrival_only() -> None:
    one = changed(time=NOW - timedelta(days=400))
    waited = READER.read(Packed(STREAMS.deposits.name, 0, 7, one.key, one.value, one.headers), None)
    assert waited.verdict is Verdict.EVENT


@pytest.mark.rule(1)
def test_an_unknown_type_of_the_owner_is_skipped_and_a_higher_major_stops_the_consumer() -> None:
    owner = STREAMS.deposits.owner
    assert read(changed(type_name=f"saldo.{owner}.audited.v1")).verdict is Verdict.SKIPPED
    assert read(changed(type_name=f"saldo.{owner}.retired.v1")).verdict is Verdict.SKIPPED
    with pytest.raises(Halt, match="this build reads major 1"):
        read(changed(type_name=f"saldo.{owner}.deposited.v2"))


def test_a_field_of_a_newer_build_is_ignored() -> None:
    assert read(changed(extra={"currency": "BRL"})).verdict is Verdict.EVENT


def test_validation_errors_do_not_repeat_the_body() -> None:
    assert "secret" not in read(changed(value=b'{"account": "a", "amount": "secret"}')).error


class OpenedV1(Message):
    """First major."""

    account: str


class Opened(Message):
    """Second major."""

    account: str
    currency: str


@pytest.mark.rule(2)
def test_an_older_major_reaches_the_handler_as_the_newest() -> None:
    first = Stream("vault.opened.v1", "vault", StreamKind.FACTS, 24, "")
    second = Stream("vault.opened.v2", "vault", StreamKind.FACTS, 24, "")
    opened_v1 = type("Opened", (OpenedV1,), {"__module__": __name__})
    catalogue = Catalogue(
        (
            MessageType(opened_v1, first, ("account",), upcast=lambda old: Opened(account=old.account, currency="BRL")),
            MessageType(Opened, second, ("account",)),
        )
    )
    reader = Reader(first.name, (Opened,), lambda key, _: key, catalogue, timedelta(days=3))
    one = changed(type_name="saldo.vault.opened.v1", value=json.dumps({"account": "a"}).encode())
    incoming = reader.read(Packed(first.name, 0, 0, one.key, one.value, one.headers), NOW)
    assert incoming.received.message == Opened(account="a", currency="BRL")
    assert incoming.received.body == b""


def test_a_model_that_the_stream_does_not_carry_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="does not carry"):
        Reader(STREAMS.deposits.name, (Opened,), lambda key, _: key, STREAMS.catalogue, timedelta(days=3))


@pytest.mark.rule(6)
def test_the_aggregate_is_named_from_key_and_headers_and_falls_back_to_the_key() -> None:
    by_header = Reader(
        STREAMS.deposits.name, (Deposited,), lambda _key, headers: headers["ce_correlationid"], STREAMS.catalogue,
        timedelta(days=3),
    )  # fmt: skip
    assert read(changed(correlation_id="flow"), by_header).aggregate == "flow"
    assert read(changed(headers=[]), by_header).aggregate == "acme:a"


@given(
    key=st.none() | st.binary(),
    value=st.none() | st.binary(),
    headers=st.lists(st.tuples(st.text(), st.none() | st.binary()), max_size=5),
)
def test_any_record_has_a_verdict_and_is_kept_whole(key, value, headers) -> None:
    one = Packed(STREAMS.deposits.name, 1, 2, key, value, headers)
    assert READER.read(one, NOW).verdict in Verdict
    assert unpack(pack(one)) == one
