"""What a delivery would cost: answered once, in time, in our words."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any
from unittest.mock import AsyncMock

import pytest
import structlog

from contracts.channels.v1 import ResendBuyer
from contracts.envelope import Message
from contracts.fulfillment.v1 import DeliveryQuoted, QuoteDelivery
from services.fulfillment import store
from services.fulfillment.carriers.carrier import Carrier, Parcel
from services.fulfillment.handlers import ask_for_buyers
from services.fulfillment.quote import offers
from services.fulfillment.rates import Quote
from services.fulfillment.recipient import recipient
from tests.fulfillment.bench import hear, known, within
from tests.fulfillment.given import LINE, NOW, ORDER, buyer, prepare
from tests.fulfillment.office import AUTO, PAC, Office, sender
from tests.sandbox.running import Sandbox


def asks(quote_id: str = "quote-1", **fields: Any) -> QuoteDelivery:
    shown = {"order_id": ORDER, "quote_id": quote_id, "connection_id": "shop", "lines": (LINE,), "currency": "BRL"}
    return QuoteDelivery(**(shown | fields))


def quoted(office: Office) -> list[tuple[str, list[str], bool]]:
    return [
        (one.quote_id, [option.option_id for option in one.options], one.incomplete)
        for one in office.of(DeliveryQuoted)
    ]


@pytest.mark.asyncio
@pytest.mark.parametrize("buyer_first", [True, False])
async def test_a_question_and_its_buyer_meet_in_either_order(office: Office, buyer_first: bool) -> None:
    for message in (buyer(), asks()) if buyer_first else (asks(), buyer()):
        assert await office.quoter.work_off() == 0
        await hear(office.connection, message)
    assert await office.quoter.work_off() == 1

    [answer] = office.of(DeliveryQuoted)
    [option] = answer.options
    assert (option.carrier, option.service, option.price_minor, option.days_max) == ("ECT", "pac", 1990, 7)
    assert "01001" not in answer.model_dump_json()


@pytest.mark.asyncio
async def test_a_quote_is_answered_once(office: Office) -> None:
    await hear(office.connection, buyer())
    await hear(office.connection, asks(), asks())
    await hear(office.connection, asks())
    await asyncio.gather(office.quoter.work_off(), office.quoter.work_off())

    assert quoted(office) == [("quote-1", ["ECT/pac"], False)]


@pytest.mark.asyncio
async def test_a_new_address_is_waited_for(office: Office) -> None:
    await hear(office.connection, buyer(sale_revision=1))
    await hear(office.connection, asks(sale_revision=2))
    assert await office.quoter.work_off() == 0

    await hear(office.connection, buyer(sale_revision=2))
    assert await office.quoter.work_off() == 1


@pytest.mark.asyncio
async def test_where_nobody_delivers_the_answer_is_empty(office: Office) -> None:
    nowhere = buyer().addresses[0].model_copy(update={"postal_code": "99999-000"})
    await hear(office.connection, buyer().model_copy(update={"addresses": (nowhere,)}))
    await hear(office.connection, asks())
    await office.quoter.work_off()

    assert quoted(office) == [("quote-1", [], False)]


@pytest.mark.asyncio
async def test_a_buyer_that_does_not_unseal_holds_up_his_own_quote_alone(office: Office) -> None:
    for order_id, quote_id in (("order-b", "quote-b"), (ORDER, "quote-1")):
        await hear(office.connection, buyer(order_id=order_id))
        await hear(office.connection, asks(quote_id, order_id=order_id))
    bad = "UPDATE buyers SET sealed = '\\x00' WHERE order_id = 'order-b'"
    await office.connection.execute(bad)

    with structlog.testing.capture_logs() as logs:
        await office.quoter.work_off()

    assert quoted(office) == [("quote-1", ["ECT/pac"], False)]
    assert [(one["log_level"], one["quote"]) for one in logs] == [("error", "quote-b")]


@pytest.mark.asyncio
async def test_a_carrier_that_is_slow_is_left_out(office: Office, carrier_process: Sandbox) -> None:
    slow = {"quote_slow": {"probability": 1.0, "min_ms": 3000, "max_ms": 3000}}
    async with sender(carrier_process) as account:
        await office.put("melhorenvio", account.told)
        await hear(office.connection, buyer())
        await hear(office.connection, asks("quote-1"))
        await office.quoter.work_off()
        await account.control.put_vices(account.name, **slow)
        await hear(office.connection, asks("quote-2"))
        await office.quoter.work_off()

    first, second = quoted(office)
    # Correios is ECT; its PAC is dearer at the broker than by the company's own rates.
    assert first == ("quote-1", ["ECT/pac", "jadlog/.package", "ECT/sedex"], False)
    assert second == ("quote-2", ["ECT/pac"], True)


@pytest.mark.asyncio
async def test_what_was_offered_needs_no_translation(office: Office) -> None:
    await store.put_rates(office.connection, "acme", [replace(PAC, carrier="loggi", service="express")])
    await hear(office.connection, buyer())
    await hear(office.connection, prepare(carrier="loggi", service="express"), settings=AUTO)
    assert not (await known(office.connection)).is_named

    await hear(office.connection, asks())
    await office.quoter.work_off()
    await hear(office.connection, prepare(2, carrier="loggi", service="express"), settings=AUTO)

    assert (await known(office.connection)).awaits_label


@pytest.mark.asyncio
async def test_a_buyer_who_does_not_come_is_asked_for_until_he_does(office: Office) -> None:
    async def asked(after_s: float) -> list[Message]:
        now = NOW + timedelta(seconds=after_s)
        return await within(office.connection, partial(ask_for_buyers, settings=AUTO), now)

    await hear(office.connection, asks())
    assert await asked(1) == []
    assert await asked(6) == [ResendBuyer(order_id=ORDER)]
    await hear(office.connection, buyer())
    assert await asked(10_000) == []


@pytest.mark.asyncio
async def test_what_no_carrier_can_mean_is_offered_to_nobody() -> None:
    good = Quote("loggi", "express", 0, "BRL", 1, 2, option="1")
    place = recipient(buyer())
    assert place is not None
    parcel = Parcel("acme", 1, (1, 1, 1), 1, "BRL", None, place)

    odd: list[dict[str, Any]] = [
        {"price_minor": -1}, {"days_max": 10**9}, {"days_min": 3}, {"carrier": "\u0301"}, {"service": "a\0"},
    ]  # fmt: skip
    carrier = AsyncMock(spec=Carrier)
    carrier.quote.return_value = [good, *(replace(good, **change) for change in odd)]
    found, failures = await offers({"odd": carrier}, parcel, [], 5)
    assert found == [("odd", good)]
    assert failures == []
