"""Records of streams with personal data are encrypted where they wait (AES-256-GCM, NIST SP 800-38D)."""

import base64
import os
from collections.abc import Sequence
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

    def __init__(self, service: str, streams: Sequence[str], catalogue: Catalogue, settings: BusSettings) -> None:
        self._service = service
        personal = [name for name in streams if catalogue.streams[name].personal]
        self._ciphers: dict[str, AESGCM] = {}
        if personal:
            try:
                key = base64.b64decode(settings.personal_key.get_secret_value(), validate=True)
                # AES would take 16 as well; of 32 random bytes nearly all differ.
                if len(key) != 32 or len(set(key)) < 16:
                    raise ValueError
                cipher = AESGCM(key)
            except ValueError:
                raise ValueError(
                    f"{service} reads {sorted(personal)}, which carries personal data: "
                    "set SALDO_PERSONAL_KEY to 32 random bytes in base64"
                ) from None
            self._ciphers = dict.fromkeys(personal, cipher)

    def is_personal(self, stream: str) -> bool:
        """True for a stream whose records are sealed."""
        return stream in self._ciphers

    def sealed(self, stream: str, record: bytes) -> bytes:
        """`record` as it may be stored."""
        if cipher := self._ciphers.get(stream):
            nonce = os.urandom(_NONCE_BYTES)
            return nonce + cipher.encrypt(nonce, record, f"{self._service}|{stream}".encode())
        return record

    def opened(self, stream: str, stored: bytes) -> bytes:
        """What `sealed` was given."""
        if cipher := self._ciphers.get(stream):
            place = f"{self._service}|{stream}".encode()
            return cipher.decrypt(stored[:_NONCE_BYTES], stored[_NONCE_BYTES:], place)
        return stored
