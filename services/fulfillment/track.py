"""Where parcels are: asked at the carriers every while, and at once where a webhook says that there is news."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final, final

import asyncpg
import structlog
from opentelemetry.trace import SpanKind

from services.border.errors import OutcomeUnknown, Rejected, Throttled
from services.bus import Cause
from services.bus.failures import describe
from services.bus.tracing import UNTRACED, Tracing
from services.fulfillment import store
from services.fulfillment.accounts import Carriers
from services.fulfillment.carriers.carrier import Seen
from services.fulfillment.domain import Scan, Shipment
from services.fulfillment.handlers import Opens, open_desk
from services.fulfillment.settings import FulfillmentSettings
from services.fulfillment.wake import Wake
from services.runtime import Service

_FAILED_S: Final = 30.0

_log = structlog.get_logger(__name__)


@final
class Tracker:
    """Asks carriers about parcels. `point` is where a test lets the process die."""

    def __init__(
        self,
        opens: Opens,
        carriers: Carriers,
        settings: FulfillmentSettings,
        point: Callable[[str], None] = lambda _: None,
        tracing: Tracing = UNTRACED,
    ) -> None:
        self._opens, self._carriers, self._settings, self._point = opens, carriers, settings, point
        self._tracing = tracing

    async def work_off(self) -> int:
        """Ask about what is due, each carrier once; how many parcels."""
        async with self._opens() as tx:
            until = tx.now + timedelta(seconds=self._settings.book_lease_s)
            rows = await store.claim_looks(tx.connection, tx.now, until, self._settings.page)
        groups: dict[tuple[str, str], list[asyncpg.Record]] = {}
        for row in rows:
            groups.setdefault((row["tenant"], row["provider"]), []).append(row)
        await asyncio.gather(*(self._alone(*group, parcels) for group, parcels in groups.items()))
        return len(rows)

    async def _alone(self, tenant: str, provider: str, rows: Sequence[asyncpg.Record]) -> None:
        try:
            await self._ask(tenant, provider, rows)
        except Exception as failure:  # noqa: BLE001 - they are claimed for a while, and then taken up again
            _log.error("parcels are not looked at", tenant=tenant, carrier=provider, error=describe(failure))

    async def _ask(self, tenant: str, provider: str, rows: Sequence[asyncpg.Record]) -> None:
        carrier = (await self._carriers.of(tenant)).get(provider)
        told: Mapping[str, Sequence[Seen]] = {}
        # A carrier that is not there now may be there again.
        wait_s = None if carrier is not None and not carrier.traits.follows else self._settings.track_every_s
        if carrier is not None and wait_s is not None:
            try:
                causes, about = [Cause(*row["cause"]) for row in rows], {"saldo.tenant": tenant}
                with self._tracing.span("ask carrier", causes, kind=SpanKind.CLIENT, attributes=about):
                    told = await carrier.track([row["reference"] for row in rows])
            except Throttled as wait:
                wait_s = wait.retry_after_s
            except (OutcomeUnknown, Rejected, ValueError) as failure:
                _log.error("a carrier does not say where parcels are", carrier=provider, error=describe(failure))
                wait_s = max(wait_s, _FAILED_S)
        self._point("track.answered")
        async with self._opens() as tx:
            desk = await open_desk(tx, {(tenant, row["order_id"]) for row in rows}, self._settings)
            for row in rows:
                shipment = desk.shipments[tenant, row["shipment_id"]]
                for scan in news(shipment, told.get(row["reference"], ()), tx.now):
                    desk.decide(tenant, row["order_id"], row["shipment_id"], scan, Cause(*row["cause"]))
            await desk.save()
            again = None if wait_s is None else tx.now + timedelta(seconds=max(wait_s, 0.1))
            oldest = tx.now - timedelta(days=self._settings.track_days)
            await store.looked(tx.connection, tenant, rows, again, oldest)
        self._point("track.stored")


def news(shipment: Shipment, told: Sequence[Seen], now: datetime) -> list[Scan]:
    """Scans in order of time. What the carrier gives no moment for is of now, once a status. Pure."""
    known = {scan.status for scan in shipment.scans}
    scans = [Scan(one.status, one.happened_at or now) for one in told if one.happened_at or one.status not in known]
    return sorted(scans, key=lambda scan: scan.happened_at)


async def run(service: Service, *, carriers: Carriers, settings: FulfillmentSettings, wake: Wake) -> None:
    """Ask for ever, resting between two rounds: a parcel's news is in no hurry, and of many in one is cheap."""
    tracker = Tracker(service.transaction, carriers, settings, service.faults.point, service.tracing)
    while True:
        if await tracker.work_off() < settings.page:
            await wake.wait(settings.poll_interval_s)
            await asyncio.sleep(settings.track_rest_s)
