"""One flow is one trace through the outbox; an unsampled one creates no span anywhere."""

import time

import pytest
from opentelemetry import trace

from services.bus import Cause
from services.bus.outbox import unpack
from services.bus.tracing import is_sampled, within
from tests.bus.model import by_hand, log, make_streams, record, rows, spans_of, value
from tests.bus.test_parking import OPEN, Fixable

pytestmark = pytest.mark.asyncio(loop_scope="session")

SAMPLED = "00-" + "a1" * 16 + "-" + "b2" * 8 + "-01"
OTHER = "00-" + "c3" * 16 + "-" + "d4" * 8 + "-01"
UNSAMPLED = "00-" + "e5" * 16 + "-" + "f6" * 8 + "-00"


@pytest.mark.rule(16)
async def test_a_batch_hangs_its_publication_under_the_first_sampled_cause_and_links_the_others(database, tmp_path):
    streams, path = make_streams(), tmp_path / "spans.db"
    async with by_hand(database, streams, spans_path=path) as (_, consumer):
        causes = [UNSAMPLED, SAMPLED, OTHER]
        await consumer.take(
            log(
                streams, [record(streams, "a", n, traceparent=one, correlation_id="o1") for n, one in enumerate(causes)]
            )
        )
        published = unpack(await value(database, "SELECT records FROM outbox"))
    spans = {(span["name"], span["trace_id"]): span for span in spans_of(path, "o1")}
    process = spans[f"process {streams.deposits.name}", "a1" * 16]
    linked = spans[f"process {streams.deposits.name}", "c3" * 16]
    create = spans[f"create {streams.balances.name}", "a1" * 16]
    assert len(spans) == 3
    assert process["parent_id"] == "b2" * 8
    assert create["parent_id"] == process["span_id"]
    assert create["links"] == [["c3" * 16, linked["span_id"]]]
    assert create["start_ns"] >= process["start_ns"]
    assert dict(published[0][1])["traceparent"] == f"00-{'a1' * 16}-{create['span_id']}-01".encode()
    assert process["attributes"]["messaging.destination.name"] == streams.deposits.name
    assert "amount" not in str(process)


@pytest.mark.rule(16)
async def test_an_unsampled_flow_creates_no_span_and_says_so_downstream(database, tmp_path):
    streams, path = make_streams(), tmp_path / "spans.db"
    async with by_hand(database, streams, spans_path=path, trace_ratio=0.0) as (service, consumer):
        await consumer.take(log(streams, [record(streams, "a", 1, traceparent=UNSAMPLED, correlation_id="o1")]))
        with service.tracing.span("door", correlation_id="o2") as door:
            assert not is_sampled(door.traceparent)
            assert door.traceparent
        with service.tracing.span("push", [Cause("e", "o1", UNSAMPLED)]) as push:
            assert push == Cause("e", "o1", UNSAMPLED)
        published = unpack(await value(database, "SELECT records FROM outbox"))
    assert dict(published[0][1])["traceparent"] == UNSAMPLED.encode()
    assert spans_of(path, "o1") == spans_of(path, "o2") == []


@pytest.mark.rule(16)
async def test_a_flow_starts_at_the_door_and_a_loop_takes_it_up_again(database, tmp_path):
    streams, path = make_streams(), tmp_path / "spans.db"
    async with by_hand(database, streams, spans_path=path) as (service, _):
        with service.tracing.span("door", correlation_id="o3") as door:
            pass
        with service.tracing.span("push", door, attributes={"connection": "c"}) as push:
            pass
    named = {span["name"]: span for span in spans_of(path, "o3")}
    assert named["push"]["parent_id"] == named["door"]["span_id"]
    assert named["door"]["parent_id"] is None
    assert push.correlation_id == "o3"
    assert named["push"]["attributes"]["connection"] == "c"


async def test_a_failed_attempt_leaves_no_span(database, tmp_path):
    streams, path = make_streams(), tmp_path / "spans.db"
    async with by_hand(database, streams, spans_path=path) as (_, consumer):
        await consumer.take(
            log(streams, [record(streams, "a", 1, trouble="bug", traceparent=SAMPLED, correlation_id="o1")])
        )
    assert spans_of(path, "o1") == []
    assert await rows(database, "SELECT traceparent, correlation_id FROM dead_letters") == [(SAMPLED, "o1")]


async def test_a_replay_is_linked_to_its_message(database, tmp_path):
    streams, handler, path = make_streams(), Fixable(), tmp_path / "spans.db"
    async with by_hand(database, streams, handler=handler, spans_path=path) as (service, consumer):
        given = record(streams, "a", 1, trouble="bug", traceparent=SAMPLED, correlation_id="o1")
        await consumer.take(log(streams, [given]))
        handler.broken = False
        await service.dead_letters.replay(await value(database, OPEN))
    (replayed,) = (span for span in spans_of(path, "o1") if span["name"].startswith("process"))
    assert replayed["parent_id"] == "b2" * 8
    assert replayed["links"] == [["a1" * 16, "b2" * 8]]
    assert replayed["attributes"]["saldo.replayed"] == "true"


async def test_what_becomes_known_in_a_span_is_noted_in_it(database, tmp_path):
    path = tmp_path / "spans.db"
    async with by_hand(database, make_streams(), spans_path=path) as (service, _):
        began_ns = time.time_ns() - 10**9
        with service.tracing.span("call", correlation_id="o4", start_ns=began_ns):
            trace.get_current_span().set_attribute("http.response.status_code", 503)
    (span,) = spans_of(path, "o4")
    assert (span["start_ns"], span["attributes"]["http.response.status_code"]) == (began_ns, 503)


async def test_a_row_stays_in_its_trace():
    assert within(SAMPLED, SAMPLED[:36] + "f" * 16 + "-01") == SAMPLED[:36] + "f" * 16 + "-01"
    assert within(SAMPLED, OTHER) == SAMPLED
