"""The envelope against the CloudEvents SDK: what one writes the other reads."""

from datetime import UTC, datetime
from typing import Any

import pytest
from cloudevents.core.bindings.kafka import KafkaMessage, from_binary, to_binary
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from contracts.envelope import Envelope, EnvelopeInvalid
from contracts.inventory.v1 import HoldExpired

names = st.text(st.characters(codec="utf-8", exclude_categories=["C"]), min_size=1, max_size=20)
envelopes = st.builds(
    Envelope,
    id=names,
    type=names,
    source=names,
    time=st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(2200, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001
    subject=names,
    tenant=st.from_regex(r"[a-z0-9-]{1,32}", fullmatch=True),
    correlation_id=names,
    causation_id=st.just("") | names,
    traceparent=st.just(""),
)
GOOD = {
    "ce_id": "1",
    "ce_type": "saldo.orders.order-placed.v1",
    "ce_source": "/orders",
    "ce_time": "2026-03-14T12:00:00Z",
    "ce_tenant": "acme",
}


def decoded(headers: Any) -> dict[str, str]:
    return {name: value.decode() for name, value in headers}


@given(envelopes)
def test_an_envelope_survives_its_headers(envelope: Envelope) -> None:
    assert Envelope.from_headers(decoded(envelope.to_headers())) == envelope


@given(envelopes)
def test_the_sdk_reads_our_headers(envelope: Envelope) -> None:
    event = from_binary(KafkaMessage(dict(envelope.to_headers()), None, b"{}"), JSONFormat())

    assert event.get_specversion() == "1.0"
    assert (event.get_id(), event.get_type(), event.get_source()) == (envelope.id, envelope.type, envelope.source)
    assert (event.get_time(), event.get_subject()) == (envelope.time, envelope.subject)
    assert event.get_datacontenttype() == "application/json"
    assert event.get_extension("tenant") == envelope.tenant
    assert event.get_extension("correlationid") == envelope.correlation_id


@given(envelopes)
def test_we_read_the_headers_of_the_sdk(envelope: Envelope) -> None:
    attributes = {
        "id": envelope.id,
        "type": envelope.type,
        "source": envelope.source,
        "time": envelope.time,
        "subject": envelope.subject,
        "tenant": envelope.tenant,
        "correlationid": envelope.correlation_id,
        "datacontenttype": "application/json",
        "specversion": "1.0",
    } | ({"causationid": envelope.causation_id} if envelope.causation_id else {})
    written = to_binary(CloudEvent(attributes, {}), JSONFormat())

    assert Envelope.from_headers(decoded(written.headers.items())) == envelope


def test_another_offset_is_turned_into_utc() -> None:
    envelope = Envelope.from_headers(GOOD | {"ce_time": "2026-03-14T09:00:00-03:00"})

    assert envelope.time == datetime(2026, 3, 14, 12, tzinfo=UTC)


@pytest.mark.parametrize("name", GOOD)
def test_a_missing_attribute_is_named(name: str) -> None:
    with pytest.raises(EnvelopeInvalid, match=f"header {name} is missing"):
        Envelope.from_headers({key: value for key, value in GOOD.items() if key != name})


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("ce_time", "yesterday", "not an RFC 3339 moment"),
        ("ce_time", "2026-03-14T12:00:00", "has no offset"),
        ("ce_time", "0001-01-01T00:00:00+23:59", "not an RFC 3339 moment"),
        ("ce_tenant", "Acme", "must match"),
        ("ce_tenant", "", "must match"),
        ("ce_tenant", "a" * 33, "must match"),
        ("ce_tenant", "acme\n", "must match"),
        ("ce_id", "", "must not be empty"),
        ("ce_source", "", "must not be empty"),
    ],
)
def test_a_wrong_attribute_is_refused(name: str, value: str, said: str) -> None:
    with pytest.raises(EnvelopeInvalid, match=said):
        Envelope.from_headers(GOOD | {name: value})


def test_a_message_of_values_is_checked_as_any_other() -> None:
    values = {"order_id": "a", "revision": 1, "expired_at": GOOD["ce_time"]}
    assert HoldExpired.of(values) == HoldExpired.model_validate(values)
    for wrong in ({**values, "more": 1}, {**values, "revision": "many"}, {"order_id": "a"}):
        with pytest.raises(ValidationError):
            HoldExpired.of(wrong)
