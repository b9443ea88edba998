"""What the parts of intake share in one process."""

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from contracts.channels.v1 import BuyerReported
from services.border.vault import Vault
from services.bus import Cause
from services.channels.alerts import Database
from services.channels.connections import store as connection_store
from services.channels.connections.registry import Registry
from services.channels.connections.store import Connection
from services.channels.connectors import CONNECTORS
from services.channels.connectors.connector import Session
from services.channels.intake.store import Body, Buyer
from services.channels.settings import ChannelsSettings
from services.channels.stock.wake import Wake

_NAME_MAX: Final = 500
"""Characters. PostgreSQL indexes at most 2,704 bytes."""


@dataclass(slots=True)
class Intake:
    """Made once by `app.py`.

    `arrived` wakes the absorber, `wanted` the loop that reads orders again, `telling` the loop that tells channels of
    their orders, `importing` those that read adverts, `stock` the senders of stock.
    """

    settings: ChannelsSettings
    registry: Registry
    vault: Vault
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    wanted: asyncio.Event = field(default_factory=asyncio.Event)
    telling: asyncio.Event = field(default_factory=asyncio.Event)
    importing: asyncio.Event = field(default_factory=asyncio.Event)
    stock: Wake = field(default_factory=Wake)
    customer_keys: dict[str, bytes] = field(default_factory=dict, repr=False)

    def door_of(self, connection: Connection, session: Session) -> str:
        """Where a marketplace pushes to; never to be logged, as it holds the secret of pushes without a signature."""
        door_url = f"{self.settings.public_door_url}/hooks/{connection.connection_id}"
        traits = CONNECTORS[connection.connector].traits
        return f"{door_url}/{session.credentials['hook_secret']}" if traits.url_secret else door_url

    def seal(
        self,
        connection: Connection,
        body: bytes,
        *,
        topic: str,
        delivery_id: str,
        received_at: datetime,
        cause: Cause,
        event_id: str = "",
        fetch_seq: int | None = None,
    ) -> Body:
        """A body as it is stored: readable only with the key and only in its place."""
        delivery_id, event_id = _kept_name(delivery_id), _kept_name(event_id)
        sealed = self.vault.seal(
            body,
            tenant=connection.tenant,
            owner=connection.connection_id,
            field=body_field(topic, delivery_id),
        )
        return Body(
            tenant=connection.tenant,
            connection_id=connection.connection_id,
            topic=topic,
            delivery_id=delivery_id,
            sealed=sealed,
            received_at=received_at,
            traceparent=cause.traceparent,
            fetch_seq=fetch_seq,
            event_id=event_id,
        )

    def open_body(self, body: Body) -> bytes:
        """The bytes as they came. Raises `SealBroken`."""
        return self.vault.open(
            body.sealed,
            tenant=body.tenant,
            owner=body.connection_id,
            field=body_field(body.topic, body.delivery_id),
        )

    def open_buyer(self, buyer: Buyer) -> BuyerReported:
        """A kept buyer as it was reported last. Raises `SealBroken`."""
        field = f"buyer:{buyer.order_id}"
        content = self.vault.open(buyer.sealed, tenant=buyer.tenant, owner=buyer.connection_id, field=field)
        return BuyerReported.model_validate_json(content)

    async def customer_keys_of(self, connection: Database, tenants: Sequence[str]) -> dict[str, bytes]:
        """Each tenant's key for customer_ref. Raises `SealBroken`."""
        missing = [tenant for tenant in set(tenants) if tenant not in self.customer_keys]
        if missing:
            sealed = await connection_store.sealed_tenant_keys(connection, missing)
            for tenant, blob in sealed.items():
                self.customer_keys[tenant] = self.vault.open(blob, tenant=tenant, owner="", field="customer key")
        return self.customer_keys


def _kept_name(given: str) -> str:
    """A channel's name of a delivery as it is kept: itself, or the hash of one that no key of a table can hold."""
    if given.isprintable() and len(given) <= _NAME_MAX:
        return given
    return hashlib.sha256(given.encode(errors="replace")).hexdigest()


def body_field(topic: str, delivery_id: str) -> str:
    """The place of a body, which its seal is bound to."""
    return f"body:{topic}:{delivery_id}"
