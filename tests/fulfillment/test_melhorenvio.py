"""Melhor Envio, as its sandbox behaves: parcels are paid for once, and followed to the door."""

import asyncio
import io
import json
from datetime import timedelta
from typing import Any

import httpx
import pypdfium2
import pytest

from contracts.fulfillment.v1 import (
    LabelCreated,
    ShipmentDelivered,
    ShipmentDispatched,
    ShipmentFailed,
    ShipmentTracked,
)
from services.border.errors import LimiterLike, Throttled, Unreachable
from services.fulfillment import store
from services.fulfillment.carriers.carrier import Parcel, Purchase, Session
from services.fulfillment.carriers.melhorenvio import MelhorEnvio
from services.fulfillment.recipient import recipient
from tests.fulfillment.bench import VAULT, hear, known
from tests.fulfillment.given import KEY, SHIPMENT, buyer, cancel
from tests.fulfillment.office import ORIGIN, Office, Sender, sender
from tests.sandbox.running import Sandbox

SEDEX = {"carrier": "Correios", "service": "SEDEX"}
FAST = 86_400 * 50
"""A day of the carrier in 20 ms."""


async def labelled(office: Office, account: Sender, **settings: str) -> None:
    """A parcel whose label was bought at the broker."""
    await office.put("melhorenvio", account.told, **settings)
    await office.packed(**SEDEX)
    await office.until(office.book.work_off, lambda: bool(office.of(LabelCreated)))


@pytest.mark.asyncio
async def test_a_label_is_bought_with_everything_the_carrier_wants(office: Office, carrier_process: Sandbox) -> None:
    async with sender(carrier_process) as account:
        await labelled(office, account)
        [bought] = await account.rows("bought")

    [label] = office.of(LabelCreated)
    assert (bought["shipment_id"], bought["invoice_key"]) == (f"{SHIPMENT}:1", KEY)
    assert (label.carrier, label.service, label.price_minor) == ("ECT", "sedex", bought["price_minor"])
    assert label.tracking_code
    kept = await store.read_label(office.connection, "acme", label.label_id)
    assert kept is not None
    assert kept[0] == "pdf"
    page = VAULT.open(kept[1], tenant="acme", owner=label.label_id, field="pdf")
    assert label.tracking_code in pypdfium2.PdfDocument(io.BytesIO(page))[0].get_textpage().get_text_range()


@pytest.mark.asyncio
@pytest.mark.parametrize("find_by", ["search", "list"])
@pytest.mark.parametrize("vice", [{"buy_timeout": {}}, {"buy_late": {"min_ms": 1500, "max_ms": 1500}}])
async def test_a_purchase_without_an_answer_is_paid_once(
    office: Office, carrier_process: Sandbox, monkeypatch: pytest.MonkeyPatch, find_by: str, vice: dict[str, Any]
) -> None:
    monkeypatch.setattr("services.fulfillment.accounts.CALL_TIMEOUT_S", 0.5)
    async with sender(carrier_process, search_finds_tags=find_by == "search") as account:
        await office.put("melhorenvio", account.told, find_by=find_by)
        await office.packed(**SEDEX)
        await account.control.put_vices(account.name, **vice)
        await office.book.work_off()
        assert (await known(office.connection)).state == "buying"
        office.now += timedelta(seconds=2)
        await office.book.work_off()  # What was put into the cart is paid, again without an answer.
        await asyncio.sleep(1.6)
        await account.control.put_vices(account.name)
        await office.until(office.book.work_off, lambda: bool(office.of(LabelCreated)))

        assert len(await account.rows("bought")) == 1
    assert len(office.of(LabelCreated)) == 1


@pytest.mark.asyncio
async def test_a_label_that_is_not_there_yet_is_waited_for(office: Office, carrier_process: Sandbox) -> None:
    async with sender(carrier_process) as account:
        await office.put("melhorenvio", account.told)
        await office.packed(**SEDEX)
        await account.control.put_vices(account.name, label_missing={"min_ms": 60_000, "max_ms": 60_000})
        await office.book.work_off()
        assert (await known(office.connection)).state == "buying"
        await account.control.put_vices(account.name)
        await office.until(office.book.work_off, lambda: bool(office.of(LabelCreated)))

        assert len(await account.rows("bought")) == 1


@pytest.mark.asyncio
async def test_a_parcel_is_followed_to_the_door_and_told_once(office: Office, carrier_process: Sandbox) -> None:
    async with sender(carrier_process, speed=FAST) as account:
        await labelled(office, account)
        await account.control.post(account.name, office.of(LabelCreated)[0].tracking_code)

        async def look() -> None:
            await office.connection.execute("UPDATE shipments SET look_at = $1", office.now)
            await office.tracker.work_off()

        await office.until(look, lambda: bool(office.of(ShipmentDelivered)))
        await look()

    statuses = [fact.status.value for fact in office.of(ShipmentTracked)]
    assert sorted(statuses) == ["accepted", "delivered"]
    assert len(office.of(ShipmentDispatched)) == len(office.of(ShipmentDelivered)) == 1
    assert await office.connection.fetchval("SELECT look_at FROM shipments") is None


@pytest.mark.asyncio
async def test_a_lost_parcel_is_told_once(office: Office, carrier_process: Sandbox) -> None:
    async with sender(carrier_process, speed=FAST) as account:
        await labelled(office, account)
        await account.control.put_vices(account.name, lost={})
        await account.control.post(account.name, office.of(LabelCreated)[0].tracking_code)

        async def look() -> None:
            await office.connection.execute("UPDATE shipments SET look_at = $1", office.now)
            await office.tracker.work_off()

        await office.until(look, lambda: bool(office.of(ShipmentFailed)))
        await look()

    assert [fact.reason for fact in office.of(ShipmentFailed)] == ["lost"]


