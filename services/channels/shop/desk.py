"""Where baskets are changed: deeds of many buyers in one transaction, each with its body in intake and absorbed there.

The transaction has the lock under which bodies are absorbed, so a basket, the sale that is told of it, the number that
the shop shows and the question to fulfillment are one. Where that cannot be done now, nothing of it is, and the
storefront is told to come again: other than a marketplace's push, a buyer is still there to do so.
"""

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, TypeAlias, final

import asyncpg
import structlog

from contracts.channels.v1 import BuyerReported
from contracts.fulfillment.v1 import QuoteDelivery, ShipmentLine
from services.bus import Cause, Transaction
from services.bus.failures import describe
from services.channels import ids
from services.channels.connections.registry import Open
from services.channels.intake import store as intake_store
from services.channels.intake.absorb import absorb_with, links_of
from services.channels.intake.store import Body
from services.channels.shop import domain, numbers, store
from services.channels.shop.domain import Basket, BasketLine, Deed, GiveAddress, LetGo, Pay, Refusal, Terms
from services.channels.shop.numbers import Shelf
from services.channels.shop.shop import Shop
from services.channels.shop.store import Kept, Key

if TYPE_CHECKING:
    from services.runtime import Service

_WITHIN_S: Final = 3.0
_BATCH_MAX: Final = 100
_FAILURES: Final = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError)
_OF_ONE: Final = ("22", "23", "54")
"""SQLSTATE classes of what one job can be the reason of."""
# Told to a person over the telephone: without letters and digits that look alike.
_ALPHABET: Final = "23456789ABCDEFGHJKLMNPQRSTUVWXYZ"
_NUMBER_LENGTH: Final = 12

_log = structlog.get_logger(__name__)


class TooBusy(Exception):
    """Nothing was done, or nobody knows yet: ask again with the same key."""


@final
@dataclass(frozen=True, slots=True)
class OpenBasket:
    """A new basket of these (sku, quantity)."""

    lines: tuple[tuple[str, int], ...]
    language: str


Outcome: TypeAlias = Basket | Refusal


@final
@dataclass(frozen=True, slots=True)
class Job:
    """What a storefront asks: to open a basket, or a deed on the one named. `key` is empty where none is needed."""

    entry: Open
    terms: Terms
    deed: Deed | OpenBasket
    cause: Cause
    basket_id: str = ""
    order_id: str = ""
    key: str = ""
    digest: bytes = b""
    done: asyncio.Future[Outcome] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    @property
    def shop(self) -> str:
        return self.entry.connection.connection_id


@final
@dataclass(slots=True)
class _Work:
    """One transaction: what was found, and what is to be written at its end."""

    tx: Transaction
    shelf: Shelf
    baskets: dict[str, Kept]
    keys: dict[tuple[str, str], Key]
    used: list[Key] = field(default_factory=list)
    changed: dict[str, Kept] = field(default_factory=dict)
    bodies: list[Body] = field(default_factory=list)
    quotes: dict[str, Open] = field(default_factory=dict)

    def found(self, job: Job) -> Kept | None:
        """The basket that a job is about, if it is one of the shop's."""
        named = (kept for kept in self.baskets.values() if kept.basket.basket_id == job.basket_id)
        kept = self.baskets.get(job.order_id) if job.order_id else next(named, None)
        return kept if kept and kept.basket.connection_id == job.shop else None


