"""Sealing what must not be read from a stolen table: credentials, raw bodies, buyers.

AES-256-GCM (NIST SP 800-38D) with tenant, owner and field as associated data: a row copied to another tenant, owner or
field does not open. The owner is what the secret belongs to, such as a connection, or an account at a gateway. A blob
is format byte, key id (4 bytes), nonce (12 bytes), ciphertext with tag. Random nonces are safe for 2^32 blobs a key,
hence one key derived for each owner.
"""

import base64
import binascii
import hashlib
import json
import os
from functools import lru_cache
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

_FORMAT: Final = b"\x01"
_KEY_BYTES: Final = 32
_DIFFERENT_MIN: Final = 16
"""Of 32 random bytes fewer than 16 different ones come once in 10^15 keys: such a key was typed."""
_ID_BYTES: Final = 4
_NONCE_BYTES: Final = 12


class SealBroken(Exception):
    """A sealed value does not open: another key, another place, or changed bytes. Never says what was inside."""


class KeyInvalid(ValueError):
    """`SALDO_SECRETS_KEY` is not a list of 32-byte keys."""


def _decode_key(text: str) -> bytes:
    try:
        if len(text) == 2 * _KEY_BYTES:
            key = bytes.fromhex(text)
        else:
            key = base64.b64decode(text, altchars="-_", validate=True)
    except (ValueError, binascii.Error):
        key = b""
    if len(key) != _KEY_BYTES or len(set(key)) < _DIFFERENT_MIN:
        raise KeyInvalid(
            "SALDO_SECRETS_KEY must be 32 random bytes as base64 or hex (several: comma, newest first); "
            "make one with: python -c 'import secrets; print(secrets.token_hex(32))'"
        )
    return key


def _place(tenant: str, owner: str, field: str) -> bytes:
    return json.dumps([tenant, owner, field]).encode()


class Vault:
    """Seals with the first key, opens with any: a new key is put in front and the old one kept until nothing needs it.

    Raises `KeyInvalid` where `keys` is no list of keys.
    """

    def __init__(self, keys: str) -> None:
        decoded = [_decode_key(text.strip().replace("+", "-").replace("/", "_")) for text in keys.split(",")]
        self._masters = {hashlib.sha256(b"saldo key id" + key).digest()[:_ID_BYTES]: key for key in decoded}
        self._current = next(iter(self._masters))
        self._cipher = lru_cache(maxsize=4096)(self._derive)

    def __repr__(self) -> str:
        return f"Vault({len(self._masters)} keys)"

    def _derive(self, key_id: bytes, tenant: str, owner: str) -> AESGCM:
        info = json.dumps([tenant, owner]).encode()
        return AESGCM(HKDF(algorithm=SHA256(), length=_KEY_BYTES, salt=None, info=info).derive(self._masters[key_id]))

    def seal(self, value: bytes, *, tenant: str, owner: str, field: str) -> bytes:
        """The sealed form of `value`, bound to its place."""
        nonce = os.urandom(_NONCE_BYTES)
        place = _place(tenant, owner, field)
        sealed = self._cipher(self._current, tenant, owner).encrypt(nonce, value, place)
        return _FORMAT + self._current + nonce + sealed

    def open(self, blob: bytes, *, tenant: str, owner: str, field: str) -> bytes:
        """What was sealed at this place. Raises `SealBroken`."""
        key_id, rest = blob[1 : 1 + _ID_BYTES], blob[1 + _ID_BYTES :]
        if blob[:1] != _FORMAT or key_id not in self._masters:
            raise SealBroken(f"sealed {field} was made with a key that is not in SALDO_SECRETS_KEY: add that key")
        place = _place(tenant, owner, field)
        try:
            return self._cipher(key_id, tenant, owner).decrypt(rest[:_NONCE_BYTES], rest[_NONCE_BYTES:], place)
        except InvalidTag:
            raise SealBroken(f"sealed {field} does not belong to this tenant and owner, or was changed") from None

    def digest(self, value: bytes, *, tenant: str, owner: str) -> bytes:
        """A keyed fingerprint for telling whether personal data changed; useless without the key. Stable per key."""
        key = hashlib.blake2b(tenant.encode(), key=self._masters[self._current]).digest()
        salt = hashlib.blake2b(owner.encode(), digest_size=16).digest()
        return hashlib.blake2b(value, key=key, person=b"saldo digest", salt=salt, digest_size=16).digest()
