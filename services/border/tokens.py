"""A gateway's token on its way from the own shop to payments, under a key that these two alone have.

What lies between them, topics, outboxes and the order itself, holds it sealed for its order: who reads it there cannot
charge it, and it does not open for another order.
"""

import base64
import binascii
from typing import Final

from services.border.vault import SealBroken, Vault

_FIELD: Final = "token"


def seal_token(vault: Vault, token: str, *, tenant: str, order_id: str) -> str:
    """The token as messages carry it; empty where there is none."""
    if not token:
        return ""
    return base64.b64encode(vault.seal(token.encode(), tenant=tenant, owner=order_id, field=_FIELD)).decode()


def open_token(vault: Vault, sealed: str, *, tenant: str, order_id: str) -> str:
    """What `seal_token` was given. Raises `SealBroken`."""
    if not sealed:
        return ""
    try:
        blob = base64.b64decode(sealed, validate=True)
    except (ValueError, binascii.Error):
        raise SealBroken("a token is not sealed") from None
    return vault.open(blob, tenant=tenant, owner=order_id, field=_FIELD).decode()
