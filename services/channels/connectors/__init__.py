"""One file a marketplace; nothing about a particular marketplace exists outside its file.

`CONNECTORS` lists them by name: adding a channel here is a file and a line below. A connector that lives elsewhere is
found by its package's entry point in the group `saldo.connectors` (`name = "module:Class"`), see docs/add-a-channel.md.
"""

from collections.abc import Mapping
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import Final

from services.channels.connectors.connector import Connector
from services.channels.connectors.mercadolivre import MercadoLivre
from services.channels.connectors.shop import Shop
from services.channels.connectors.shopify import Shopify
from services.channels.connectors.skyhub import Skyhub
from services.channels.connectors.vtex import Vtex

GROUP: Final = "saldo.connectors"
_OWN: Final[Mapping[str, Connector]] = {
    "mercadolivre": MercadoLivre(),
    "shop": Shop(),
    "shopify": Shopify(),
    "skyhub": Skyhub(),
    "vtex": Vtex(),
}


def _installed() -> dict[str, Connector]:
    """Connectors of other packages. A name is part of every connection's id, so none can be taken twice."""
    found: dict[str, Connector] = {}
    for entry in entry_points(group=GROUP):
        if entry.name in _OWN or entry.name in found:
            raise RuntimeError(f"two connectors are named {entry.name}: uninstall one, or rename {entry.value}")
        found[entry.name] = entry.load()()
    return found


CONNECTORS: Final[Mapping[str, Connector]] = MappingProxyType({**_OWN, **_installed()})
