"""Orders as a process: `python -m services.orders.app`."""

from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Final, get_args

from contracts.channels.v1 import ConnectionChanged, ProgressAccepted, ProgressRefused, SaleReported
from contracts.erp.v1 import InvoiceIssued
from contracts.fulfillment.v1 import ReturnReceived
from contracts.inventory.v1 import DemandMet, DemandShort, HoldExpired
from services.bus import BusSettings, Subscription, Transaction
from services.orders.admin import admin_router
from services.orders.deadlines import watch
from services.orders.handlers import advance, know_connections
from services.orders.process import PaymentHeard, ShipmentHeard
from services.orders.recent import Recent
from services.orders.settings import OrdersSettings
from services.runtime import Service

LINGER_S: Final = 0.1
"""A parcel is told of often, and by no means as soon as a sale."""


def build(bus: BusSettings, settings: OrdersSettings) -> Service:
    """The orders service, not yet running."""
    take = partial(advance, settings=settings, recent=Recent(settings.recent))

    def opens() -> AbstractAsyncContextManager[Transaction]:
        return service.transaction()

    service = Service(
        name="orders",
        settings=bus,
        migrations=Path(__file__).parent / "migrations",
        subscriptions=[
            Subscription(
                stream="channels.sales.v1", handles=(SaleReported, ProgressAccepted, ProgressRefused), handler=take
            ),
            Subscription(
                stream="inventory.reservations.v1", handles=(DemandMet, DemandShort, HoldExpired), handler=take
            ),
            Subscription(stream="payments.payments.v1", handles=get_args(PaymentHeard), handler=take),
            Subscription(
                stream="fulfillment.shipments.v1",
                handles=(*get_args(ShipmentHeard), ReturnReceived),
                handler=take,
                linger_s=LINGER_S,
            ),
            Subscription(stream="erp.documents.v1", handles=(InvoiceIssued,), handler=take, linger_s=LINGER_S),
            Subscription(stream="channels.connections.v1", handles=(ConnectionChanged,), handler=know_connections),
        ],
        loops=[partial(watch, settings=settings)],
        routers=[admin_router(lambda: service.pool, opens, settings)],
    )
    return service


if __name__ == "__main__":
    build(BusSettings(), OrdersSettings()).main()
