"""Keys that name a person: CPF and CNPJ with their check digits, e-mail, phone. Pure."""

import re
from collections.abc import Collection
from typing import Final

from services.border.tax_ids import cnpj, cpf

_EMAIL: Final = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s.]+")
_NATIONAL_DIGITS: Final = (10, 11)
_INTERNATIONAL_DIGITS: Final = range(8, 16)
_BRAZIL: Final = "55"


def document(text: str) -> str | None:
    """A CPF or CNPJ without punctuation, in capitals; None for what is neither, or has wrong check digits."""
    return cpf(text) or cnpj(text)


def email(text: str, relay_domains: Collection[str]) -> str | None:
    """An e-mail in small letters; None for what is none, or where a marketplace stands between us and the buyer.

    A relay's domain counts with everything below it.
    """
    found = text.strip().lower()
    if not _EMAIL.fullmatch(found):
        return None
    domain = found.rpartition("@")[2]
    return None if any(f".{domain}".endswith(f".{relay.lower()}") for relay in relay_domains) else found


def phone(text: str) -> str | None:
    """A phone as digits with its country (ITU-T E.164); a national one is taken for Brazilian. None for no phone."""
    digits = re.sub(r"[^0-9]", "", text)
    if not text.strip().startswith("+"):
        digits = digits.lstrip("0")
        if len(digits) in _NATIONAL_DIGITS:
            digits = _BRAZIL + digits
        elif not (digits.startswith(_BRAZIL) and len(digits) - len(_BRAZIL) in _NATIONAL_DIGITS):
            return None
    return digits if len(digits) in _INTERNATIONAL_DIGITS and len(set(digits[2:])) > 1 else None
