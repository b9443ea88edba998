"""Melhor Envio, a broker of carriers (melhorenvio.readme.io): quotation, cart, purchase, label, tracking, cancellation.

Its pages leave open what is a setting of the account here, each with what we take for true as its default:
`signature_header` and `signature_encoding` of webhooks, `find_by` (`search`: the search looks at tags too, `list`: it
does not, so pages of parcels are read), `status_<word>` for what its words of a parcel's state mean, `late_s` for how
long a call without an answer may still be carried out, `requests_per_minute`.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any, Final, final

import httpx

from contracts.fulfillment.v1 import TrackingStatus
from services.border.calls import send
from services.border.errors import Limit, Rejected, Unreachable
from services.border.reading import count, identifier, mapping, minor, moment, objects, read_json, text
from services.fulfillment.carriers.carrier import Bought, Parcel, Purchase, Seen, Session, Traits
from services.fulfillment.carriers.signature import require_signature
from services.fulfillment.labels import Place
from services.fulfillment.rates import Quote

CREDENTIALS: Final = ("access_token", "refresh_token", "client_id", "client_secret")
REQUIRED: Final = ("contact_email",)
_BRASILIA: Final = timezone(timedelta(hours=-3))
_ME: Final = "/api/v2/me"
_RETRY_LABEL_S: Final = 2.0
_PDF: Final = b"%PDF-"
_MEANINGS: Final = {"undelivered": "attempt_failed", "suspended": "lost"}
_TOO_MANY_PAGES: Final = 200


def limits(settings: Mapping[str, str]) -> Mapping[str, Limit]:
    """Requests of all kinds share one limit: 250 a minute where the account does not say otherwise."""
    a_minute = float(settings.get("requests_per_minute", "250"))
    return {"melhorenvio": Limit(a_minute / 60, max(1.0, a_minute / 10))}


async def renewed(session: Session) -> Mapping[str, str]:
    """New tokens for the refresh token, which works once: `access_token` and `refresh_token`.

    Raises `Rejected` where the company has to authorise us again, `OutcomeUnknown`, `Throttled`.
    """
    names = ("client_id", "client_secret", "refresh_token")
    form = {"grant_type": "refresh_token"} | {name: session.credentials[name] for name in names}
    request = session.http.build_request("POST", f"{session.base_url}/oauth/token", json=form)
    answer = await send(session.http, session.limiter, "melhorenvio", request, writes=True)
    told = mapping(read_json(answer.content), "the tokens")
    return {name: identifier(told.get(name), name) for name in ("access_token", "refresh_token")}


@final
class MelhorEnvio:
    """One company's account."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.traits = Traits("melhorenvio", late_s=float(session.settings.get("late_s", "60")), follows=True)

    async def quote(self, parcel: Parcel) -> Sequence[Quote]:
        """One for each service that takes the parcel; none without an address that it leaves from."""
        if parcel.origin is None:
            return []
        body = {
            "from": {"postal_code": parcel.origin.postal_code},
            "to": {"postal_code": parcel.destination.postal_code},
            "volumes": [_volume(parcel)],
            "options": {"insurance_value": parcel.declared_minor / 100},
        }
        answer = read_json((await self._post("/shipment/calculate", body)).content)
        return [_quote(one) for one in objects(answer, "options") if not one.get("error")]

    async def buy(self, parcel: Parcel, purchase: Purchase) -> Bought:
        """Into the cart, then pay, generate and print."""
        assert parcel.origin is not None
        note = {"key": parcel.invoice_key} if parcel.invoice_key else None
        body = {
            "service": int(purchase.option),
            "from": self._sender(parcel.origin),
            "to": _party(parcel.destination) | {"document": parcel.document, "phone": parcel.phone},
            "volumes": [_volume(parcel)],
            "options": {
                "insurance_value": parcel.declared_minor / 100,
                "non_commercial": note is None,
                "invoice": note,
                "tags": [{"tag": purchase.key, "url": None}],
            },
        }
        answer = await self._post("/cart", body, writes=True)
        return await self._pay(_id(mapping(read_json(answer.content), "the parcel")))

    async def resume(self, parcel: Parcel, purchase: Purchase) -> Bought:
        """Go on with what has the purchase's tag, from where it stands; buy it where nothing has."""
        if (paid := await self._paid(purchase.key)) is not None:
            return await self._print(_id(paid))
        async for one in self._pages("/cart"):
            if _has_tag(one, purchase.key):
                return await self._pay(_id(one))
        return await self.buy(parcel, purchase)

    async def cancel(self, purchase: Purchase, reference: str) -> bool:
        """Give a label back that was not posted."""
        del purchase
        # Reason 2 is "other" of the vendor's list of reasons.
        order = {"id": reference, "reason_id": "2", "description": "pedido cancelado"}
        answer = await self._post("/shipment/cancel", {"order": order}, writes=True)
        told = mapping(mapping(read_json(answer.content), "the answer").get(reference), reference)
        return told.get("canceled") is True

    async def track(self, references: Sequence[str]) -> Mapping[str, Sequence[Seen]]:
        """What is known of each parcel: posted, delivered, and the state it is in."""
        answer = await self._post("/shipment/tracking", {"orders": list(references)})
        told = mapping(read_json(answer.content), "the answer")
        return {reference: self._seen(mapping(one, "a parcel")) for reference, one in told.items()}

    def verify(self, headers: Mapping[str, str], body: bytes) -> None:
        """Raises `SignatureInvalid`."""
        settings = self._session.settings
        given = headers.get(settings.get("signature_header", "x-me-signature"), "")
        encoding = settings.get("signature_encoding", "base64")
        require_signature(given, self._session.credentials["client_secret"], body, encoding=encoding)

    def named(self, body: bytes) -> str:
        """The id of the parcel."""
        return _id(mapping(mapping(read_json(body), "the body").get("data"), "data"))

    def _seen(self, parcel: Mapping[str, Any]) -> list[Seen]:
        seen = []
        for status, field in ((TrackingStatus.ACCEPTED, "posted_at"), (TrackingStatus.DELIVERED, "delivered_at")):
            if told := text(parcel.get(field)):
                seen.append(Seen(status, _moment(told, field)))
        word = text(parcel.get("status"))
        meaning = self._session.settings.get(f"status_{word}", _MEANINGS.get(word))
        return [*seen, Seen(TrackingStatus(meaning), None)] if meaning else seen

    async def _pay(self, reference: str) -> Bought:
        await self._post("/shipment/checkout", {"orders": [reference]}, writes=True)
        return await self._print(reference)

    async def _print(self, reference: str) -> Bought:
        """Generate and print: again does no harm, and costs nothing."""
        await self._post("/shipment/generate", {"orders": [reference]}, writes=True)
        answer = await self._post("/shipment/print", {"mode": "private", "orders": [reference]}, writes=True)
        url = identifier(mapping(read_json(answer.content), "the answer").get("url"), "url")
        try:
            request = self._session.http.build_request("GET", url)
        except httpx.InvalidURL:
            raise ValueError("the label's url is no address") from None
        try:
            page = await send(self._session.http, self._session.limiter, "labels", request)
        except Rejected:
            raise Unreachable(_RETRY_LABEL_S) from None  # The page of a new label comes after a while.
        if not page.content.startswith(_PDF):
            raise Unreachable(_RETRY_LABEL_S)  # A page that says so, in words.
        paid = mapping(read_json((await self._get(f"/orders/{reference}")).content), "the parcel")
        return Bought(
            reference, text(paid.get("tracking")), text(paid.get("tracking_url")),
            minor(paid.get("price"), "BRL", "price"), "BRL", page.content,
        )  # fmt: skip

    async def _paid(self, key: str) -> Mapping[str, Any] | None:
        """The paid parcel that has this tag, if there is one."""
        if self._session.settings.get("find_by", "search") == "search":
            found = objects(read_json((await self._get("/orders/search", q=key)).content), "parcels")
        else:
            found = [one async for one in self._pages("/orders")]
        return next((one for one in found if _has_tag(one, key) and not one.get("canceled_at")), None)

    async def _pages(self, path: str) -> AsyncIterator[Mapping[str, Any]]:
        """Every parcel of a list, the newest first."""
        for number in range(1, _TOO_MANY_PAGES):
            page = mapping(read_json((await self._get(path, page=str(number))).content), "a page")
            for one in objects(page.get("data"), "data"):
                yield one
            if number >= count(page.get("last_page"), "last_page"):
                return

    def _sender(self, origin: Place) -> dict[str, Any]:
        settings = self._session.settings
        more = {"document": settings.get("document", ""), "phone": settings.get("phone", "")}
        return _party(origin) | more | {"email": settings["contact_email"]}

    async def _get(self, path: str, **query: str) -> httpx.Response:
        return await self._call("GET", path, params=query)

    async def _post(self, path: str, body: Mapping[str, Any], *, writes: bool = False) -> httpx.Response:
        return await self._call("POST", path, json=body, writes=writes)

    async def _call(self, method: str, path: str, *, writes: bool = False, **more: Any) -> httpx.Response:
        session, refused = self._session, None
        agent = f"{session.settings.get('application', 'Saldo')} ({session.settings['contact_email']})"
        while True:
            token = await session.token(refused)
            headers = {"authorization": f"Bearer {token}", "accept": "application/json", "user-agent": agent}
            request = session.http.build_request(method, f"{session.base_url}{_ME}{path}", headers=headers, **more)
            again = (401,) if refused is None else ()
            answer = await send(session.http, session.limiter, "melhorenvio", request, writes=writes, answers=again)
            if answer.status_code != httpx.codes.UNAUTHORIZED:
                return answer
            refused = token


