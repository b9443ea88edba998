"""What fulfillment does with what it hears: gather, decide in order of arrival, apply."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final, TypeAlias

import asyncpg

from contracts.channels.v1 import BuyerReported, ResendBuyer
from contracts.crm.v1 import CustomerErased
from contracts.fulfillment.v1 import CancelShipment, ChangeAddress, PrepareShipment, QuoteDelivery, ShipmentLine
from contracts.inventory.v1 import ItemChanged
from services.border.vault import Vault
from services.bus import Cause, Received, Transaction
from services.fulfillment import store
from services.fulfillment.domain import (
    BuyerForgotten,
    BuyerKnown,
    Decision,
    Event,
    Named,
    Packed,
    Picked,
    Shipment,
    TryAgain,
    decide,
)
from services.fulfillment.mapping import SEEDS, NameMapping, translated
from services.fulfillment.packing import Item, pack
from services.fulfillment.settings import FulfillmentSettings
from services.fulfillment.store import Buyer, Key

Opens: TypeAlias = Callable[[], AbstractAsyncContextManager[Transaction]]
"""Begins a transaction."""
Commanded: TypeAlias = (
    Received[PrepareShipment] | Received[CancelShipment] | Received[ChangeAddress] | Received[QuoteDelivery]
)

FINISHED: Final = frozenset({"lost", "delivered", "returned", "cancelled"})
"""States in which nobody needs the recipient any more."""


@dataclass(slots=True)
class Desk:
    """The shipments of some locked orders, and all that a decision about them needs; `decide` publishes as it goes."""

    tx: Transaction
    settings: FulfillmentSettings
    buyers: dict[Key, Buyer]
    shipments: dict[Key, Shipment]
    mappings: dict[str, list[NameMapping]]
    items: dict[Key, Item]
    offered: dict[Key, set[tuple[str, str]]]
    changed: dict[Key, Cause] = field(default_factory=dict)

    def decide(self, tenant: str, order_id: str, shipment_id: str, event: Event, cause: Cause) -> Decision:
        """Take `event` to its shipment, and the shipment on as far as nobody is needed."""
        decision = self._take(tenant, order_id, shipment_id, event, cause)
        self.carry_on(tenant, shipment_id, cause)
        return decision

    def carry_on(self, tenant: str, shipment_id: str, cause: Cause) -> None:
        """Take the shipment on as far as nobody is needed."""
        for following in (self._buyer, self._named, self._picked, self._packed):
            shipment = self.shipments.get((tenant, shipment_id))
            event = shipment and following(tenant, shipment)
            if shipment and event:
                self._take(tenant, shipment.order_id, shipment_id, event, cause)

    def _take(self, tenant: str, order_id: str, shipment_id: str, event: Event, cause: Cause) -> Decision:
        key = (tenant, shipment_id)
        before = self.shipments.get(key) or Shipment(shipment_id, order_id)
        decision = decide(before, event, self.tx.now)
        for fact in decision.facts:
            self.tx.publish(fact, tenant=tenant, cause=cause)
        if decision.shipment != self.shipments.get(key):
            self.shipments[key] = decision.shipment
            self.changed[key] = cause
        return decision

    def _buyer(self, tenant: str, shipment: Shipment) -> Event | None:
        known = self.buyers[tenant, shipment.order_id].sale_revision
        if known == shipment.buyer_revision:
            return None
        return BuyerForgotten() if known is None else BuyerKnown(known)

    def _named(self, tenant: str, shipment: Shipment) -> Event | None:
        asked = shipment.prepare
        if asked is None or shipment.is_named:
            return None
        if (asked.carrier, asked.service) in self.offered.get((tenant, shipment.order_id), ()):
            return Named(asked.carrier or "", asked.service or "")  # The buyer's choice, in our own words.
        known = [*SEEDS, *self.mappings.get(tenant, [])]
        carrier = asked.carrier and translated(known, "carrier", asked.connection_id, asked.carrier)
        service = asked.service and translated(known, "service", asked.connection_id, asked.service)
        named = Named(carrier or "", service or "")
        return None if named == Named(shipment.carrier, shipment.service) else named

    def _picked(self, tenant: str, shipment: Shipment) -> Event | None:
        del tenant
        return Picked() if self.settings.auto_pack and shipment.state == "to_pick" else None

    def _packed(self, tenant: str, shipment: Shipment) -> Event | None:
        if not self.settings.auto_pack or shipment.state != "picked":
            return None
        return self.proposal(tenant, shipment)

    def proposal(self, tenant: str, shipment: Shipment) -> Packed | None:
        """The parcel as the items' own measures make it; None for a shipment that is not prepared yet."""
        asked = shipment.prepare
        return None if asked is None else packed(tenant, asked.lines, self.items, self.settings)

    @property
    def has_work(self) -> bool:
        """Whether a carrier is to be asked about any shipment that changed."""
        return any(store.work_of(self.shipments[key]) for key in self.changed)

    async def save(self) -> None:
        """Write what changed, and when the buyers of its orders are asked for or go."""
        if not self.changed:
            return
        changed = {key: self.shipments[key] for key in self.changed}
        look_at = self.tx.now + timedelta(seconds=self.settings.track_every_s)
        await store.save_shipments(self.tx.connection, changed, self.changed, self.tx.now, look_at)
        causes = {
            (tenant, self.shipments[tenant, one].order_id): cause for (tenant, one), cause in self.changed.items()
        }
        reminders = []
        for (tenant, order_id), cause in sorted(causes.items()):
            states = {
                one.state for (owner, _), one in self.shipments.items() if (owner, one.order_id) == (tenant, order_id)
            }
            ask_at = self.tx.now + self.settings.address_wait if "awaiting_address" in states else None
            erase_at = self.tx.now + self.settings.erase_after if states <= FINISHED else None
            reminders.append((tenant, order_id, ask_at, erase_at, list(cause)))
        await store.set_reminders(self.tx.connection, reminders, self.tx.now)


