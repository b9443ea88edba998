"""Fulfillment: `python -m services.fulfillment.app`."""

from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path

from contracts.channels.v1 import BuyerReported
from contracts.crm.v1 import CustomerErased
from contracts.fulfillment.v1 import CancelShipment, ChangeAddress, PrepareShipment, QuoteDelivery
from contracts.inventory.v1 import ItemChanged
from services.border.vault import Vault
from services.bus import BusSettings, Subscription, Transaction
from services.fulfillment import book, deadlines, door, quote, track
from services.fulfillment.accounts import Carriers
from services.fulfillment.admin import admin_router
from services.fulfillment.handlers import forget, measure, meet, obey
from services.fulfillment.settings import FulfillmentSettings
from services.fulfillment.wake import Wake
from services.runtime import Service


def build(bus: BusSettings, settings: FulfillmentSettings) -> Service:
    """The fulfillment service, not yet running."""
    vault = Vault(settings.secrets_key.get_secret_value())
    carriers = Carriers(lambda: service.pool, vault, settings)
    labels, quotes, looks = Wake(), Wake(), Wake()

    def transaction() -> AbstractAsyncContextManager[Transaction]:
        return service.transaction()

    service = Service(
        name="fulfillment",
        settings=bus,
        migrations=Path(__file__).parent / "migrations",
        subscriptions=[
            Subscription(
                stream="fulfillment.commands.v1",
                handles=(PrepareShipment, CancelShipment, ChangeAddress, QuoteDelivery),
                handler=partial(obey, settings=settings, labels=labels, quotes=quotes),
            ),
            Subscription(
                stream="channels.buyers.v1",
                handles=(BuyerReported,),
                handler=partial(meet, settings=settings, vault=vault, labels=labels, quotes=quotes),
            ),
            Subscription(stream="crm.customers.v1", handles=(CustomerErased,), handler=forget, linger_s=1.0),
            Subscription(stream="inventory.items.v1", handles=(ItemChanged,), handler=measure, linger_s=0.5),
        ],
        loops=[
            partial(book.run, carriers=carriers, vault=vault, settings=settings, wake=labels),
            partial(quote.run, carriers=carriers, vault=vault, settings=settings, wake=quotes),
            partial(track.run, carriers=carriers, settings=settings, wake=looks),
            partial(door.run, carriers=carriers, settings=settings, wake=looks),
            partial(deadlines.watch, settings=settings),
        ],
        routers=[admin_router(transaction, carriers, vault, settings)],
    )
    return service


if __name__ == "__main__":
    build(BusSettings(), FulfillmentSettings()).main()
