"""Card numbers are found wherever they stand; what is known to be none is left alone."""

import re
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.border.cards import contains_card, redact


def check_digit(digits: str) -> str:
    """Luhn, written as the standard tells it: from the right, every second digit doubled, nine taken off."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (2 if place % 2 == 0 else 1)
        total += value - 9 if value > 9 else value
    return str(-total % 10)


@st.composite
def cards(draw: st.DrawFn) -> str:
    body = draw(st.text("0123456789", min_size=12, max_size=18))
    number = body + check_digit(body)
    breaks = draw(st.lists(st.sampled_from(["", "", "", " ", "-"]), min_size=len(number), max_size=len(number)))
    return "".join(gap + digit for gap, digit in zip(["", *breaks[1:]], number, strict=True))


words = st.text(alphabet=st.characters(blacklist_categories=["N", "Cs"]), max_size=30)
texts = st.text(alphabet="0123456789 -.,abcdef\n", max_size=120)


@given(words, cards(), words)
def test_a_card_in_any_words_is_found_and_nothing_of_it_is_left(before: str, card: str, after: str) -> None:
    assert contains_card(f"{before}:{card}:{after}")
    assert redact(f"{before}:{card}:{after}") == f"{before}:[card]:{after}"


@given(st.integers(0, 10**6), cards(), st.integers(0, 10**6))
def test_a_card_beside_other_numbers_is_found(before: int, card: str, after: int) -> None:
    left = redact(f"{before} {card}-{after}")
    assert "[card]" in left
    assert card not in left


@given(cards())
def test_a_card_inside_a_longer_run_of_digits_is_none_and_neither_is_one_with_another_check_digit(card: str) -> None:
    digits = card.replace(" ", "").replace("-", "")
    assert not contains_card(digits.ljust(20, "1"))
    assert not contains_card(digits[:-1] + str((int(digits[-1]) + 1) % 10))


@given(texts | st.text())
def test_what_was_redacted_holds_no_card_and_what_holds_none_stays(text: str) -> None:
    left = redact(text)
    assert not contains_card(left)
    assert contains_card(text) is (left != text)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("4242424242424242", "[card]"),
        ('{"pan": "4242 4242-4242 4242"}', '{"pan": "[card]"}'),
        ("pm_4242424242424242_x", "pm_[card]_x"),
        ("378282246310005, 4222222222222 and 6304000000000000000", "[card], [card] and [card]"),
        ("4242  4242 4242 4242", "4242  4242 4242 4242"),
        ("4242 4242 4242 4242 4242 4242 4242 4242", "[card]"),
    ],
)
def test_known_numbers(text: str, left: str) -> None:
    assert redact(text) == left


@given(st.uuids(), st.binary(min_size=16, max_size=40), st.integers(0, 2**64 - 1))
def test_ids_are_no_cards(name: uuid.UUID, digest: bytes, span: int) -> None:
    for text in (str(name), digest.hex(), f"00-{name.hex}-{span:016x}-01", f"{{'id': '{name}'}}"):
        assert redact(text) == text


def test_ids_that_look_like_cards_are_none() -> None:
    for text in (
        "00000000-0000-7000-8424-242424242424",
        "00-4bf92f3577b34da6a3ce929d0e0e4736-4242424242424242-01",
        "0.4242424242424242",
    ):
        assert redact(text) == text
    assert redact("00000000-4242424242424242") == "00000000-[card]"


@given(
    cards(),
    st.characters(whitelist_categories=["L"]),
    st.sampled_from(["{letter}{card}", "{card}{letter}", "{letter}{card}{letter}"]),
)
def test_digits_that_a_letter_touches_are_no_card(card: str, letter: str, shape: str) -> None:
    digits = card.replace(" ", "").replace("-", "")
    text = shape.format(letter=letter, card=digits)
    assert redact(text) == text


@pytest.mark.parametrize(
    ("text", "digits"),
    [
        # The text of a Pix (BR Code) begins with 14 digits, and the length of the account in them is anything.
        *(
            (f"00020126{length}0014br.gov.bcb.pix0114+5561999999999520400005303986540510.005802BR", 14)
            for length in (35, 43, 50, 68, 76, 84, 92)
        ),
        # The key of an invoice (NF-e) of a company whose number has a letter.
        ("35260712345676A0019555001000001123145678901", 14),
        ("Chave 3526071122233349AB0155001000001123145678901.", 16),
    ],
)
def test_texts_of_pix_and_keys_of_invoices_are_no_cards(text: str, digits: int) -> None:
    run = re.search(r"[0-9]{13,}", text)
    assert run is not None
    assert (len(run[0]), contains_card(run[0])) == (digits, True)  # By its check digit alone it would be one.
    assert redact(text) == text


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("x4242 4242 4242 4242 4242", "x4242 [card]"),
        ("4242 4242 4242 4242 4242x", "[card] 4242x"),
        ("4242-4242-4242-4242x", "4242-4242-4242-4242x"),
        (r'{"note": "paid by\n4242424242424242"}', r'{"note": "paid by\n[card]"}'),
    ],
)
def test_a_letter_touches_one_group_of_digits_and_not_its_neighbours(text: str, left: str) -> None:
    assert redact(text) == left


@pytest.mark.parametrize(
    "pattern",
    ["1", "1 ", "1-", "12345678901 ", "1111 ", "a1", "0.", "abcdef01-", "4242424242424242 ", "f" * 31 + "-", "11 1x"],
)
def test_time_is_linear(pattern: str) -> None:
    # A quadratic scan of so many characters would take longer than a test may.
    text = pattern * (300_000 // len(pattern))
    assert not contains_card(redact(text))
