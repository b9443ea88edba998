"""`saldo payment` as a person runs it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.console.conftest import Listener, Printed

Saldo = Callable[..., Printed]
PAYMENT: dict[str, Any] = {
    "payment_id": "order-a:p1", "order_id": "order-a", "account_id": "account-1", "reference": "pi_1",
    "status": "captured", "captured_minor": 12_345, "refunded_minor": 0, "concern": "disputed", "due_at": None,
}  # fmt: skip


@pytest.fixture(autouse=True)
def known(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment says where payments is."""
    monkeypatch.setenv("SALDO_ADMIN_PAYMENTS_URL", listener.url)


def test_payments_are_listed_page_by_page(saldo: Saldo, listener: Listener) -> None:
    other = PAYMENT | {"payment_id": "order-b:p1"}
    pages = [{"payments": [PAYMENT], "next": "order-a:p1"}, {"payments": [other], "next": None}]
    listener.say_each("GET", "payments", pages)
    printed = saldo("payment", "list", "--concerning", "--status", "captured", "--json", "--tenant", "acme")
    assert printed.json == [PAYMENT, other]
    query = {"tenant": "acme", "status": "captured", "concerning": "true", "limit": "1000"}
    assert [asked for _, _, asked, _ in listener.asked] == [query, query | {"after": "order-a:p1"}]
    assert "order-b:p1" in saldo("payment", "list").out


def test_nothing_is_told_in_words(saldo: Saldo, listener: Listener) -> None:
    listener.say("GET", "payments", {"payments": [], "next": None})
    listener.say("GET", "accounts", [])
    listener.say("GET", "strangers", [])
    assert "no payments" in saldo("payment", "list", "--order", "order-a").out
    assert "saldo payment add" in saldo("payment", "accounts").out
    assert "of ours alone" in saldo("payment", "strangers").out


def test_a_payment_is_shown_with_its_calls(saldo: Saldo, listener: Listener) -> None:
    call = {"kind": "charge", "n": 1, "amount_minor": 12_345, "outcome": "done", "tries": 1}
    listener.say("GET", "payments/order-a%3Ap1", PAYMENT | {"calls": [call], "method": "card", "currency": "BRL"})
    printed = saldo("payment", "show", "order-a:p1")
    page = " ".join(printed.out.split())
    assert "state ● captured card" in page
    assert "concern disputed taken BRL 123.45 given back BRL 0.00" in page
    assert "charge ● done BRL 123.45 1" in page
    assert "{" not in page
    assert saldo("payment", "show", "order-a:p1", "--json").json["calls"] == [call]
    assert saldo("payment", "show", "order-x:p1").code == 1


def test_what_is_none_of_ours_is_listed(saldo: Saldo, listener: Listener) -> None:
    row = {"received_at": "2026-03-14T12:00:00Z", "account_id": "account-1", "strangers": ["pi_9"]}
    listener.say("GET", "strangers", [row])
    assert "pi_9" in saldo("payment", "strangers").out


def test_an_account_is_added_and_subscribed(saldo: Saldo, listener: Listener, tmp_path: Path) -> None:
    file = tmp_path / "credentials.json"
    file.write_text(json.dumps({"secret_key": "sk_hidden"}))
    listener.say("PUT", "accounts", {"account_id": "account-1"})
    listener.say(
        "POST", "accounts/account-1/subscribe", {"account_id": "account-1", "url": "http://door/hooks/account-1"}
    )
    given = ("stripe", "acct_1", "--base-url", "https://api.stripe.com", "--credentials", str(file))
    printed = saldo("payment", "add", *given, "--setting", "return_url=https://shop.example", "--tenant", "acme")
    assert printed.code == 0
    assert "http://door/hooks/account-1" in printed.out
    assert "hidden" not in printed.out
    body = {
        "tenant": "acme", "gateway": "stripe", "environment": "sandbox", "base_url": "https://api.stripe.com",
        "merchant": "acct_1", "settings": {"return_url": "https://shop.example"},
        "credentials": {"secret_key": "sk_hidden"},
    }  # fmt: skip
    assert [(path, sent) for _, path, _, sent in listener.asked] == [
        ("accounts", body), ("accounts/account-1/subscribe", {}),
    ]  # fmt: skip
    listener.asked.clear()
    assert saldo("payment", "add", *given, "--no-subscribe", "--json").json == {"account_id": "account-1"}
    assert len(listener.asked) == 1


def test_bad_input_is_refused_before_anything_is_asked(saldo: Saldo, listener: Listener, tmp_path: Path) -> None:
    file = tmp_path / "credentials.json"
    file.write_text("[]")
    url = ("--base-url", "https://api.stripe.com")
    for given in (
        ("stripe", "acct_1", *url, "--credentials", str(file)),
        ("stripe", "acct_1", *url, "--credentials", str(tmp_path / "none")),
        ("stripe", "acct_1", "--base-url", "api.stripe.com", "--credentials", str(file)),
    ):
        assert saldo("payment", "add", *given).code == 1
    assert saldo("payment", "add", "stripe", "acct_1").code == 2
    assert listener.asked == []
