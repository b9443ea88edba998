"""The service against the gateway sandbox, by real HTTP, TLS, Kafka and PostgreSQL. The gateway keeps its own books."""

import pytest

from services.payments.gateways.pix import short_id
from services.sandbox.client import SandboxError
from tests.payments.running import AMOUNT, Merchant, Running, capture, refund, until, void

pytestmark = pytest.mark.asyncio


async def card(merchant: Merchant, kind: str = "ok") -> str:
    return await merchant.running.control.card(merchant.tenant, kind)  # type: ignore[arg-type]


async def test_a_card_is_authorised_captured_in_part_and_refunded_in_parts(payments: Running) -> None:
    shop = await payments.merchant("stripe")
    payment_id = await shop.pays("order-a", "stripe", token=await card(shop))
    authorized = await shop.until_told("Authorized")
    assert (authorized.authorized_minor, authorized.captured_minor) == (AMOUNT, 0)
    await shop.say(capture(payment_id, 2, 10_000))
    await shop.until_told("Authorized", "Captured")
    await shop.say(refund(payment_id, 3, 2_500, 10_000))
    assert (await shop.until_told("Authorized", "Captured", "Refunded")).refunded_minor == 2_500
    await shop.say(refund(payment_id, 4, 10_000, 10_000))
    assert (await shop.until_told("Authorized", "Captured", "Refunded", "Refunded")).refunded_minor == 10_000
    assert [row["amount_minor"] for row in await shop.rows("capture")] == [10_000]
    assert [row["amount_minor"] for row in await shop.rows("refund")] == [2_500, 7_500]
    balances = await shop.balances()
    assert sum(balances.values()) == 0
    assert "customer:order-a" not in balances


async def test_what_is_authorised_is_let_go_of(payments: Running) -> None:
    shop = await payments.merchant("stripe")
    payment_id = await shop.pays("order-a", "stripe", token=await card(shop))
    await shop.until_told("Authorized")
    await shop.say(void(payment_id, 2))
    assert (await shop.until_told("Authorized", "Voided")).reason == "cancelled"
    assert [row["kind"] for row in await shop.rows("charge", "capture", "void", "refund")] == ["charge", "void"]


async def test_a_declined_card_fails_the_payment_with_its_reason(payments: Running) -> None:
    shop = await payments.merchant("stripe")
    await shop.pays("order-a", "stripe", token=await card(shop, "insufficient"))
    failed = await shop.until_told("Failed")
    assert (failed.reason, failed.final) == ("insufficient", True)


@pytest.mark.parametrize("vice", ["charge_timeout", "charge_error"])
@pytest.mark.parametrize("operation", ["open", "charge", "capture", "refund"])
async def test_a_gateway_that_does_it_and_does_not_say_so_does_it_once(
    payments: Running, vice: str, operation: str
) -> None:
    shop = await payments.merchant("stripe")
    await payments.control.put_vices(shop.tenant, operations=[operation], **{vice: {}})
    payment_id = await shop.pays("order-a", "stripe", token=await card(shop))
    await shop.until_told("Authorized")
    await shop.say(capture(payment_id, 2), refund(payment_id, 3, AMOUNT))
    await shop.until_told("Authorized", "Captured", "Refunded")
    kinds = [row["kind"] for row in await shop.rows("intent", "charge", "capture", "refund")]
    assert kinds == ["intent", "charge", "capture", "refund"]
    calls = {one["kind"]: one for one in (await shop.payment(payment_id))["calls"]}
    assert calls[operation]["outcome"] == "done"
    assert (await shop.payment(payment_id))["captured_minor"] == AMOUNT


async def test_a_gateway_that_charges_after_it_went_silent_has_charged_once(payments: Running) -> None:
    shop = await payments.merchant("stripe")
    late = {"min_ms": 2500, "max_ms": 2600}
    await payments.control.put_vices(shop.tenant, operations=["charge"], charge_late=late)
    await shop.pays("order-a", "stripe", token=await card(shop))
    await shop.until_told("Authorized")
    assert len(await shop.rows("charge")) == 1


async def test_the_bank_s_question_is_a_page_that_the_buyer_is_sent_to(payments: Running) -> None:
    shop = await payments.merchant("stripe")
    await shop.pays("order-a", "stripe", token=await card(shop, "authenticate"))
    pending = await shop.until_told("Pending")
    assert pending.next_url.startswith(shop.told["base_url"])
    await payments.control.authenticate(shop.tenant, pending.reference)
    await shop.until_told("Pending", "Authorized")


