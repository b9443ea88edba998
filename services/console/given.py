"""What a person gave, as a message that inventory can keep. Pure.

A command that is on Kafka is there for good: what no database column holds would end as a dead letter, and the person
who typed it would hear nothing. So it is judged here, before anything is sent.
"""

import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import ValidationError

from contracts.envelope import Message

M = TypeVar("M", bound=Message)
T = TypeVar("T")

NUMBER_MAX = 1_000_000_000
TEXT_MAX = 1000
_SHOWN_MAX = 60
_NEVER_TEXT = ("Cc", "Zl", "Zp")
_JOINERS = "\u200c\u200d"
"""Signs without a shape of their own that words of some languages, and emoji, are written with."""


def make(model: type[M], **values: Any) -> M:
    """A message of these values. Raises `ValueError` naming each one that is wrong, and how."""
    try:
        message = model(**values)
    except ValidationError as error:
        reasons = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
        raise ValueError("; ".join(reasons)) from None
    return fit(message, message.model_dump())


def fit(given: T, values: Any) -> T:
    """What was given, if every text and number of it can be kept. Raises `ValueError` naming each one that cannot."""
    if reasons := list(_unfit("", values)):
        raise ValueError("; ".join(reasons))
    return given


def _unfit(name: str, value: Any) -> Iterator[str]:
    match value:
        case str() if len(value) > TEXT_MAX:
            yield f"{name}: {len(value)} characters are too many, at most {TEXT_MAX}"
        case str() if any(unicodedata.category(character) in _NEVER_TEXT for character in value):
            yield f"{name}: holds a line break or another control character"
        case str() if strange := _invisible(value):
            yield f"{name}: holds {strange}, which nobody sees: type the text anew"
        case int() if abs(value) > NUMBER_MAX:
            yield f"{name}: {shown(str(value))} is out of range, at most {NUMBER_MAX}"
        case Mapping():
            for key, one in value.items():
                yield from _unfit(f"{name}.{key}" if name else str(key), one)
        case Sequence() if not isinstance(value, str):
            for position, one in enumerate(value):
                yield from _unfit(f"{name}.{position}", one)


def _invisible(text: str) -> str:
    """The first sign of a text that would make two of those who look the same, as U+200B; empty where there is none."""
    found = (one for one in text if unicodedata.category(one) == "Cf" and one not in _JOINERS)
    return next((f"U+{ord(one):04X}" for one in found), "")


def shown(text: str) -> str:
    """A text as an error names it: whole where it is short, its beginning and length where not."""
    return text if len(text) <= _SHOWN_MAX else f"{text[:_SHOWN_MAX]}… ({len(text)} characters)"
