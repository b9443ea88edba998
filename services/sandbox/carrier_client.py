"""A control client of the carrier; what every sandbox has (accounts are `shops`, vices, books) is as in `client.py`.

PUT /shops/{account} with any fields of `carrier_settings.CarrierSettings`
    -> 201 or 200 {shop, marketplace: "carrier", base_url, kind, credentials, speed, services, webhook_url, vices, ...}
PUT /shops/{account}/vices with the fields of `carrier_settings.CarrierVices`, replacing all -> 200 {vices}
GET /shops/{account}/parcels
    -> 200 {parcels: [{order_id, shipment_id, tracking_code, status, scans: [...], to_come: count}]}
POST /shops/{account}/parcels/{order id or tracking code}/post -> 200 {order_id, to_come} or 409; it sets off now
POST /shops/{account}/parcels/{order id or tracking code}/scan with {status, place}
    -> 201 {scan_id, status, place, at_ms} or 409; status is one of `carrier_parcels.ScanStatus`
POST /shops/{account}/webhooks with {event, order_id, signed: "own" | "foreign" | "none"}
    -> 202 {delivery_id}; a webhook that nothing caused, also for an unknown order_id
GET /health, /limits, /shops, /shops/{account}, /books, /books/summary; POST /reset: as in `client.py`

Credentials: {client_id, client_secret, access_token, refresh_token}. The rows of the books are described in
`carrier_parcels.py`.
"""

from typing import Any, Literal
from urllib.parse import quote

from services.sandbox.client import SandboxClient


class CarrierClient(SandboxClient):
    """Use as `async with CarrierClient(base_url, token) as carrier`."""

    async def parcels(self, account: str) -> list[dict[str, Any]]:
        """Every parcel of the account with its scans."""
        return list((await self._call("GET", f"{self._shop(account)}/parcels"))["parcels"])

    async def post(self, account: str, parcel: str) -> dict[str, Any]:
        """Let a parcel with a label set off now; it is named by its order id or tracking code."""
        return await self._call("POST", f"{self._shop(account)}/parcels/{quote(parcel, safe='')}/post")

    async def scan(self, account: str, parcel: str, status: str, *, place: str = "balcão") -> dict[str, Any]:
        """Scan a parcel by hand."""
        path = f"{self._shop(account)}/parcels/{quote(parcel, safe='')}/scan"
        return await self._call("POST", path, {"status": status, "place": place})

    async def webhook(
        self, account: str, event: str, order_id: str, *, signed: Literal["own", "foreign", "none"] = "own"
    ) -> str:
        """Send a webhook that nothing caused; returns its delivery id."""
        body = {"event": event, "order_id": order_id, "signed": signed}
        return str((await self._call("POST", f"{self._shop(account)}/webhooks", body))["delivery_id"])
