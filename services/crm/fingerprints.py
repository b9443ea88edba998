"""Fingerprints of what names a person: HMAC-SHA256 (RFC 2104) under a random key of the company's own.

The key lies sealed in the database, so that a new key of the vault changes no fingerprint.
"""

import hmac
import os
from typing import Final, final

from contracts.channels.v1 import BuyerReported
from services.border.vault import Vault
from services.crm import documents, store

_KEY_BYTES: Final = 32
_OWNER: Final = "crm"
_FIELD: Final = "fingerprints"


@final
class Fingerprints:
    """The fingerprints of one company."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def of(self, kind: str, value: str) -> bytes:
        """The fingerprint of one normalised value; equal values of two kinds have two."""
        return hmac.digest(self._key, f"{kind}\0{value}".encode(), "sha256")

    def keys(self, buyer: BuyerReported, relay_domains: tuple[str, ...]) -> set[tuple[str, bytes]]:
        """(kind, fingerprint) of everything in a report that names its buyer exactly."""
        found = {("document", documents.document(buyer.document))}
        found |= {("email", documents.email(text, relay_domains)) for text in buyer.emails}
        found |= {("phone", documents.phone(text)) for text in buyer.phones}
        return {(kind, self.of(kind, value)) for kind, value in found if value}


async def known_fingerprints(connection: store.Connection, vault: Vault, tenant: str) -> Fingerprints | None:
    """The fingerprints of `tenant`; None where nobody has been heard of yet, so that there is no key."""
    sealed = await store.tenant_key(connection, tenant)
    return Fingerprints(vault.open(sealed, tenant=tenant, owner=_OWNER, field=_FIELD)) if sealed else None


async def fingerprints(connection: store.Connection, vault: Vault, tenant: str) -> Fingerprints:
    """The fingerprints of `tenant`, whose key is made when something is first heard of it."""
    if found := await known_fingerprints(connection, vault, tenant):
        return found
    made = vault.seal(os.urandom(_KEY_BYTES), tenant=tenant, owner=_OWNER, field=_FIELD)
    await store.insert_tenant_key(connection, tenant, made)
    found = await known_fingerprints(connection, vault, tenant)
    # Another transaction may have been first: its key counts.
    assert found
    return found
