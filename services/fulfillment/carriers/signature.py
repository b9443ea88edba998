"""How carriers sign what they send: an HMAC-SHA-256 of the raw body (RFC 2104)."""

import base64
import hashlib
import hmac

from services.border.errors import SignatureInvalid


def require_signature(given: str, secret: str, body: bytes, *, encoding: str = "base64") -> None:
    """Raises `SignatureInvalid` unless `given` is the body's signature by `secret`, in base64 or hex."""
    digest = hmac.digest(secret.encode(), body, hashlib.sha256)
    wanted = digest.hex() if encoding == "hex" else base64.b64encode(digest).decode()
    if not secret or not hmac.compare_digest(given.encode(), wanted.encode()):
        raise SignatureInvalid("the signature is not that of the account")
