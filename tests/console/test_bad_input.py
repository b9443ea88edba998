"""Whatever a person gives: an error in words that says what to do, nothing sent, no secret printed."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from contracts.envelope import Message
from contracts.inventory.v1 import Component, PutItem
from services.console import given, people
from services.console.files import parse_items, parse_takeon
from tests.console.conftest import TOKEN, Listener, Printed

Saldo = Callable[..., Printed]
HEADER = "sku,location,quantity\n"
pytestmark = pytest.mark.usefixtures("sent")


@pytest.fixture
def listener(listener: Listener) -> Listener:
    listener.say("GET", "items", {"items": [{"sku": "A", "components": []}], "next": None})
    listener.say("GET", "locations", {"locations": [{"location": "main"}]})
    listener.say("GET", "orders/summary", {"orders": 0})
    listener.say("GET", "connections", {"connections": []})
    return listener


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("stock", "receive", "A", "999999999999999999999999"), "quantity: 999999999999999999999999 is out of range"),
        (("stock", "receive", "A", "--", "-5"), "quantity: Input should be greater than 0"),
        (("stock", "adjust", "A", "--by", "-3000000000", "--reason", "x"), "quantity: -3000000000 is out of range"),
        (("stock", "adjust", "A", "--by", "1", "--reason", "x" * 1001), "reason: 1001 characters are too many"),
        (("stock", "adjust", "A", "--by", "1", "--reason", "x", "--state", "[/x]"), "must be available or damaged"),
        (("stock", "adjust", "A", "--by", "1", "--reason", "x", "--effective-at", "2999-01-01"), "has not come yet"),
        (("stock", "receive", "A\nB", "1"), "sku: holds a line break"),
        (("stock", "count", "A", "5", "--counted-at", "0001-01-01"), "give one nearer to now"),
        (("republish", "inventory", "--since", "0001-01-01"), "give one nearer to now"),
        (("item", "put", "", "--name", "x"), "sku: String should have at least 1 character"),
        (("item", "put", "K", "--name", "x", "--component", "A:-1"), "quantity: Input should be greater than 0"),
        (("item", "put", "K", "--name", "x", "--component", "[/x]"), "component [/x] must be SKU:QUANTITY"),
        (("item", "put", "K", "--name", "x", "--weight-g", "3000000000"), "weight_g: 3000000000 is out of range"),
        (("location", "add", ""), "location: String should have at least 1 character"),
        (("location", "add", "l", "--priority", "99999999999"), "priority: 99999999999 is out of range"),
        (("stock", "show", "[/red]"), "nothing at stock"),
        (("announce", "[/red]"), "[/red] is not a state stream"),
        (("bench", "[/red]"), "no bench [/red]"),
        (("order", "show", "summary"), "no order summary"),
        (("deadletters", "show", "../consumers"), "saldo deadletters list"),
        (("connection", "show", "[/red]"), "no connection [/red]"),
        (("connection", "add", "shopify", "a", "--base-url", "ftp://u:hush@h"), "http(s)://host[:port][/path]"),
        (("connection", "add", "shopify", "a", "--base-url", "http://[::1"), "http(s)://host[:port][/path]"),
        (("connection", "add", "shopify", "a", "--base-url", "http://u:hush@h:99999"), "--base-url http://h:99999"),
        (("up", "--instance", "/proc/none"), "--instance"),
        (("stock", "show", "x" * 100_000), "inventory does not answer"),
    ],
)
def test_a_wrong_argument_is_named_in_words(
    saldo: Saldo,
    listener: Listener,
    sent: list[tuple[str, Message]],
    arguments: tuple[str, ...],
    said: str,
) -> None:
    printed = saldo(*arguments)
    assert printed.code == 1
    assert said in printed.err
    assert "hush" not in printed.err
    assert sent == []
    assert not [asked for asked in listener.asked if asked[0] == "POST"]


@pytest.mark.parametrize(
    ("raw", "line", "said"),
    [
        (HEADER + "A" * 2_000_000 + ",main,1\n", 2, "a cell of this row has no end"),
        (HEADER + '"A,main,1\n' + "A,main,1\n" * 20_000, 2, "a cell of this row has no end"),
        (HEADER + "x," * 1_000_000 + "\n", 2, "the row has not as many cells as the header"),
        (HEADER + "X" * 5000 + ",main,1\n", 2, "(5000 characters) is not an item"),
        (HEADER + "A,main," + "9" * 5000 + "\n", 2, "(5000 characters)"),
        (HEADER + "A,main," + "9" * 12 + "\n", 2, "quantity: 999999999999 is out of range"),
        (HEADER, 1, "the file has a header only"),
        ("", 1, "column sku is missing"),
        ("codigo;deposito;qtd\nA;main;1\n", 1, "column codigo is not known"),
        ("\ufeffsku;location;quantity\r\nA;main;10,5\r\n", 2, "quantity must be a whole number, not 10,5"),
        (HEADER + "A,main,1\nA,main,1\n", 3, "is on line 2 already"),
        (HEADER + "[/red],main,1\n", 2, "sku [/red] is not an item"),
        (HEADER + "A,main,-1\n", 2, "greater than 0"),
    ],
)
def test_a_bad_file_is_rejected_by_line_and_sends_nothing(
    saldo: Saldo, listener: Listener, sent: list[tuple[str, Message]], tmp_path: Path, raw: str, line: int, said: str
) -> None:
    file = tmp_path / "stock.csv"
    file.write_text(raw)
    printed = saldo("stock", "takeon", str(file))
    assert printed.code == 1
    assert f"line {line}: " in printed.err
    assert said in printed.err
    assert len(printed.err) < 1000
    assert sent == []


def test_line_ends_of_old_spreadsheets_are_line_ends() -> None:
    parsed = parse_takeon(b"sku;location;quantity\rA;main;5\r", skus={"A": False}, locations=["main"])
    assert [(line, message.quantity) for line, message in parsed.rows] == [(2, 5)]


def test_what_no_database_column_holds_is_rejected_in_a_file_of_items() -> None:
    parsed = parse_items(b"sku,name,weight_g\nA\x07,bell,\nB,heavy,3000000000\nC," + b"n" * 1001 + b",\n")
    assert [(one.line, one.reason.split(":")[0]) for one in parsed.rejected] == [
        (2, "sku"),
        (3, "weight_g"),
        (4, "name"),
    ]


def test_a_number_deep_inside_is_named_with_its_place() -> None:
    parts = (Component(sku="A", quantity=1), Component(sku="B", quantity=2_000_000_000))
    with pytest.raises(ValueError, match=r"components\.1\.quantity: 2000000000 is out of range"):
        given.make(PutItem, sku="K", name="kit", components=parts)


def test_an_argument_that_is_no_text_is_refused(saldo: Saldo, listener: Listener) -> None:
    printed = saldo("stock", "show", "\udcff")
    assert printed.code == 2
    assert "is not UTF-8" in printed.err
    assert listener.asked == []


def test_an_order_number_is_not_a_path(saldo: Saldo, listener: Listener) -> None:
    saldo("order", "show", "#1001?tenant=other/../x")
    assert listener.asked[-1][1] == "orders/%231001%3Ftenant%3Dother%2F..%2Fx"


@pytest.mark.parametrize("text", ["[" * 100_000, '{"access_token": "hush", ', '["hush"]', '{"access_token": 1}'])
def test_credentials_that_cannot_be_read_are_not_shown(
    saldo: Saldo, listener: Listener, tmp_path: Path, text: str
) -> None:
    file = tmp_path / "credentials.json"
    file.write_text(text)
    printed = saldo("connection", "add", "shopify", "a", "--base-url", "http://h", "--credentials", str(file))
    assert printed.code == 1
    assert "--credentials" in printed.err
    assert "hush" not in printed.err
    assert listener.asked == []


def test_credentials_saved_by_a_windows_editor_are_read(saldo: Saldo, listener: Listener, tmp_path: Path) -> None:
    file = tmp_path / "credentials.json"
    file.write_text('\ufeff{"access_token": "hush"}')
    listener.say("POST", "connections", {"connection_id": "c-1"})
    assert saldo("connection", "add", "shopify", "a", "--base-url", "http://h", "--credentials", str(file)).code == 0
    assert listener.asked[-1][3]["credentials"] == {"access_token": "hush"}


@pytest.mark.parametrize("url", ["http://[::1", "nonsense", "http://127.0.0.1:99999"])
def test_an_address_that_is_none_is_named(saldo: Saldo, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("SALDO_ADMIN_INVENTORY_URL", url)
    printed = saldo("stock", "show", "A")
    assert printed.code == 1
    assert f"inventory does not answer at {url}" in printed.err


def test_an_id_is_a_plain_word(saldo: Saldo, listener: Listener, sent: list[tuple[str, Message]]) -> None:
    printed = saldo("stock", "receive", "A", "1", "--id", "a/b?c#d")
    assert printed.code == 2
    assert "an id is 1 to 100 letters" in printed.err
    assert sent == []


@pytest.mark.parametrize("kind", ["ReceiveStock", "PutLocation"])
@pytest.mark.rule(23)
def test_an_id_that_was_answered_is_answered_again_and_nothing_is_sent(
    saldo: Saldo, listener: Listener, sent: list[tuple[str, Message]], kind: str
) -> None:
    told = {"command_id": "my-id", "kind": kind, "sku": "A", "state": "booked", "outcome": "as it was told"}
    listener.say("GET", "commands/my-id", told)
    arguments = {"ReceiveStock": ("stock", "receive", "A", "7"), "PutLocation": ("location", "add", "A")}
    printed = saldo(*arguments[kind], "--id", "my-id")
    assert printed.code == 0
    assert "before, nothing is done again: as it was told" in printed.out
    other = saldo("stock", "receive", "B", "7", "--id", "my-id")
    assert other.code == 1
    assert f"id my-id belongs to another command, {kind} of A" in other.err
    assert "leave --id out" in other.err
    assert sent == []


def test_a_system_elsewhere_has_a_status(saldo: Saldo, listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    connection: dict[str, Any] = {"connection_id": "c-1", "connector": "shopify", "account": "a"}
    listener.say("GET", "connections", {"connections": [connection | {"environment": "sandbox", "state": "live"}]})
    listener.say("GET", "/readyz", {"status": "ready"})
    printed = saldo("status", "--json")
    told = json.loads(printed.out)
    assert (printed.code, told["running"], told["connections"][0]["connection_id"]) == (0, True, "c-1")
    assert {name: one["health"] for name, one in told["processes"].items()} == {
        "inventory": "ready", "orders": "ready", "channels": "ready",
    }  # fmt: skip
    assert "c-1" in saldo("status").out
    monkeypatch.setenv("SALDO_ADMIN_ORDERS_URL", "http://127.0.0.1:1")
    assert saldo("status").code == 1


def test_a_status_has_every_sandbox_and_where_the_own_shop_is(
    saldo: Saldo, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SHOP", "GATEWAY", "CARRIER"):
        monkeypatch.setenv(f"SALDO_SANDBOX_{name}_URL", listener.url)
    monkeypatch.setenv("SALDO_SANDBOX_TOKEN", TOKEN)
    listener.say("GET", "connections", {"connections": []})
    listener.say("GET", "/readyz", {"status": "ready"})
    listener.say("GET", "/_control/shops", {"shops": ["loja"]})
    page = f"{listener.url}/loja"
    listener.say("GET", "/_control/shops/loja", {"base_url": page, "credentials": {"api_key": "k"}, "locations": []})
    assert page in saldo("status").out
    told = saldo("status", "--json").json["sandboxes"]
    assert told["gateway"]["shops"] == told["carrier"]["shops"] == {}
    assert "problem" not in {field for one in told.values() for field in one}


def test_a_running_system_is_not_started_twice_nor_thrown_away(
    saldo: Saldo, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("deploy.local.stack.status", lambda _: {"phase": "ready", "running": True})
    again = saldo("up", "--instance", str(tmp_path))
    assert (again.code, "running already" in again.out) == (0, True)
    fresh = saldo("up", "--fresh", "--instance", str(tmp_path))
    assert fresh.code == 1
    assert "saldo down" in fresh.err


def test_an_open_sandbox_is_named_where_none_is_known(saldo: Saldo, listener: Listener) -> None:
    for arguments in (("buy", "loja-azul", "A"), ("numbers", "A"), ("fill",)):
        printed = saldo("sandbox", *arguments)
        assert printed.code == 1
        assert "SALDO_SANDBOX_SHOPIFY_URL" in printed.err


def test_the_same_id_of_two_companies_is_two_events(
    saldo: Saldo, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources: list[str] = []

    async def send_all(bootstrap: str, given: list[tuple[str, Message]], *, tenant: str, source: str) -> None:
        told = {"command_id": "my-id", "kind": "ReceiveStock", "sku": "A", "state": "booked", "outcome": "10 units"}
        listener.say("GET", "commands/my-id", told)
        sources.append(source)

    monkeypatch.setattr(people, "send_all", send_all)
    for tenant in ("demo", "other"):
        listener.say("GET", "commands/my-id", {"command_id": "my-id", "state": "unknown"})
        assert saldo("stock", "receive", "A", "10", "--id", "my-id", "--tenant", tenant).code == 0
    assert len(set(sources)) == 2
