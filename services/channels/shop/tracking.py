"""The page on which a buyer follows an order by a signed link: no login, no script, nothing about the buyer. Pure."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, final
from zoneinfo import ZoneInfo

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from contracts.channels.v1 import ParcelTold
from services.channels.shop.domain import Basket

LANGUAGES: Final = ("pt-BR", "en")
FOLDER: Final = Path(__file__).parent / "templates"
HEADERS: Final = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Robots-Tag": "noindex",
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; frame-ancestors 'none'; base-uri 'none'",
}
_TEXTS: Final = {
    "pt-BR": {
        "order": "Pedido",
        "following": "Acompanhe seu pedido",
        "placed": "Pedido recebido",
        "paid": "Pagamento confirmado",
        "invoiced": "Nota fiscal emitida",
        "packed": "Pedido embalado",
        "shipped": "Enviado",
        "delivered": "Entregue",
        "returned": "Devolvido",
        "cancelled": "Pedido cancelado",
        "refunded": "Pagamento devolvido",
        "waiting": "em andamento",
        "carrier": "Transportadora",
        "code": "Código de rastreio",
        "link": "Ver na transportadora",
        "parcel": "Pacote",
        "items": "Itens",
        "pay": "Aguardando pagamento até",
        "other": "English",
        "times": "Horários no fuso",
        "missing": "Este link não existe ou já venceu.",
    },
    "en": {
        "order": "Order",
        "following": "Follow your order",
        "placed": "Order received",
        "paid": "Payment confirmed",
        "invoiced": "Invoice issued",
        "packed": "Order packed",
        "shipped": "Shipped",
        "delivered": "Delivered",
        "returned": "Returned",
        "cancelled": "Order cancelled",
        "refunded": "Payment given back",
        "waiting": "in progress",
        "carrier": "Carrier",
        "code": "Tracking code",
        "link": "See at the carrier",
        "parcel": "Parcel",
        "items": "Items",
        "pay": "Waiting for payment until",
        "other": "Português",
        "times": "Times in",
        "missing": "This link does not exist or is no longer valid.",
    },
}
_SCANS: Final = {
    "pt-BR": {
        "accepted": "Recebido pela transportadora",
        "in_transit": "Em trânsito",
        "out_for_delivery": "Saiu para entrega",
        "attempt_failed": "Tentativa de entrega sem sucesso",
        "delivered": "Entregue",
        "returning": "Voltando ao remetente",
        "returned": "Devolvido ao remetente",
        "lost": "Extraviado",
    },
    "en": {
        "accepted": "Received by the carrier",
        "in_transit": "In transit",
        "out_for_delivery": "Out for delivery",
        "attempt_failed": "Delivery was tried without success",
        "delivered": "Delivered",
        "returning": "On its way back to the sender",
        "returned": "Back at the sender",
        "lost": "Lost",
    },
}
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_PATH: Final = ("placed", "paid", "invoiced", "packed", "shipped", "delivered")
_REACHED: Final = {"confirmed": 1, "invoiced": 2, "packed": 3, "shipped": 4, "delivered": 5, "returned": 5, "closed": 5}
_templates: Final = Environment(loader=FileSystemLoader(FOLDER), autoescape=True, undefined=StrictUndefined)


@final
@dataclass(frozen=True, slots=True)
class Step:
    """A step of an order's way: its text, whether it is done, and when, as far as that is known."""

    text: str
    done: bool
    at: str = ""


def language_of(wanted: str) -> str:
    """The language for a tag such as `en`, or an `Accept-Language` header; Portuguese where none is understood."""
    for part in wanted.split(","):
        tag = part.partition(";")[0].strip().lower()
        for language in LANGUAGES:
            if tag.partition("-")[0] == language.partition("-")[0].lower():
                return language
    return LANGUAGES[0]


def steps(basket: Basket, language: str, zone: ZoneInfo) -> list[Step]:
    """The steps of the way with their times in `zone`; a cancelled order ends where it was cancelled."""
    texts, progress = _TEXTS[language], basket.progress
    payment = progress.payment if progress else None
    parcels = progress.parcels if progress else ()
    invoice = progress.invoice if progress else None
    times = {
        "placed": basket.created_at,
        "paid": payment.paid_at if payment else None,
        "invoiced": invoice.issued_at if invoice else None,
        "shipped": max((parcel.dispatched_at for parcel in parcels), default=None),
        "delivered": max((parcel.delivered_at for parcel in parcels if parcel.delivered_at), default=None),
    }
    reached = _REACHED.get(progress.state, 0) if progress else 0
    way = [
        Step(
            texts[name], place <= reached or (name == "paid" and basket.paid), _moment(times.get(name), language, zone)
        )
        for place, name in enumerate(_PATH)
        if name != "invoiced" or invoice or reached < _PATH.index("packed")
    ]
    if basket.ended == "cancelled":
        way = [step for step in way if step.done] + [
            Step(texts["cancelled"], True, _moment(basket.ended_at, language, zone))
        ]
        if payment and payment.status == "refunded":
            way.append(Step(texts["refunded"], True))
    if basket.ended == "returned":
        way.append(Step(texts["returned"], True))
    return way


def page(basket: Basket, language: str, link: str, zone: ZoneInfo) -> str:
    """The page as HTML, with times in `zone`."""
    texts, progress = _TEXTS[language], basket.progress
    return _templates.get_template("track.html").render(
        texts=texts,
        language=language,
        other=next(one for one in LANGUAGES if one != language),
        link=link,
        number=basket.external_id,
        steps=steps(basket, language, zone),
        lines=basket.lines,
        unpaid_until="" if basket.paid or basket.ended else _moment(basket.hold_until, language, zone),
        parcels=[_parcel(parcel, language, zone) for parcel in (progress.parcels if progress else ())],
        zone=zone.key,
    )


def missing(language: str) -> str:
    """The page behind a link that is wrong or too old; both look alike."""
    return _templates.get_template("missing.html").render(texts=_TEXTS[language], language=language)


def _parcel(parcel: ParcelTold, language: str, zone: ZoneInfo) -> dict[str, object]:
    url = parcel.tracking_url
    return {
        "carrier": f"{parcel.carrier} {parcel.service}",
        "code": parcel.tracking_code,
        # Nothing but a web address may stand behind a link that came from a carrier.
        "url": url if url.startswith(("https://", "http://")) else "",
        "scans": [
            Step(_SCANS[language].get(scan.status, scan.status), True, _moment(scan.happened_at, language, zone))
            for scan in reversed(parcel.tracking)
        ],
    }


def _moment(at: datetime | None, language: str, zone: ZoneInfo) -> str:
    """A moment as people of the language write it. Months are named here, not by the process's locale."""
    if at is None:
        return ""
    there = at.astimezone(zone)
    if language == "pt-BR":
        return f"{there:%d/%m/%Y %H:%M}"
    return f"{there.day} {_MONTHS[there.month - 1]} {there:%Y, %H:%M}"