class Desk:
    """The writer of baskets of one process. `run` works until cancelled."""

    def __init__(self, service: "Service", shop: Shop) -> None:
        self._service, self._shop = service, shop
        self._waiting: list[Job] = []
        self._wake = asyncio.Event()

    async def ask(self, job: Job) -> Outcome:
        """Have a job done; returns the basket as it is then, or why not. Raises `TooBusy`."""
        if len(self._waiting) >= self._shop.intake.settings.door_waiting_max:
            raise TooBusy
        self._waiting.append(job)
        self._wake.set()
        try:
            # Shielded: a caller that hangs up changes nothing about what is being done.
            return await asyncio.wait_for(asyncio.shield(job.done), _WITHIN_S + 1)
        except _FAILURES as failure:
            # What nobody waits for any more is not begun.
            job.done.cancel()
            _log.error("a basket could not be changed", connection=job.shop, error=describe(failure))
            raise TooBusy from None

    async def run(self) -> None:
        """Do what waits, all of it in one transaction, again and again."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                batch, self._waiting = self._waiting[:_BATCH_MAX], self._waiting[_BATCH_MAX:]
                await self._serve([job for job in batch if not job.done.cancelled()])

    async def _serve(self, batch: Sequence[Job]) -> None:
        if not batch:
            return
        try:
            async with asyncio.timeout(_WITHIN_S), self._service.transaction() as tx:
                outcomes = await self._decide(tx, batch)
                self._service.faults.point("shop.decided")
            self._service.faults.point("shop.done")
        except Exception as failure:  # noqa: BLE001 - one job's fault must not be everybody's
            if len(batch) > 1 and _is_of_one(failure):
                for job in batch:
                    await self._serve([job])
                return
            for job in batch:
                if not job.done.done():
                    told = failure if isinstance(failure, _FAILURES) else OSError(describe(failure))
                    job.done.set_exception(told)
                    # Taken note of here, since a caller that timed out never looks.
                    job.done.exception()
            return
        for job, outcome in zip(batch, outcomes, strict=True):
            if not job.done.done():
                job.done.set_result(outcome)

    async def _decide(self, tx: Transaction, batch: Sequence[Job]) -> list[Outcome]:
        await intake_store.absorb_lock(tx.connection)
        keys = await store.keys(tx.connection, sorted({(job.shop, job.key) for job in batch if job.key}))
        order_ids = {job.order_id for job in batch if job.order_id} | {key.order_id for key in keys.values()}
        baskets = await store.lock(tx.connection, sorted(order_ids), [job.basket_id for job in batch if job.basket_id])
        wanted = [(job.shop, sku) for job in batch if isinstance(job.deed, OpenBasket) for sku, _ in job.deed.lines]
        if any(isinstance(job.deed, LetGo) for job in batch):
            wanted += [(one.basket.connection_id, line.sku) for one in baskets.values() for line in one.basket.lines]
        shelf = await numbers.lock(tx.connection, wanted) if wanted else Shelf({}, {})
        work = _Work(tx, shelf, baskets, keys)
        outcomes = [self._one(work, job) for job in batch]
        await self._write(work)
        # What was done in the same batch after a job changes nothing about its own answer.
        return outcomes

    def _one(self, work: _Work, job: Job) -> Outcome:
        used = work.keys.get((job.shop, job.key)) if job.key else None
        if used is not None:
            if used.digest != job.digest:
                return Refusal(422, "key_reused", "this Idempotency-Key was used for something else: draw another")
            return work.baskets[used.order_id].basket
        outcome = (
            self._open(work, job, job.deed) if isinstance(job.deed, OpenBasket) else self._act(work, job, job.deed)
        )
        if job.key and isinstance(outcome, Basket):
            key = Key(job.shop, job.key, job.digest, outcome.order_id)
            work.keys[job.shop, job.key] = key
            work.used.append(key)
        return outcome

    def _open(self, work: _Work, job: Job, wanted: OpenBasket) -> Outcome:
        shelf, shop = work.shelf, job.shop
        shown = shelf.shown(shop, (sku for sku, _ in wanted.lines))
        if missing := domain.shortage(wanted.lines, shown):
            sku, number = missing
            if sku not in shown:
                return Refusal(404, "no_such_product", "a sku is none of this shop's products")
            return Refusal(409, "sold_out", "there are fewer units than asked for", {"sku": sku, "available": number})
        external_id = "".join(secrets.choice(_ALPHABET) for _ in range(_NUMBER_LENGTH))
        products = [(shelf.products[shop, sku], quantity) for sku, quantity in wanted.lines]
        order_id = ids.order_id(job.entry.connection.tenant, shop, external_id)
        basket = Basket(
            tenant=job.entry.connection.tenant,
            connection_id=shop,
            order_id=order_id,
            basket_id=secrets.token_urlsafe(16),
            external_id=external_id,
            language=wanted.language,
            currency=job.terms.currency,
            lines=tuple(
                BasketLine(str(number), one.sku, one.title, quantity, one.price_minor)
                for number, (one, quantity) in enumerate(products, start=1)
            ),
            created_at=work.tx.now,
            hold_until=work.tx.now + job.terms.hold_card,
            traceparent=job.cause.traceparent,
        )
        for line in basket.lines:
            number = shelf.products[shop, line.sku].quantity - line.quantity
            shelf.set(
                "sale", shop, line.sku, number, external_id=external_id, line_id=line.line_id,
                price_minor=line.unit_price_minor,
            )  # fmt: skip
        self._keep(work, job, Kept(basket), None)
        return basket

    def _act(self, work: _Work, job: Job, deed: Deed) -> Outcome:
        kept = work.found(job)
        if kept is None:
            return Refusal(404, "no_such_basket", "there is no such basket in this shop")
        before = kept.basket
        after = domain.act(before, deed, job.terms, work.tx.now)
        if isinstance(after, Refusal) or after is before:
            return after
        if domain.released(before, after):
            give_back(work.shelf, after)
        if isinstance(deed, Pay):
            kept = replace(kept, token=self._shop.seal_token(after, deed.token) if deed.token else None)
        buyer = deed.buyer if isinstance(deed, GiveAddress) else None
        if buyer is not None:
            work.quotes[after.order_id] = job.entry
        self._keep(work, job, replace(kept, basket=after), buyer)
        return after

    def _keep(self, work: _Work, job: Job, kept: Kept, buyer: BuyerReported | None) -> None:
        if kept.token and domain.told_of_try(kept.basket):
            kept = replace(kept, token=None)
        work.baskets[kept.basket.order_id] = work.changed[kept.basket.order_id] = kept
        connection, traceparent = job.entry.connection, job.cause.traceparent
        work.bodies.append(self._shop.body(connection, kept, buyer, work.tx.now, traceparent))

    async def _write(self, work: _Work) -> None:
        tx = work.tx
        if not work.changed:
            return
        await store.save(tx.connection, list(work.changed.values()), tx.now)
        await store.keep_keys(tx.connection, work.used, tx.now)
        await numbers.save(tx.connection, work.shelf, tx.now)
        await absorb_with(tx, self._shop.intake, work.bodies)
        await self._ask_quotes(work)
        changed = list(work.changed)
        tx.after_commit(lambda: self._shop.waiters.tell(changed))

    async def _ask_quotes(self, work: _Work) -> None:
        """Ask fulfillment for the deliveries of baskets whose buyer has given an address.

        It is told by the revision with which the buyer was reported: one who gives the same address again, because the
        answer was lost, is not reported again, and a later revision would be waited for in vain.
        """
        kept = await intake_store.buyers_of(work.tx.connection, sorted(work.quotes))
        buyers = {buyer.order_id: self._shop.intake.open_buyer(buyer) for buyer in kept}
        for order_id, entry in work.quotes.items():
            basket = work.changed[order_id].basket
            shop = entry.connection
            links = await links_of(work.tx, shop.tenant, shop.connection_id, [line.sku for line in basket.lines])
            lines = [
                ShipmentLine(line_id=line.line_id, sku=link.sku, quantity=line.quantity * link.pack)
                for line in basket.lines
                if (link := links.get(line.sku))
            ]
            if len(lines) < len(basket.lines):
                _log.warning("no delivery is asked for: a product is linked to no SKU", order_id=order_id)
                continue
            if order_id not in buyers:
                _log.warning("no delivery is asked for: the buyer was erased", order_id=order_id)
                continue
            quote = QuoteDelivery(
                order_id=order_id,
                quote_id=basket.quote_id,
                connection_id=shop.connection_id,
                sale_revision=buyers[order_id].sale_revision,
                lines=tuple(lines),
                declared_minor=basket.goods_minor,
                currency=basket.currency,
            )
            work.tx.publish(quote, tenant=shop.tenant, cause=Cause("", order_id, basket.traceparent))


def _is_of_one(failure: Exception) -> bool:
    """Whether one job can be the reason, so that the others are to be tried without it."""
    if isinstance(failure, asyncpg.PostgresError):
        return (failure.sqlstate or "")[:2] in _OF_ONE
    return not isinstance(failure, _FAILURES)


def give_back(shelf: Shelf, basket: Basket) -> None:
    """The shop shows again what a basket held."""
    for line in basket.lines:
        product = shelf.products.get((basket.connection_id, line.sku))
        # A product that is not sold any more shows nothing.
        if product is not None:
            shelf.set(
                "cancel", basket.connection_id, line.sku, product.quantity + line.quantity,
                external_id=basket.external_id, line_id=line.line_id,
            )  # fmt: skip
