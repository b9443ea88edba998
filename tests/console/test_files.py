"""A file is judged as a whole: each bad row is named with its line and its reason."""

from typing import Any

import pytest

from services.console.files import (
    Parsed,
    parse_components,
    parse_invoices,
    parse_items,
    parse_products,
    parse_rates,
    parse_takeon,
)

SKUS = {"A": False, "B": False, "KIT": True}


def takeon(text: str) -> tuple[list[tuple[int, str, str, int]], list[tuple[int, str]]]:
    parsed = parse_takeon(text.encode(), skus=SKUS, locations=["main", "loja"])
    rows = [(line, message.sku, message.location, message.quantity) for line, message in parsed.rows]
    return rows, [(rejected.line, rejected.reason) for rejected in parsed.rejected]


def test_a_good_file_with_columns_in_any_order() -> None:
    rows, rejected = takeon("quantity;sku;location\n10;A;main\n5;A;loja\n")
    assert rejected == []
    assert rows == [(2, "A", "main", 10), (3, "A", "loja", 5)]


def test_a_byte_order_mark_of_a_spreadsheet_is_no_column() -> None:
    rows, rejected = takeon("\ufeffsku,location,quantity\r\nA,main,1\r\n")
    assert (rows, rejected) == ([(2, "A", "main", 1)], [])


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("X,main,1", "sku X is not an item"),
        ("KIT,main,1", "sku KIT is a kit"),
        ("A,nowhere,1", "location nowhere is not known"),
        ("A,main,one", "quantity must be a whole number, not one"),
        ("A,main,1.5", "quantity must be a whole number, not 1.5"),
        ("A,main,0", "quantity: Input should be greater than 0"),
        ("A,main,-3", "quantity: Input should be greater than 0"),
        (",main,3", "sku is empty"),
        ("A,main", "the row has not as many cells as the header"),
        ("A,main,1,2", "the row has not as many cells as the header"),
    ],
)
def test_each_bad_row_has_its_line_and_reason(row: str, reason: str) -> None:
    rows, rejected = takeon(f"sku,location,quantity\nB,main,1\n{row}\n")
    assert rows == [(2, "B", "main", 1)]
    ((line, told),) = rejected
    assert line == 3
    assert told.startswith(reason)


def test_the_same_sku_and_location_twice_is_rejected() -> None:
    _, rejected = takeon("sku,location,quantity\nA,main,1\nA,main,2\n")
    assert rejected == [(3, "sku A at location main is on line 2 already")]


def test_a_wrong_header_says_which_columns_there_are() -> None:
    rows, rejected = takeon("sku,place,quantity\nA,main,1\n")
    assert rows == []
    ((line, reason),) = rejected
    assert line == 1
    assert "column location is missing" in reason
    assert "column place is not known" in reason
    assert "sku, location, quantity, pool, reference" in reason


def test_a_file_in_another_encoding_is_rejected_with_its_line() -> None:
    parsed = parse_takeon("sku,location,quantity\nÇ,main,1\n".encode("latin-1"), skus=SKUS, locations=["main"])
    assert [(one.line, one.reason) for one in parsed.rejected] == [(2, "the file is not UTF-8: save it as UTF-8")]


def test_kits_come_after_their_components_and_must_have_them() -> None:
    parsed = parse_items(b"sku,name,components\nK,Kit,A:1 B:2\nA,Apple,\nB,Pear,\nL,Lost,Z:1\nN,Nested,K:1\n")
    assert [message.sku for _, message in parsed.rows] == ["A", "B", "K"]
    assert [rejected.line for rejected in parsed.rejected] == [5, 6]
    assert "components Z must be items" in parsed.rejected[0].reason


def test_components_are_sku_and_quantity() -> None:
    assert [(part.sku, part.quantity) for part in parse_components("A:1 B:C:2")] == [("A", 1), ("B:C", 2)]
    with pytest.raises(ValueError, match="must be SKU:QUANTITY"):
        parse_components("A")
    with pytest.raises(ValueError, match="A comes twice"):
        parse_components("A:1 B:1 A:2")


def told(parsed: Parsed[Any]) -> list[tuple[int, str]]:
    return [(rejected.line, rejected.reason) for rejected in parsed.rejected]


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ("sku,name,sku", "column sku comes twice"),
        ("sku,name,SKU ", "column sku comes twice"),
        ("sku,name,weight_g,weight_g,colour", "column colour is not known; column weight_g comes twice"),
    ],
)
def test_a_column_that_comes_twice_is_named(header: str, reason: str) -> None:
    ((line, said),) = told(parse_items(f"{header}\nA,B,1,2,3\n".encode()))
    assert line == 1
    assert said.startswith(reason)


