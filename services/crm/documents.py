"""Keys that name a person: CPF and CNPJ with their check digits, e-mail, phone. Pure.

CPF: eleven digits, the last two check digits mod 11 (Receita Federal). CNPJ: twelve characters and two check digits;
from July 2026 on the twelve may be letters, each counted as its code less 48, which leaves digits what they were
(Instrução Normativa RFB 2.229/2024).
"""

import re
from collections.abc import Collection, Sequence
from typing import Final

_PUNCTUATION: Final = re.compile(r"[\s./-]+")
_CPF: Final = re.compile(r"[0-9]{11}")
_CNPJ: Final = re.compile(r"[0-9A-Z]{12}[0-9]{2}")
_EMAIL: Final = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s.]+")
_CNPJ_WEIGHTS: Final = (6, 5, 4, 3, 2, 9, 8, 7, 6, 5, 4, 3, 2)
_NATIONAL_DIGITS: Final = (10, 11)
_INTERNATIONAL_DIGITS: Final = range(8, 16)
_BRAZIL: Final = "55"


def _check_digit(values: Sequence[int], weights: Sequence[int]) -> int:
    rest = sum(value * weight for value, weight in zip(values, weights, strict=True)) % 11
    return 0 if rest < 2 else 11 - rest


def _checks(code: str, weights: Sequence[int]) -> bool:
    """Whether both check digits fit; `weights` are those of the second, the first has one less."""
    values = [ord(character) - 48 for character in code]
    first, second = values[-2:]
    return (first, second) == (_check_digit(values[:-2], weights[1:]), _check_digit(values[:-1], weights))


def document(text: str) -> str | None:
    """A CPF or CNPJ without punctuation, in capitals; None for what is neither, or has wrong check digits."""
    code = _PUNCTUATION.sub("", text).upper()
    if len(set(code)) <= 1:  # 000.000.000-00 and its like pass the check digits and are nobody's.
        return None
    if _CPF.fullmatch(code):
        return code if _checks(code, range(11, 1, -1)) else None
    return code if _CNPJ.fullmatch(code) and _checks(code, _CNPJ_WEIGHTS) else None


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
