"""The HTTP API of the own shop, for the storefront's server, and the tracking page for its buyers.

A storefront signs in with the connection's key; a basket's id is 128 random bits, so whoever has it may act for its
buyer. What is sent is repeated in no answer and no log.
"""

import asyncio
import hashlib
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeAlias
from zoneinfo import ZoneInfo

import asyncpg
import structlog
from fastapi import Depends, FastAPI, Header, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from opentelemetry.trace import SpanKind
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from contracts.payments.v1 import PaymentMethod
from services.bus import Cause
from services.bus.failures import describe
from services.channels.alerts import Alert, raise_alerts
from services.channels.connections.registry import Open, Registry
from services.channels.shop import links, numbers, schemas, store, tracking
from services.channels.shop.desk import Desk, Job, OpenBasket, TooBusy
from services.channels.shop.domain import (
    AskToCancel,
    Basket,
    ChooseDelivery,
    Deed,
    GiveAddress,
    LetGo,
    Pay,
    Refusal,
    Terms,
)
from services.channels.shop.limit import SmallBodies
from services.channels.shop.products import put_products
from services.channels.shop.schemas import BasketTold
from services.channels.shop.shop import Shop
from services.channels.shop.terms import terms_of

if TYPE_CHECKING:
    from services.runtime import Service

VERSION: Final = "1.0.0"
ANSWER_S: Final = 2.0
"""How long a new basket is waited for until its stock is held or not to be had."""
OPTIONS_S: Final = 0.7
_PAGE_MAX: Final = 500
_log = structlog.get_logger(__name__)
_LOOK_S: Final = 0.25
"""So often new changes of numbers are looked for while somebody waits for them."""
_BODY_MAX_BYTES: Final = 2_000_000

_PROBLEMS: Final[dict[int | str, dict[str, Any]]] = {
    status: {"model": schemas.Problem, "description": text, "content": {"application/problem+json": {}}}
    for status, text in {
        401: "The key is missing or wrong.",
        404: "There is none of that name in this shop.",
        409: "Not as things stand; `code` says why.",
        422: "What was sent cannot be taken; `code` and `fields` say why.",
        503: "Nothing was done, or nobody knows yet: send it again, with the same Idempotency-Key.",
    }.items()
}

BasketId = Annotated[str, Path(min_length=1, max_length=64)]
OrderId = Annotated[str, Path(min_length=1, max_length=64)]
IdempotencyKey = Annotated[
    str,
    Header(
        alias="Idempotency-Key",
        min_length=8,
        max_length=200,
        pattern="^[ -~]+$",
        description="Drawn by the storefront for each deed of a buyer: sent again, it is not done again.",
    ),
]
WaitS = Annotated[float, Query(ge=0, le=10, description="Wait so long for news before the answer.")]
Who: TypeAlias = tuple[Open, Terms]


class Wrong(Exception):
    """An answer other than success."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.code)
        self.refusal = refusal


def problem(refusal: Refusal, fields: list[dict[str, str]] | None = None) -> JSONResponse:
    """A refusal as `application/problem+json` (RFC 9457)."""
    told: dict[str, Any] = {
        "title": refusal.code.replace("_", " "),
        "status": refusal.status,
        "detail": refusal.detail,
        "code": refusal.code,
        **(refusal.figures or {}),
    }
    if fields is not None:
        told["fields"] = fields
    headers = {"retry-after": "1"} if refusal.status == 503 else None
    return JSONResponse(told, refusal.status, headers, media_type="application/problem+json")


_NO_KEY: Final = Refusal(401, "unauthorized", "send the connection's key as 'Authorization: Bearer …'")
_NO_BASKET: Final = Refusal(404, "no_such_basket", "there is no such basket in this shop")
_BUSY: Final = Refusal(503, "try_again", "nothing was done, or nobody knows yet: send it again with the same key")
_CLOSED: Final = Refusal(503, "closed", "the shop takes no orders now: its connection is not live")
_REFUSED: Final = {
    400: "the body is no JSON",
    404: "there is nothing at this address",
    405: "there is nothing at this address for this method",
    413: "the body is too large",
}
_UNFIT: Final = Refusal(422, "invalid", "a name or a number in the address or the body is none that can be kept")
_SOLD_OUT: Final = Refusal(409, "sold_out", "there are fewer units than asked for")


class Doorkeeper:
    """Finds the shop that a key opens, by the key's fingerprint."""

    def __init__(self, registry: Registry) -> None:
        self._registry, self._generation = registry, -1
        self._shops: dict[bytes, str] = {}

    def opened(self, key: str) -> Open | None:
        """The connection whose key it is. A key that two have opens neither."""
        if self._generation != self._registry.generation:
            self._generation = self._registry.generation
            self._shops = self._read()
        return self._registry.get(self._shops.get(_fingerprint(key), ""))

    def _read(self) -> dict[bytes, str]:
        shops: dict[bytes, str] = {}
        for entry in self._registry.all():
            if entry.connection.connector == "shop" and (key := entry.session.credentials.get("api_key")):
                taken = _fingerprint(key) in shops
                shops[_fingerprint(key)] = "" if taken else entry.connection.connection_id
        return shops


