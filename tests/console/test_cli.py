"""What people see: JSON where asked for, errors that say what to do, exit codes, one command booked once."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from contracts.envelope import Message
from services.channels.connectors import CONNECTORS
from services.console import people
from services.console.cli import app
from tests.console.conftest import Listener, Printed

Saldo = Callable[..., Printed]
CONNECTION = {
    "connection_id": "c-1", "connector": "shopify", "environment": "sandbox", "account": "loja", "state": "draft",
    "pool": "shared", "base_url": "http://127.0.0.1:1",
}  # fmt: skip


def commands(group: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{path} {name}".strip())
        else:
            yield f"{path} {name}".strip(), command


ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")
DOCS = sorted((ROOT / "docs").glob("**/*.md"))
ALL = dict(commands(typer.main.get_command(app)))


def test_every_agreed_command_exists() -> None:
    agreed = {
        "up", "down", "status", "demo", "database", "verify", "bench", "doctor", "connection add", "connection list",
        "connection show", "connection door", "connection validate", "connection enable", "connection pause",
        "item put", "item import",
        "item list", "location add", "location list", "listing import", "listing link", "listing list", "listing show",
        "stock receive", "stock adjust", "stock count", "stock show", "stock explain", "stock takeon", "order show",
        "trace", "deadletters groups", "deadletters list",
        "deadletters show", "deadletters replay", "deadletters edit", "deadletters discard", "consumer list",
        "consumer resume", "announce", "republish", "contracts check", "contracts asyncapi",
        "contracts conformance", "backup", "restore", "chaos", "topics", "migrate",
        "company add", "export check", "export journal", "order invoice", "order invoices", "order answer",
        "customer list", "customer show", "customer reviews", "customer merge", "customer keep", "customer unmerge",
        "customer consent", "customer export", "customer erase",
        "erp add", "erp bookings", "erp retry", "erp sync",
        "payment accounts", "payment add", "payment list", "payment show", "payment strangers",
        "parcel list", "parcel show", "parcel pick", "parcel pack", "parcel label", "parcel retry", "parcel dispatch",
        "parcel event", "parcel return", "parcel origin", "rate import", "rate list", "mapping add", "mapping list",
        "carrier add", "carrier list", "shop key", "shop products",
        "sandbox fill", "sandbox buy", "sandbox pay", "sandbox cancel", "sandbox numbers", "sandbox invoice",
        "sandbox collect",
    }  # fmt: skip
    assert set(ALL) == agreed


def test_every_command_that_the_readme_shows_is_there() -> None:
    shown = set(re.findall(r"^\$ saldo ([a-z]+(?: [a-z]+)?)", README, re.MULTILINE))
    assert len(shown) > 20
    assert {words for words in shown if words not in ALL and words.split()[0] not in ALL} == set()


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_every_command_that_a_page_speaks_of_is_there(page: Path) -> None:
    text = page.read_text("utf-8")
    named = re.findall(r"`saldo ([a-z]+(?: [a-z]+)?)", text)
    for listed in re.findall(r"^Commands: (.*?)\. ", text, re.MULTILINE):
        several = re.findall(r"`([a-z]+) ([a-z|]+)`", listed)
        assert len(several) > 5
        named += [f"{group} {verb}" for group, verbs in several for verb in verbs.split("|")]
    groups = {words.partition(" ")[0] for words in ALL}
    known = {*ALL, *groups}
    # What follows a command of one word is what it is given.
    assert {words for words in named if words not in known and words.partition(" ")[0] not in ALL} == set()


@pytest.mark.parametrize("name", sorted(ALL))
def test_every_command_takes_a_tenant_and_says_what_it_does(name: str) -> None:
    options = {option for parameter in ALL[name].params for option in parameter.opts}
    assert "--tenant" in options
    assert ALL[name].help
    if name.endswith(" list") or name in ("status", "trace", "topics", "verify", "doctor"):
        assert "--json" in options


def test_the_help_of_a_new_connection_names_every_kind_with_its_credentials() -> None:
    told = " ".join(str(ALL["connection add"].help).split())
    for name, connector in CONNECTORS.items():
        wanted = ", ".join(connector.traits.credentials) or "none"
        assert f"- {name}: {wanted}" in told


def test_the_address_for_a_marketplaces_pushes_is_told(saldo: Saldo, listener: Listener) -> None:
    listener.say("GET", "connections", {"connections": [CONNECTION]})
    door = "https://door.example/c-1/secret"
    listener.say("GET", f"connections/{CONNECTION['connection_id']}/door", {"connection_id": "c-1", "door_url": door})
    assert saldo("connection", "door", "loja", "--json").json["door_url"] == door


@pytest.mark.parametrize("name", ["orders", "verify", "postgres", "Reorder", "re order", "1st", ""])
def test_a_database_of_one_s_own_is_none_of_saldo_s(saldo: Saldo, name: str) -> None:
    printed = saldo("database", name)
    assert printed.code == 1
    assert "cannot be the name" in printed.err


def test_a_tenant_that_is_none_is_refused(saldo: Saldo) -> None:
    printed = saldo("connection", "list", "--tenant", "No Tenant")
    assert printed.code == 2
    assert "a-z, 0-9 and -" in printed.err


def test_lists_are_json_with_every_field_and_ask_for_the_tenant(saldo: Saldo, listener: Listener) -> None:
    listener.say("GET", "connections", {"connections": [CONNECTION]})
    printed = saldo("connection", "list", "--json", "--tenant", "acme")
    assert (printed.code, printed.json) == (0, [CONNECTION])
    assert listener.asked == [("GET", "connections", {"tenant": "acme"}, None)]


def test_an_empty_list_says_what_to_do(saldo: Saldo, listener: Listener) -> None:
    listener.say("GET", "connections", {"connections": []})
    assert "saldo connection add" in saldo("connection", "list").out
    assert saldo("connection", "list", "--json").json == []


def test_nothing_running_says_how_to_start(saldo: Saldo, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SALDO_VAR", str(tmp_path))
    printed = saldo("stock", "show", "A")
    assert printed.code == 1
    assert "start it with `saldo up`" in printed.err
    assert printed.out == ""


def test_a_wrong_token_says_so_without_showing_it(
    saldo: Saldo, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SALDO_ADMIN_TOKEN", "another-secret")
    printed = saldo("item", "list")
    assert printed.code == 1
    assert "the admin token is wrong" in printed.err
    assert "another-secret" not in printed.err


def test_a_service_that_is_away_is_named(saldo: Saldo, listener: Listener, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SALDO_ADMIN_INVENTORY_URL", "http://127.0.0.1:1")
    printed = saldo("item", "list")
    assert printed.code == 1
    assert "inventory does not answer at http://127.0.0.1:1" in printed.err


def test_a_refusal_is_passed_on_in_words(saldo: Saldo, listener: Listener) -> None:
    listener.say("GET", "connections", {"connections": [CONNECTION]})
    listener.say("POST", "connections/c-1/enable", {"detail": "environment production cannot go live yet"}, 409)
    printed = saldo("connection", "enable", "loja")
    assert printed.code == 1
    assert "channels: environment production cannot go live yet" in printed.err


def test_problems_of_a_validation_end_with_exit_code_1(saldo: Saldo, listener: Listener) -> None:
    listener.say("GET", "connections", {"connections": [CONNECTION]})
    listener.say("POST", "connections/c-1/validate", {"state": "draft", "problems": ["scope read_orders is missing"]})
    printed = saldo("connection", "validate", "shopify/loja")
    assert printed.code == 1
    assert "scope read_orders is missing" in printed.err


def test_a_connection_is_a_page(saldo: Saldo, listener: Listener) -> None:
    listener.say("GET", "connections", {"connections": [CONNECTION]})
    limits = {"stock": {"rate_per_s": 5.0, "burst": 10.0}}
    traits = {"intake": "queue", "compares": False, "reports": ["invoice", "cancel"], "limits": limits}
    listener.say("GET", "connections/c-1", CONNECTION | {"settings": {"location": "7"}, "traits": traits})
    page = " ".join(saldo("connection", "show", "loja").out.split())
    for words in (
        "connection shopify/loja",
        "● draft",
        "location 7",
        "orders come by queue",
        "hears of invoice, cancel",
    ):
        assert words in page
    assert "stock 5 a second 10 at once" in page
    assert "{" not in page


def test_an_ambiguous_account_asks_which(saldo: Saldo, listener: Listener) -> None:
    other = CONNECTION | {"connection_id": "c-2", "connector": "skyhub"}
    listener.say("GET", "connections", {"connections": [CONNECTION, other]})
    printed = saldo("connection", "show", "loja")
    assert printed.code == 1
    assert "shopify/loja, skyhub/loja" in printed.err


def test_credentials_come_from_a_file_and_are_never_printed(saldo: Saldo, listener: Listener, tmp_path: Path) -> None:
    file = tmp_path / "credentials.json"
    file.write_text('{"access_token": "shpat_secret"}')
    listener.say("POST", "connections", CONNECTION)
    printed = saldo(
        "connection", "add", "shopify", "loja", "--base-url", "http://x", "--credentials", str(file),
        "--setting", "location=7",
    )  # fmt: skip
    assert printed.code == 0
    body = listener.asked[0][3]
    assert (body["credentials"], body["settings"]) == ({"access_token": "shpat_secret"}, {"location": "7"})
    assert "shpat_secret" not in printed.out + printed.err
    file.write_text("shpat_secret, not JSON")
    printed = saldo("connection", "add", "shopify", "loja", "--base-url", "http://x", "--credentials", str(file))
    assert printed.code == 1
    assert "cannot be read as JSON" in printed.err
    assert "shpat_secret" not in printed.err


def booked(listener: Listener, command_id: str, *, state: str = "booked", outcome: str = "10 units") -> None:
    listener.say("GET", f"commands/{command_id}", {"command_id": command_id, "state": state, "outcome": outcome})


@pytest.fixture
def my_id(monkeypatch: pytest.MonkeyPatch) -> None:
    """The id that the next stock command draws."""
    monkeypatch.setattr("services.console.commands.items.new_command_id", lambda: "my-id")


@pytest.mark.usefixtures("my_id")
@pytest.mark.rule(23)
def test_a_stock_command_is_booked_under_its_id(
    saldo: Saldo, listener: Listener, sent: list[tuple[str, Message]]
) -> None:
    booked(listener, "my-id")
    printed = saldo("stock", "receive", "A", "10", "--json")
    assert printed.json == {"id": "my-id", "state": "booked", "text": "10 units"}
    ((command_id, message),) = sent
    assert command_id == "my-id"
    assert message.model_dump(include={"sku", "quantity", "location"}) == {
        "sku": "A",
        "quantity": 10,
        "location": "main",
    }


@pytest.mark.usefixtures("my_id")
def test_a_refused_command_says_why_with_exit_code_1(
    saldo: Saldo, listener: Listener, sent: list[tuple[str, Message]]
) -> None:
    booked(listener, "my-id", state="refused", outcome="only 2 units are available")
    printed = saldo("stock", "adjust", "A", "--by", "-3", "--reason", "broken")
    assert printed.code == 1
    assert "refused: only 2 units are available" in printed.err


@pytest.mark.rule(23)
def test_an_unknown_outcome_prints_the_id_to_try_again_with(
    saldo: Saldo, listener: Listener, sent: list[tuple[str, Message]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(people, "ANSWER_TIMEOUT_S", 0.0)
    monkeypatch.setattr("services.console.commands.items.new_command_id", lambda: "drawn-id")
    listener.say("GET", "commands/drawn-id", {"command_id": "drawn-id", "state": "unknown"})
    printed = saldo("stock", "count", "A", "7")
    assert printed.code == 1
    assert "Try again with --id drawn-id: nothing is booked twice" in printed.err
    assert [command_id for command_id, _ in sent] == ["drawn-id"]


def test_a_quantity_that_makes_no_sense_is_refused_before_anything_is_sent(
    saldo: Saldo, listener: Listener, sent: list[tuple[str, Message]]
) -> None:
    printed = saldo("stock", "receive", "A", "0")
    assert printed.code == 1
    assert "quantity: Input should be greater than 0" in printed.err
    assert sent == []


def takeon_world(listener: Listener) -> None:
    items = [{"sku": "A", "components": []}, {"sku": "B", "components": []}]
    listener.say("GET", "items", {"items": items, "next": None})
    listener.say("GET", "locations", {"locations": [{"location": "main"}]})


def test_a_file_with_one_bad_row_sends_nothing(
    saldo: Saldo, listener: Listener, sent: list[tuple[str, Message]], tmp_path: Path
) -> None:
    takeon_world(listener)
    file = tmp_path / "stock.csv"
    file.write_text("sku,location,quantity\nA,main,5\nX,main,5\n")
    printed = saldo("stock", "takeon", str(file))
    assert printed.code == 1
    assert "line 3: sku X is not an item" in printed.err
    assert sent == []
    printed = saldo("stock", "takeon", str(file), "--json")
    assert printed.code == 1
    assert [one["line"] for one in printed.json["rejected"]] == [3]


@pytest.mark.rule(23)
def test_a_file_sent_again_uses_the_same_ids(
    saldo: Saldo, listener: Listener, sent: list[tuple[str, Message]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    takeon_world(listener)
    monkeypatch.setattr(people, "_await_answer", lambda _, order: people.Answer(order, booked=True, text=""))
    file = tmp_path / "stock.csv"
    file.write_text("sku,location,quantity\nA,main,5\nB,main,6\n")
    assert saldo("stock", "takeon", str(file), "--json").json == {"booked": 2, "refused": []}
    first = [command_id for command_id, _ in sent]
    sent.clear()
    saldo("stock", "takeon", str(file))
    assert [command_id for command_id, _ in sent] == first
    sent.clear()
    # Another quantity is another command: inventory refuses a second opening instead of ignoring it.
    file.write_text("sku,location,quantity\nA,main,7\nB,main,6\n")
    saldo("stock", "takeon", str(file))
    assert [command_id in first for command_id, _ in sent] == [False, True]


def test_only_state_streams_are_announced(saldo: Saldo, listener: Listener) -> None:
    printed = saldo("announce", "channels.sales.v1")
    assert printed.code == 1
    assert "inventory.levels.v1" in printed.err
    listener.say("POST", "announce", {"announcing": ["inventory.levels.v1"]})
    assert saldo("announce", "inventory.levels.v1").code == 0
    assert listener.asked[-1][2] == {"tenant": "demo", "stream": "inventory.levels.v1"}


def test_status_of_nothing_is_json_and_exit_code_1(
    saldo: Saldo, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SALDO_VAR", str(tmp_path))
    printed = saldo("status", "--json")
    assert printed.code == 1
    assert printed.json["running"] is False
    assert {"kafka", "databases", "webhooks", "sandboxes", "connections", "processes"} <= set(printed.json)


def test_the_doctor_looks_at_everything(saldo: Saldo, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SALDO_VAR", str(tmp_path))
    printed = saldo("doctor", "--json")
    assert {one["what"] for one in printed.json} == {
        "Python", "system", "Java", "PostgreSQL", "open files", "ports", "disk", "memory", "instances",
    }  # fmt: skip
    assert printed.code == (0 if all(one["well"] for one in printed.json) else 1)


def test_an_unknown_bench_names_those_there_are(saldo: Saldo) -> None:
    printed = saldo("bench", "no-such-bench")
    assert printed.code == 1
    assert "pipeline" in printed.err


def test_json_is_not_adorned(saldo: Saldo, listener: Listener) -> None:
    listener.say("GET", "connections", {"connections": [CONNECTION | {"account": "[bold]loja[/]"}]})
    printed = saldo("connection", "list", "--json")
    assert json.loads(printed.out)[0]["account"] == "[bold]loja[/]"
    assert "[bold]loja[/]" in saldo("connection", "list").out


def test_consumers_are_listed_with_what_they_are_behind(saldo: Saldo, listener: Listener) -> None:
    told = {"stream": "channels.sales.v1", "group": "g", "reason": "", "braked": False, "lag": {"0": 3, "1": 4}}
    listener.say("GET", "consumers", [told])
    assert [row["behind"] for row in saldo("consumer", "list", "--json").json] == [7, 7, 7]