def _volume(parcel: Parcel) -> dict[str, float]:
    """Centimetres and kilograms."""
    length, width, height = (side / 10 for side in parcel.dimensions_mm)
    return {"length": length, "width": width, "height": height, "weight": parcel.weight_g / 1000}


def _party(place: Place) -> dict[str, Any]:
    return {
        "name": place.name,
        "address": place.street,
        "number": place.house,
        "complement": place.complement,
        "district": place.district,
        "city": place.city,
        "state_abbr": place.region,
        "country_id": place.country,
        "postal_code": place.postal_code,
    }


def _quote(option: Mapping[str, Any]) -> Quote:
    company = mapping(option.get("company"), "company")
    days = mapping(option.get("delivery_range"), "delivery_range")
    return Quote(
        identifier(company.get("name"), "company.name"), identifier(option.get("name"), "name"),
        minor(option.get("price"), "BRL", "price"), "BRL", count(days.get("min"), "delivery_range.min"),
        count(days.get("max"), "delivery_range.max"), _id(option),
    )  # fmt: skip


def _moment(told: str, name: str) -> datetime:
    """A moment of Brasília's clock where it does not say of which. Raises `ValueError` naming it."""
    given = datetime.fromisoformat(told)
    return moment((given if given.tzinfo else given.replace(tzinfo=_BRASILIA)).isoformat(), name)


def _id(shown: Mapping[str, Any]) -> str:
    return identifier(shown.get("id"), "id")


def _has_tag(shown: Mapping[str, Any], key: str) -> bool:
    return any(text(one.get("tag")) == key for one in objects(shown.get("tags"), "tags"))
