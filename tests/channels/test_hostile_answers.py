"""Whatever a channel sends or answers, a connector raises what it may raise, and nothing else: a loop survives that."""

import asyncio
import inspect
import json
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.channels.v1 import InvoiceTold, ParcelTold, ProgressLine, TrackingTold
from contracts.fulfillment.v1 import TrackingStatus
from services.channels.connectors import CONNECTORS
from services.channels.connectors.connector import (
    Connector,
    LimiterLike,
    OutcomeUnknown,
    Refreshes,
    Rejected,
    Reporter,
    Session,
    SignatureInvalid,
    StockWrite,
    Throttled,
    Told,
)
from services.channels.connectors.vtex import HOOK_HEADER

REMOTE = sorted(name for name, one in CONNECTORS.items() if not one.traits.local)
NOW = datetime(2026, 3, 1, tzinfo=UTC)
ODD = (
    None, True, False, 0, -1, 2**63, 10**400, 1.5, float("inf"), float("nan"), "", "x", "\x00", "\ud800", "NaN",
    "1e999", "2026-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-03:00", "http://[::1", "k",
    [], {},
)  # fmt: skip
SPOILT = (b"", b"<html>", b"[" * 10_000, b"9" * 5_000, b"\xff\xfe{}", b"1e9999999999999999999999")


class Pace(LimiterLike):
    """No limits, and no waiting."""

    async def acquire(self, endpoint: str, cost: float = 1.0) -> None: ...

    def throttled(self, endpoint: str, retry_after_s: float) -> None: ...

    def observed(self, endpoint: str, available: float, restore_per_s: float) -> None: ...


@cache
def bodies(name: str) -> st.SearchStrategy[Any]:
    """JSON made of the words that the connector looks for, with odd values behind them."""
    source = inspect.getsource(sys.modules[type(CONNECTORS[name]).__module__])
    words = sorted(set(re.findall(r'"([A-Za-z_][\w.]{1,40})"', source)))
    key = st.sampled_from(words)
    return st.recursive(
        st.sampled_from(ODD) | key,
        lambda inner: st.dictionaries(key, inner, max_size=8) | st.lists(inner, max_size=2),
        max_leaves=25,
    )


@dataclass
class Channel:
    """A channel that answers whatever is drawn, and after some answers nothing at all."""

    answers: list[tuple[int, Any]] = field(default_factory=list)

    def __call__(self, _: httpx.Request) -> httpx.Response:
        if not self.answers:
            return httpx.Response(503)
        status, body = self.answers.pop(0)
        return httpx.Response(status, content=body if isinstance(body, bytes) else json.dumps(body).encode())


def session_of(connector: Connector, channel: Channel) -> Session:
    traits = connector.traits
    names = (*traits.credentials, *traits.credentials_optional, *traits.credentials_drawn)

    async def token() -> str:
        return "token"

    async def document(_: str) -> bytes:
        return b"<x/>"

    http = httpx.AsyncClient(transport=httpx.MockTransport(channel))
    return Session(
        "00000000-0000-5000-8000-000000000000", "https://channel.test", "account", dict.fromkeys(names, "k"),
        dict.fromkeys(traits.settings, "1"), http, Pace(), token, lambda _: None, document,
    )  # fmt: skip


async def drained(rows: AsyncIterator[Any]) -> None:
    async for _ in rows:
        pass


def calls(connector: Connector, session: Session) -> Mapping[str, Callable[[], Awaitable[Any]]]:
    """Everything that asks a channel."""
    found: dict[str, Callable[[], Awaitable[Any]]] = {
        "check": lambda: connector.check(session, "https://door.test"),
        "subscribe": lambda: connector.subscribe(session, "https://door.test"),
        "receive": lambda: drained(connector.receive(session)),
        "fetch": lambda: connector.fetch(session, "123"),
        "poll": lambda: drained(connector.poll(session, NOW)),
        "write": lambda: connector.write_stock(session, [StockWrite("1", "1", 5, 3)]),
        "read": lambda: connector.read_stock(session, [("1", "1")]),
        "listings": lambda: drained(connector.listings(session)),
    }
    if isinstance(connector, Refreshes):
        found["refresh"] = lambda: connector.refresh(session, "refresh")
    if isinstance(connector, Reporter):
        order = Told("123", "9/8")
        invoice = InvoiceTold(
            invoice_id="i", invoice_key="1" * 44, invoice_no="1", series="1", issued_at=NOW, total_minor=1,
            currency="BRL", content_url="document",
        )  # fmt: skip
        parcel = ParcelTold(
            shipment_id="s",
            carrier="ECT",
            service="pac",
            tracking_code="AA",
            dispatched_at=NOW,
            delivered_at=NOW,
            lines=(ProgressLine(line_id="1", quantity=1),),
        )
        scan = TrackingTold(status=TrackingStatus.IN_TRANSIT, happened_at=NOW)
        found |= {
            "invoice": lambda: connector.report_invoice(session, order, invoice),
            "shipment": lambda: connector.report_shipment(session, order, parcel),
            "tracking": lambda: connector.report_tracking(session, order, parcel, scan),
            "delivery": lambda: connector.report_delivery(session, order, parcel),
            "cancel": lambda: connector.cancel(session, order, "sold out"),
        }
    return found


async def ask_all(name: str, answers: list[tuple[int, Any]]) -> None:
    channel = Channel()
    session = session_of(CONNECTORS[name], channel)
    async with session.http:
        for call in calls(CONNECTORS[name], session).values():
            channel.answers = list(answers)
            with suppress(Rejected, Throttled, OutcomeUnknown, ValueError):
                await call()


@pytest.mark.parametrize("name", REMOTE)
def test_an_answer_of_any_shape_is_refused_in_a_way_that_loops_know(name: str) -> None:
    status = st.sampled_from((200, 200, 200, 200, 204, 302, 400, 404, 409, 429, 500))
    answers = st.lists(st.tuples(status, bodies(name) | st.sampled_from(SPOILT)), min_size=1, max_size=4)

    @settings(max_examples=50)
    @given(answers)
    def drawn(found: list[tuple[int, Any]]) -> None:
        asyncio.run(ask_all(name, found))

    drawn()


@pytest.mark.parametrize("name", REMOTE)
def test_a_push_of_any_shape_is_an_order_or_refused(name: str) -> None:
    connector = CONNECTORS[name]
    credentials = session_of(connector, Channel()).credentials

    @settings(max_examples=150)
    @given(bodies(name))
    def drawn(body: Any) -> None:
        if isinstance(body, dict):
            body |= {"user_id": "k", "application_id": "k"} if "k" not in body.values() else {"user_id": "\ud800"}
        raw = json.dumps(body).encode()
        with suppress(SignatureInvalid):
            connector.verify(httpx.Headers({HOOK_HEADER: "k"}), raw, credentials)
        for topic in ("hook", "queue", "poll", "orders/updated"):
            with suppress(ValueError):
                connector.points_to(topic, raw)
        with suppress(ValueError):
            connector.to_order(raw)

    drawn()
