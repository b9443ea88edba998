"""What any channel is told of its orders: each step it takes, once, the invoice before the parcel."""

from typing import Any

import pytest

from services.channels.connectors.connector import OutcomeUnknown, Reporter
from tests.channels.conformance.account import Account

pytestmark = pytest.mark.asyncio
_METHODS = {
    "invoice": "report_invoice",
    "shipment": "report_shipment",
    "delivery": "report_delivery",
    "cancel": "cancel",
}


async def sold(account: Account) -> dict[str, Any]:
    """A paid order that came in."""
    if not account.traits.reports:
        pytest.skip(f"traits.reports of {account.traits.connector} is empty")
    assert isinstance(account.connector, Reporter)
    await account.put(A=9)
    external_id = await account.sell(A=2)
    await account.receive()
    return await account.sale(external_id)


def wanted(account: Account, *steps: str) -> list[str]:
    return [step for step in steps if step in account.traits.reports]


async def test_each_step_is_told_once_and_the_invoice_first(seller: Account) -> None:
    sale = await sold(seller)
    for delivered in (False, True, True):
        await seller.progress(sale, delivered=delivered)
        await seller.tell()
    heard = await seller.heard(sale["external_id"])
    assert heard == wanted(seller, "invoice", "shipment", "delivery")
    steps = [(step.partition(":")[0], reason) for step, reason in await seller.answers()]
    assert steps == [(step, None) for step in heard]


async def test_a_lost_answer_makes_no_step_twice(seller: Account, monkeypatch: pytest.MonkeyPatch) -> None:
    sale = await sold(seller)
    kind = type(seller.connector)
    for step in wanted(seller, "invoice", "shipment", "delivery"):
        real = getattr(kind, _METHODS[step])

        async def lost(*given: Any, real: Any = real) -> str:
            await real(seller.connector, *given)
            raise OutcomeUnknown("timeout")

        with monkeypatch.context() as patched:
            patched.setattr(kind, _METHODS[step], staticmethod(lost))
            await seller.progress(sale, delivered=step == "delivery")
            await seller.tell()
        await seller.tell()
    assert await seller.heard(sale["external_id"]) == wanted(seller, "invoice", "shipment", "delivery")
    assert await seller.kit.count("progress", "due_at IS NOT NULL") == 0


async def test_a_cancel_of_ours_is_told_or_said_to_be_nobodys(seller: Account) -> None:
    sale = await sold(seller)
    await seller.progress(sale, reason="sold_out")
    await seller.tell()
    await seller.tell()
    if "cancel" in seller.traits.reports:
        assert await seller.answers() == [("cancel", None)]
        assert str((await seller.order(sale["external_id"])).status) == "cancelled"
    else:
        assert await seller.answers() == [("cancel", "not_supported")]
