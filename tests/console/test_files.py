"""A file is judged as a whole: each bad row is named with its line and its reason."""

import pytest

from services.console.files import parse_components, parse_items, parse_takeon

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
