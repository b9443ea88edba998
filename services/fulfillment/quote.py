"""Quotes for the own shop: what all carriers ask for a basket, answered in time even where one of them is slow."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Final, TypeAlias, final

import asyncpg
import structlog
from opentelemetry.trace import SpanKind

from contracts.channels.v1 import BuyerReported
from contracts.fulfillment.v1 import DeliveryOption, DeliveryQuoted, QuoteDelivery
from services.border.errors import OutcomeUnknown, Rejected, Throttled
from services.border.vault import Vault
from services.bus import Cause
from services.bus.failures import describe
from services.bus.tracing import UNTRACED, Tracing
from services.fulfillment import store
from services.fulfillment.accounts import Carriers
from services.fulfillment.carriers.carrier import Carrier, Parcel
from services.fulfillment.handlers import Opens, packed
from services.fulfillment.mapping import SEEDS, NameMapping, folded, translated
from services.fulfillment.rates import Quote
from services.fulfillment.recipient import recipient
from services.fulfillment.settings import FulfillmentSettings
from services.fulfillment.wake import Wake
from services.runtime import Service

Offer: TypeAlias = tuple[str, Quote]
"""Who provides it, and what it is, in our words."""

_CARRIER_FAILURES: Final = (OutcomeUnknown, Rejected, Throttled, TimeoutError, ValueError)

_DAYS_MAX: Final = 366

_log = structlog.get_logger(__name__)


async def offers(
    carriers: Mapping[str, Carrier], parcel: Parcel, names: Sequence[NameMapping], timeout_s: float
) -> tuple[list[Offer], list[Exception]]:
    """What every carrier asks, the cheapest first, and why those who do not answer within `timeout_s` do not."""

    async def ask(carrier: Carrier) -> Sequence[Quote]:
        async with asyncio.timeout(timeout_s):
            return await carrier.quote(parcel)

    answers = await asyncio.gather(*map(ask, carriers.values()), return_exceptions=True)
    found: list[Offer] = []
    failures: list[Exception] = []
    for provider, answer in zip(carriers, answers, strict=True):
        if isinstance(answer, _CARRIER_FAILURES):
            _log.warning("a carrier gives no quote", carrier=provider, error=describe(answer))
            failures.append(answer)
        elif isinstance(answer, BaseException):
            raise answer
        else:
            ours = [_ours(quote, names) for quote in answer]
            fit = [one for one in ours if _is_fit(one)]
            if len(fit) < len(ours):
                _log.warning("a carrier gives quotes that nobody can mean", carrier=provider, left=len(ours) - len(fit))
            found += [(provider, one) for one in fit]
    return sorted(found, key=lambda one: (one[1].price_minor, one[1].days_max, one[0], one[1].service)), failures


def _ours(quote: Quote, names: Sequence[NameMapping]) -> Quote:
    """A quote of a carrier outside in our words; what nobody has named keeps the carrier's, in small letters."""
    if not quote.option:
        return quote
    known = [*SEEDS, *names]
    carrier = translated(known, "carrier", "", quote.carrier) or folded(quote.carrier)[:64]
    service = translated(known, "service", "", quote.service) or folded(quote.service)[:64]
    return replace(quote, carrier=carrier, service=service)


def _is_fit(quote: Quote) -> bool:
    """Whether a buyer may be shown it: a carrier pays nobody for a parcel, and takes no year for it."""
    named = all(name and name.isprintable() for name in (quote.carrier, quote.service))
    return named and quote.price_minor >= 0 and 0 <= quote.days_min <= quote.days_max <= _DAYS_MAX


@final
class Quoter:
    """Answers the quotes that are due. `point` is where a test lets the process die."""

    def __init__(
        self,
        opens: Opens,
        carriers: Carriers,
        vault: Vault,
        settings: FulfillmentSettings,
        point: Callable[[str], None] = lambda _: None,
        tracing: Tracing = UNTRACED,
    ) -> None:
        self._opens, self._carriers, self._vault, self._settings = opens, carriers, vault, settings
        self._point, self._tracing = point, tracing

    async def work_off(self) -> int:
        """Answer what is due, all at once; how many."""
        async with self._opens() as tx:
            until = tx.now + timedelta(seconds=self._settings.book_lease_s)
            rows = await store.claim_quotes(tx.connection, tx.now, until, self._settings.page)
        await asyncio.gather(*map(self._alone, rows))
        return len(rows)

    async def _alone(self, row: asyncpg.Record) -> None:
        try:
            await self._answer(row)
        except Exception as failure:  # noqa: BLE001 - it is claimed for a while, and then taken up again
            _log.error("a quote is not answered", tenant=row["tenant"], quote=row["quote_id"], error=describe(failure))

    async def _answer(self, row: asyncpg.Record) -> None:
        tenant, asked, cause = row["tenant"], QuoteDelivery.model_validate_json(row["body"]), Cause(*row["cause"])
        async with self._opens() as tx:
            sealed = (await store.read_buyers(tx.connection, [(tenant, asked.order_id)])).get((tenant, asked.order_id))
            skus = {(tenant, line.sku) for line in asked.lines}
            parcel = packed(tenant, asked.lines, await store.read_items(tx.connection, skus), self._settings)
            origin = await store.first_origin(tx.connection, tenant)
            names = (await store.read_mappings(tx.connection, [tenant])).get(tenant, [])
        found: list[Offer] = []
        failures: list[Exception] = []
        place = None
        if sealed:
            opened = self._vault.open(sealed, tenant=tenant, owner=asked.order_id, field="buyer")
            place = recipient(BuyerReported.model_validate_json(opened))
        if place:
            wanted = Parcel(
                tenant, parcel.weight_g, parcel.dimensions_mm, asked.declared_minor, asked.currency, origin, place
            )
            carriers = await self._carriers.of(tenant)
            about = {"saldo.tenant": tenant, "saldo.step": "quote"}
            with self._tracing.span("ask carriers", cause, kind=SpanKind.CLIENT, attributes=about) as cause:
                found, failures = await offers(carriers, wanted, names, self._settings.quote_timeout_s)
        quoted = DeliveryQuoted(
            order_id=asked.order_id,
            quote_id=asked.quote_id,
            options=_options(found, asked.currency),
            incomplete=bool(failures),
        )
        self._point("quote.answered")
        async with self._opens() as tx:
            if await store.answer_quote(tx.connection, tenant, quoted):
                tx.publish(quoted, tenant=tenant, cause=cause)
        self._point("quote.settled")


def _options(found: Sequence[Offer], currency: str) -> tuple[DeliveryOption, ...]:
    """The cheapest offer of each carrier and service in the order's currency."""
    options: dict[str, DeliveryOption] = {}
    for _, quote in found:
        option_id = f"{quote.carrier}/{quote.service}"[:64]
        if quote.currency == currency and option_id not in options:
            options[option_id] = DeliveryOption(
                option_id=option_id, carrier=quote.carrier, service=quote.service, price_minor=quote.price_minor,
                currency=quote.currency, days_min=quote.days_min, days_max=quote.days_max,
            )  # fmt: skip
    return tuple(options.values())


async def run(service: Service, *, carriers: Carriers, vault: Vault, settings: FulfillmentSettings, wake: Wake) -> None:
    """Answer for ever."""
    quoter = Quoter(service.transaction, carriers, vault, settings, service.faults.point, service.tracing)
    while True:
        if not await quoter.work_off():
            await wake.wait(settings.poll_interval_s)
