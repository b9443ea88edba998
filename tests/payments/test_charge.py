"""The loop on a real PostgreSQL with a gateway that misbehaves, and with a process that dies anywhere."""

import asyncio
import ssl
from dataclasses import replace
from datetime import timedelta
from typing import Any

import asyncpg
import httpx
import pytest
import structlog

from contracts.envelope import Envelope
from contracts.payments.v1 import PaymentMethod
from services.border.calls import send
from services.border.client import open_client
from services.border.limiter import Limiter
from services.border.tokens import seal_token
from services.border.vault import SealBroken
from services.bus import Received, Transaction
from services.payments import store
from services.payments.domain import REST_MAX, Command, Kind, Part, Portion, Seen, Status
from services.payments.handlers import obey
from tests.payments.given import AMOUNT, NOW, PAYMENT, ModelGateway, authorize, capture, refund, void
from tests.payments.till import SETTINGS, TOKENS, VAULT, Asked, Killed, Till

pytestmark = pytest.mark.asyncio
Connection = asyncpg.Connection


def names(till: Till) -> list[str]:
    return [type(message).__name__.removeprefix("Payment") for _, message in till.published]


async def whole_path(till: Till) -> None:
    await till.hear(authorize())
    await till.work()
    await till.hear(capture(2, 6_000), refund(3, 1_000, 6_000))
    await till.work()


async def test_a_payment_goes_from_command_to_books(connection: Connection) -> None:
    till = Till(connection)
    await till.account()
    await whole_path(till)
    assert names(till) == ["Authorized", "Captured", "Refunded"]
    assert await till.rows("money_balances", "account, amount_minor") == [
        {"account": "customer:order-a", "amount_minor": -5_000},
        {"account": "gateway:model:account-1", "amount_minor": 5_000},
    ]
    assert till.asked.looks == 0


@pytest.mark.parametrize("vice", ["timeout", "dropped", "throttled"])
@pytest.mark.parametrize("kind", list(Kind))
async def test_a_call_without_an_answer_is_looked_for(connection: Connection, kind: Kind, vice: str) -> None:
    till = Till(connection)
    await till.account()
    till.asked.misbehave[kind] = [vice]
    await till.hear(authorize())
    await till.work()
    await till.hear(void() if kind is Kind.VOID else capture(), *([] if kind is Kind.VOID else [refund()]))
    await till.work()
    assert names(till) == ["Authorized", "Voided"] if kind is Kind.VOID else ["Authorized", "Captured", "Refunded"]
    assert till.asked.books.moved[PAYMENT, kind] == 1
    assert till.asked.looks == (0 if vice == "throttled" else 1)


async def test_a_timeout_after_the_charge_is_one_charge(connection: Connection) -> None:
    till = Till(connection)
    await till.account()
    till.asked.misbehave[Kind.CHARGE] = ["timeout"]
    await till.hear(authorize())
    await till.work()
    assert names(till) == ["Authorized"]
    assert till.asked.books.moved[PAYMENT, Kind.CHARGE] == 1
    assert len(till.asked.tokens) == 1
    charge = (await till.rows("payment_calls", "kind, n, outcome, tries"))[0]
    assert charge == {"kind": "charge", "n": 1, "outcome": "done", "tries": 1}


async def test_calls_are_forgotten_after_their_time_but_for_those_that_may_matter(connection: Connection) -> None:
    till = Till(connection)
    await till.account()
    await whole_path(till)
    calls, moved = await till.rows("payment_calls"), await till.rows("money_movements")
    assert len(calls) > 2
    await connection.execute("UPDATE payment_calls SET outcome = 'unknown' WHERE kind = 'capture'")

    assert await store.forget_calls(connection, till.now - timedelta(days=1), 100) == 0
    late = till.now + timedelta(days=1)
    await connection.execute("UPDATE payments SET due_at = $1", till.now)
    assert await store.forget_calls(connection, late, 100) == 0, "something is due"
    await connection.execute("UPDATE payments SET due_at = NULL")
    assert await store.forget_calls(connection, late, 1) == 1
    assert await store.forget_calls(connection, late, 100) == len(calls) - 2
    assert [row["kind"] for row in await till.rows("payment_calls")] == ["capture"]
    assert await till.rows("money_movements") == moved