async def test_a_dispute_is_heard_of_by_webhook_and_is_a_concern_until_it_ends(payments: Running) -> None:
    shop = await payments.merchant("stripe", dispute_after_ms=3_600_000, dispute_fee_minor=1_500)
    payment_id = await shop.pays("order-a", "stripe", token=await card(shop))
    await shop.say(capture(payment_id, 2))
    captured = await shop.until_told("Authorized", "Captured")
    await payments.control.dispute(shop.tenant, captured.reference)
    disputed = await shop.until_told("Authorized", "Captured", "Disputed")
    assert (disputed.reason, disputed.disputed_minor) == ("opened", AMOUNT)
    query = {"tenant": shop.tenant, "concerning": "true"}
    concerns = (await payments.admin.get("payments", params=query)).json()["payments"]
    assert [(one["payment_id"], one["concern"]) for one in concerns] == [(payment_id, "disputed")]
    await payments.control.close_dispute(shop.tenant, captured.reference, "lost")
    lost = await shop.until_told("Authorized", "Captured", "Disputed", "Disputed")
    assert (lost.reason, lost.lost_minor) == ("lost", AMOUNT)
    assert (await payments.admin.get("payments", params=query)).json()["payments"] == []
    booked = await shop.balances()
    fee_minor = (await payments.control.payments(shop.tenant)).popitem()[1]["fee_minor"]
    assert fee_minor > 1_500
    assert (booked["fees:stripe"], sum(booked.values())) == (fee_minor, 0)
    await payments.control.pay_out(shop.tenant)
    settled = await until(shop.balances, lambda seen: "bank:BRL" in str(seen))
    assert settled["bank:BRL"] == -fee_minor
    assert settled.get(f"gateway:stripe:{shop.accounts['stripe']}", 0) == 0


async def test_a_pix_is_paid_over_mutual_tls_and_refunded(payments: Running) -> None:
    shop = await payments.merchant("pix")
    payment_id = await shop.pays("order-a", "pix")
    pending = await shop.until_told("Pending")
    assert pending.pix_text
    assert pending.reference == short_id(payment_id)
    await payments.control.pay(shop.tenant, pending.reference)
    captured = await shop.until_told("Pending", "Captured")
    assert captured.captured_minor == AMOUNT
    await shop.say(refund(payment_id, 2, 345))
    await shop.until_told("Pending", "Captured", "Refunded")
    assert await shop.balances() == {"customer:order-a": 345 - AMOUNT, f"gateway:pix:{shop.accounts['pix']}": 12_000}


async def test_a_pix_that_nobody_pays_is_withdrawn_when_its_time_is_over(payments: Running) -> None:
    shop = await payments.merchant("pix")
    await shop.pays("order-a", "pix", life_s=1.5)
    failed = await shop.until_told("Pending", "Failed")
    assert (failed.reason, failed.final) == ("expired", True)
    with pytest.raises(SandboxError, match="removed"):
        await payments.control.pay(shop.tenant, failed.reference)


async def test_a_pix_that_is_paid_while_it_is_withdrawn_is_captured_and_can_go_back(payments: Running) -> None:
    """The bank takes the buyer's money first: the withdrawal is refused, and what is true is told."""
    shop = await payments.merchant("pix", subscribed=False)
    payment_id = await shop.pays("order-a", "pix", life_s=600)
    pending = await shop.until_told("Pending")
    await payments.control.pay(shop.tenant, pending.reference)
    await shop.say(void(payment_id, 2))
    await shop.until_told("Pending", "Captured")
    await shop.say(refund(payment_id, 3, AMOUNT))
    await shop.until_told("Pending", "Captured", "Refunded")
    assert await shop.balances() == {}


async def test_a_pix_of_another_amount_is_a_concern(payments: Running) -> None:
    shop = await payments.merchant("pix")
    payment_id = await shop.pays("order-a", "pix")
    pending = await shop.until_told("Pending")
    await payments.control.pay(shop.tenant, pending.reference, amount_minor=AMOUNT + 100)
    assert (await shop.until_told("Pending", "Captured")).captured_minor == AMOUNT + 100
    assert (await shop.payment(payment_id))["concern"] == "another_amount"


async def test_without_any_webhook_everything_is_seen_all_the_same(payments: Running) -> None:
    shop = await payments.merchant("pix")
    await payments.control.put_vices(shop.tenant, webhook_missing={})
    await shop.pays("order-a", "pix")
    pending = await shop.until_told("Pending")
    await payments.control.pay(shop.tenant, pending.reference)
    await shop.until_told("Pending", "Captured")
    assert await payments.service.pool.fetchval("SELECT count(*) FROM hints WHERE tenant = $1", shop.tenant) == 0


