"""Webhooks of carriers: refused or absorbed, and what they are about is asked for and told at once."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any
from unittest.mock import patch

import httpx
import pytest
import pytest_asyncio
import structlog

from contracts.fulfillment.v1 import LabelCreated, ShipmentDelivered, ShipmentDispatched, ShipmentTracked
from services.fulfillment.carriers.carrier import Carrier
from services.fulfillment.carriers.signature import require_signature
from services.fulfillment.track import Tracker
from services.sandbox.carrier_hooks import signature
from tests.fulfillment.bench import known
from tests.fulfillment.office import AUTO, Office, Sender, sender
from tests.sandbox.running import Sandbox

FAST = 86_400 * 50


@dataclass
class Sent:
    """A parcel of the own table that the couriers have collected, and the door that they tell about it."""

    office: Office
    account: Sender
    code: str
    door_url: str

    async def collect(self) -> None:
        """The couriers take the parcel over."""
        body = {"tracking_code": self.code, "days": 1}
        token = self.account.told["credentials"]["access_token"]
        async with httpx.AsyncClient(headers={"authorization": f"Bearer {token}"}) as http:
            assert (await http.post(f"{self.account.told['base_url']}/table/v1/parcels", json=body)).is_success

    def body(self, **data: Any) -> bytes:
        return json.dumps({"event": "parcel.scanned", "data": {"tracking_code": self.code} | data}).encode()

    async def call(self, body: bytes, signed: str | None = None, url: str = "") -> int:
        secret = self.account.told["credentials"]["client_secret"]
        headers = {"content-type": "application/json", "x-scanner-signature": signed or signature(secret, body)}
        async with httpx.AsyncClient() as http:
            return (await http.post(url or self.door_url, content=body, headers=headers)).status_code

    async def looks(self) -> int:
        return await self.office.tracker.work_off()


@pytest_asyncio.fixture
async def sent(office: Office, carrier_process: Sandbox) -> AsyncIterator[Sent]:
    """A labelled parcel; the couriers call the door."""
    async with sender(carrier_process, kind="table", speed=FAST) as account, office.listening() as address:
        url = f"{address}/hooks/{await office.put('table', account.told)}"
        await account.change(webhook_url=url, webhook_retry_s=[0.05] * 3)
        await office.packed()
        await office.book.work_off()
        [label] = office.of(LabelCreated)
        yield Sent(office, account, label.tracking_code, url)


async def later(office: Office, work: Callable[[], Awaitable[int]]) -> None:
    """Look, and let the time go by after which it is looked again."""
    await work()
    office.now += timedelta(seconds=AUTO.track_every_s)


def told_once(office: Office) -> bool:
    """Whether the parcel is delivered and each step of it was told once, in order of versions."""
    told = [(fact.status, fact.happened_at) for fact in office.of(ShipmentTracked)]
    versions = [fact.version for fact in office.told]  # type: ignore[attr-defined]
    once = len(office.of(ShipmentDispatched)) == len(office.of(ShipmentDelivered)) == 1
    return once and len(told) == len(set(told)) >= 4 and versions == sorted(set(versions))


@pytest.mark.asyncio
@pytest.mark.parametrize("vices", [{}, {"webhook_duplicate": {}, "webhook_reordered": {"probability": 0.5}}])
async def test_from_the_van_to_the_door_each_step_is_told_once(sent: Sent, vices: dict[str, Any]) -> None:
    await sent.account.control.put_vices(sent.account.name, **vices)
    await sent.collect()
    await sent.office.until(sent.looks, lambda: bool(sent.office.of(ShipmentDelivered)))

    assert told_once(sent.office)
    assert (await known(sent.office.connection)).state == "delivered"


@pytest.mark.asyncio
async def test_what_no_webhook_told_is_found_by_asking(sent: Sent) -> None:
    await sent.account.control.put_vices(sent.account.name, webhook_missing={}, scan_going_back={})
    await sent.collect()
    sent.office.now += timedelta(seconds=AUTO.track_every_s)

    await sent.office.until(partial(later, sent.office, sent.looks), lambda: bool(sent.office.of(ShipmentDelivered)))
    assert told_once(sent.office)


@pytest.mark.asyncio
@pytest.mark.parametrize("point", ["track.answered", "track.stored"])
async def test_killed_while_it_asks_each_step_is_told_once(sent: Sent, point: str) -> None:
    class Died(Exception):
        """The process ended here."""

    dies = [point]

    def at(name: str) -> None:
        if name in dies:
            dies.remove(name)
            raise Died

    office = sent.office
    office.tracker = Tracker(office.transaction, office.carriers, AUTO, at)
    await sent.collect()

    async def look() -> None:
        office.now += timedelta(seconds=AUTO.book_lease_s)
        with suppress(Died):
            await office.tracker.work_off()

    await office.until(look, lambda: bool(office.of(ShipmentDelivered)))
    assert dies == []
    assert told_once(office)


@pytest.mark.asyncio
async def test_a_company_whose_look_breaks_holds_up_itself_alone(sent: Sent) -> None:
    office, connection = sent.office, sent.office.connection
    for table in ("buyers", "shipments"):
        copied = f'SELECT (jsonb_populate_record(one, \'{{"tenant": "broken"}}\')).* FROM {table} AS one'
        await connection.execute(f"INSERT INTO {table} {copied}")
    of = office.carriers.of

    async def broken(tenant: str) -> Mapping[str, Carrier]:
        if tenant == "broken":
            raise RuntimeError
        return await of(tenant)

    await sent.collect()
    with patch.object(office.carriers, "of", broken), structlog.testing.capture_logs() as logs:
        await office.until(
            partial(later, office, sent.looks), lambda: bool(office.of(ShipmentDelivered) and "broken" in str(logs))
        )

    assert told_once(office)
    assert {(one["log_level"], one["tenant"]) for one in logs if one["event"] == "parcels are not looked at"} == {
        ("error", "broken")
    }


@pytest.mark.asyncio
async def test_a_wrong_signature_is_refused_and_changes_nothing(sent: Sent) -> None:
    body = sent.body(scans=[{"status": "delivered", "at": "2026-01-01T00:00:00+00:00"}])
    assert await sent.call(body, signature("another secret", body)) == 401
    assert await sent.call(body, "no signature") == 401
    assert await sent.looks() == 0


@pytest.mark.asyncio
async def test_what_a_webhook_says_is_not_believed_but_asked_for(sent: Sent) -> None:
    body = sent.body(scans=[{"status": "delivered", "at": "2026-01-01T00:00:00+00:00"}])
    assert [await sent.call(body), await sent.call(body)] == [200, 200]
    assert await sent.looks() == 1
    assert await sent.looks() == 0
    assert sent.office.of(ShipmentTracked) == []


@pytest.mark.asyncio
async def test_an_unknown_parcel_or_door_and_what_makes_no_sense(sent: Sent) -> None:
    assert await sent.call(sent.body(tracking_code="SD000000000BR")) == 200
    assert await sent.call(sent.body(tracking_code="\0")) == 400
    assert await sent.call(b"[]") == 400
    assert await sent.call(b"[" * 100 + b"]" * 100) == 400
    assert await sent.call(sent.body(), url=f"{sent.door_url[:-1]}x") == 404
    assert await sent.call(b"x" * 300_000) == 413
    assert await sent.looks() == 0


@pytest.mark.asyncio
async def test_another_company_does_not_reach_the_parcel(sent: Sent, office: Office) -> None:
    await office.connection.execute("UPDATE carrier_accounts SET state = 'paused'")
    assert await sent.call(sent.body()) == 404


@pytest.mark.asyncio
async def test_where_the_account_does_not_open_it_is_to_come_again(sent: Sent) -> None:
    await sent.office.connection.execute("UPDATE carrier_credentials SET sealed = '\\x00'")
    assert await sent.call(sent.body()) == 503


def test_a_signature_is_read_as_the_account_says() -> None:
    digest = bytes.fromhex("f7bc83f430538424b13298e6aa6fb143ef4d59a14946175997479dbc2d1a3cd8")
    text = b"The quick brown fox jumps over the lazy dog"  # HMAC-SHA-256 with the key "key", as Wikipedia gives it.
    require_signature(digest.hex(), "key", text, encoding="hex")
    require_signature("97yD9DBThCSxMpjmqm+xQ+9NWaFJRhdZl0edvC0aPNg=", "key", text)
