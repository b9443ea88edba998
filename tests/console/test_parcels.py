"""`saldo parcel`, `rate`, `mapping` and `carrier` as a person runs them."""

import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.console.conftest import Listener, Printed

Saldo = Callable[..., Printed]
LINE = {"line_id": "1", "sku": "MUG", "quantity": 2}
PARCEL: dict[str, Any] = {
    "shipment_id": "o:s1", "state": "packed", "waits_for": "invoice", "location": "main", "lines": [LINE],
    "carrier": "ECT", "service": "pac", "tracking_code": "",
}  # fmt: skip
HEADER = "carrier,service,from_code,to_code,up_to_g,price,currency,days_min,days_max\n"


@pytest.fixture
def table(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> Listener:
    """The listener, known as fulfillment too."""
    monkeypatch.setenv("SALDO_ADMIN_FULFILLMENT_URL", listener.url)
    listener.say("GET", "parcels", {"parcels": [PARCEL], "next": None})
    listener.say("GET", "parcels/o%3As1", PARCEL)
    for step in ("pick", "pack", "label", "dispatch", "event", "return"):
        listener.say("POST", f"parcels/o%3As1/{step}", PARCEL)
    return listener


def test_the_pick_list_says_what_to_take_and_what_each_waits_for(saldo: Saldo, table: Listener) -> None:
    printed = saldo("parcel", "list", "--state", "to_pick")
    assert "2 × MUG" in printed.out
    assert "invoice" in printed.out
    assert table.asked[0][2]["state"] == "to_pick"
    assert saldo("parcel", "list", "--json").json == [PARCEL]
    assert saldo("parcel", "show", "o:s1", "--json").json == PARCEL


def test_a_parcel_is_a_page(saldo: Saldo, table: Listener) -> None:
    packed = {"weight_g": 400, "dimensions_mm": [200, 150, 100], "ship_by": None}
    scan = {"tracked": {"status": "out_for_delivery", "happened_at": "2026-03-14T12:00:00Z"}}
    table.say("GET", "parcels/o%3As1", PARCEL | packed | scan)
    page = " ".join(saldo("parcel", "show", "o:s1").out.split())
    for words in (
        "● packed waits for invoice",
        "carrier ECT pac",
        "out for delivery, 2026-03-14",
        "200 × 150 × 100 mm",
    ):
        assert words in page
    assert "line SKU units 1 MUG 2" in page
    assert "{" not in page


def test_an_orders_only_parcel_is_found_by_the_orders_number(saldo: Saldo, table: Listener) -> None:
    table.say("GET", "orders/1001", {"order_id": "o", "parcels": [{"shipment_id": "o:s1"}]})
    assert saldo("parcel", "pick", "1001").code == 0
    assert table.asked[-1][1] == "parcels/o%3As1/pick"
    table.say("GET", "orders/1001", {"order_id": "o", "parcels": [{"shipment_id": "o:s1"}, {"shipment_id": "o:s2"}]})
    assert "say which of o:s1, o:s2" in saldo("parcel", "show", "1001").err
    table.say("GET", "orders/1001", {"order_id": "o", "parcels": []})
    assert "has no parcel yet" in saldo("parcel", "show", "1001").err


def test_each_step_of_the_packing_table_is_asked_for(saldo: Saldo, table: Listener) -> None:
    for command in (
        ("pick", "o:s1"),
        ("pack", "o:s1"),
        ("pack", "o:s1", "--weight-g", "700", "--size-mm", "200x150x100"),
        ("retry", "o:s1"),
        ("dispatch", "o:s1", "--at", "2026-03-14T12:00:00"),
        ("event", "o:s1", "delivered"),
        ("return", "o:s1", "--available", "1:1", "--damaged", "1:1", "--id", "back-1"),
    ):
        assert saldo("parcel", *command).code == 0, command
    bodies = [body for method, _, _, body in table.asked if method == "POST"]
    assert bodies[:2] == [{}, {}]
    assert bodies[2] == {"weight_g": 700, "dimensions_mm": [200, 150, 100]}
    assert bodies[4]["at"].startswith("2026-03-14")
    assert bodies[5] == {"status": "delivered"}
    came_back = {"line_id": "1", "sku": "MUG", "quantity": 1, "location": "main"}
    assert bodies[6] == {
        "return_id": "back-1",
        "lines": [came_back | {"state": "available"}, came_back | {"state": "damaged"}],
    }


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (("pack", "o:s1", "--weight-g", "700"), "give both"),
        (("return", "o:s1"), "say what came back"),
        (("return", "o:s1", "--damaged", "2:1"), "its lines are 1"),
        (("return", "o:s1", "--damaged", "1:x"), "whole number"),
        (("show", "unknown:s1"), "nothing at"),
    ],
)
def test_what_cannot_be_is_refused_with_what_to_do(
    saldo: Saldo, table: Listener, command: tuple[str, ...], reason: str
) -> None:
    printed = saldo("parcel", *command)
    assert printed.code == 1
    assert reason in printed.err
    assert all(method == "GET" for method, _, _, _ in table.asked)