@pytest.mark.parametrize(
    "vices",
    [{"webhook_duplicate": {}}, {"webhook_reordered": {"max_ms": 400}}, {"webhook_late": {"max_ms": 400}}],
    ids=["duplicate", "reordered", "late"],
)
async def test_webhooks_in_any_state_end_the_same(payments: Running, vices: dict[str, object]) -> None:
    shop = await payments.merchant("stripe")
    await payments.control.put_vices(shop.tenant, **vices)
    payment_id = await shop.pays("order-a", "stripe", token=await card(shop))
    await shop.say(capture(payment_id, 2), refund(payment_id, 3, 345))
    await shop.until_told("Authorized", "Captured", "Refunded")
    sent = {row["event_id"] for row in await until_delivered(shop)}
    await until(lambda: heard(shop), lambda seen: seen == sent)
    await until(lambda: shop.payment(payment_id), lambda seen: seen["due_at"] is None)
    assert await shop.names() == ["Authorized", "Captured", "Refunded"]
    assert [row["amount_minor"] for row in await shop.rows("charge", "capture", "refund")] == [AMOUNT, AMOUNT, 345]


async def until_delivered(shop: Merchant) -> list[dict[str, object]]:
    """Every webhook that was sent, once there are as many as a payment with a refund brings."""
    topics = {"payment_intent.amount_capturable_updated", "payment_intent.succeeded", "charge.refunded"}
    return await until(
        lambda: shop.rows("webhook"), lambda rows: topics <= {row["topic"] for row in rows if row["status"] == 200}
    )


async def heard(shop: Merchant) -> set[str]:
    rows = await shop.running.service.pool.fetch("SELECT delivery_id FROM hints WHERE tenant = $1", shop.tenant)
    return {row["delivery_id"] for row in rows}


@pytest.mark.parametrize(("gateway", "answer"), [("stripe", 401), ("pix", "error")])
async def test_foreign_webhooks_are_refused_and_the_true_one_is_heard(
    payments: Running, gateway: str, answer: int | str
) -> None:
    shop = await payments.merchant(gateway)
    await payments.control.put_vices(shop.tenant, webhook_foreign_signature={"probability": 0.5}, seed=1)
    for number in range(6):
        order_id = f"order-{number}"
        await shop.pays(order_id, gateway, token=await card(shop) if gateway == "stripe" else "")
    seen = await until(shop.names, lambda names: len(names) == 6)
    if gateway == "pix":
        for one in payments.facts[shop.tenant][:6]:
            await payments.control.pay(shop.tenant, one.reference)
        seen = await until(shop.names, lambda names: len(names) == 12)
    rows = await until(lambda: shop.rows("webhook"), lambda rows: sum(row["status"] == 200 for row in rows) == 6)
    assert {row["status"] for row in rows} == {200, answer}
    assert await heard(shop) == {row["event_id"] for row in rows} or gateway == "pix"
    assert len(seen) == len(set(seen)) * 6


async def test_a_payout_is_told_once_and_booked(payments: Running) -> None:
    shop = await payments.merchant("stripe")
    payment_id = await shop.pays("order-a", "stripe", token=await card(shop))
    await shop.say(capture(payment_id, 2))
    await shop.until_told("Authorized", "Captured")
    fee_minor = (await payments.control.payments(shop.tenant)).popitem()[1]["fee_minor"]
    await until(shop.balances, lambda seen: "fees:stripe" in str(seen))
    [payout] = await payments.control.pay_out(shop.tenant)
    settled = await shop.until_told("Authorized", "Captured", "SettlementReported")
    assert (settled.gross_minor, settled.fee_minor, settled.net_minor) == (AMOUNT, fee_minor, payout["amount_minor"])
    assert await shop.balances() == {
        "customer:order-a": -AMOUNT, "fees:stripe": fee_minor, "bank:BRL": AMOUNT - fee_minor,
    }  # fmt: skip
    assert await payments.control.pay_out(shop.tenant) == []
    await shop.say(refund(payment_id, 3, 345))
    await shop.until_told("Authorized", "Captured", "SettlementReported", "Refunded")
    [taken] = await payments.control.pay_out(shop.tenant)
    assert taken["amount_minor"] == -345
    back = await shop.until_told("Authorized", "Captured", "SettlementReported", "Refunded", "SettlementReported")
    assert (back.gross_minor, back.fee_minor, back.net_minor, back.payment_id) == (-345, 0, -345, payment_id)
    assert await shop.balances() == {
        "customer:order-a": 345 - AMOUNT, "fees:stripe": fee_minor, "bank:BRL": AMOUNT - fee_minor - 345,
    }  # fmt: skip
