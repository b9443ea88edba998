"""Records of streams with personal data are encrypted where they wait (AES-256-GCM, NIST SP 800-38D)."""

import base64
import binascii
import os
from typing import Final, final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from contracts.catalogue import Catalogue
from services.bus.settings import BusSettings

_NONCE_BYTES: Final = 12


@final
class Seal:
    """Seals what belongs to a personal stream, bound to the service and stream it waits in; lets the rest through.

    Raises `ValueError` if the service reads a personal stream and `SALDO_PERSONAL_KEY` is not 32 bytes of base64.
    """

    def __init__(self, service: str, streams: list[str], catalogue: Catalogue, settings: BusSettings) -> None:
        self._service = service
        self._personal = frozenset(name for name in streams if catalogue.streams[name].personal)
        self._cipher: AESGCM | None = None
        if self._personal:
            try:
                self._cipher = AESGCM(base64.b64decode(settings.personal_key.get_secret_value(), validate=True))
            except (ValueError, binascii.Error):
                raise ValueError(
                    f"{service} reads {sorted(self._personal)}, which carries personal data: "
                    "set SALDO_PERSONAL_KEY to 32 random bytes in base64"
                ) from None

    def is_personal(self, stream: str) -> bool:
        """True for a stream whose records are sealed."""
        return stream in self._personal

    def sealed(self, stream: str, record: bytes) -> bytes:
        """`record` as it may be stored."""
        if not self._cipher or stream not in self._personal:
            return record
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, record, f"{self._service}|{stream}".encode())

    def opened(self, stream: str, stored: bytes) -> bytes:
        """What `sealed` was given."""
        if not self._cipher or stream not in self._personal:
            return stored
        return self._cipher.decrypt(stored[:_NONCE_BYTES], stored[_NONCE_BYTES:], f"{self._service}|{stream}".encode())
