"""Access keys of invoices, and what an NF-e says. Pure.

Sources: Manual de Orientação do Contribuinte of the NF-e (layout 4.00): the access key, its check digit, the XML; IN
RFB 2.229/2024 and Nota Técnica 2025.001: a CNPJ may hold letters from July 2026. Signatures are not verified.
"""

import re
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple
from xml.etree import ElementTree as ET

from services.border.reading import minor, moment
from services.border.tax_ids import mod_11

CURRENCY: Final = "BRL"
XML_BYTES_MAX: Final = 1_000_000
ISSUED_SINCE: Final = datetime(2005, 9, 30, tzinfo=UTC)
"""Ajuste SINIEF 7/05 of this day began the NF-e. A key has two digits for its year: no other century may fit it."""
LETTERS_SINCE: Final = "2607"
CLOCK_TOLERANCE: Final = timedelta(minutes=5)
STATES: Final = frozenset(
    ("11", "12", "13", "14", "15", "16", "17", "21", "22", "23", "24", "25", "26", "27", "28", "29", "31", "32", "33",
     "35", "41", "42", "43", "50", "51", "52", "53")
)  # fmt: skip
"""IBGE codes of the 26 states and the federal district."""
MODELS: Final = frozenset(("55", "65"))
"""NF-e, and the NFC-e of retail."""
AUTHORIZED: Final = frozenset(("100", "150"))
"""Answers of the tax authority that let goods go: authorised, and authorised late."""

_KEY: Final = re.compile(r"(\d{2})(\d{4})([0-9A-Z]{12}\d{2})(\d{2})(\d{3})(\d{9})(\d)(\d{8})(\d)", re.ASCII)
_NAMESPACE: Final = "{http://www.portalfiscal.inf.br/nfe}"
_OFFSETS: Final = (timedelta(hours=-5), timedelta(hours=-2))
"""Brazil's westernmost and easternmost hours: the month of a key is the issuer's own."""


class Key(NamedTuple):
    """The parts of an access key. `yymm` is year and month of issue, `tax_id` the issuer's CNPJ."""

    state: str
    yymm: str
    tax_id: str
    model: str
    series: str
    invoice_no: str
    emission: str
    code: str
    digit: str


@dataclass(frozen=True, slots=True)
class Invoice:
    """What is known of an invoice before it is judged: minor units of BRL, a moment in UTC."""

    key: str
    total_minor: int
    issued_at: datetime


def key_digit(text: str) -> str:
    """The check digit of the first 43 places of a key: mod 11, weights 2 to 9 from the right, codes less 48."""
    return mod_11(text)


def normalize_key(text: str) -> str:
    """A key as people copy it (spaces, small letters, `NFe` in front) as it is stored."""
    plain = re.sub(r"\s", "", text).upper()
    return plain.removeprefix("NFE") if len(plain) == 47 else plain


def parse_key(text: str) -> Key:
    """The parts of a normalised key. Raises `ValueError` where its places do not hold what they must."""
    if len(text) != 44:
        raise ValueError(f"the key has {len(text)} characters, not 44")
    if not (match := _KEY.fullmatch(text)):
        raise ValueError("the key must be digits; only the first 12 places of the issuer's tax id may be letters")
    return Key(*match.groups())


def check_key(text: str) -> list[str]:
    """Everything that is wrong with a normalised key by itself."""
    try:
        key = parse_key(text)
    except ValueError as error:
        return [str(error)]
    reasons = []
    if key.digit != key_digit(text[:43]):
        reasons.append("the check digit of the key is wrong: a character was mistyped")
    if key.state not in STATES:
        reasons.append(f"the key begins with {key.state}, which is no state of Brazil")
    if not "01" <= key.yymm[2:] <= "12":
        reasons.append(f"the key names month {key.yymm[2:]}")
    elif not key.tax_id.isdigit() and key.yymm < LETTERS_SINCE:
        reasons.append("the issuer's tax id holds letters before July 2026")
    if key.model not in MODELS:
        reasons.append(f"the key is of model {key.model}, not 55 (NF-e) or 65 (NFC-e)")
    if not int(key.invoice_no):
        reasons.append("the invoice has number 0")
    return reasons


