"""Numbers of payment cards: found wherever they stand in a text, so that they are kept nowhere (PCI DSS 4.0, 3.3).

A card's number has 13 to 19 digits, with single blanks or dashes between them, and a check digit by Luhn (ISO/IEC
7812-1). One in ten numbers of another kind has that too, such as an EAN or a marketplace's order id: do not refuse by
`contains_card` where such numbers are at home. What is known to be none is left alone: UUIDs, hexadecimal ids of 32
digits and more with a trace's parts behind them, the decimals of a number, and digits that a letter or another digit
touches, as in the text of a Pix or the key of an invoice of a company whose number has letters.
"""

import re
from collections.abc import Iterator
from itertools import accumulate
from typing import Final

_DIGITS_MIN: Final = 13
_DIGITS_MAX: Final = 19
_ENOUGH: Final = re.compile(r"[0-9](?:[ -]?[0-9]){12}")
# The letter of an escape in JSON, as in \n4242, touches nothing, nor does that of a terminal's colour.
_CHAIN: Final = re.compile(
    r"(?:(?<![^\W_])|(?<=\\[bfnrt])|(?<=\x1b\[[0-9]m)|(?<=\x1b\[[0-9]{2}m))"
    r"[0-9]++(?![^\W_])(?:[ -][0-9]++(?![^\W_]))*+"
)
_GROUP: Final = re.compile(r"[0-9]++")
_NONE: Final = re.compile(
    r"((?<![0-9A-Za-z])(?:"
    r"[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}(?![0-9A-Za-z])"
    r"|[0-9A-Fa-f]{32,}+(?:-[0-9a-f]{16}-[0-9a-f]{2})?(?![0-9A-Za-z])"
    r"|[0-9]++\.[0-9]{13,}+(?![ -]?[0-9])))"
)
_DOUBLED: Final = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)
"""A digit doubled, and the digits of that added up."""


def _luhn_sums(digits: str, parity: int) -> list[int]:
    """Luhn's sums of the first 0, 1, 2 … digits, where those at places of this parity are doubled."""
    once = map(int, digits)
    return list(
        accumulate((_DOUBLED[one] if place % 2 == parity else one for place, one in enumerate(once)), initial=0)
    )


def _found(chain: str) -> Iterator[tuple[int, int]]:
    """Where cards begin and end in a chain of groups of digits: a card may stand beside other numbers.

    A card has no more groups than digits, so each group is looked at a fixed number of times.
    """
    groups = [group.span() for group in _GROUP.finditer(chain)]
    # Digits before each group, and before the end.
    before = list(accumulate((end - start for start, end in groups), initial=0))
    digits = chain.replace(" ", "").replace("-", "")
    sums = _luhn_sums(digits, 0), _luhn_sums(digits, 1)
    for first, (start, _) in enumerate(groups):
        for last in range(first, min(first + _DIGITS_MAX, len(groups))):
            left, right = before[first], before[last + 1]
            if right - left > _DIGITS_MAX:
                break
            # The check digit itself, at right - 1, is not doubled, the one before it is.
            luhn = sums[right % 2]
            if right - left >= _DIGITS_MIN and (luhn[right] - luhn[left]) % 10 == 0:
                yield start, groups[last][1]


def _redacted(chain: re.Match[str]) -> str:
    text = chain[0]
    parts: list[str] = []
    done = 0
    for start, end in _found(text):
        # Of two that overlap neither is told, nor what both share.
        if start >= done:
            parts += text[done:start], "[card]"
        done = max(done, end)
    return "".join((*parts, text[done:]))


def redact(text: str) -> str:
    """`text` with `[card]` in the place of every card's number. Takes time linear in the text's length."""
    if not _ENOUGH.search(text):
        return text
    pieces = _NONE.split(text)
    pieces[::2] = [_CHAIN.sub(_redacted, piece) for piece in pieces[::2]]
    return "".join(pieces)


def contains_card(text: str) -> bool:
    """Whether `redact` would change `text`."""
    if not _ENOUGH.search(text):
        return False
    return any(
        next(_found(chain[0]), None) is not None for piece in _NONE.split(text)[::2] for chain in _CHAIN.finditer(piece)
    )
