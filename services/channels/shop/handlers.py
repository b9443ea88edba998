"""What orders and fulfillment tell of baskets."""

from collections.abc import Sequence
from dataclasses import replace

from contracts.channels.v1 import OrderProgress
from contracts.fulfillment.v1 import DeliveryQuoted
from services.bus import Received, Transaction
from services.channels.connections import store as connection_store
from services.channels.intake import store as intake_store
from services.channels.intake.store import Body
from services.channels.shop import domain, numbers, store
from services.channels.shop.desk import give_back
from services.channels.shop.shop import Shop
from services.channels.shop.store import Kept


async def hear(events: Sequence[Received[OrderProgress]], tx: Transaction, shop: Shop) -> None:
    """Keep what orders tells of baskets, and tell intake where one ended by it."""
    kept = await store.lock(tx.connection, sorted({event.message.order_id for event in events}))
    before = {order_id: one.basket for order_id, one in kept.items()}
    changed: dict[str, Kept] = {}
    untold: list[Kept] = []
    for event in events:
        one = kept.get(event.message.order_id)
        if one is None or one.basket.tenant != event.tenant:
            continue
        after = domain.hear(one.basket, event.message, tx.now)
        if after is one.basket:
            continue
        token = None if domain.told_of_try(after) else one.token
        kept[after.order_id] = changed[after.order_id] = replace(one, basket=after, token=token)
        if domain.untold(one.basket, after):
            untold.append(kept[after.order_id])
    if not changed:
        return
    await store.save(tx.connection, list(changed.values()), tx.now)
    freed = [one.basket for one in changed.values() if domain.released(before[one.basket.order_id], one.basket)]
    if freed:
        shelf = await numbers.lock(
            tx.connection, [(one.connection_id, line.sku) for one in freed for line in one.lines]
        )
        for basket in freed:
            give_back(shelf, basket)
        await numbers.save(tx.connection, shelf, tx.now)
    if untold:
        await intake_store.insert_bodies(tx.connection, await _bodies(tx, shop, untold))
        tx.after_commit(shop.intake.arrived.set)
    tx.after_commit(lambda: shop.waiters.tell(changed))


async def _bodies(tx: Transaction, shop: Shop, untold: Sequence[Kept]) -> list[Body]:
    connections = {
        connection_id: await connection_store.find(tx.connection, connection_id, None)
        for connection_id in sorted({one.basket.connection_id for one in untold})
    }
    return [
        shop.body(connection, one, None, tx.now, one.basket.traceparent)
        for one in untold
        if (connection := connections[one.basket.connection_id])
    ]


async def take_quotes(events: Sequence[Received[DeliveryQuoted]], tx: Transaction, shop: Shop) -> None:
    """Keep the delivery options of baskets whose latest quote they answer."""
    kept = await store.lock(tx.connection, sorted({event.message.order_id for event in events}))
    changed: dict[str, Kept] = {}
    for event in events:
        one = kept.get(event.message.order_id)
        if one is None or one.basket.tenant != event.tenant:
            continue
        after = domain.quoted(one.basket, event.message)
        if after is not one.basket:
            kept[after.order_id] = changed[after.order_id] = replace(one, basket=after)
    await store.save(tx.connection, list(changed.values()), tx.now)
    tx.after_commit(lambda: shop.waiters.tell(changed))
