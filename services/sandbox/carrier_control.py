"""The control interface of the carrier: accounts, parcels, scans by hand, vices. Never part of a carrier's API.

Every path but `/_control/health` wants `Authorization: Bearer <SALDO_SANDBOX_TOKEN>`. Shapes: see `carrier_client.py`.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from services.sandbox.books import now_ms
from services.sandbox.carrier_hooks import Hooks, parcel_state, scanned_state
from services.sandbox.carrier_parcels import Account, Depot, Parcel, ScanStatus
from services.sandbox.carrier_settings import CarrierSettings, CarrierVices
from services.sandbox.guard import Handler, Refused, control_routes, json_answer, json_object


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ScanBody(_Body):
    status: ScanStatus
    place: Annotated[str, Field(min_length=1)] = "balcão"


class WebhookBody(_Body):
    event: Annotated[str, Field(min_length=1)]
    order_id: Annotated[str, Field(min_length=1)]
    signed: Literal["own", "foreign", "none"] = "own"


class CarrierControl:
    """The routes under `/_control`. An account is called a shop in the paths, as in every sandbox."""

    def __init__(self, depot: Depot, hooks: Hooks, token: str, base_url: str) -> None:
        self._depot = depot
        self._hooks = hooks
        self._token = token
        self._base_url = base_url

    def routes(self) -> list[Route]:
        table: list[tuple[str, str, Handler]] = [
            ("GET", "/shops/{shop}/parcels", self._parcels),
            ("POST", "/shops/{shop}/parcels/{parcel}/post", self._post),
            ("POST", "/shops/{shop}/parcels/{parcel}/scan", self._scan),
            ("POST", "/shops/{shop}/webhooks", self._webhook),
            ("PUT", "/shops/{shop}/vices", self._vices),
            ("GET", "/shops/{shop}", self._shop),
            ("PUT", "/shops/{shop}", self._put_shop),
            ("GET", "/shops", self._shops),
            ("GET", "/limits", self._limits),
            ("POST", "/reset", self._reset),
            ("GET", "/health", self._health),
        ]
        return control_routes(table, self._token, self._depot.books)

    def _account(self, request: Request) -> Account:
        account = self._depot.accounts.get(request.path_params["shop"])
        if account is None:
            raise Refused(404, {"error": f"no account {request.path_params['shop']!r}: create it with PUT"})
        return account

    def _parcel(self, request: Request, account: Account) -> Parcel:
        named = request.path_params["parcel"]
        parcel = account.parcels.get(named) or account.by_tracking.get(named)
        if parcel is None:
            raise Refused(404, {"error": f"no parcel {named!r} in this account"})
        return parcel

    def _describe(self, account: Account) -> dict[str, Any]:
        settings = account.settings.model_dump(mode="json")
        return {"shop": account.name, "marketplace": "carrier", "base_url": self._base_url, **settings}

    # -- the process ---------------------------------------------------------------------------------------------

    async def _health(self, _request: Request) -> Response:
        return json_answer({"status": "ok", "marketplace": "carrier", "shops": len(self._depot.accounts)})

    async def _limits(self, _request: Request) -> Response:
        shops = {
            name: {"requests_per_minute": account.settings.requests_per_minute}
            for name, account in self._depot.accounts.items()
        }
        return json_answer({"marketplace": "carrier", "shops": shops})

    async def _reset(self, _request: Request) -> Response:
        self._depot.forget()
        await self._depot.books.clear()
        return json_answer({"status": "empty"})

    # -- accounts ------------------------------------------------------------------------------------------------

    async def _shops(self, _request: Request) -> Response:
        return json_answer({"shops": sorted(self._depot.accounts)})

    async def _shop(self, request: Request) -> Response:
        return json_answer(self._describe(self._account(request)))

    async def _put_shop(self, request: Request) -> Response:
        name = request.path_params["shop"]
        given = json_object(await request.body())
        known = self._depot.accounts.get(name)
        if known is not None:
            kept = known.settings.model_dump(mode="json")
            if isinstance(given.get("credentials"), dict):
                given["credentials"] = kept["credentials"] | given["credentials"]
            given = kept | given
        settings = CarrierSettings.model_validate(given)
        taken = self._depot.owner_of(name, settings)
        if taken is not None:
            raise Refused(409, {"error": f"account {taken!r} has this access token already"})
        return json_answer(self._describe(self._depot.put_account(name, settings)), 200 if known else 201)

    async def _vices(self, request: Request) -> Response:
        account = self._account(request)
        vices = CarrierVices.model_validate_json(await request.body())
        update = {"vices": vices, "vices_since_ms": now_ms()}
        self._depot.put_account(account.name, account.settings.model_copy(update=update))
        return json_answer({"vices": vices.model_dump(exclude_none=True)})

    # -- what couriers do ----------------------------------------------------------------------------------------

    async def _parcels(self, request: Request) -> Response:
        told = [
            scanned_state(one) | {"order_id": one.order_id, "to_come": len(one.planned)}
            for one in self._account(request).parcels.values()
        ]
        return json_answer({"parcels": told})

    async def _post(self, request: Request) -> Response:
        account = self._account(request)
        parcel = self._parcel(request, account)
        if not parcel.tracking_code or parcel.cancelled_ms is not None or parcel.posted_ms is not None:
            raise Refused(409, {"error": "only a parcel with a label that nobody has scanned yet can be posted"})
        self._depot.post(account, parcel)
        return json_answer({"order_id": parcel.order_id, "to_come": len(parcel.planned)})

    async def _scan(self, request: Request) -> Response:
        account = self._account(request)
        parcel = self._parcel(request, account)
        body = ScanBody.model_validate_json(await request.body())
        if not parcel.tracking_code or parcel.cancelled_ms is not None:
            raise Refused(409, {"error": "only a parcel with a label can be scanned"})
        return json_answer(self._depot.scan(account, parcel, body.status, body.place), 201)

    async def _webhook(self, request: Request) -> Response:
        account = self._account(request)
        body = WebhookBody.model_validate_json(await request.body())
        if not account.settings.webhook_url:
            raise Refused(409, {"error": "the account has no webhook_url"})
        parcel = account.parcels.get(body.order_id)
        own_rates = account.settings.kind == "table"
        unknown = {"tracking_code": body.order_id, "scans": []} if own_rates else {"id": body.order_id, "tags": []}
        shown = unknown if parcel is None else scanned_state(parcel) if own_rates else parcel_state(parcel)
        delivery_id = self._hooks.send(account, body.event, body.order_id, shown, body.signed)
        return json_answer({"delivery_id": delivery_id}, 202)
