"""One file a marketplace; nothing about a particular marketplace exists outside its file.

`CONNECTORS` lists them by name: adding a channel is a file and a line here.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from services.channels.connectors.connector import Connector
from services.channels.connectors.shopify import Shopify
from services.channels.connectors.skyhub import Skyhub

CONNECTORS: Final[Mapping[str, Connector]] = MappingProxyType({"shopify": Shopify(), "skyhub": Skyhub()})