def packed(
    tenant: str, lines: Sequence[ShipmentLine], items: Mapping[Key, Item], settings: FulfillmentSettings
) -> Packed:
    """The parcel that these lines make, by their items' own measures."""
    units: dict[str, int] = {}
    for line in lines:
        units[line.sku] = units.get(line.sku, 0) + line.quantity
    parcel = pack(
        units,
        {sku: item for (owner, sku), item in items.items() if owner == tenant},
        settings.boxes,
        item_weight_g=settings.item_weight_g,
        item_dimensions_mm=settings.item_dimensions_mm,
    )
    return Packed(max(1, parcel.weight_g), parcel.dimensions_mm)


async def open_desk(
    tx: Transaction, orders: Collection[Key], settings: FulfillmentSettings, skus: Collection[Key] = ()
) -> Desk:
    """Lock these orders and read what decisions about their shipments need; `skus` are read beside those known."""
    connection = tx.connection
    buyers = await store.lock_orders(connection, orders)
    shipments = await store.shipments_of(connection, orders)
    mappings = await store.read_mappings(connection, {tenant for tenant, _ in orders})
    wanted = set(skus)
    for (tenant, _), shipment in shipments.items():
        if shipment.prepare:
            wanted |= {(tenant, line.sku) for line in shipment.prepare.lines}
    items = await store.read_items(connection, wanted)
    return Desk(tx, settings, buyers, shipments, mappings, items, await store.offered(connection, orders))


async def obey(
    events: Sequence[Commanded],
    tx: Transaction,
    *,
    settings: FulfillmentSettings,
    labels: Callable[[], None],
    quotes: Callable[[], None],
) -> None:
    """Take commands to their shipments, keep what is to be quoted, and wake the loops of `labels` and `quotes`."""
    orders = {(event.tenant, event.message.order_id) for event in events}
    skus = {
        (event.tenant, line.sku)
        for event in events
        if isinstance(event.message, PrepareShipment)
        for line in event.message.lines
    }
    desk = await open_desk(tx, orders, settings, skus)
    asked, waiting = [], []
    for event in events:
        command = event.message
        if isinstance(command, QuoteDelivery):
            buyer = desk.buyers[event.tenant, command.order_id]
            is_there = buyer.sale_revision is not None and buyer.sale_revision >= command.sale_revision
            asked.append((event.tenant, command, event.cause, tx.now if is_there else None))
            if not is_there:
                key = (event.tenant, command.order_id)
                waiting.append((*key, tx.now + settings.address_wait, None, list(event.cause)))
        else:
            desk.decide(event.tenant, command.order_id, command.shipment_id, command, event.cause)
    await desk.save()
    if desk.has_work:
        tx.after_commit(labels)
    if asked:
        await store.put_quotes(tx.connection, asked, tx.now)
        await store.set_reminders(tx.connection, waiting, tx.now)
        tx.after_commit(quotes)