@pytest.mark.asyncio
async def test_a_label_is_given_back_while_the_parcel_has_not_left(office: Office, carrier_process: Sandbox) -> None:
    async with sender(carrier_process) as account:
        await labelled(office, account)
        await hear(office.connection, cancel())
        await office.book.work_off()

        assert len(await account.rows("cancelled")) == 1
    assert (await known(office.connection)).state == "cancelled"


@pytest.mark.asyncio
async def test_what_has_left_is_not_given_back(office: Office, carrier_process: Sandbox) -> None:
    async with sender(carrier_process) as account:
        await labelled(office, account)
        await account.control.scan(account.name, office.of(LabelCreated)[0].tracking_code, "accepted")
        await hear(office.connection, cancel())
        await office.book.work_off()

    assert [fact.reason for fact in office.of(ShipmentFailed)] == ["too_late"]


@pytest.mark.asyncio
async def test_without_money_in_the_account_the_parcel_waits(office: Office, carrier_process: Sandbox) -> None:
    async with sender(carrier_process, balance_minor=1) as account:
        await office.put("melhorenvio", account.told)
        await office.packed(**SEDEX)
        await office.book.work_off()

        assert await account.rows("bought") == []
    assert [fact.reason for fact in office.of(ShipmentFailed)] == ["refused_by_carrier"]


@pytest.mark.asyncio
async def test_calls_at_once_renew_a_token_once(office: Office, carrier_process: Sandbox) -> None:
    place = recipient(buyer())
    assert place is not None
    parcel = Parcel("acme", 700, (200, 150, 100), 9900, "BRL", ORIGIN, place)
    async with sender(carrier_process) as account:
        await office.put("melhorenvio", account.told)
        await account.change(token_until_ms=1)
        carriers = [(await office.carriers.of("acme"))["melhorenvio"] for _ in range(5)]
        answers = await asyncio.gather(*(one.quote(parcel) for one in carriers), return_exceptions=True)
        # Whoever comes while another one renews is told to wait; a second renewal would be refused.
        failures = [one for one in answers if isinstance(one, BaseException)]
        assert {type(one) for one in failures} <= {Throttled}
        assert len(failures) < len(answers)

        again = (await office.carriers.of("acme"))["melhorenvio"]
        assert await again.quote(parcel)


class Pace(LimiterLike):
    """No limits."""

    async def acquire(self, endpoint: str, cost: float = 1.0) -> None: ...

    def throttled(self, endpoint: str, retry_after_s: float) -> None: ...

    def observed(self, endpoint: str, available: float, restore_per_s: float) -> None: ...


def broker(**answers: Any) -> MelhorEnvio:
    """An account whose paths answer what is given by their last part, and an empty object else."""

    def answer(request: httpx.Request) -> httpx.Response:
        found = answers.get(request.url.path.rpartition("/")[2], {})
        return httpx.Response(200, content=found if isinstance(found, bytes) else json.dumps(found).encode())

    async def token(refused: str | None) -> str:
        del refused
        return "token"

    http = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    return MelhorEnvio(Session(http, Pace(), "https://me.test", {}, {"contact_email": "ti@example.com"}, token))


PARCEL = Parcel("acme", 1, (1, 1, 1), 1, "BRL", ORIGIN, ORIGIN)
PURCHASE = Purchase("o:s1:1", 1, "ECT", "pac", "1")


@pytest.mark.asyncio
@pytest.mark.parametrize("page", [b"<html>the label is being made</html>", b"", b"{}"])
async def test_a_label_that_is_no_pdf_is_none_yet(page: bytes) -> None:
    told = {"id": "p", "price": "1.00", "tracking": "AA"}
    account = broker(cart=told, print={"url": "https://me.test/label"}, label=page, p=told)
    with pytest.raises(Unreachable):
        await account.buy(PARCEL, PURCHASE)
    account = broker(cart=told, print={"url": "https://me.test/label"}, label=b"%PDF-1.7", p=told)
    assert (await account.buy(PARCEL, PURCHASE)).label_pdf == b"%PDF-1.7"


@pytest.mark.asyncio
@pytest.mark.parametrize("url", ["http://[::1", "https://me.test/\0", "https://me.test:99999/"])
async def test_an_address_of_a_label_that_is_none_ends_no_loop(url: str) -> None:
    with pytest.raises((ValueError, Throttled)):
        await broker(cart={"id": "p"}, print={"url": url}).buy(PARCEL, PURCHASE)


@pytest.mark.asyncio
@pytest.mark.parametrize("at", ["9999-12-31 23:59:59", "0001-01-01T00:00:00+14:00", "soon"])
async def test_a_moment_that_no_clock_shows_is_refused(at: str) -> None:
    with pytest.raises(ValueError, match=r"moment|isoformat"):
        await broker(tracking={"p": {"posted_at": at}}).track(["p"])


@pytest.mark.asyncio
async def test_a_moment_is_of_brasilia_unless_it_says_otherwise() -> None:
    shown = {"posted_at": "2026-03-01 12:00:00", "delivered_at": "2026-03-01T15:00:00+00:00"}
    [posted, delivered] = (await broker(tracking={"p": shown}).track(["p"]))["p"]
    assert posted.happened_at == delivered.happened_at
