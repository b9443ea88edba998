"""`saldo sandbox` as a person runs it: the accountant and the courier of the demonstration company."""

from collections.abc import Callable
from pathlib import Path

import pytest

from services.border.tax_ids import mod_11
from tests.console.conftest import TOKEN, Listener, Printed

Saldo = Callable[..., Printed]


def test_an_invoice_is_over_what_the_buyer_owes_and_never_over_another_file(
    saldo: Saldo, listener: Listener, tmp_path: Path
) -> None:
    file = tmp_path / "nfe.xml"
    listener.say("GET", "orders/1001", {"order_id": "o-1", "due_minor": None})
    assert "not known yet" in saldo("sandbox", "invoice", "1001", str(file)).err
    listener.say("GET", "orders/1001", {"order_id": "o-1", "due_minor": 5099})
    assert saldo("sandbox", "invoice", "1001", str(file)).code == 0
    xml = file.read_text("utf-8")
    assert "<vNF>50.99</vNF>" in xml
    key = xml.partition('Id="NFe')[2][:44]
    assert mod_11(key[:43]) == key[43]
    assert "name a new file" in saldo("sandbox", "invoice", "1001", str(file)).err


def test_the_courier_takes_what_has_a_label(saldo: Saldo, listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("SALDO_ADMIN_FULFILLMENT_URL", "SALDO_SANDBOX_CARRIER_URL"):
        monkeypatch.setenv(variable, listener.url)
    monkeypatch.setenv("SALDO_SANDBOX_TOKEN", TOKEN)
    listener.say("GET", "parcels/o%3As1", {"tracking_code": ""})
    assert "no label yet" in saldo("sandbox", "collect", "o:s1").err
    listener.say("GET", "parcels/o%3As1", {"tracking_code": "SD1BR"})
    account = {"base_url": listener.url, "credentials": {"access_token": TOKEN}}
    listener.say("GET", "/_control/shops/demo", account)
    listener.say("POST", "/table/v1/parcels", {"status": "collected"})
    assert saldo("sandbox", "collect", "o:s1", "--days", "2").code == 0
    assert listener.asked[-1][3] == {"tracking_code": "SD1BR", "shipment_id": "o:s1", "days": 2.0}