async def test_a_process_killed_between_any_two_steps_ends_the_same(connection: Connection) -> None:
    undisturbed = Till(connection, "whole")
    await undisturbed.account(account_id="account-whole")
    await whole_path(undisturbed)
    expected = await undisturbed.end()
    assert set(undisturbed.points) == {
        "commit.before", "commit.after", "charge.saved", "charge.answered", "charge.settled",
    }  # fmt: skip
    for place in range(1, undisturbed.reached + 1):
        till = Till(connection, f"killed-{place}")
        await till.account(account_id=f"account-{place}")
        till.kill_at = place
        await till.hear(authorize())
        for follow in ((), (capture(2, 6_000), refund(3, 1_000, 6_000))):
            await till.hear(*follow)
            try:
                await till.work()
            except (Killed, BaseExceptionGroup):
                till.restart()
                await till.work()
        ended = await till.end()
        assert ended["calls"] == expected["calls"]
        assert ended["payments"] == expected["payments"]
        assert [row["amount_minor"] for row in ended["balances"]] == [-5_000, 5_000]
        assert [told[1:] for told in ended["told"]] == [told[1:] for told in expected["told"]]
        moved = till.asked.books.moved
        assert {kind: moved[PAYMENT, kind] for kind in Kind if kind is not Kind.VOID} == dict.fromkeys(
            ("open", "charge", "capture", "refund"), 1
        )


async def test_two_companies_never_meet(connection: Connection) -> None:
    ours, theirs = Till(connection, "acme"), Till(connection, "zeta")
    await ours.account(account_id="account-acme")
    await theirs.account(account_id="account-zeta")
    ours.accounts["account-zeta"] = theirs.asked
    await ours.hear(authorize(), capture())
    await theirs.hear(authorize())
    await ours.work()  # One process works for both.
    await theirs.hear(void())
    await ours.work()
    assert [(owner, type(one).__name__) for owner, one in ours.published if owner == "zeta"] == [
        ("zeta", "PaymentAuthorized"), ("zeta", "PaymentVoided"),
    ]  # fmt: skip
    for till, last in ((ours, Kind.CAPTURE), (theirs, Kind.VOID)):
        assert set(till.asked.books.moved) == {(PAYMENT, kind) for kind in (Kind.OPEN, Kind.CHARGE, last)}
    assert {row["account"] for row in await theirs.rows("money_balances", "account, currency")} == set()
    assert [row["amount_minor"] for row in await ours.rows("money_balances")] == [-AMOUNT, AMOUNT]
    assert [row["status"] for row in await theirs.rows("payments", "status, order_id")] == ["voided"]


async def beside(connection: Connection, broken: Exception | Asked) -> tuple[Till, Till]:
    """A company whose account is broken and one whose is not, worked on at once."""
    ours, theirs = Till(connection, "acme"), Till(connection, "zeta")
    ours.settings = SETTINGS.model_copy(update={"charge_parallel": 2})
    ours.accounts["account-zeta"] = broken
    await ours.account(account_id="account-acme")
    await theirs.account(account_id="account-zeta")
    await theirs.hear(authorize())
    await ours.hear(authorize())
    return ours, theirs


@pytest.mark.parametrize(
    "error", [SealBroken("hidden"), ssl.SSLError("hidden"), httpx.InvalidURL("hidden"), KeyError("hidden")]
)
async def test_an_account_that_cannot_be_opened_stops_itself_alone(connection: Connection, error: Exception) -> None:
    ours, theirs = await beside(connection, error)
    with structlog.testing.capture_logs() as logs:
        await ours.work(rounds=20)
    assert "hidden" not in str(logs)
    assert {(line["tenant"], line["error"]) for line in logs} == {("zeta", type(error).__name__)}
    assert [(owner, type(one).__name__) for owner, one in ours.published] == [("acme", "PaymentAuthorized")]
    row = (await theirs.rows("payments", "status, due_at"))[0]
    assert row["status"] == "asked"
    assert row["due_at"] > ours.now + timedelta(seconds=30)
    ours.accounts["account-zeta"] = theirs.asked
    ours.now = row["due_at"]
    await ours.work()
    assert theirs.asked.books.moved[PAYMENT, Kind.CHARGE] == 1
    assert theirs.asked.looks == 0  # Nothing was sent, so there was nothing to look for.


async def test_a_call_that_breaks_settles_itself_alone(connection: Connection) -> None:
    other = Asked(ModelGateway())
    ours, _ = await beside(connection, other)
    other.misbehave[Kind.OPEN] = ["broken"]
    with structlog.testing.capture_logs() as logs:
        await ours.work()
    assert "hidden" not in str(logs)
    assert sorted(owner for owner, _ in ours.published) == ["acme", "zeta"]
    assert other.looks == 1
    assert other.books.moved[PAYMENT, Kind.OPEN] == 1


