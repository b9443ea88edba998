"""The table carrier: the retailer's own rates, with tracking codes and labels of our own.

Nobody outside is asked, unless the couriers who drive for the retailer have a service that follows parcels: then the
company's account there is asked about parcels, and its webhooks are heard (JSON, `X-Scanner-Signature`: base64 of the
HMAC-SHA-256 of the body).
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final, final

from contracts.fulfillment.v1 import TrackingStatus
from services.border.calls import send
from services.border.reading import identifier, mapping, moment, objects, read_json
from services.fulfillment.carriers.carrier import Bought, Parcel, Purchase, Seen, Session, Traits
from services.fulfillment.carriers.signature import require_signature
from services.fulfillment.rates import CUBIC_DIVISOR, Quote, Rate, rate
from services.fulfillment.tracking import SERIALS, tracking_code

CREDENTIALS: Final = ("access_token", "client_secret")
_LETTERS: Final = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@final
class TableCarrier:
    """Quotes from the rates that `rates` reads for a tenant; parcels are followed where `session` is one."""

    def __init__(
        self,
        rates: Callable[[str], Awaitable[Sequence[Rate]]],
        session: Session | None = None,
        *,
        cubic_divisor: int = CUBIC_DIVISOR,
    ) -> None:
        self._rates, self._session, self._cubic_divisor = rates, session, cubic_divisor
        self.traits = Traits("table", late_s=0, follows=session is not None)

    async def quote(self, parcel: Parcel) -> Sequence[Quote]:
        """One for each service whose rates hold the postcode and the weight; none for a postcode that is none."""
        rows = await self._rates(parcel.tenant)
        try:
            return rate(
                rows,
                parcel.destination.postal_code,
                parcel.weight_g,
                parcel.dimensions_mm,
                cubic_divisor=self._cubic_divisor,
            )
        except ValueError:
            return []

    async def buy(self, parcel: Parcel, purchase: Purchase) -> Bought:
        """A tracking code of our own, drawn from the purchase's number."""
        del parcel
        round_, serial = divmod(purchase.serial, SERIALS)
        code = tracking_code(serial, service=f"S{_LETTERS[(3 + round_) % len(_LETTERS)]}")
        return Bought(code, code)

    async def resume(self, parcel: Parcel, purchase: Purchase) -> Bought:
        """The same as was bought: it follows from the purchase alone."""
        return await self.buy(parcel, purchase)

    async def cancel(self, purchase: Purchase, reference: str) -> bool:
        """A label of our own is always given back."""
        del purchase, reference
        return True

    async def track(self, references: Sequence[str]) -> Mapping[str, Sequence[Seen]]:
        """Every scan of the couriers, by tracking code."""
        if self._session is None:
            return {}
        http, base_url = self._session.http, self._session.base_url
        headers = {"authorization": f"Bearer {self._session.credentials['access_token']}"}
        body = {"codes": list(references)}
        request = http.build_request("POST", f"{base_url}/table/v1/tracking", json=body, headers=headers)
        answer = await send(http, self._session.limiter, "tracking", request)
        told = mapping(read_json(answer.content), "the answer")
        return {code: _scans(mapping(one, "a parcel")) for code, one in told.items()}

    def verify(self, headers: Mapping[str, str], body: bytes) -> None:
        """Raises `SignatureInvalid`."""
        secret = self._session.credentials["client_secret"] if self._session else ""
        require_signature(headers.get("x-scanner-signature", ""), secret, body)

    def named(self, body: bytes) -> str:
        """The tracking code."""
        data = mapping(mapping(read_json(body), "the body").get("data"), "data")
        return identifier(data.get("tracking_code"), "data.tracking_code")


def _scans(parcel: Mapping[str, Any]) -> list[Seen]:
    return [
        Seen(TrackingStatus(str(one.get("status"))), moment(one.get("at"), "scans.at"))
        for one in objects(parcel.get("scans"), "scans")
    ]
