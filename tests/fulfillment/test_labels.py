"""Labels are read back: barcodes from the rendered page, fields from the printer's commands."""

import dataclasses
import re
from typing import Any

import pypdfium2
import pytest
import zxingcpp
from hypothesis import given, settings
from hypothesis import strategies as st

from services.fulfillment.labels import Label, Place, in_fours, pdf, zpl
from services.fulfillment.tracking import tracking_code

KEY = "35260112345678000195550010000012341000012345"
LETTERED_KEY = "35260712ABC34501DE35550010000012341000012345"
LABEL = Label(
    shipment_id="0198c0de-7a51-7c3e-9f00-5d1f4c2b7a10:s1",
    tracking_code=tracking_code(12345678),
    carrier="ECT",
    service="SEDEX 10",
    weight_g=1250,
    recipient=Place("Comprador Exemplo", "Rua São João", "100", "ap 12", "Boa Vista", "Recife", "PE", "50000-123"),
    sender=Place("Loja de Exemplo", "Av. do Comércio", "1", "", "Centro", "São Paulo", "SP", "01001-000"),
    invoice_key=KEY,
)
printed = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=80)
places = st.builds(Place, *[printed] * 7, postal_code=st.from_regex(r"[0-9]{5}-[0-9]{3}", fullmatch=True))
labels = st.builds(
    Label,
    shipment_id=st.from_regex(r"[0-9a-f-]{8,40}:s[1-9]", fullmatch=True),
    tracking_code=st.one_of(
        st.integers(0, 10**8 - 1).map(tracking_code), st.from_regex(r"[A-Z0-9][A-Z0-9.-]{2,33}", fullmatch=True)
    ),
    carrier=printed,
    service=printed,
    weight_g=st.integers(0, 10**6),
    recipient=places,
    sender=places,
    invoice_key=st.sampled_from(["", KEY, LETTERED_KEY]),
)


def read(page: bytes) -> tuple[dict[str, set[str]], str, list[tuple[float, ...]]]:
    """Barcodes by format, the text, and where each character lies, of a label's only page."""
    document = pypdfium2.PdfDocument(page)
    try:
        assert len(document) == 1
        assert [round(side / 72 * 25.4) for side in document[0].get_size()] == [100, 150]
        image = document[0].render(scale=4).to_pil().convert("L")
        words = document[0].get_textpage()
        text = words.get_text_bounded()
        boxes = [words.get_charbox(place) for place in range(words.count_chars())]
        words.close()
    finally:
        document.close()
    codes: dict[str, set[str]] = {}
    for one in zxingcpp.read_barcodes(image):
        codes.setdefault("square" if "QR" in str(one.format).upper() else "linear", set()).add(one.text)
    return codes, text, boxes


def test_the_barcodes_of_the_page_are_read_back_and_its_text_is_there() -> None:
    codes, text, _ = read(pdf.draw(LABEL))
    assert codes == {"linear": {"SD123456785BR", "50000123"}, "square": {LABEL.shipment_id}}
    for wanted in ("ECT", "SEDEX 10", "1,250 kg", "NF-e: 1234 / série 1", in_fours(KEY), LABEL.tracking_code):
        assert wanted in text
    for wanted in ("Comprador Exemplo", "Rua São João, 100 - ap 12", "Boa Vista", "Recife / PE", "50000-123 BR"):
        assert wanted in text
    assert "Loja de Exemplo" in text
    assert "Av. do Comércio, 1" in text


def test_the_same_label_is_the_same_file() -> None:
    assert pdf.draw(LABEL) == pdf.draw(LABEL)


def test_without_an_invoice_the_page_speaks_of_none() -> None:
    _, text, _ = read(pdf.draw(dataclasses.replace(LABEL, invoice_key="")))
    assert "NF-e" not in text


def test_the_key_of_a_company_whose_tax_id_has_letters_is_printed() -> None:
    label = dataclasses.replace(LABEL, invoice_key=LETTERED_KEY)
    _, text, _ = read(pdf.draw(label))
    for wanted in ("NF-e: 1234 / série 1", in_fours(LETTERED_KEY)):
        assert wanted in text
        assert wanted in of(zpl.draw(label), "^A0")


@pytest.mark.parametrize("given_code", ["01000000", "01000-000", "01.000-000"])
def test_a_postcode_is_printed_as_people_write_it(given_code: str) -> None:
    label = dataclasses.replace(LABEL, recipient=dataclasses.replace(LABEL.recipient, postal_code=given_code))

    codes, text, _ = read(pdf.draw(label))

    assert "01000-000 BR" in text
    assert "^FD01000-000 BR^FS" in zpl.draw(label)
    # The barcode has the digits alone, for the sorting machine.
    assert "01000000" in codes["linear"]


