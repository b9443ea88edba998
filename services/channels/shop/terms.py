"""What a shop offers its buyers, read from the settings of its connection. Pure."""

from collections.abc import Mapping
from datetime import timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from contracts.payments.v1 import PaymentMethod
from services.channels.shop.domain import Terms


def terms_of(settings: Mapping[str, str]) -> Terms:
    """What a connection's settings say. Raises `ValueError` naming the setting that is wrong."""
    known = Terms()
    names = [name.strip() for name in settings.get("methods", "card,pix").split(",") if name.strip()]
    if unknown := sorted(set(names) - {"card", "pix"}):
        raise ValueError(f"setting methods: {', '.join(unknown)} is no method; give card, pix or both")
    return Terms(
        currency=settings.get("currency") or known.currency,
        methods=tuple(PaymentMethod(name) for name in names),
        card_gateway=settings.get("card_gateway") or known.card_gateway,
        card_page_url=settings.get("card_page_url", ""),
        pix_gateway=settings.get("pix_gateway") or known.pix_gateway,
        hold_card=_minutes(settings, "hold_card_min", 15),
        hold_pix=_minutes(settings, "hold_pix_min", 30),
        track=timedelta(days=_whole(settings, "track_days", 90)),
        time_zone=_zone(settings.get("time_zone", "")) or known.time_zone,
    )


def _minutes(settings: Mapping[str, str], name: str, default: float) -> timedelta:
    text = settings.get(name) or str(default)
    whole, _, part = text.partition(".")
    if not (text.isascii() and (whole + part).isdecimal() and len(text) <= 6 and 0 < float(text) <= 9999):
        raise ValueError(f"setting {name} must be a number of minutes above 0, at most 9999")
    return timedelta(minutes=float(text))


def _zone(name: str) -> ZoneInfo | None:
    try:
        return ZoneInfo(name) if name else None
    except (ZoneInfoNotFoundError, ValueError, OSError):  # No such zone, no name of one, or the name of a folder.
        raise ValueError("setting time_zone must be a zone of the IANA database, as America/Sao_Paulo") from None


def _whole(settings: Mapping[str, str], name: str, default: int) -> int:
    text = settings.get(name) or str(default)
    if not (text.isascii() and text.isdecimal() and 1 <= len(text) <= 4 and int(text)):
        raise ValueError(f"setting {name} must be a whole number from 1 to 9999")
    return int(text)
