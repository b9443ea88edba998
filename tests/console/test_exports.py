"""Exports of the journal are complete or absent; invoices and tax ids reach erp as they were given."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.console import journal
from tests.console.conftest import Listener, Printed

Saldo = Callable[..., Printed]
ORDER = {"order_id": "o-1", "external_id": "1001"}


def row(seq: int, **fields: Any) -> dict[str, Any]:
    told = {
        "seq": seq, "event_id": f"event-{seq}", "line": "sold:1", "at": "2026-09-14T12:00:00Z", "kind": "sale",
        "order_id": "o-1", "reference": "o-1", "sku": 'a "mug",\nblue', "quantity": 2, "amount_minor": 4000,
        "currency": "BRL", "from_account": "", "to_account": "",
    }  # fmt: skip
    return told | fields


PAGES = [[row(3), row(5, amount_minor=-500, quantity=None)], [row(6, kind="payment", amount_minor=3500, quantity=None)]]


@pytest.fixture
def erp(listener: Listener, monkeypatch: pytest.MonkeyPatch) -> Listener:
    """The listener, known as erp too."""
    monkeypatch.setenv("SALDO_ADMIN_ERP_URL", listener.url)
    listener.say("GET", "orders/1001", ORDER)
    return listener


def test_an_export_says_what_it_holds_and_is_whole(tmp_path: Path) -> None:
    told = journal.write(tmp_path / "export", "acme", 2, PAGES)

    assert (told["rows"], told["after"], told["to_seq"], told["complete"]) == (3, 2, 6, True)
    assert (told["first_event_id"], told["last_event_id"]) == ("event-3", "event-6")
    assert told["sums_minor"] == {"payment BRL": 3500, "sale BRL": 3500}
    assert told["units"] == {"payment": 0, "sale": 2}
    assert journal.read(tmp_path / "export") == []
    first = journal.decode((tmp_path / "export" / "journal-000001.csv").read_bytes())
    assert first[0] == {name: str(value) for name, value in row(3).items()}


def test_an_empty_journal_is_an_export_too(tmp_path: Path) -> None:
    assert journal.write(tmp_path, "acme", 7, [])["to_seq"] == 7
    assert journal.read(tmp_path) == []


TEXT = st.characters(exclude_categories=("Cs",), exclude_characters="\0")
WHOLE = {f"journal-{number:06}.csv": journal.encode(rows) for number, rows in enumerate(PAGES, start=1)}


def manifest() -> bytes:
    tally = journal.Tally("acme", 2)
    for name, raw in WHOLE.items():
        tally.add(name, raw)
    return (json.dumps(tally.manifest(), indent=2, ensure_ascii=False) + "\n").encode()


@given(st.data())
def test_no_byte_changes_unnoticed(data: st.DataObject) -> None:
    files = {**WHOLE, journal.MANIFEST: manifest()}
    assert journal.check(files[journal.MANIFEST], WHOLE.items()) == []
    name = data.draw(st.sampled_from(sorted(files)))
    raw = bytearray(files[name])
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    files[name] = bytes(raw)
    assert journal.check(files.pop(journal.MANIFEST), files.items())


@given(st.lists(st.sampled_from(sorted(WHOLE)), max_size=3))
def test_no_page_is_missing_doubled_or_moved_unnoticed(names: list[str]) -> None:
    differences = journal.check(manifest(), [(name, WHOLE[name]) for name in names])
    assert (differences == []) == (names == sorted(WHOLE))


# The child ends itself before or after the n-th renaming: between any two steps that others can see.
DYING = """
import os, pathlib, sys
from services.console import journal
from tests.console.test_exports import PAGES
step, when = int(sys.argv[2]), sys.argv[3]
renames, rename = 0, pathlib.Path.replace
def dying(self, target):
    global renames
    renames += 1
    if renames == step and when == "before":
        os.kill(os.getpid(), 9)
    rename(self, target)
    if renames == step:
        os.kill(os.getpid(), 9)