def test_a_postcode_abroad_is_no_barcode_of_ours() -> None:
    abroad = dataclasses.replace(LABEL.recipient, postal_code="EC1A 1BB", country="GB")
    codes, text, _ = read(pdf.draw(dataclasses.replace(LABEL, recipient=abroad)))
    assert codes["linear"] == {LABEL.tracking_code}
    assert "EC1A 1BB GB" in text


@settings(max_examples=15, deadline=None)
@given(labels)
def test_whatever_is_printed_the_barcodes_stay_readable_and_no_letter_leaves_the_page(label: Label) -> None:
    codes, _, boxes = read(pdf.draw(label))
    assert codes == {"linear": {label.tracking_code, label.postcode_digits}, "square": {label.shipment_id}}
    assert all(left >= 0 and bottom >= 0 and right <= 284 and top <= 426 for left, bottom, right, top in boxes)


def test_letters_that_a_page_lacks_lose_their_accents_or_become_a_question_mark() -> None:
    assert pdf.printable("Ação\n€ Śęk 東\x00") == "Ação € Sek ??"


def fields(commands: str) -> list[tuple[tuple[int, int], str, str]]:
    """((x, y), the commands between, data) of every data field, with the hexadecimal escapes undone."""
    found = []
    for x, y, between, data in re.findall(r"\^FO(\d+),(\d+)((?:\^(?!F[DS])[^^]*)*)\^FH_\^FD([^^]*)\^FS", commands):
        octets = re.sub(rb"_([0-9A-F]{2})", lambda hexed: bytes([int(hexed[1], 16)]), data.encode())
        found.append(((int(x), int(y)), between, octets.decode()))
    return found


def of(commands: str, kind: str) -> list[str]:
    return [data for _, between, data in fields(commands) if kind in between]


def test_the_printer_gets_every_field() -> None:
    commands = zpl.draw(LABEL)
    assert commands.startswith("^XA\n^CI28")
    assert commands.endswith("^XZ\n")
    assert of(commands, "^BC") == ["SD123456785BR", "50000123"]
    assert of(commands, "^BQ") == [f"MA,{LABEL.shipment_id}"]
    texts = of(commands, "^A0")
    for wanted in ("ECT", "SEDEX 10", "Peso: 1,250 kg", "NF-e: 1234 / série 1", in_fours(KEY), "SD123456785BR"):
        assert wanted in texts
    recipient = texts[texts.index("DESTINATÁRIO") : texts.index("REMETENTE")]
    lines = ["Comprador Exemplo", "Rua São João, 100 - ap 12", "Boa Vista", "Recife / PE", "50000-123 BR"]
    assert recipient == ["DESTINATÁRIO", *lines]
    assert texts[-4:] == ["Av. do Comércio, 1", "Centro", "São Paulo / SP", "01001-000 BR"]


@given(labels)
def test_no_text_becomes_a_command(label: Label) -> None:
    commands = zpl.draw(label)
    assert "~" not in commands
    assert set(re.findall(r"\^[A-Z0-9]{2}", commands)) <= {
        "^XA", "^XZ", "^CI", "^PW", "^LL", "^LH", "^FO", "^A0", "^FH", "^FD", "^FS", "^BY", "^BC", "^BQ", "^GB",
    }  # fmt: skip
    plain = "".join(sign if sign.isprintable() else " " for sign in label.recipient.name)
    assert plain in of(commands, "^A0")
    assert all(x < 812 and y < 1218 for (x, y), _, _ in fields(commands))


def test_an_address_with_the_printers_own_signs_is_printed_as_it_is() -> None:
    name = "^XZ~JA_5E Loja"
    commands = zpl.draw(dataclasses.replace(LABEL, recipient=dataclasses.replace(LABEL.recipient, name=name)))
    assert commands.count("^XZ") == 1
    assert name in of(commands, "^A0")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tracking_code": ""}, "tracking code"),
        ({"tracking_code": "SD 1^XZ"}, "tracking code"),
        ({"tracking_code": "A" * 35}, "tracking code"),
        ({"invoice_key": "123"}, "44 places, digits or capital letters"),
        ({"invoice_key": KEY.lower().replace("0", "a")}, "44 places, digits or capital letters"),
        ({"recipient": dataclasses.replace(LABEL.recipient, postal_code="50000-12")}, "postcode"),
    ],
)
def test_a_label_that_nobody_could_read_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(LABEL, **change)
