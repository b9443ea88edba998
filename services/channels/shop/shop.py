"""What the parts of the own shop share in one process."""

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from pydantic import TypeAdapter

from contracts.channels.v1 import BuyerReported
from services.border.tokens import seal_token
from services.border.vault import Vault
from services.bus import Cause
from services.channels.connections.store import Connection
from services.channels.connectors.connector import ChannelOrder
from services.channels.intake.context import Intake
from services.channels.intake.store import Body
from services.channels.shop import told
from services.channels.shop.domain import Basket
from services.channels.shop.store import Kept

TOPIC: Final = "shop"
"""Under which bodies of the own shop stand in intake."""
_LOOK_S: Final = 0.25
"""How long a change made by another process may stay unseen."""

_order: Final = TypeAdapter(ChannelOrder)


class Waiters:
    """Who waits for news of an order in this process."""

    def __init__(self) -> None:
        self._events: dict[str, asyncio.Event] = {}

    def tell(self, order_ids: Iterable[str]) -> None:
        """There is news of these orders."""
        for order_id in order_ids:
            if event := self._events.pop(order_id, None):
                event.set()

    async def news(self, order_id: str, timeout_s: float) -> None:
        """Return when there is news of an order, or a short while has passed: then the caller looks by itself."""
        event = self._events.setdefault(order_id, asyncio.Event())
        try:
            await asyncio.wait_for(event.wait(), min(timeout_s, _LOOK_S))
        except TimeoutError:
            # Others may still wait with it; whoever comes next makes another.
            if self._events.get(order_id) is event:
                del self._events[order_id]


@dataclass(slots=True)
class Shop:
    """Made once by `app.py`."""

    intake: Intake
    tokens: Vault
    waiters: Waiters = field(default_factory=Waiters)

    def body(
        self, connection: Connection, kept: Kept, buyer: BuyerReported | None, now: datetime, traceparent: str
    ) -> Body:
        """The basket as a body of intake; `traceparent` is of the span in which it changed."""
        basket = kept.basket
        token = kept.token.decode() if kept.token else ""
        return self.intake.seal(
            connection,
            _order.dump_json(told.to_order(basket, buyer, token)),
            topic=TOPIC,
            delivery_id=f"{basket.external_id}:{basket.version}",
            received_at=now,
            cause=Cause("", basket.order_id, traceparent),
        )

    def seal_token(self, basket: Basket, token: str) -> bytes:
        """A gateway's token as it is kept and told: readable by payments alone, and only for this order."""
        return seal_token(self.tokens, token, tenant=basket.tenant, order_id=basket.order_id).encode()
