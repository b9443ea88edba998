"""CPF and CNPJ, Brazil's tax ids of persons and companies, by their check digits. Pure.

CPF: eleven digits, the last two check digits mod 11 (Receita Federal). CNPJ: twelve characters and two check digits;
from July 2026 on the twelve may be letters, each counted as its code less 48, which leaves digits what they were
(Instrução Normativa RFB 2.229/2024).
"""

import re
from typing import Final

_PUNCTUATION: Final = re.compile(r"[\s./-]+")
_CPF: Final = re.compile(r"[0-9]{11}")
_CNPJ: Final = re.compile(r"[0-9A-Z]{12}[0-9]{2}")


def mod_11(text: str, weight_max: int = 9) -> str:
    """The check digit that follows digits and capitals: mod 11, weights 2 to `weight_max` from the right, over again
    where the text is longer."""
    weights = weight_max - 1
    total = sum((ord(character) - 48) * (2 + place % weights) for place, character in enumerate(reversed(text)))
    rest = total % 11
    return "0" if rest < 2 else str(11 - rest)


def cpf(text: str) -> str | None:
    """A CPF as eleven digits; None for what is none, or has wrong check digits."""
    return _checked(text, _CPF, 11)


def cnpj(text: str) -> str | None:
    """A CNPJ as fourteen characters in capitals; None for what is none, or has wrong check digits."""
    return _checked(text, _CNPJ, 9)


def _checked(text: str, form: re.Pattern[str], weight_max: int) -> str | None:
    code = _PUNCTUATION.sub("", text).upper()
    # 000.000.000-00 and its like pass the check digits and are nobody's.
    if not form.fullmatch(code) or len(set(code)) == 1:
        return None
    first = mod_11(code[:-2], weight_max)
    return code if code[-2:] == first + mod_11(code[:-2] + first, weight_max) else None
