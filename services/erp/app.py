"""Erp as a process: `python -m services.erp.app`."""

from functools import partial
from pathlib import Path
from typing import Final

from contracts.fulfillment.v1 import ShipmentDispatched
from contracts.inventory.v1 import ItemChanged, MovementRecorded
from contracts.orders.v1 import (
    OrderCancelled,
    OrderChanged,
    OrderClosed,
    OrderDelivered,
    OrderPaid,
    OrderPlaced,
    OrderReturned,
    OrderShipped,
)
from contracts.payments.v1 import PaymentCaptured, PaymentDisputed, PaymentRefunded, PaymentTakenOver
from services.border.vault import Vault
from services.bus import BusSettings, Subscription
from services.erp.admin import admin_router
from services.erp.booking import Booker
from services.erp.handlers import keep_items, record_movements, record_orders, record_payments, record_shipments
from services.erp.retention import keep_retention
from services.erp.settings import ErpSettings
from services.runtime import Service

MIGRATIONS = Path(__file__).parent / "migrations"


LINGER_S: Final = 0.5
"""What is recorded is in nobody's way: half a second's facts in one transaction cost a fraction of one each."""

ORDERS_LINGER_S: Final = 0.1
"""Whoever writes an invoice as soon as he hears of an order has to wait until it is known here."""


def build(bus: BusSettings, settings: ErpSettings) -> Service:
    """The erp service, not yet running."""
    vault = Vault(settings.secrets_key.get_secret_value())

    async def book(service: Service) -> None:
        await Booker(service.transaction, vault, settings, service.faults.point).run()

    service = Service(
        name="erp",
        settings=bus,
        migrations=MIGRATIONS,
        subscriptions=[
            Subscription(
                stream="orders.orders.v1",
                handles=(
                    OrderPlaced, OrderPaid, OrderChanged, OrderCancelled, OrderShipped, OrderDelivered, OrderReturned,
                    OrderClosed,
                ),
                handler=record_orders, linger_s=ORDERS_LINGER_S,
            ),
            Subscription(
                stream="payments.payments.v1",
                handles=(PaymentCaptured, PaymentRefunded, PaymentDisputed, PaymentTakenOver),
                handler=record_payments, linger_s=LINGER_S,
            ),
            Subscription(
                stream="fulfillment.shipments.v1", handles=(ShipmentDispatched,), handler=record_shipments,
                linger_s=LINGER_S,
            ),
            Subscription(stream="inventory.items.v1", handles=(ItemChanged,), handler=keep_items, linger_s=LINGER_S),
            Subscription(
                stream="inventory.movements.v1", handles=(MovementRecorded,), handler=record_movements,
                linger_s=LINGER_S,
            ),
        ],
        loops=[book, partial(keep_retention, settings=settings)],
        routers=[admin_router(lambda: service, vault, settings)],
    )  # fmt: skip
    return service


if __name__ == "__main__":
    build(BusSettings(), ErpSettings()).main()
