"""The carrier of a retailer with rates and labels of its own: it collects parcels, scans them and tells what it saw.

POST /table/v1/parcels with {tracking_code, shipment_id?, days?} -> 201 the parcel as collected (200 if it is known)
POST /table/v1/tracking with {codes: [...]} -> 200 {code: the parcel}; unknown codes are left out

The parcel: {tracking_code, shipment_id, status, scans: [{scan_id, status, place, at}]}. Every request carries
`Authorization: Bearer <access_token>` of an account of kind "table".
"""

from collections.abc import Awaitable, Callable

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from services.sandbox.carrier_hooks import scanned_state
from services.sandbox.carrier_parcels import Account, Depot
from services.sandbox.guard import json_answer


class CollectBody(BaseModel):
    """A parcel handed over; `days` of the carrier's until it is delivered."""

    model_config = ConfigDict(extra="forbid")

    tracking_code: str = Field(min_length=1, max_length=40)
    shipment_id: str = ""
    days: float = Field(default=3.0, ge=0, le=365)


class TrackingBody(BaseModel):
    model_config = ConfigDict(extra="forbid")

    codes: list[str] = Field(max_length=1000)


class TableFace:
    """The routes under `/table/v1`."""

    def __init__(self, depot: Depot) -> None:
        self._depot = depot

    def routes(self) -> list[Route]:
        return [
            Route("/table/v1/parcels", self._answered(self._collect), methods=["POST"]),
            Route("/table/v1/tracking", self._answered(self._tracking), methods=["POST"]),
        ]

    def _answered(self, handler: Callable[[Account, bytes], Response]) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            scheme, _, token = request.headers.get("authorization", "").partition(" ")
            account = self._depot.by_token.get(token) if scheme.lower() == "bearer" else None
            if account is None or account.settings.kind != "table":
                return json_answer({"error": "no account has this token"}, 401)
            try:
                response = handler(account, await request.body())
            except ValidationError as error:
                problems = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
                return json_answer({"error": "; ".join(problems)}, 422)
            await self._depot.books.settled()
            return response

        return answer

    def _collect(self, account: Account, raw: bytes) -> Response:
        body = CollectBody.model_validate_json(raw)
        known = account.by_tracking.get(body.tracking_code)
        parcel = known or self._depot.collect(account, body.tracking_code, body.shipment_id, body.days)
        return json_answer(scanned_state(parcel), 201 if known is None else 200)

    def _tracking(self, account: Account, raw: bytes) -> Response:
        codes = TrackingBody.model_validate_json(raw).codes
        known = (account.by_tracking.get(code) for code in dict.fromkeys(codes))
        return json_answer({one.tracking_code: scanned_state(one) for one in known if one is not None})