def _fingerprint(key: str) -> bytes:
    return hashlib.sha256(key.encode(errors="replace")).digest()


class Api:
    """The application of one process."""

    def __init__(self, service: "Service", shop: Shop, desk: Desk) -> None:
        self._service, self._shop, self._desk = service, shop, desk
        self._doorkeeper = Doorkeeper(shop.intake.registry)
        self.app = FastAPI(
            title="Saldo shop",
            version=VERSION,
            summary="Sell from one stock in a storefront of your own.",
            description=__doc__,
            docs_url=None,
            redoc_url=None,
        )
        self.app.add_middleware(SmallBodies, max_bytes=_BODY_MAX_BYTES)
        self._errors()
        bearer = HTTPBearer(auto_error=False, description="The key of the shop's connection.")

        async def who(given: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)]) -> Who:
            entry = self._doorkeeper.opened(given.credentials) if given else None
            if entry is None:
                raise Wrong(_NO_KEY)
            if not entry.live:
                raise Wrong(_CLOSED)
            return entry, terms_of(entry.session.settings)

        self._products(who)
        self._baskets(who)
        self._delivery(who)
        self._payment(who)
        self._orders(who)
        self._tracking()

    def _errors(self) -> None:
        app = self.app

        @app.exception_handler(Wrong)
        async def wrong(_: Request, failure: Wrong) -> Response:
            return problem(failure.refusal)

        @app.exception_handler(TooBusy)
        async def busy(_: Request, __: TooBusy) -> Response:
            return problem(_BUSY)

        @app.exception_handler(OSError)
        @app.exception_handler(asyncpg.PostgresError)
        @app.exception_handler(asyncpg.InterfaceError)
        async def away(_: Request, failure: Exception) -> Response:
            _log.error("the database cannot be asked", error=describe(failure))
            return problem(_BUSY)

        @app.exception_handler(asyncpg.DataError)
        async def unfit(_: Request, __: asyncpg.DataError) -> Response:
            return problem(_UNFIT)

        @app.exception_handler(HTTPException)
        async def refused(_: Request, failure: HTTPException) -> Response:
            status = failure.status_code
            return problem(Refusal(status, "refused", _REFUSED.get(status, "this cannot be answered")))

        @app.exception_handler(RequestValidationError)
        async def misread(_: Request, failure: RequestValidationError) -> Response:
            return problem(*_misread(failure))

    # -- products ------------------------------------------------------------------------------------------------------

    def _products(self, who: Callable[..., Any]) -> None:
        app = self.app

        @app.get("/v1/products", responses=_PROBLEMS, tags=["products"], summary="What the shop sells")
        async def products(
            asked: Annotated[Who, Depends(who)],
            after: Annotated[str, Query(max_length=128)] = "",
            limit: Annotated[int, Query(ge=1, le=_PAGE_MAX)] = 100,
        ) -> schemas.Products:
            entry, terms = asked
            async with self._service.pool.acquire() as connection:
                page = await numbers.products(connection, entry.connection.connection_id, after, limit)
            return schemas.Products(
                products=[
                    schemas.Product(
                        sku=one.sku, title=one.title, price_minor=one.price_minor, currency=terms.currency,
                        available=one.quantity,
                    )
                    for one in page
                ],
                next=page[-1].sku if len(page) == limit else None,
            )  # fmt: skip

        @app.put("/v1/products", responses=_PROBLEMS, tags=["products"], summary="Put products on sale, or change them")
        async def put(asked: Annotated[Who, Depends(who)], body: schemas.NewProducts) -> schemas.Kept:
            linked = await put_products(self._service, self._shop.intake, asked[0].connection, body.rows)
            return schemas.Kept(kept=len(body.rows), linked=linked)

        @app.get("/v1/stock-changes", responses=_PROBLEMS, tags=["products"], summary="How the numbers changed")
        async def changes(
            asked: Annotated[Who, Depends(who)],
            after: Annotated[int, Query(ge=0, lt=2**63)] = 0,
            limit: Annotated[int, Query(ge=1, le=_PAGE_MAX)] = _PAGE_MAX,
            wait_s: WaitS = 0,
        ) -> schemas.NumberChanges:
            deadline = asyncio.get_running_loop().time() + wait_s
            while True:
                async with self._service.pool.acquire() as connection:
                    rows = await numbers.changes(connection, asked[0].connection.connection_id, after, limit)
                if rows or asyncio.get_running_loop().time() >= deadline:
                    told = [schemas.NumberChange(number=row.pop("external_id"), **row) for row in map(dict, rows)]
                    return schemas.NumberChanges(changes=told, position=told[-1].position if told else after)
                await asyncio.sleep(_LOOK_S)

    # -- baskets -------------------------------------------------------------------------------------------------------

    def _baskets(self, who: Callable[..., Any]) -> None:
        app = self.app

        @app.post(
            "/v1/baskets", status_code=201, tags=["baskets"], summary="Hold stock for a buyer",
            responses=_PROBLEMS | {202: {"model": BasketTold, "description": "Not answered yet: ask for the basket."}},
        )  # fmt: skip
        async def opened(
            asked: Annotated[Who, Depends(who)], body: schemas.NewBasket, key: IdempotencyKey, response: Response
        ) -> BasketTold:
            deed = OpenBasket(body.wanted, body.language)
            basket = await self._done(asked, deed, "POST /v1/baskets", key=key, body=body)
            basket = await self._until(basket, lambda one: one.held or one.short or bool(one.ended), ANSWER_S)
            if basket.short:
                raise Wrong(_SOLD_OUT)
            response.status_code = 201 if basket.held else 202
            return await self._told(asked, basket)

        @app.get("/v1/baskets/{basket_id}", responses=_PROBLEMS, tags=["baskets"], summary="How a basket stands")
        async def shown(
            asked: Annotated[Who, Depends(who)],
            basket_id: BasketId,
            after: Annotated[int, Query(ge=0, description="The `change` already known.")] = 0,
            wait_s: WaitS = 0,
        ) -> BasketTold:
            basket = await self._found(asked, basket_id)
            return await self._told(asked, await self._until(basket, lambda one: one.change > after, wait_s))

        @app.delete("/v1/baskets/{basket_id}", responses=_PROBLEMS, tags=["baskets"], summary="Let it go, unpaid")
        async def let_go(asked: Annotated[Who, Depends(who)], basket_id: BasketId) -> BasketTold:
            return await self._told(
                asked, await self._done(asked, LetGo(), "DELETE /v1/baskets/{basket_id}", basket_id)
            )

    # -- delivery ------------------------------------------------------------------------------------------------------

    def _delivery(self, who: Callable[..., Any]) -> None:
        app = self.app

        @app.put(
            "/v1/baskets/{basket_id}/address", status_code=202, responses=_PROBLEMS, tags=["delivery"],
            summary="Who buys, and where it goes",
        )  # fmt: skip
        async def address(
            asked: Annotated[Who, Depends(who)], basket_id: BasketId, body: schemas.NewBuyer
        ) -> BasketTold:
            deed = GiveAddress(body.told())
            return await self._told(
                asked, await self._done(asked, deed, "PUT /v1/baskets/{basket_id}/address", basket_id)
            )

        @app.get(
            "/v1/baskets/{basket_id}/delivery-options", tags=["delivery"], summary="Ways to deliver, price and date",
            responses=_PROBLEMS | {202: {"model": schemas.Options, "description": "Not answered yet: ask again."}},
        )  # fmt: skip
        async def options(
            asked: Annotated[Who, Depends(who)], basket_id: BasketId, response: Response
        ) -> schemas.Options:
            basket = await self._found(asked, basket_id)
            if not basket.quotes:
                raise Wrong(Refusal(409, "no_address", "give the buyer's address first"))
            basket = await self._until(basket, lambda one: one.options is not None, OPTIONS_S)
            response.status_code = 200 if basket.options is not None else 202
            today = self._service.clock().astimezone(asked[1].time_zone).date()
            told = [schemas.option_told(option, today) for option in basket.options or ()]
            told.sort(key=lambda one: (one.price_minor, one.days_max, one.option_id))
            return schemas.Options(ready=basket.options is not None, options=told, incomplete=basket.incomplete)

        @app.put(
            "/v1/baskets/{basket_id}/delivery", responses=_PROBLEMS, tags=["delivery"], summary="Choose a delivery"
        )
        async def delivery(
            asked: Annotated[Who, Depends(who)], basket_id: BasketId, body: schemas.NewChoice
        ) -> BasketTold:
            deed = ChooseDelivery(body.option_id)
            return await self._told(
                asked, await self._done(asked, deed, "PUT /v1/baskets/{basket_id}/delivery", basket_id)
            )

    # -- payment -------------------------------------------------------------------------------------------------------

    def _payment(self, who: Callable[..., Any]) -> None:
        app = self.app

        @app.get(
            "/v1/baskets/{basket_id}/payment-methods", responses=_PROBLEMS, tags=["payment"], summary="Ways to pay"
        )
        async def methods(asked: Annotated[Who, Depends(who)], basket_id: BasketId) -> schemas.Methods:
            basket = await self._found(asked, basket_id)
            return schemas.methods_told(basket, asked[1], self._service.clock())

        @app.post(
            "/v1/baskets/{basket_id}/pay", status_code=202, responses=_PROBLEMS, tags=["payment"], summary="Try to pay"
        )
        async def pay(
            asked: Annotated[Who, Depends(who)], basket_id: BasketId, body: schemas.NewPayment, key: IdempotencyKey
        ) -> BasketTold:
            deed = Pay(PaymentMethod(body.method), body.token)
            return await self._told(
                asked, await self._done(asked, deed, "POST /v1/baskets/{basket_id}/pay", basket_id, key=key, body=body)
            )

    # -- orders --------------------------------------------------------------------------------------------------------

    def _orders(self, who: Callable[..., Any]) -> None:
        app = self.app

        @app.post(
            "/v1/orders/{order_id}/cancel-request", status_code=202, responses=_PROBLEMS, tags=["orders"],
            summary="The buyer of a paid order wants it cancelled",
        )  # fmt: skip
        async def cancel(asked: Annotated[Who, Depends(who)], order_id: OrderId, key: IdempotencyKey) -> BasketTold:
            basket = await self._done(
                asked, AskToCancel(), "POST /v1/orders/{order_id}/cancel-request", order_id=order_id, key=key
            )
            return await self._told(asked, basket)

        @app.post(
            "/v1/orders/{order_id}/return-request", status_code=202, responses=_PROBLEMS, tags=["orders"],
            summary="The buyer wants to give the goods back",
        )  # fmt: skip
        async def give_back(
            asked: Annotated[Who, Depends(who)], order_id: OrderId, body: schemas.NewReturn, key: IdempotencyKey
        ) -> BasketTold:
            # A second note about one order is the same open alert, so the key has nothing to do.
            del key
            async with self._service.pool.acquire() as connection:
                basket = await store.by_order(connection, order_id)
            if basket is None or basket.connection_id != asked[0].connection.connection_id:
                raise Wrong(_NO_BASKET)
            if not basket.paid:
                raise Wrong(Refusal(409, "unpaid", "the basket is not paid: let it go with DELETE"))
            await self._note_return(basket, body.reason)
            return await self._told(asked, basket)

    async def _note_return(self, basket: Basket, reason: str) -> None:
        alert = Alert(
            basket.tenant,
            basket.connection_id,
            "return_requested",
            basket.order_id,
            f"the buyer of order {basket.external_id} wants to give the goods back ({reason}): agree on it with the "
            f"buyer, and book what comes back with `saldo parcel return`; who asks within seven days of the delivery "
            f"has the freight back as well: answer the order `freight_back` where the goods come later",
        )
        async with self._service.transaction() as tx:
            await raise_alerts(tx.connection, [alert], tx.now)

    # -- the tracking page ---------------------------------------------------------------------------------------------

    def _tracking(self) -> None:
        app = self.app
        style = (tracking.FOLDER / "style.css").read_bytes()

        @app.get("/t/style.css", include_in_schema=False)
        async def stylesheet() -> Response:
            return Response(style, media_type="text/css", headers={"Cache-Control": "max-age=3600"})

        @app.get(
            "/t/{link}", response_class=HTMLResponse, tags=["tracking"], summary="The page on which a buyer follows it",
            responses={404: {"description": "A wrong link, or one that is too old."}},
        )  # fmt: skip
        async def track(
            link: Annotated[str, Path(max_length=200)],
            lang: Annotated[str, Query(max_length=20)] = "",
            accept_language: Annotated[str, Header(max_length=500)] = "",
        ) -> Response:
            language = tracking.language_of(lang or accept_language)
            basket = await self._of_link(link)
            if basket is None:
                return HTMLResponse(tracking.missing(language), 404, tracking.HEADERS)
            page = tracking.page(basket, language, link, self._zone(basket.connection_id))
            return HTMLResponse(page, headers=tracking.HEADERS)

    def _zone(self, connection_id: str) -> ZoneInfo:
        entry = self._shop.intake.registry.get(connection_id)
        return terms_of(entry.session.settings if entry else {}).time_zone

    async def _of_link(self, link: str) -> Basket | None:
        order_id = links.order_of(link)
        if not order_id or "\0" in order_id:
            return None
        async with self._service.pool.acquire() as connection:
            basket = await store.by_order(connection, order_id)
            if basket is None:
                return None
            keys = await self._shop.intake.customer_keys_of(connection, [basket.tenant])
        return basket if links.is_good(keys[basket.tenant], link, self._service.clock()) else None

    # -- parts ---------------------------------------------------------------------------------------------------------

    async def _found(self, asked: Who, basket_id: str) -> Basket:
        if "\0" in basket_id:
            raise Wrong(_NO_BASKET)
        async with self._service.pool.acquire() as connection:
            basket = await store.by_basket(connection, asked[0].connection.connection_id, basket_id)
        if basket is None:
            raise Wrong(_NO_BASKET)
        return basket

    async def _done(
        self,
        asked: Who,
        deed: Deed | OpenBasket,
        name: str,
        basket_id: str = "",
        *,
        order_id: str = "",
        key: str = "",
        body: BaseModel | None = None,
    ) -> Basket:
        """Have it done under a span of its trace, `name`d by method and route. Raises `Wrong`, `TooBusy`."""
        entry, terms = asked
        if "\0" in order_id:
            raise Wrong(_NO_BASKET)
        cause = Cause("", "")
        if basket_id:
            basket = await self._found(asked, basket_id)
            cause = Cause("", basket.order_id, basket.traceparent)
        attributes = {"saldo.connection": entry.connection.connection_id, "saldo.tenant": entry.connection.tenant}
        attributes["http.request.method"], attributes["http.route"] = name.split(" ")
        with self._service.tracing.span(name, cause, kind=SpanKind.SERVER, attributes=attributes) as span:
            job = Job(entry, terms, deed, span, basket_id, order_id, key, _digest(name, basket_id or order_id, body))
            outcome = await self._desk.ask(job)
        if isinstance(outcome, Refusal):
            raise Wrong(outcome)
        return outcome

    async def _until(self, basket: Basket, good: Callable[[Basket], bool], timeout_s: float) -> Basket:
        """The basket as soon as it is as wanted, or as it is when the time is over."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while not good(basket) and (left_s := deadline - loop.time()) > 0:
            await self._shop.waiters.news(basket.order_id, left_s)
            async with self._service.pool.acquire() as connection:
                basket = await store.by_order(connection, basket.order_id) or basket
        return basket

    async def _told(self, asked: Who, basket: Basket) -> BasketTold:
        now = self._service.clock()
        url = None
        if basket.paid:
            async with self._service.pool.acquire() as connection:
                keys = await self._shop.intake.customer_keys_of(connection, [basket.tenant])
            until = links.until(basket.ended_at, now, asked[1].track)
            link = links.signed(keys[basket.tenant], basket.order_id, until)
            url = f"{self._shop.intake.settings.public_shop_url}/t/{link}"
        return schemas.basket_told(basket, url, now, asked[1].time_zone)


def _digest(name: str, about: str, body: BaseModel | None) -> bytes:
    """A fingerprint of what is asked, so that a key is not used for two things."""
    return hashlib.sha256(json.dumps([name, about, body.model_dump_json() if body else ""]).encode()).digest()


def _misread(failure: RequestValidationError) -> tuple[Refusal, list[dict[str, str]]]:
    """What is wrong with a request, without what was given: it may be a buyer's."""
    fields = []
    for error in failure.errors():
        if error["type"] == "missing" and error["loc"] == ("header", "Idempotency-Key"):
            return Refusal(400, "no_idempotency_key", "send an Idempotency-Key, drawn for this deed"), []
        if isinstance((error.get("ctx") or {}).get("error"), schemas.CardSeen):
            return Refusal(422, "card_number", "send the gateway's token, never a card's number"), []
        unknown = error["type"] == "extra_forbidden"
        # The name of a field that we do not know is the sender's text.
        place = error["loc"][:-1] if unknown else error["loc"]
        fields.append({"field": ".".join(map(str, place)), "why": "has a field too many" if unknown else error["msg"]})
    return Refusal(422, "invalid", "some fields cannot be taken: see `fields`"), fields
