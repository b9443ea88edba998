"""De-para: what a channel calls a carrier or a service, and what we call it. Pure.

Channels write the same thing in many ways ("SEDEX 10", "Sedex  10"); a mapping is found whatever the capitals, accents
and spaces are. One for a connection goes before one for all.
"""

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

Kind = Literal["carrier", "service"]


@dataclass(frozen=True, slots=True)
class NameMapping:
    """One line of the table; `connection_id` "" is every connection."""

    kind: Kind
    given: str
    ours: str
    connection_id: str = ""


SEEDS: Final = (
    NameMapping("carrier", "Correios", "ECT"),
    NameMapping("carrier", "ECT", "ECT"),
    NameMapping("service", "PAC", "pac"),
    NameMapping("service", "SEDEX", "sedex"),
    NameMapping("service", "SEDEX 10", "sedex10"),
)
"""What every new company starts with. Correios is ECT, the post's name in law, in fiscal and marketplace papers."""


def folded(given: str) -> str:
    """The name as it is compared: no accents, no capitals, single spaces."""
    decomposed = unicodedata.normalize("NFKD", given)
    bare = "".join(character for character in decomposed if not unicodedata.combining(character))
    return " ".join(bare.casefold().split())


def translated(mappings: Iterable[NameMapping], kind: Kind, connection_id: str, given: str) -> str | None:
    """Our name for what the channel gave, None where nobody has said."""
    wanted = folded(given)
    found = {one.connection_id: one.ours for one in mappings if one.kind == kind and folded(one.given) == wanted}
    return found.get(connection_id, found.get(""))
