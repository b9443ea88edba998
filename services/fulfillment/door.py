"""The door for carriers' webhooks. What comes in is a hint that there is news of a parcel, and no more: the carrier is
asked what it is, so a webhook that is replayed, late or out of order cannot tell anything wrong."""

import re
import time
from collections.abc import Callable, Sequence
from typing import Final, TypeAlias, final

import asyncpg
import structlog
from opentelemetry.trace import SpanKind
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from services.border import door
from services.border.errors import SignatureInvalid
from services.border.together import Together
from services.border.vault import SealBroken
from services.bus import Cause
from services.bus.failures import describe
from services.bus.tracing import UNTRACED, Tracing
from services.fulfillment import store
from services.fulfillment.accounts import Carriers
from services.fulfillment.handlers import Opens
from services.fulfillment.settings import FulfillmentSettings
from services.fulfillment.wake import Wake
from services.runtime import Service

_ID: Final = re.compile(r"[0-9a-f-]{36}")
_REFERENCE_MAX: Final = 200
_LINGER_S: Final = 0.05
"""A carrier is in no hurry for its answer, and often tells of many parcels at once."""

Reference: TypeAlias = tuple[str, str, str]
"""A parcel by company, carrier and the carrier's name of it."""

_log = structlog.get_logger(__name__)


@final
class Door:
    """What carriers call, at `/hooks/<account>`; `wake` begins the look at the parcel. `point` is where a test lets the
    process die."""

    def __init__(
        self,
        opens: Opens,
        carriers: Carriers,
        settings: FulfillmentSettings,
        wake: Wake,
        point: Callable[[str], None] = lambda _: None,
        tracing: Tracing = UNTRACED,
    ) -> None:
        self._opens, self._carriers, self._settings, self._wake = opens, carriers, settings, wake
        self._point, self._tracing = point, tracing
        self._named = Together(self._named_all, linger_s=_LINGER_S)
        self._keep = Together(self._keep_all, linger_s=_LINGER_S)
        self.app = Starlette(routes=[Route("/hooks/{account_id}", self._deliver, methods=["POST"])])

    async def _deliver(self, request: Request) -> Response:
        try:
            return await self._take(request, request.path_params["account_id"])
        except door.Refused as refused:
            return refused.answer
        except SignatureInvalid:
            _log.warning("a webhook with a wrong signature was refused", account=request.path_params["account_id"])
            return door.problem(401, "the signature does not fit")
        except (OSError, SealBroken, asyncpg.PostgresError, asyncpg.InterfaceError) as failure:
            _log.error("a webhook could not be taken", error=describe(failure))
            return door.later()

    async def _take(self, request: Request, account_id: str) -> Response:
        began_ns = time.time_ns()
        found = await self._carriers.at(account_id) if _ID.fullmatch(account_id) else None
        if found is None:
            return door.problem(404, "there is no such door")
        tenant, carrier = found
        raw = await door.read(request, self._settings.door_body_max_bytes)
        carrier.verify(request.headers, raw)
        door.require_shallow(raw)
        try:
            reference = carrier.named(raw)
        except ValueError:
            return door.problem(400, "the body names no parcel")
        if len(reference) > _REFERENCE_MAX or "\0" in reference:
            return door.problem(400, "the body names no parcel")
        parcel = tenant, carrier.traits.name, reference
        causes = await self._named(parcel)
        # No carrier tells of our traces: a webhook belongs to that of the parcel.
        about = {"saldo.account": account_id, "saldo.tenant": tenant, **door.described(request, "/hooks/{account_id}")}
        with self._tracing.span(
            "receive webhook", causes, kind=SpanKind.SERVER, attributes=about, start_ns=began_ns
        ) as cause:
            if causes:
                await self._keep((parcel, cause.traceparent))
            else:
                # Of a parcel of someone else, or of one whose label is not kept yet: that one is asked about anyway.
                _log.info("a webhook is about an unknown parcel", account=account_id)
            self._point("hint.saved")
            return door.answered(Response(status_code=200))

    async def _named_all(self, parcels: Sequence[Reference]) -> list[list[Cause]]:
        async with self._opens() as tx:
            known = await store.named(tx.connection, parcels)
        return [known.get(parcel, []) for parcel in parcels]

    async def _keep_all(self, told: Sequence[tuple[Reference, str]]) -> list[None]:
        """Note that there is news of these parcels, of each the span in which that was heard."""
        async with self._opens() as tx:
            await store.hint(tx.connection, dict(told), tx.now)
        self._wake()
        return [None] * len(told)


async def run(service: Service, *, carriers: Carriers, settings: FulfillmentSettings, wake: Wake) -> None:
    """Listen until cancelled."""
    app = Door(service.transaction, carriers, settings, wake, service.faults.point, service.tracing).app
    await door.listen(app, host=settings.door_host, port=settings.door_port)