def test_a_label_is_for_its_owner_s_eyes_and_overwrites_nothing(saldo: Saldo, table: Listener, tmp_path: Path) -> None:
    table.say("GET", "parcels/o%3As1/label", "a page")
    file = tmp_path / "label.zpl"
    assert saldo("parcel", "label", "o:s1", str(file), "--format", "zpl").code == 0
    assert file.read_bytes() == b'"a page"'
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert table.asked[-1][2]["format"] == "zpl"
    assert saldo("parcel", "label", "o:s1", str(file)).code == 1


def test_rates_are_taken_whole_or_not_at_all(saldo: Saldo, table: Listener, tmp_path: Path) -> None:
    table.say("PUT", "rates", {"rates": 1, "released": 2})
    file = tmp_path / "rates.csv"
    good = "ECT,pac,01000-000,09999-999,30000,19.90,BRL,3,7\n"
    file.write_text(HEADER + good)
    assert "2 parcels go on" in saldo("rate", "import", str(file)).out
    [row] = table.asked[-1][3]
    assert (row["price_minor"], row["up_to_g"], row["from_code"]) == (1990, 30000, "01000-000")

    asked = len(table.asked)
    for wrong in (good + good, good.replace("19.90", "19.905"), good.replace("30000", "heavy"), "ECT\n"):
        file.write_text(HEADER + wrong)
        assert saldo("rate", "import", str(file)).code == 1
    assert len(table.asked) == asked


def test_a_name_is_given_its_meaning(saldo: Saldo, table: Listener) -> None:
    table.say("POST", "mappings", {"released": 3})
    assert "3 parcels go on" in saldo("mapping", "add", "carrier", "Loggi", "loggi").out
    assert table.asked[-1][3] == {"kind": "carrier", "given": "Loggi", "ours": "loggi"}
    table.say("GET", "mappings", {"mappings": [{"kind": "carrier", "given": "Correios", "ours": "ECT"}]})
    assert "ECT" in saldo("mapping", "list").out


def test_an_account_is_read_from_a_file_and_no_secret_is_printed(saldo: Saldo, table: Listener, tmp_path: Path) -> None:
    table.say("PUT", "carriers", {"account_id": "a", "door_url": "http://door/hooks/a"})
    file = tmp_path / "account.json"
    file.write_text(json.dumps({"carrier": "melhorenvio", "credentials": {"access_token": "s3cret"}}))
    printed = saldo("carrier", "add", str(file))
    assert "http://door/hooks/a" in printed.out
    assert "s3cret" not in printed.out + printed.err
    file.write_text("{")
    assert saldo("carrier", "add", str(file)).code == 1


def test_a_location_gets_its_address(saldo: Saldo, table: Listener) -> None:
    table.say("PUT", "origins/main", {"released": 0})
    place = {"name": "Loja", "street": "Rua Um", "house": "1", "city": "Recife", "region": "PE"}
    options = [part for name, value in (place | {"postal-code": "50000-000"}).items() for part in (f"--{name}", value)]
    assert saldo("parcel", "origin", "main", *options).code == 0
    assert table.asked[-1][3] == place | {"postal_code": "50000-000", "district": "", "complement": ""}
