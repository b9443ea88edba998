"""`saldo customer` as a person runs it."""

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.console.conftest import Listener, Printed

Saldo = Callable[..., Printed]
CUSTOMER: dict[str, Any] = {
    "customer_id": "c-1", "version": 2, "merged": [], "seen_at": "2026-03-14T12:00:00Z",
    "references": [
        {"customer_ref": "r", "connections": ["loja"], "allowed": False, "why": "the customer has not been asked"}
    ],
    "consents": [], "reports": [{"name": "Ana", "document": "", "emails": [], "phones": []}],
    "timeline": [
        {"at": "2026-03-14T12:00:00Z", "kind": "OrderPlaced", "order_id": "o-1", "what": {"total_minor": 5000}},
        {"at": "2026-03-14T13:00:00Z", "kind": "PaymentRefunded", "order_id": "o-1", "what": {"reason": None}},
    ],
}  # fmt: skip


@pytest.fixture(autouse=True)
def known(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment says where crm is."""
    monkeypatch.setenv("SALDO_ADMIN_CRM_URL", listener.url)


@pytest.fixture
def crm(listener: Listener) -> Listener:
    listener.say("POST", "customers/show", CUSTOMER)
    return listener


def test_a_person_is_named_in_no_address(saldo: Saldo, crm: Listener) -> None:
    printed = saldo("customer", "show", "ana@loja.example", "--tenant", "acme")
    assert printed.code == 0
    assert "has not been asked" in printed.out
    assert crm.asked == [("POST", "customers/show", {"tenant": "acme"}, {"identity": "ana@loja.example"})]


def test_a_customer_is_found_by_the_number_of_an_order(saldo: Saldo, crm: Listener) -> None:
    crm.say("GET", "orders/1001", {"order_id": "o-1"})
    assert saldo("customer", "show", "order:1001").code == 0
    assert crm.asked[-1][3] == {"identity": "o-1"}


def test_who_erases_a_buyer_that_still_waits_is_told_of_the_order(saldo: Saldo, crm: Listener) -> None:
    until = "2026-06-12T12:00:00Z"
    kept = {"kind": "order", "reference": "o-1", "reason": "order_open", "until": until}
    crm.say("POST", "customers/c-1/erase", {"order_ids": [], "kept": [kept]})
    warned = saldo("customer", "erase", "c-1", "--yes")
    assert (warned.code, "on their way: o-1" in warned.err) == (0, True)
    assert "kept until they end" in warned.err
    assert all(part in " ".join(warned.out.split()) for part in ("goes when it ends", "LGPD 7 V", "2026-06-12"))
    delivered = CUSTOMER["timeline"][0] | {"kind": "OrderDelivered"}
    crm.say("POST", "customers/show", CUSTOMER | {"timeline": [*CUSTOMER["timeline"], delivered]})
    assert "on their way" not in saldo("customer", "erase", "c-1", "--yes").err


def test_contact_is_no_with_its_reason_and_the_timeline_is_a_line_an_entry(saldo: Saldo, crm: Listener) -> None:
    printed = saldo("customer", "show", "c-1").out
    assert "no: the customer has not been asked" in printed
    assert "order placed, total 50.00" in printed
    assert printed.index("order placed") < printed.index("payment refunded")
    said = {"purpose": "marketing", "granted": False, "source": "support", "at": "2026-03-14T12:00:00Z"}
    crm.say("POST", "customers/show", CUSTOMER | {"consents": [said]})
    assert "marketing no support" in " ".join(saldo("customer", "show", "c-1").out.split())
    assert "{" not in printed
    assert "[" not in printed
    crm.say("POST", "customers/show", CUSTOMER | {"references": [CUSTOMER["references"][0] | {"allowed": True}]})
    assert "yes, as a buyer of loja" in saldo("customer", "show", "c-1").out


def test_all_pages_are_listed(saldo: Saldo, listener: Listener) -> None:
    row = {"customer_id": "c-1", "references": 1, "version": 1, "seen_at": "2026-03-14T12:00:00Z"}
    listener.say("GET", "customers", {"customers": [row], "next": None})
    assert saldo("customer", "list", "--json").json == [row]


def test_doubts_are_shown_with_their_reason(saldo: Saldo, listener: Listener) -> None:
    assert saldo("customer", "reviews").code == 1
    review = {"review_id": "v", "one": "c-1", "other": "c-2", "reason": "email", "why": "only the e-mail is equal"}
    listener.say("GET", "reviews", {"reviews": [review | {"at": "2026-03-14T12:00:00Z"}]})
    assert "only the e-mail is equal" in saldo("customer", "reviews").out


def test_people_merge_keep_and_part(saldo: Saldo, listener: Listener) -> None:
    listener.say("POST", "customers/merge", {"customer_id": "c-1"})
    listener.say("POST", "customers/keep", {"kept": ["c-1", "c-2"]})
    listener.say("POST", "customers/unmerge", {"customer_id": "c-1", "restored_customer_id": "c-2"})
    for command in (("merge", "c-1", "c-2"), ("keep", "c-1", "c-2"), ("unmerge", "c-2")):
        assert saldo("customer", *command).code == 0
    assert [body for _, _, _, body in listener.asked] == [{"one": "c-1", "other": "c-2"}] * 2 + [{"customer_id": "c-2"}]


def test_what_is_typed_for_the_customer_that_went_is_in_no_address(saldo: Saldo, listener: Listener) -> None:
    assert saldo("customer", "unmerge", "ana@loja.example", "--tenant", "acme").code == 1
    assert listener.asked == [("POST", "customers/unmerge", {"tenant": "acme"}, {"customer_id": "ana@loja.example"})]


def test_consent_is_kept_for_who_is_meant(saldo: Saldo, crm: Listener) -> None:
    crm.say("POST", "customers/c-1/consent", {})
    assert saldo("customer", "consent", "39053344705", "--no").code == 0
    assert crm.asked[-1][3] == {"purpose": "marketing", "granted": False, "source": "support"}
    assert saldo("customer", "consent", "39053344705").code == 2


def test_an_export_is_for_its_owner_s_eyes_and_overwrites_nothing(saldo: Saldo, crm: Listener, tmp_path: Path) -> None:
    file = tmp_path / "customer.json"
    assert saldo("customer", "export", "c-1", str(file)).code == 0
    assert json.loads(file.read_text()) == CUSTOMER
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    again = saldo("customer", "export", "c-1", str(file))
    assert again.code == 1
    assert "name a new file" in again.err
    assert saldo("customer", "export", "c-1").json == CUSTOMER


def test_to_erase_one_must_be_sure(saldo: Saldo, crm: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = {"kind": "invoice", "reference": "d-1", "reason": "fiscal_br", "until": "2031-12-31T23:59:59Z"}
    crm.say("POST", "customers/c-1/erase", {"order_ids": ["o-1"], "kept": [kept]})
    monkeypatch.setattr("typer.confirm", lambda *_, **__: False)
    assert "nothing was erased" in saldo("customer", "erase", "c-1").err
    assert [path for _, path, _, _ in crm.asked] == ["customers/show"]
    printed = saldo("customer", "erase", "c-1", "--yes")
    assert printed.code == 0
    assert "LGPD 16 I" in " ".join(printed.out.split())
    assert "2031-12-31" in printed.out
