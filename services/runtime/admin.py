"""The admin listener of a service: health, metrics, dead letters, brake, announcements, and the service's own."""

import contextlib
import hmac
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, final

import asyncpg
import uvicorn
from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic_core import PydanticSerializationError

from services.bus import announce
from services.bus.announce import Announcer
from services.bus.consumer import Consumer
from services.bus.settings import BusSettings
from services.bus.work import Work
from services.deadletters.letters import DeadLetters, NotOpen, ReplayFailed
from services.deadletters.routes import letters_router


def create_app(
    readiness: Callable[[], Awaitable[list[str]]],
    work: Work,
    routers: Sequence[APIRouter],
    alerts: Callable[[], list[str]] = list,
) -> FastAPI:
    """Health and metrics are open (loopback, or TLS); everything under /admin wants the token, if one is set.

    `readiness` says why the service cannot do its work, `alerts` what a person should look at though it can.
    """
    app = FastAPI(title=f"saldo {work.service}", docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/livez")
    async def livez() -> dict[str, str]:
        return {"status": "ok", "service": work.service}

    @app.get("/readyz")
    async def readyz() -> JSONResponse:
        reasons = await readiness()
        status = "not ready" if reasons else "ready"
        body = {"status": status, "service": work.service, "reasons": reasons, "alerts": alerts()}
        return JSONResponse(body, 503 if reasons else 200)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(work.metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.exception_handler(NotOpen)
    @app.exception_handler(ReplayFailed)
    async def refused(_: Request, failure: Exception) -> JSONResponse:
        return JSONResponse({"detail": str(failure)}, 404 if isinstance(failure, NotOpen) else 409)

    @app.exception_handler(UnicodeEncodeError)
    @app.exception_handler(PydanticSerializationError)
    @app.exception_handler(asyncpg.DataError)
    async def unfit(_: Request, __: Exception) -> JSONResponse:
        return JSONResponse({"detail": "a value cannot be kept: NUL, half a character, or out of range"}, 422)

    @app.exception_handler(OSError)
    @app.exception_handler(asyncpg.InterfaceError)
    @app.exception_handler(asyncpg.PostgresConnectionError)
    async def away(_: Request, failure: Exception) -> JSONResponse:
        return JSONResponse({"detail": f"the database does not answer ({type(failure).__name__}): try again"}, 503)

    @app.exception_handler(RequestValidationError)
    async def misread(_: Request, failure: RequestValidationError) -> JSONResponse:
        # Without what was given: it may be a credential, or nothing that JSON can say.
        detail = [{key: error[key] for key in ("type", "loc", "msg")} for error in failure.errors()]
        return JSONResponse({"detail": detail}, 422)

    token = work.settings.admin_token.get_secret_value()

    async def authorised(authorization: Annotated[str, Header()] = "") -> None:
        if token and not hmac.compare_digest(authorization.encode(), f"Bearer {token}".encode()):
            raise HTTPException(401, "send the admin token as 'Authorization: Bearer …'")

    @app.middleware("http")
    async def done(request: Request, call: Callable[[Request], Awaitable[Response]]) -> Response:
        answer = await call(request)
        if request.method in ("POST", "PUT"):
            work.faults.point("admin.done")
        return answer

    for router in routers:
        app.include_router(router, prefix="/admin", dependencies=[Depends(authorised)])
    return app


def bus_router(
    work: Work, letters: DeadLetters, consumers: Mapping[str, Consumer], announcers: Mapping[str, Announcer]
) -> APIRouter:
    """What every service answers under /admin."""
    router = APIRouter()
    router.include_router(letters_router(work, letters))

    @router.post("/erase")
    async def erase(correlation_id: str) -> dict[str, int]:
        return {"erased": await letters.erase(correlation_id)}

    @router.get("/consumers")
    async def list_consumers() -> list[dict[str, Any]]:
        return [_described(one) for one in consumers.values()]

    @router.post("/consumers/resume")
    async def resume(stream: str) -> dict[str, Any]:
        if stream not in consumers:
            raise HTTPException(404, f"{work.service} does not read {stream}: one of {sorted(consumers)}")
        return {"stream": stream, "resumed": await consumers[stream].brake.release()}

    @router.post("/announce")
    async def announce_now(stream: str | None = None, tenant: str | None = None) -> dict[str, list[str]]:
        streams = [stream] if stream else list(announcers)
        if unknown := set(streams) - set(announcers):
            raise HTTPException(404, f"{work.service} does not announce {sorted(unknown)}: one of {sorted(announcers)}")
        for name in streams:
            await announce.request(work, name, tenant)
        return {"announcing": streams}

    @router.post("/republish")
    async def republish(since: datetime, stream: str | None = None) -> dict[str, int]:
        if since.tzinfo is None:
            raise HTTPException(422, "since has no offset: give UTC, ending in Z")
        return {"republished": await announce.republish(work, since, stream)}

    @router.get("/outbox")
    async def outbox() -> dict[str, Any]:
        row = await work.pool.fetchrow(
            "SELECT coalesce(sum(count), 0) AS records, "
            "coalesce(extract(epoch FROM now() - min(created_at)), 0)::float AS oldest_age_s FROM outbox"
        )
        return dict(row or {})

    return router


def _described(consumer: Consumer) -> dict[str, Any]:
    return {
        "stream": consumer.stream, "group": consumer.group_id, "reason": consumer.reason,
        "braked": bool(consumer.brake.reason), "lag": consumer.lags(),
    }  # fmt: skip


@final
class AdminServer(uvicorn.Server):
    """Uvicorn inside our loop; signals belong to the service."""

    def __init__(self, app: FastAPI, settings: BusSettings) -> None:
        config = uvicorn.Config(
            app, host=settings.admin_host, port=settings.admin_port, ssl_certfile=settings.admin_tls_certificate,
            ssl_keyfile=settings.admin_tls_key, log_config=None, access_log=False, lifespan="off", ws="none",
            timeout_graceful_shutdown=2,
        )  # fmt: skip
        super().__init__(config)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signal handlers alone."""
        yield

    @property
    def port(self) -> int:
        """The port it listens on, once it is started."""
        return int(self.servers[0].sockets[0].getsockname()[1])