@pytest.mark.parametrize("raw", ["sku,name\nA,B\n".encode("utf-16-le"), b"sku,name\nA\0,B\n", b"sku\0,name\nA,B\n"])
def test_a_file_with_nul_is_no_text(raw: bytes) -> None:
    ((_, reason),) = told(parse_items(raw))
    assert reason == "the file is not UTF-8: save it as UTF-8"


@pytest.mark.parametrize("sign", ["\u200b", "\u202e", "\ufeff", "\u00ad"])
def test_two_texts_that_look_the_same_are_the_same(sign: str) -> None:
    ((line, reason),) = told(parse_items(f"sku,name\nA{sign},Apple\nA,Apple\n".encode()))
    assert (line, f"U+{ord(sign):04X}" in reason) == (2, True)
    # What is written with signs of no shape of its own is written so.
    assert told(parse_items("sku,name\nA,\U0001f469\u200d\U0001f373\n".encode())) == []


@pytest.mark.parametrize(("word", "active"), [("", True), ("Sim", True), ("1", True), ("N", False), ("NÃO", False)])
def test_yes_is_yes_and_no_is_no(word: str, active: bool) -> None:
    ((_, item),) = parse_items(f"sku,name,active\nA,Apple,{word}\n".encode()).rows
    assert item.active is active


def test_what_says_neither_is_not_taken_for_yes() -> None:
    parsed = parse_items(b"sku,name,active\nA,Apple,perhaps\n")
    assert told(parsed) == [(2, "active must be yes or no, not perhaps")]


def test_rows_that_a_spreadsheet_leaves_empty_hold_nothing() -> None:
    parsed = parse_items(b"sku,name\nA,Apple\n,\n,\n")
    assert ([line for line, _ in parsed.rows], parsed.rejected) == ([2], [])


RATE = {
    "carrier": "ECT", "service": "PAC", "from_code": "01000000", "to_code": "01999999", "up_to_g": "500",
    "price": "19.90", "currency": "BRL", "days_min": "1", "days_max": "2",
}  # fmt: skip


def rate(**changes: str) -> Parsed[dict[str, Any]]:
    row = RATE | changes
    return parse_rates(f"{','.join(row)}\n{','.join(row.values())}\n".encode())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"price": "-19.90"}, "price is below nothing"),
        ({"price": "1_9.90"}, "price must be an amount"),
        ({"price": "１９.９０"}, "price must be an amount"),
        ({"price": "1e2"}, "price must be an amount"),
        ({"price": "NaN"}, "price must be an amount"),
        ({"price": "19.905"}, "price has more than the 2 decimals"),
        ({"up_to_g": "-500"}, "up_to_g must be at least 1"),
        ({"up_to_g": "9" * 18}, "up_to_g: 999999999999999999 is out of range"),
        ({"days_min": "-1"}, "up_to_g must be at least 1, and the days from 0 on"),
        ({"days_min": "3"}, "up_to_g must be at least 1, and the days from 0 on"),
        ({"carrier": "E\x07CT"}, "carrier: holds a line break or another control character"),
    ],
)
def test_a_rate_that_cannot_be_is_rejected_with_its_line(changes: dict[str, str], reason: str) -> None:
    parsed = rate(**changes)
    ((line, said),) = told(parsed)
    assert (line, parsed.rows) == (2, [])
    assert said.startswith(reason)


def test_a_rate_is_taken_in_minor_units() -> None:
    ((_, row),) = rate().rows
    assert (row["price_minor"], row["up_to_g"]) == (1990, 500)


@pytest.mark.parametrize("row", ["A,title,-0.01", "A,ti\x1btle,1.00", f"A,{'t' * 1001},1.00", "A,title,R$ 1.00"])
def test_a_product_that_cannot_be_is_rejected(row: str) -> None:
    assert [line for line, _ in told(parse_products(f"sku,title,price\n{row}\n".encode(), "BRL"))] == [2]


@pytest.mark.parametrize(
    "row",
    ["1,k,-5.00,", "1,k,5,2026-02-30T00:00:00Z", "1,k,5,2026-02-28", "1,k,5,0001-01-01T00:00:00+23:00", "1,k,5_0,"],
)
def test_an_invoice_of_no_day_or_sum_is_rejected(row: str) -> None:
    assert [line for line, _ in told(parse_invoices(f"order,key,total,issued_at\n{row}\n".encode()))] == [2]