async def test_an_answer_that_cannot_be_kept_stops_itself_alone(connection: Connection) -> None:
    till = Till(connection)
    till.settings = SETTINGS.model_copy(update={"charge_parallel": 2})
    await till.account()
    await till.hear(authorize(), authorize(payment_id="order-a:p2"))

    async def one_reference(_: Any, wanted: Any, key: str) -> Seen:
        seen = till.asked.books.execute(wanted.payment_id, Kind.OPEN, 1, AMOUNT, key)
        return replace(seen, reference=f"ref-{PAYMENT}")

    till.asked.open = one_reference  # type: ignore[method-assign,assignment]
    await till.work(rounds=20)
    assert names(till) == ["Authorized"]
    assert sorted(row["status"] for row in await till.rows("payments", "status, order_id")) == ["asked", "authorized"]


async def test_a_gateway_that_knows_no_payment_of_its_own_reference_tells_nothing(connection: Connection) -> None:
    till = Till(connection)
    await till.account()
    till.asked.misbehave[Kind.CHARGE] = ["timeout"]
    till.asked.unknown = True
    await till.hear(authorize())
    await till.work()
    assert len(till.asked.tokens) == 1
    assert (await till.rows("payment_calls", "kind, outcome"))[0] == {"kind": "charge", "outcome": "unknown"}
    till.asked.unknown = False
    till.now += timedelta(minutes=2)
    await till.work()
    assert names(till) == ["Authorized"]
    assert len(till.asked.tokens) == 1


async def test_an_address_that_is_refused_ends_the_payment(connection: Connection) -> None:
    till = Till(connection)
    await till.account()
    async with open_client(public_only=True, timeout_s=1) as http:

        async def forbidden(*_: Any) -> Seen:
            request = http.build_request("POST", "https://127.0.0.1:1/")
            await send(http, Limiter({}, lambda: 0.0), "model", request, writes=True)
            raise AssertionError("nothing answers there")

        till.asked.open = forbidden  # type: ignore[method-assign,assignment]
        await till.hear(authorize())
        with structlog.testing.capture_logs() as logs:
            await till.work()
    assert [(one.reason, one.final) for _, one in till.published] == [("gateway", True)]
    assert ["public address" in line["why"] for line in logs] == [True]


async def test_a_slow_call_keeps_no_other_waiting(connection: Connection) -> None:
    till = Till(connection)
    till.settings = SETTINGS.model_copy(update={"charge_parallel": 2})
    slow, done = Asked(ModelGateway()), asyncio.Event()
    await till.account()
    await till.account("zeta", "account-zeta")
    till.accounts["account-zeta"] = slow

    async def waits(*_: Any) -> Seen:
        await done.wait()
        return slow.books.execute(PAYMENT, Kind.OPEN, 1, AMOUNT, f"{PAYMENT}:open:1")

    slow.open = waits  # type: ignore[method-assign,assignment]
    await till.hear(authorize(), tenant="zeta")
    await till.hear(authorize(), authorize(payment_id="order-a:p2"))
    charger = till.charger()
    async with asyncio.TaskGroup() as group:
        while names(till) != ["Authorized", "Authorized"]:
            await charger.work(group)
            await asyncio.sleep(0)
        assert not slow.books.seen
        done.set()


async def test_a_token_is_sealed_and_gone_once_charged(connection: Connection) -> None:
    till = Till(connection)
    await till.account()
    await till.hear(authorize(token="pm_secret"))
    stored = (await till.rows("payments", "*"))[0]
    assert "pm_secret" not in str(stored)
    assert b"pm_secret" not in stored["token_sealed"]
    assert VAULT.open(stored["token_sealed"], tenant="acme", owner=PAYMENT, field="token") == b"pm_secret"
    await till.work()
    assert till.asked.tokens == ["pm_secret"]
    assert (await till.rows("payments", "*"))[0]["token_sealed"] is None
    with pytest.raises(asyncpg.CheckViolationError):
        await connection.execute("UPDATE payments SET token_sealed = 'x'")


async def test_a_claim_that_ran_out_changes_nothing(connection: Connection) -> None:
    till = Till(connection)
    await till.account()
    await till.hear(authorize())

    async def stolen(*_: Any) -> Any:
        await connection.execute("UPDATE payments SET claim = 'another'")
        return till.asked.books.execute(PAYMENT, Kind.OPEN, 1, AMOUNT, f"{PAYMENT}:open:1")

    till.asked.open = stolen  # type: ignore[method-assign,assignment]
    await till.work(rounds=1)
    assert (await till.rows("payments", "status, claim, order_id"))[0]["status"] == "asked"
    del till.asked.open
    till.restart()
    await till.work()
    assert names(till) == ["Authorized"]