pathlib.Path.replace = dying
journal.write(pathlib.Path(sys.argv[1]), "acme", 2, PAGES)
"""


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", [1, 2, 3])
def test_killed_in_the_middle_an_export_is_absent_or_complete(tmp_path: Path, step: int, when: str) -> None:
    folder = tmp_path / "export"
    root = Path(__file__).parents[2]
    ended = subprocess.run([sys.executable, "-c", DYING, str(folder), str(step), when], cwd=root, check=False)

    assert ended.returncode == -9
    assert journal.read(folder) == ([] if (step, when) == (3, "after") else None)
    if (step, when) != (3, "after"):
        journal.write(folder, "acme", 2, PAGES)
        assert journal.read(folder) == []
        assert sorted(path.name for path in folder.iterdir()) == [*sorted(WHOLE), journal.MANIFEST]


def test_an_export_is_never_written_over(tmp_path: Path) -> None:
    journal.write(tmp_path / "one", "acme", 0, PAGES)
    with pytest.raises(journal.FolderTaken, match="complete export"):
        journal.write(tmp_path / "one", "acme", 0, PAGES)
    (tmp_path / "notes.txt").write_text("mine")
    shutil.rmtree(tmp_path / "one")
    with pytest.raises(journal.FolderTaken, match=r"notes\.txt"):
        journal.write(tmp_path, "acme", 0, PAGES)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_the_journal_is_written_and_checked(saldo: Saldo, erp: Listener, tmp_path: Path) -> None:
    erp.say("GET", "journal", {"rows": PAGES[0], "next": None})
    folder = str(tmp_path / "export")

    written = saldo("export", "journal", folder, "--after", "2", "--tenant", "acme", "--json")
    assert (written.code, written.json["rows"]) == (0, 2)
    assert erp.asked == [("GET", "journal", {"tenant": "acme", "after": "2", "limit": "10000"}, None)]
    assert "whole: 2 rows up to row 5" in saldo("export", "check", folder, "--tenant", "acme").out
    assert saldo("export", "check", folder, "--tenant", "globex").code == 1
    assert "complete export" in saldo("export", "journal", folder).err

    page = tmp_path / "export" / "journal-000001.csv"
    page.write_bytes(page.read_bytes().replace(b"4000", b"4001"))
    changed = saldo("export", "check", folder, "--tenant", "acme")
    assert changed.code == 1
    assert "sums_minor: the manifest says" in changed.err


def test_a_service_that_only_the_environment_names_is_asked(
    saldo: Saldo, erp: Listener, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for service in ("INVENTORY", "ORDERS", "CHANNELS"):
        monkeypatch.delenv(f"SALDO_ADMIN_{service}_URL")
    pages = [{"rows": PAGES[0], "next": 5}, {"rows": PAGES[1], "next": None}]
    erp.say_each("GET", "journal", pages)
    printed = saldo("export", "journal", str(tmp_path / "export"), "--json")
    assert (printed.code, printed.json["rows"], printed.json["to_seq"]) == (0, 3, 6)
    assert [query["after"] for _, _, query, _ in erp.asked] == ["0", "5"]
    assert "the address of inventory is not known (known: erp)" in saldo("item", "list").err


def test_a_folder_without_a_manifest_is_no_export(saldo: Saldo, tmp_path: Path) -> None:
    printed = saldo("export", "check", str(tmp_path))
    assert printed.code == 1
    assert "holds no export" in printed.err


def test_an_export_that_a_service_breaks_off_is_absent(saldo: Saldo, erp: Listener, tmp_path: Path) -> None:
    erp.say("GET", "journal", {"detail": "gone"}, 503)
    assert saldo("export", "journal", str(tmp_path)).code == 1
    assert saldo("export", "check", str(tmp_path)).code == 1


def test_an_invoice_is_given_by_key_and_total_or_by_its_file(saldo: Saldo, erp: Listener, tmp_path: Path) -> None:
    erp.say("POST", "invoices", {"document_id": "d-1", "invoice_key": "1" * 44})
    (tmp_path / "nfe.xml").write_text("\ufeff<NFe/>", encoding="utf-8")

    by_key = saldo("order", "invoice", "1001", "--key", "1" * 44, "--total", "50.00", "--json")
    saldo("order", "invoice", "1001", "--file", str(tmp_path / "nfe.xml"), "--replaces", "2" * 44)

    assert (by_key.code, by_key.json["document_id"]) == (0, "d-1")
    assert [body for method, *_, body in erp.asked if method == "POST"] == [
        {"order_id": "o-1", "total_minor": 5000, "key": "1" * 44},
        {"order_id": "o-1", "xml": "<NFe/>", "replaces": "2" * 44},
    ]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "--key and --total"),
        (("--key", "1"), "--key and --total"),
        (("--key", "1", "--total", "a lot"), "write it as 50.00"),
        (("--key", "1", "--total", "50.004"), "--total has more than the 2 decimals of BRL: write it as 50.00"),
        (("--file", "/none.xml"), "cannot be read"),
    ],
)
def test_an_invoice_that_says_nothing_is_not_sent(
    saldo: Saldo, erp: Listener, arguments: tuple[str, ...], said: str
) -> None:
    printed = saldo("order", "invoice", "1001", *arguments)
    assert printed.code == 1
    assert said in printed.err
    assert erp.asked == []


def test_a_folder_of_invoices_is_given_each_to_the_order_that_it_names(
    saldo: Saldo, erp: Listener, tmp_path: Path
) -> None:
    erp.say("POST", "invoices", {"document_id": "d-1", "invoice_key": "1" * 44})
    (tmp_path / "1001.xml").write_text("<NFe/>")
    (tmp_path / "any.XML").write_text("<NFe><compra><xPed> 1001 </xPed></compra></NFe>")
    (tmp_path / "readme.txt").write_text("no invoice")

    printed = saldo("order", "invoices", "--files", str(tmp_path), "--json")

    assert printed.code == 0
    assert [row["order"] for row in printed.json] == ["1001", "1001"]
    assert [body for method, *_, body in erp.asked if method == "POST"] == [
        {"order_id": "o-1", "xml": "<NFe/>"},
        {"order_id": "o-1", "xml": "<NFe><compra><xPed> 1001 </xPed></compra></NFe>"},
    ]


def test_a_row_that_is_refused_leaves_the_others_alone(saldo: Saldo, erp: Listener, tmp_path: Path) -> None:
    erp.say("POST", "invoices", {"detail": "the order is not here yet"}, 409)
    (tmp_path / "all.csv").write_text(
        f"order;key;total;issued_at\n1001;{'1' * 44};50.00;2026-09-14T08:00:00-03:00\n1002;{'2' * 44};1.00;\n"
    )

    printed = saldo("order", "invoices", "--csv", str(tmp_path / "all.csv"), "--json")

    assert printed.code == 1
    assert "2 of 2 were refused" in printed.err
    assert ["not here yet" in row["refused"] for row in printed.json] == [True, False]
    assert [body for method, *_, body in erp.asked if method == "POST"] == [
        {"order_id": "o-1", "key": "1" * 44, "total_minor": 5000, "issued_at": "2026-09-14T11:00:00Z"},
    ]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("1001,1,a lot", "total must be an amount with a point before its decimals"),
        ("1001,1,1.005", "total has more than the 2 decimals of BRL"),
        (",1,1.00", "order is empty"),
        ("1001,1,-1.00", "total_minor"),
    ],
)
def test_a_file_of_invoices_is_judged_whole_before_any_is_sent(
    saldo: Saldo, erp: Listener, tmp_path: Path, row: str, said: str
) -> None:
    (tmp_path / "all.csv").write_text(f"order,key,total\n1000,1,1.00\n{row}\n")
    printed = saldo("order", "invoices", "--csv", str(tmp_path / "all.csv"))
    assert printed.code == 1
    assert f"line 3: {said}" in printed.err
    assert erp.asked == []


def test_where_invoices_come_from_is_said_once(saldo: Saldo, erp: Listener, tmp_path: Path) -> None:
    for arguments in ((), ("--files", str(tmp_path), "--csv", "all.csv"), ("--files", str(tmp_path / "none"))):
        assert saldo("order", "invoices", *arguments).code == 1
    assert erp.asked == []


def test_an_erp_is_added_with_a_login_from_a_file(saldo: Saldo, erp: Listener, tmp_path: Path) -> None:
    erp.say("PUT", "targets", {"target": "tryton"})
    login = tmp_path / "login.json"
    login.write_text('{"user": "saldo", "password": "synthetic"}')
    given = ("erp", "add", "tryton", "--base-url", "https://erp.example", "--database", "books", "--credentials")

    assert saldo(*given, str(login)).code == 0
    body = erp.asked[0][-1]
    assert (body["user"], body["password"], body["environment"]) == ("saldo", "synthetic", "production")
    login.write_text('{"user": "saldo"}')
    assert "must hold user and password" in saldo(*given, str(login)).err


def test_a_look_at_the_erp_ends_with_what_came_of_it(saldo: Saldo, erp: Listener) -> None:
    erp.say("POST", "targets/tryton/sync", {"asked_at": "2026-09-14T12:00:00Z"})
    told = {"target": "tryton", "looked_at": "2026-09-14T12:00:01Z", "waiting": 0, "told": {"error": "", "sales": {}}}
    erp.say("GET", "targets", {"targets": [told]})
    assert saldo("erp", "sync").code == 0

    erp.say("GET", "targets", {"targets": [told | {"told": {"error": "rpc: answered 401"}}]})
    failed = saldo("erp", "sync")
    assert failed.code == 1
    assert "answered 401" in failed.err


def test_every_reason_of_a_refused_invoice_is_shown(saldo: Saldo, erp: Listener) -> None:
    reasons = [{"type": "invoice", "loc": ["invoice"], "msg": reason} for reason in ("no state", "no month")]
    erp.say("POST", "invoices", {"detail": reasons}, 422)
    printed = saldo("order", "invoice", "1001", "--key", "1", "--total", "1")
    assert printed.code == 1
    assert "no state" in printed.err
    assert "no month" in printed.err


def test_a_company_s_tax_id_is_added(saldo: Saldo, erp: Listener) -> None:
    erp.say("POST", "companies", {"tax_ids": ["11222333000181"]})
    assert "11222333000181" in saldo("company", "add", "11.222.333/0001-81").out
    assert erp.asked == [("POST", "companies", {"tenant": "demo"}, {"tax_id": "11.222.333/0001-81"})]


@pytest.mark.parametrize("sku", ["=HYPERLINK(1)", "+1", "-1", "@SUM(1)", "\tx"])
def test_no_text_is_a_formula_in_a_spreadsheet(tmp_path: Path, sku: str) -> None:
    journal.write(tmp_path / "export", "acme", 2, [[row(3, sku=sku, amount_minor=-500)]])

    [shown] = journal.decode((tmp_path / "export" / "journal-000001.csv").read_bytes())
    assert (shown["sku"], shown["amount_minor"]) == (f"'{sku}", "-500")
    assert journal.read(tmp_path / "export") == []


@given(st.text(TEXT), st.text(TEXT))
def test_whatever_a_channel_calls_its_lines_the_page_can_be_read(line: str, sku: str) -> None:
    [shown] = journal.decode(journal.encode([row(3, line=line, sku=f"{sku}\r")]))
    assert shown["seq"] == "3"
