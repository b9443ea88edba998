"""The parcel's label, of 100 × 150 mm: what is on it, whichever printer it is for."""

import contextlib
import re
from dataclasses import dataclass
from typing import Final

from contracts.erp.v1 import INVOICE_KEY_PATTERN
from services.fulfillment.rates import postcode

_CODE: Final = re.compile(r"[A-Z0-9][A-Z0-9.-]{2,33}")


@dataclass(frozen=True, slots=True)
class Place:
    """Sender or recipient."""

    name: str
    street: str
    house: str
    complement: str
    district: str
    city: str
    region: str
    postal_code: str
    country: str = "BR"

    def lines(self) -> tuple[str, ...]:
        """As printed below the name: street, district, city; what is empty is left out with its punctuation."""
        street = ", ".join(part for part in (self.street, self.house) if part)
        street = " - ".join(part for part in (street, self.complement) if part)
        city = " / ".join(part for part in (self.city, self.region) if part)
        return tuple(line for line in (street, self.district, city) if line)

    @property
    def postal(self) -> str:
        """The postcode and the country as printed: a Brazilian CEP as 01000-000, however it was given."""
        code = self.postal_code
        if self.country == "BR":
            with contextlib.suppress(ValueError):  # What is none is printed as it was given, for a person to see.
                digits = postcode(code)
                code = f"{digits[:5]}-{digits[5:]}"
        return f"{code} {self.country}".strip()


@dataclass(frozen=True, slots=True)
class Label:
    """What is printed. `tracking_code` is the linear barcode, `shipment_id` the square one; the invoice's key (NF-e, 44
    digits, and capitals where the issuer's tax id has some) is printed with its number, or nothing where the
    rule asks for none. Raises ValueError for a code that a scanner could not read, a key or a postcode that is none."""

    shipment_id: str
    tracking_code: str
    carrier: str
    service: str
    weight_g: int
    recipient: Place
    sender: Place
    invoice_key: str = ""

    def __post_init__(self) -> None:
        if _CODE.fullmatch(self.tracking_code) is None:
            raise ValueError("a tracking code has 3 to 34 capital letters, digits, points and hyphens")
        if self.invoice_key and INVOICE_KEY_PATTERN.fullmatch(self.invoice_key) is None:
            raise ValueError("an invoice's key has 44 places, digits or capital letters")
        _ = self.postcode_digits  # What is no postcode is refused here, not while the label is drawn.

    @property
    def invoice_number(self) -> str:
        """The NF-e's number and series, which stand within its key (places 26 to 34 and 23 to 25)."""
        number, series = (part.lstrip("0") or "0" for part in (self.invoice_key[25:34], self.invoice_key[22:25]))
        return f"{number} / série {series}" if self.invoice_key else ""

    @property
    def postcode_digits(self) -> str:
        """The recipient's postcode as sorting machines read it; nothing where there is none, or where it is abroad."""
        there = self.recipient
        return postcode(there.postal_code) if there.postal_code and there.country == "BR" else ""

    @property
    def weight(self) -> str:
        """The weight as printed, in kilograms."""
        return f"{self.weight_g / 1000:.3f} kg".replace(".", ",")


def in_fours(key: str) -> str:
    """The key in groups of four, as invoices print them."""
    return " ".join(key[place : place + 4] for place in range(0, len(key), 4))