def check(
    invoice: Invoice, *, tax_ids: Collection[str], due_minor: int | None, currency: str, now: datetime
) -> list[str]:
    """Every reason why this cannot be the invoice of an order that is due `due_minor`; none if it can.

    `tax_ids` are the company's own. An order without a price (None) takes any sum: orders has a person compare them.
    """
    reasons = check_key(invoice.key)
    if not tax_ids:
        reasons.append("no tax id of this company is known: add it with `saldo company add`")
    elif len(invoice.key) == 44 and invoice.key[6:20] not in tax_ids:
        reasons.append("the tax id in the key is not one of this company")
    if currency and currency != CURRENCY:
        reasons.append(f"the order is in {currency}: an NF-e is in {CURRENCY}")
    elif currency and due_minor is not None and invoice.total_minor != due_minor:
        reasons.append(f"the invoice is over {invoice.total_minor} cents, the order over {due_minor}")
    if invoice.issued_at > now + CLOCK_TOLERANCE:
        reasons.append("the moment of issue has not come yet")
    if invoice.issued_at < ISSUED_SINCE:
        reasons.append(f"the moment of issue is before {ISSUED_SINCE:%Y-%m-%d}, when there was no NF-e")
    elif len(invoice.key) == 44 and invoice.key[2:6] not in _months(invoice.issued_at):
        reasons.append("the month in the key is not the month of issue: give the moment of issue")
    return reasons


def _months(issued_at: datetime) -> set[str]:
    return {f"{issued_at + offset:%y%m}" for offset in _OFFSETS}


def read_xml(text: str) -> Invoice:
    """Key, total and moment of issue of an NF-e (`NFe`, or `nfeProc` with the authority's answer).

    Raises `ValueError` with everything that is wrong, without repeating what the document says. A document type
    declaration is refused before parsing: with none, there are no entities to expand and nothing to fetch.
    """
    if len(text.encode(errors="replace")) > XML_BYTES_MAX:
        raise ValueError(f"the XML is over {XML_BYTES_MAX} bytes")
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ValueError("the XML holds a document type declaration: an NF-e has none")
    try:
        # As text, so that no encoding named inside can hide a declaration from the look above.
        root = ET.fromstring(text.removeprefix("\ufeff"))  # noqa: S314 - entities are refused above
    except (ET.ParseError, ValueError):
        raise ValueError("the XML is not well-formed") from None
    found = list(root.iter(f"{_NAMESPACE}infNFe"))
    if root.tag not in {f"{_NAMESPACE}NFe", f"{_NAMESPACE}nfeProc"} or len(found) != 1:
        raise ValueError("the XML is no NF-e: one infNFe below NFe or nfeProc is expected")
    return _read(root, found[0])


def _read(root: "ET.Element[str]", document: "ET.Element[str]") -> Invoice:
    reasons: list[str] = []

    def told(path: str) -> str:
        place = "/".join(_NAMESPACE + part for part in path.split("/"))
        return (document.findtext(place) or "").strip()

    key = document.get("Id", "").removeprefix("NFe")
    try:
        parts: Key | None = parse_key(key)
    except ValueError as error:
        parts = None
        reasons.append(str(error))
    if parts:
        said = {"emit/CNPJ": parts.tax_id, "ide/mod": parts.model, "ide/cUF": parts.state}
        numbers = {"ide/nNF": parts.invoice_no, "ide/serie": parts.series}
        wrong = [path for path, value in said.items() if told(path).upper() != value]
        wrong += [path for path, value in numbers.items() if told(path).zfill(len(value)) != value]
        reasons += [f"{path} of the XML is not what its key says" for path in wrong]
    for answer in root.iter(f"{_NAMESPACE}infProt"):
        if answer.findtext(f"{_NAMESPACE}chNFe") != key:
            reasons.append("the authority's answer in the XML is about another key")
        if answer.findtext(f"{_NAMESPACE}cStat") not in AUTHORIZED:
            reasons.append("the authority did not authorise this invoice")
    total_minor, issued_at = 0, datetime.min.replace(tzinfo=UTC)
    try:
        total_minor = minor(told("total/ICMSTot/vNF") or "none", CURRENCY, "total/ICMSTot/vNF of the XML", exact=True)
    except ValueError as error:
        reasons.append(str(error))
    if total_minor < 0:
        reasons.append("total/ICMSTot/vNF of the XML is below zero")
    try:
        issued_at = moment(told("ide/dhEmi"), "ide/dhEmi of the XML")
    except ValueError as error:
        reasons.append(str(error))
    if reasons:
        raise ValueError("; ".join(reasons))
    return Invoice(key, total_minor, issued_at)