async def test_one_batch_is_the_same_as_one_by_one(connection: Connection) -> None:
    commands: list[Command] = [authorize(1), capture(2, 6_000), authorize(1), refund(3, 500, 6_000), capture(2, 9_000)]
    together, apart = Till(connection, "together"), Till(connection, "apart")
    await together.account(account_id="account-together")
    await apart.account(account_id="account-apart")
    await together.hear(*commands)
    for message in commands:
        await apart.hear(message)
    columns = "payment_id, status, replace(body, tenant, '') AS body, due_at"
    assert await together.rows("payments", columns) == await apart.rows("payments", columns)


async def test_a_company_has_one_live_account_at_a_gateway(connection: Connection) -> None:
    till = Till(connection)
    await till.account()
    with pytest.raises(asyncpg.UniqueViolationError):
        await till.account(account_id="account-2")


async def test_without_an_account_the_payment_fails_at_once(connection: Connection) -> None:
    till = Till(connection)
    await till.hear(authorize(method=PaymentMethod.PIX, token=""))
    await till.work()
    assert [(one.reason, one.final) for _, one in till.published] == [("no_gateway", True)]


async def test_a_pending_refund_is_looked_at_until_it_is_done(connection: Connection) -> None:
    till = Till(connection, books=ModelGateway(refunds_pend=True))
    await till.account()
    await till.hear(authorize(), capture(), refund())
    await till.work()
    assert names(till) == ["Authorized", "Captured"]
    assert (await till.rows("payments", "due_at, order_id"))[0]["due_at"] is not None
    till.asked.books.refunds_pend = False
    seen = till.asked.books.seen[PAYMENT]
    done = {name: Portion(portion.amount_minor, Part.DONE) for name, portion in seen.refunds.items()}
    till.asked.books.seen[PAYMENT] = replace(seen, refunds=done)
    till.now += SETTINGS.look_every
    await till.work()
    assert names(till) == ["Authorized", "Captured", "Refunded"]


async def test_a_lapse_that_no_webhook_told_is_found(connection: Connection) -> None:
    till = Till(connection)
    await till.account()
    await till.hear(authorize())
    await till.work()
    assert names(till) == ["Authorized"]
    till.asked.books.seen[PAYMENT] = replace(till.asked.books.seen[PAYMENT], status=Status.VOIDED)
    await till.work()
    assert till.asked.looks == 0

    till.now += SETTINGS.rests[0]
    await till.work()
    assert names(till) == ["Authorized", "Failed"]
    assert (await till.rows("payments", "status, look_at")) == [{"status": "voided", "look_at": None}]


async def test_a_dispute_that_no_webhook_told_is_found_and_one_who_cannot_come_is_not_looked_for(
    connection: Connection,
) -> None:
    till = Till(connection)
    await till.account()
    await till.hear(authorize(), capture())
    await till.work()
    every, disputable = SETTINGS.rests
    while look_at := (await till.rows("payments", "look_at, order_id"))[0]["look_at"]:
        till.now = look_at
        await till.work(rounds=1)
        if till.now - NOW > disputable / 2:
            disputes = {"dispute-1": Portion(AMOUNT, Part.LOST)}
            till.asked.books.seen[PAYMENT] = replace(till.asked.books.seen[PAYMENT], disputes=disputes)
    assert names(till) == ["Authorized", "Captured", "Disputed"]
    assert disputable < till.now - NOW < disputable + every * (REST_MAX + 1)
    assert 0 < till.asked.looks < disputable / every / 3

    looks = till.asked.looks
    till.now += disputable
    await till.work()
    assert till.asked.looks == looks


async def test_a_look_that_fails_waits_for_its_turn_and_nothing_waits_for_a_look(connection: Connection) -> None:
    till = Till(connection)
    await till.account()
    await till.hear(authorize())
    await till.work()
    till.asked.unknown = True
    till.now += SETTINGS.rests[0]
    await till.hear(capture())
    async with asyncio.TaskGroup() as group:
        await till.charger().work(group)
    assert names(till) == ["Authorized", "Captured"]
    assert till.asked.looks == 0

    till.now += SETTINGS.rests[0]
    await till.work()
    assert till.asked.looks == 1
    assert names(till) == ["Authorized", "Captured"]


async def test_more_than_was_taken_cannot_be_given_back(connection: Connection) -> None:
    till = Till(connection)
    await till.account()
    await whole_path(till)
    with pytest.raises(asyncpg.CheckViolationError):
        await connection.execute("UPDATE payments SET refunded_minor = captured_minor + 1")


