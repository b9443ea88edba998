"""The doors for webhooks: verified, kept once, and turned into a look at the payments that they name.

A webhook is a hint and nothing in it is believed: whoever works on due payments asks the gateway what is true. So one
that comes twice, late, in another order or not at all changes nothing of how a payment ends.
"""

import asyncio
import re
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Final

import asyncpg
import structlog
from opentelemetry.trace import SpanKind
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from services.border import door
from services.border.errors import Rejected, SignatureInvalid
from services.bus.failures import describe
from services.bus.tracing import within
from services.payments import store
from services.payments.accounts import Accounts
from services.payments.domain import due, hinted
from services.payments.gateways.gateway import Delivery, Hint
from services.payments.settings import PaymentsSettings

if TYPE_CHECKING:
    from services.runtime import Service

_BODY_MAX_BYTES: Final = 1_000_000
_ID: Final = re.compile(r"[0-9a-f-]{36}")
_NAME_MAX: Final = 255
_TIMEOUT_S: Final = 8.0
"""A gateway gives up after 10 s or later; it is told to come again before that."""
_AT_ONCE: Final = 50
_TIDY_EVERY_S: Final = 3600.0
_CALLS_MAX: Final = 1_000
_log = structlog.get_logger("saldo.payments")


class Door:
    """The listeners of one process: `open` for whoever signs, `certified` for whoever shows a client certificate."""

    def __init__(
        self, service: "Service", accounts: Accounts, settings: PaymentsSettings, wake: Callable[[], None]
    ) -> None:
        self._service, self._accounts, self._settings, self._wake = service, accounts, settings, wake
        self._inside = 0
        self.open = Starlette(routes=[Route("/hooks/{account_id}", self._deliver, methods=["POST"])])
        certified = partial(self._deliver, certified=True)
        # A bank puts `/pix` behind the address that it was given.
        paths = ("/hooks/{account_id}/{secret}", "/hooks/{account_id}/{secret}/pix")
        self.certified = Starlette(routes=[Route(path, certified, methods=["POST"]) for path in paths])

    async def run(self) -> None:
        """Listen until cancelled. Raises as `border.door.listen` does, `OSError` where a certificate is missing."""
        settings = self._settings
        async with asyncio.TaskGroup() as group:
            group.create_task(door.listen(self.open, host=settings.door_host, port=settings.door_port))
            if settings.pix_door_port is not None:
                tls = await asyncio.to_thread(settings.pix_tls)
                group.create_task(
                    door.listen(self.certified, host=settings.door_host, port=settings.pix_door_port, tls=tls)
                )
            group.create_task(self._tidy())

    async def _tidy(self) -> None:
        settings = self._settings
        while True:
            async with self._service.transaction() as tx:
                await store.forget_hints(tx.connection, tx.now - timedelta(days=settings.hint_keep_days))
                before = tx.now - timedelta(days=settings.call_keep_days)
                forgotten = await store.forget_calls(tx.connection, before, _CALLS_MAX)
            if forgotten < _CALLS_MAX:
                await asyncio.sleep(_TIDY_EVERY_S)

    async def _deliver(self, request: Request, *, certified: bool = False) -> Response:
        if not _ID.fullmatch(request.path_params["account_id"]):
            return door.problem(404, "there is no such door")
        if self._inside >= _AT_ONCE:
            return door.later()
        self._inside += 1
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                return await self._receive(request, certified)
        except door.Refused as refused:
            return refused.answer
        except (TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as failure:
            _log.error("a webhook could not be kept", error=describe(failure))
            return door.later()
        finally:
            self._inside -= 1

    async def _receive(self, request: Request, certified: bool) -> Response:
        began_ns, account_id = time.time_ns(), request.path_params["account_id"]
        try:
            tenant, gateway, credentials = await self._accounts.at_door(account_id)
        except Rejected:
            return door.problem(404, "there is no such door")
        body = await door.read(request, _BODY_MAX_BYTES)
        delivery = Delivery(request.headers, body, request.path_params.get("secret", ""), certified)
        try:
            gateway.verify(delivery, credentials, self._service.clock())
        except SignatureInvalid:
            _log.warning("a webhook that its gateway did not sign was refused", account_id=account_id)
            return door.problem(401, "the signature does not fit, or is too old")
        door.require_shallow(body)
        try:
            hint = gateway.hint(body)
        except ValueError as error:
            return door.problem(400, str(error))
        if not all(name.isprintable() and len(name) <= _NAME_MAX for name in (hint.delivery_id, *hint.references)):
            return door.problem(400, "the body names an event or a payment by what is no id")
        # No gateway tells of our traces: a webhook belongs to those of the payments that it names.
        causes = await store.named(self._service.pool, account_id, hint)
        about = {"saldo.account": account_id, "saldo.tenant": tenant, **door.described(request, "/hooks/{account_id}")}
        with self._service.tracing.span(
            "receive webhook", causes, kind=SpanKind.SERVER, attributes=about, start_ns=began_ns
        ) as cause:
            await self._keep(tenant, account_id, hint, cause.traceparent)
            return door.answered(Response(status_code=200))

    async def _keep(self, tenant: str, account_id: str, hint: Hint, traceparent: str) -> None:
        async with self._service.transaction() as tx:
            found = await store.keep_hint(tx.connection, tenant, account_id, hint, tx.now)
            if found is None:
                return
            every = self._settings.look_every
            later = {
                key: replace(
                    stored,
                    pay=hinted(stored.pay),
                    # What is looked at now is looked at because of this webhook; of several traces each keeps its own.
                    cause=stored.cause._replace(traceparent=within(stored.cause.traceparent, traceparent)),
                )
                for key, stored in found.items()
            }
            rows = {key: (stored, due(stored.pay, tx.now, every)) for key, stored in later.items()}
            await store.put_payments(tx.connection, rows)
            tx.after_commit(self._wake)
            self._service.faults.point("hint.saved")
