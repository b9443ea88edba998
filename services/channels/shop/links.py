"""Links to the page on which a buyer follows an order: signed, with an end, and nothing about the buyer in them. Pure.

`<order_id>.<end>.<signature>`, the end in seconds of Unix time and the signature HMAC-SHA256 (RFC 2104) with the
company's own key over both, in URL-safe base64 without padding.
"""

import base64
import hmac
from datetime import datetime, timedelta
from typing import Final

_DAY_S: Final = 86_400
_PARTS: Final = 3


def signed(tenant_key: bytes, order_id: str, until: datetime) -> str:
    """The path part of a link that works until the end of the day of `until`, so that a day's links are the same."""
    end = str((int(until.timestamp()) // _DAY_S + 1) * _DAY_S)
    return f"{order_id}.{end}.{_signature(tenant_key, order_id, end)}"


def order_of(link: str) -> str:
    """The order that a link says it is for; empty for what is no link."""
    parts = link.split(".")
    return parts[0] if len(parts) == _PARTS else ""


def is_good(tenant_key: bytes, link: str, now: datetime) -> bool:
    """Whether we made this link and it still works."""
    order_id, end, signature = link.split(".")
    fits = hmac.compare_digest(_signature(tenant_key, order_id, end).encode(), signature.encode())
    # Only what we signed is read as a number.
    return fits and now.timestamp() < int(end)


def until(ended_at: datetime | None, now: datetime, life: timedelta) -> datetime:
    """How long a link given out at `now` works: `life`, from the order's end where it has one."""
    return (ended_at or now) + life


def _signature(tenant_key: bytes, order_id: str, end: str) -> str:
    digest = hmac.digest(tenant_key, f"track\n{order_id}\n{end}".encode(), "sha256")
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
