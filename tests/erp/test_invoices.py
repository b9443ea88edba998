"""Access keys and NF-e: what is right is taken, and whatever is wrong is named, all of it."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.erp.invoices import (
    STATES,
    XML_BYTES_MAX,
    Invoice,
    check,
    check_key,
    key_digit,
    normalize_key,
    parse_key,
    read_xml,
)
from tests.erp.given import LETTERED_TAX_ID, NOW, TAX_ID, key, xml

# The access key that the NF-e's manual (MOC 7.0, annex I) computes its check digit for.
PUBLISHED = "52060433009911002506550120000007800267301615"

keys = st.builds(
    key,
    state=st.sampled_from(sorted(STATES)),
    yymm=st.builds("{:02}{:02}".format, st.integers(27, 99), st.integers(1, 12)),
    tax_id=st.from_regex(r"[0-9A-Z]{12}[0-9]{2}", fullmatch=True),
    model=st.sampled_from(["55", "65"]),
    series=st.integers(0, 999),
    number=st.integers(1, 999_999_999),
)


def judged(invoice: Invoice, **fields: object) -> list[str]:
    told = {"tax_ids": {TAX_ID}, "due_minor": 5000, "currency": "BRL", "now": NOW}
    return check(invoice, **(told | fields))  # type: ignore[arg-type]


def test_the_digit_is_the_one_that_was_published() -> None:
    assert key_digit(PUBLISHED[:43]) == PUBLISHED[43]


@given(keys)
def test_a_key_that_was_made_by_the_rule_is_right(text: str) -> None:
    assert check_key(text) == []
    assert "".join(parse_key(text)) == text


@given(keys, st.integers(0, 43), st.sampled_from("0123456789"))
def test_one_mistyped_digit_is_noticed(text: str, place: int, digit: str) -> None:
    wrong = text[:place] + digit + text[place + 1 :]
    # Mod 11 maps two remainders to the digit 0, and letters more than 11 apart in code may stand for one another.
    if not text[place].isdigit() or wrong == text or key_digit(wrong[:43]) == wrong[43]:
        return
    assert check_key(wrong)


@given(st.text(max_size=60))
def test_any_text_is_judged_without_an_error(text: str) -> None:
    assert check_key(normalize_key(text))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (key()[:-1], "43 characters"),
        (key(state="10"), "no state of Brazil"),
        (key(yymm="2613"), "month 13"),
        (key(yymm="2600"), "month 00"),
        (key(model="57"), "model 57"),
        (key(number=0), "number 0"),
        (key(yymm="2606", tax_id=LETTERED_TAX_ID), "letters before July 2026"),
        (f"A{key()[1:]}", "must be digits"),
        (key()[:43] + str((int(key()[43]) + 1) % 10), "check digit"),
    ],
)
def test_each_fault_of_a_key_is_named(text: str, reason: str) -> None:
    assert any(reason in told for told in check_key(text))


def test_letters_are_right_from_july_2026() -> None:
    assert check_key(key(yymm="2607", tax_id=LETTERED_TAX_ID)) == []


def test_all_faults_are_told_at_once() -> None:
    text = key(state="10", model="57", yymm="2613", number=0)
    assert len(check_key(text[:43] + str((int(text[43]) + 1) % 10))) == 5


def test_a_key_as_people_copy_it_is_read() -> None:
    spaced = " ".join(key()[place : place + 4] for place in range(0, 44, 4))
    assert normalize_key(spaced) == normalize_key(f"NFe{key()}") == key()


def test_an_invoice_that_agrees_is_taken() -> None:
    assert judged(Invoice(key(), 5000, NOW)) == []


def test_what_does_not_agree_with_the_order_is_told_all_at_once() -> None:
    reasons = judged(Invoice(key(tax_id=LETTERED_TAX_ID, yymm="2608"), 4999, NOW + timedelta(days=1)))
    assert len(reasons) == 4
    assert "saldo company add" in judged(Invoice(key(), 5000, NOW), tax_ids=set())[0]
    assert "in EUR" in judged(Invoice(key(), 5000, NOW), currency="EUR")[0]
    assert judged(Invoice(key(), 1, NOW), currency="") == []


def test_the_month_of_a_key_is_that_of_brazil() -> None:
    midnight = NOW.replace(month=10, day=1, hour=1)
    assert judged(Invoice(key(yymm="2609"), 5000, midnight), now=midnight) == []
    assert judged(Invoice(key(yymm="2610"), 5000, midnight.replace(hour=6)), now=midnight.replace(hour=6)) == []
    assert judged(Invoice(key(yymm="2608"), 5000, midnight), now=midnight) != []


@pytest.mark.parametrize("text", [xml(), "\ufeff" + xml(), xml()[xml().index("<nfeProc") :]])
def test_an_nfe_is_read(text: str) -> None:
    invoice = read_xml(text)
    assert (invoice.key, invoice.total_minor) == (key(), 5000)
    assert invoice.issued_at == NOW.replace(hour=11)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (xml(CNPJ=LETTERED_TAX_ID), "emit/CNPJ"),
        (xml(nNF="8"), "ide/nNF"),
        (xml(cStat="110"), "did not authorise"),
        (xml(chNFe=key(number=8)), "another key"),
        (xml(total=""), "vNF"),
        (xml(total="-1e999999"), "vNF"),
        (xml(total="50.005"), "vNF of the XML has more than the 2 decimals"),
        (xml(total="-50.00"), "below zero"),
        (xml(issued="2026-09-14"), "dhEmi"),
        (xml(key()[:-1]), "43 characters"),
        (xml()[:-1], "not well-formed"),
        ("", "not well-formed"),
        ("<a/>", "no NF-e"),
        (xml().replace("<NFe>", "<NFe><infNFe/>"), "no NF-e"),
        (f"<!DOCTYPE a [<!ENTITY b 'c'>]>{xml()}", "document type"),
        ("<" * (XML_BYTES_MAX + 1), "bytes"),
    ],
)
def test_an_nfe_that_contradicts_itself_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as refused:
        read_xml(text)
    assert "A Buyer" not in str(refused.value)


def test_every_contradiction_is_told() -> None:
    with pytest.raises(ValueError, match="emit/CNPJ") as refused:
        read_xml(xml(CNPJ="1", nNF="9", cStat="301", total="x"))
    assert str(refused.value).count(";") == 3


@given(st.text(max_size=200) | st.builds(lambda cut: xml()[:cut], st.integers(0, len(xml()) - 1)))
def test_any_text_is_read_or_refused_in_words(text: str) -> None:
    with pytest.raises(ValueError, match="the XML"):
        read_xml(text)


@given(st.integers(0, 10**12))
def test_every_total_is_exact(cents: int) -> None:
    assert read_xml(xml(total=f"{cents // 100}.{cents % 100:02}")).total_minor == cents
