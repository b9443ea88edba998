"""Ids that are derived, not drawn: the same connection or order added twice is the same one everywhere."""

import json
from typing import Final
from uuid import UUID, uuid5

NAMESPACE: Final = UUID("7d3f1c5e-52a7-5f0b-9a53-3c8c5c0f7d21")
"""Saldo's namespace. Changing it would make every known order a new one."""


def _derived(*parts: str) -> str:
    return str(uuid5(NAMESPACE, json.dumps(parts, ensure_ascii=False, separators=(",", ":"))))


def connection_id(tenant: str, connector: str, environment: str, account: str) -> str:
    """uuid5 of the JSON array [tenant, connector, environment, account]."""
    return _derived(tenant, connector, environment, account)


def order_id(tenant: str, connection: str, external_id: str) -> str:
    """uuid5 of the JSON array [tenant, connection id, the channel's order id]."""
    return _derived(tenant, connection, external_id)