async def meet(
    events: Sequence[Received[BuyerReported]],
    tx: Transaction,
    *,
    settings: FulfillmentSettings,
    vault: Vault,
    labels: Callable[[], None],
    quotes: Callable[[], None],
) -> None:
    """Keep the newest buyer of each order, sealed, and let what waited for it go on: `labels` and `quotes` are woken.

    The newest is the one of the highest revision of the sale, and of one revision the latest; what was said before an
    erasure does not come back.
    """
    desk = await open_desk(tx, {(event.tenant, event.message.order_id) for event in events}, settings)
    rows = {}
    for event in events:
        buyer, said_at, key = event.message, event.envelope.time, (event.tenant, event.message.order_id)
        known = desk.buyers[key]
        if known.erased_at and said_at <= known.erased_at:
            continue
        if known.heard_at and (known.sale_revision or 0, known.heard_at) >= (buyer.sale_revision, said_at):
            continue
        desk.buyers[key] = Buyer(buyer.sale_revision, said_at, known.erased_at)
        sealed = vault.seal(buyer.model_dump_json().encode(), tenant=event.tenant, owner=key[1], field="buyer")
        rows[key] = (*key, buyer.customer_ref, buyer.sale_revision, said_at, sealed)
        for (tenant, shipment_id), shipment in sorted(desk.shipments.items(), key=lambda one: one[0]):
            if (tenant, shipment.order_id) == key:
                if shipment.blocked == "no_address":
                    desk.decide(tenant, shipment.order_id, shipment_id, TryAgain(), event.cause)
                desk.carry_on(tenant, shipment_id, event.cause)
    await store.put_buyers(tx.connection, list(rows.values()), tx.now + settings.erase_after)
    await desk.save()
    if desk.has_work:
        tx.after_commit(labels)
    if await store.quote_now(tx.connection, rows, tx.now):
        tx.after_commit(quotes)


async def forget(events: Sequence[Received[CustomerErased]], tx: Transaction) -> None:
    """Buyers of an erased customer's orders go as soon as no parcel of theirs is open."""
    orders = {(event.tenant, order_id) for event in events for order_id in event.message.order_ids}
    await store.lock_orders(tx.connection, orders)
    await store.mark_for_erasure(tx.connection, orders, tx.now)


async def measure(events: Sequence[Received[ItemChanged]], tx: Transaction) -> None:
    """Keep the newest measures of each item."""
    newest: dict[Key, ItemChanged] = {}
    for event in events:
        item, key = event.message, (event.tenant, event.message.sku)
        if key not in newest or (newest[key].epoch, newest[key].version) < (item.epoch, item.version):
            newest[key] = item
    await store.put_items(tx.connection, newest)


async def ask_for_buyers(tx: Transaction, settings: FulfillmentSettings) -> int:
    """Ask channels for the buyers that shipments have waited for long enough; how many."""
    again = tx.now + settings.address_again
    rows = await store.claim_to_ask(tx.connection, tx.now, again, settings.page)
    for row in rows:
        tx.publish(ResendBuyer(order_id=row["order_id"]), tenant=row["tenant"], cause=Cause(*row["cause"]))
    return len(rows)


async def name(tx: Transaction, tenant: str, mapping: NameMapping, settings: FulfillmentSettings) -> int:
    """Say what a channel's name means, and let the shipments go that waited for it; how many of them go."""
    await store.put_mapping(tx.connection, tenant, mapping)
    desk, rows = await _held(tx, tenant, settings)
    released = 0
    for row in rows:
        shipment_id = row["shipment_id"]
        if not desk.shipments[tenant, shipment_id].is_named:
            desk.carry_on(tenant, shipment_id, Cause(*row["cause"]))
            released += desk.shipments[tenant, shipment_id].is_named
    await desk.save()
    return released


async def try_again(tx: Transaction, tenant: str, settings: FulfillmentSettings) -> int:
    """Let shipments go that nobody would carry: rates or places are others now; how many of them."""
    desk, rows = await _held(tx, tenant, settings)
    blocked = [row for row in rows if desk.shipments[tenant, row["shipment_id"]].blocked]
    for row in blocked:
        desk.decide(tenant, row["order_id"], row["shipment_id"], TryAgain(), Cause(*row["cause"]))
    await desk.save()
    return len(blocked)


async def _held(tx: Transaction, tenant: str, settings: FulfillmentSettings) -> tuple[Desk, list[asyncpg.Record]]:
    rows = await store.held(tx.connection, tenant)
    return await open_desk(tx, {(tenant, row["order_id"]) for row in rows}, settings), rows