@pytest.mark.rule(3)
async def test_one_cause_cannot_be_booked_twice(connection: Connection) -> None:
    till = Till(connection)
    await till.account()
    await whole_path(till)
    with pytest.raises(asyncpg.UniqueViolationError):
        await connection.execute("INSERT INTO money_movements SELECT * FROM money_movements LIMIT 1")


async def test_a_reference_belongs_to_one_payment(connection: Connection) -> None:
    till = Till(connection)
    await till.account()
    await whole_path(till)
    await till.hear(authorize(payment_id="order-a:p2"))
    with pytest.raises(asyncpg.UniqueViolationError):
        await connection.execute(f"UPDATE payments SET reference = 'ref-{PAYMENT}', account_id = 'account-1'")


@pytest.mark.parametrize("token", ["4242424242424242", "card 4242 4242 4242 4242 12/34", "pm_1;4242-4242-4242-4242"])
async def test_a_card_s_number_is_no_token(connection: Connection, token: str) -> None:
    """It is neither kept nor sent nor told, and the payment ends."""
    till = Till(connection)
    await till.account()
    with structlog.testing.capture_logs() as logged:
        await till.hear(authorize(token=token), authorize(token=token))
    await till.work()
    assert names(till) == ["Failed"]
    assert till.published[0][1].reason == "card_number"
    assert till.asked.tokens == []
    assert len(logged) == 1
    kept = [str(await till.rows("payments")), str(till.published), str(logged)]
    assert not any("4242" in one for one in kept)


async def test_a_token_that_does_not_open_fails_the_payment(connection: Connection) -> None:
    """Sealed under another key, or for another order."""
    till = Till(connection)
    await till.account()
    other = seal_token(TOKENS, "pm_1", tenant="acme", order_id="order-b")
    message = Received(authorize(token=other), Envelope("event-1", "", "/test", NOW, "", "acme", "order-a"), "key")
    async with connection.transaction():
        tx = Transaction(connection, NOW, lambda: "id")
        await obey([message], tx, vault=VAULT, tokens=TOKENS, settings=SETTINGS, wake=lambda: None)
    await till.work()

    [failed] = [one.message for one in tx.publications]
    assert (failed.reason, failed.final, till.asked.tokens) == ("token_unreadable", True, [])


async def test_a_card_s_number_after_the_gateway_was_asked_lets_the_payment_go(connection: Connection) -> None:
    till = Till(connection)
    await till.account()
    till.asked.misbehave[Kind.CHARGE] = ["throttled"]
    await till.hear(authorize())
    await till.work(rounds=1)
    await till.hear(authorize(2, token="4242424242424242"))
    await till.work()
    assert not any("4242" in token for token in till.asked.tokens)


@pytest.mark.parametrize(
    "answer",
    [
        {"reference": "ref-another"},
        {"currency": "USD"},
        {"authorized_minor": AMOUNT - 1},
        {"captured_minor": 2**63},
    ],
    ids=["another payment", "another currency", "another amount", "overflow"],
)
async def test_what_is_no_answer_about_the_payment_authorises_nothing_and_stops_nobody(
    connection: Connection, answer: dict[str, Any]
) -> None:
    till = Till(connection)
    await till.account()
    true_one = till.asked.books

    class Lying(ModelGateway):
        """Says of one payment what is none of it, until it comes to its senses."""

        def execute(self, payment_id: str, kind: Kind, n: int, amount_minor: int, key: str) -> Seen:
            seen = true_one.execute(payment_id, kind, n, amount_minor, key)
            if payment_id == PAYMENT and kind is Kind.CHARGE:
                seen = true_one.seen[payment_id] = replace(seen, **answer)
            return seen

    lying = Lying(seen=true_one.seen)
    till.asked.books = lying
    await till.hear(authorize(), authorize(order_id="order-b", payment_id="order-b:p1"))
    await till.work()
    assert [fact.payment_id for _, fact in till.published] == ["order-b:p1"]

    honest = replace(true_one.seen[PAYMENT], reference=f"ref-{PAYMENT}", currency="BRL")
    true_one.seen[PAYMENT] = replace(honest, authorized_minor=AMOUNT, captured_minor=0)
    till.restart()
    await till.work()
    assert [(fact.payment_id, fact.authorized_minor) for _, fact in till.published][1:] == [(PAYMENT, AMOUNT)]
    assert true_one.moved[PAYMENT, Kind.CHARGE] == 1
