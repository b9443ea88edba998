"""Channels as a process: `python -m services.channels.app`."""

from functools import partial
from pathlib import Path

from contracts.channels.v1 import OrderProgress, RefetchSale, ResendBuyer
from contracts.crm.v1 import CustomerErased
from contracts.fulfillment.v1 import DeliveryQuoted
from contracts.inventory.v1 import ItemChanged, StockLevelChanged
from services.border.vault import Vault
from services.bus import BusSettings, Subscription
from services.channels import handlers
from services.channels.admin import Channels
from services.channels.adverts.loop import import_loop
from services.channels.connections.lifecycle import announce_connections
from services.channels.connections.registry import Registry
from services.channels.intake.absorb import absorb_loop
from services.channels.intake.context import Intake
from services.channels.intake.door import Door
from services.channels.intake.pull import keep_loop, pull_loop
from services.channels.linking import link_loop
from services.channels.report.documents import Documents
from services.channels.report.loop import forget_loop, report_loop, warn_loop
from services.channels.settings import ChannelsSettings
from services.channels.shop.admin import admin_router
from services.channels.shop.handlers import take_quotes
from services.channels.shop.listener import shop_loop
from services.channels.shop.shop import Shop
from services.channels.stock.handlers import take_items, take_levels
from services.channels.stock.metrics import StockMetrics
from services.channels.stock.reconcile import Reconciler
from services.channels.stock.sender import Sender
from services.channels.stock.settings import StockSettings
from services.runtime import Service


def build(bus: BusSettings, settings: ChannelsSettings, stock: StockSettings) -> Service:
    """The channels service, not yet running."""
    vault = Vault(settings.secrets_key.get_secret_value())
    tokens = Vault((settings.token_key or settings.secrets_key).get_secret_value())
    registry = Registry(vault, document=Documents(settings).read, lease_s=settings.lease_s)
    intake = Intake(settings, registry, vault)
    channels, shop = Channels(intake), Shop(intake, tokens)
    metrics = StockMetrics()
    sender = Sender(registry, intake.stock, stock, metrics)
    reconciler = Reconciler(registry, intake.stock, stock)

    async def door_loop(service: Service) -> None:
        await registry.loaded.wait()
        await Door(service, intake).run()

    service = Service(
        name="channels",
        settings=bus,
        migrations=Path(__file__).parent / "migrations",
        subscriptions=[
            Subscription(
                stream="channels.commands.v1",
                handles=(ResendBuyer, RefetchSale, OrderProgress),
                handler=partial(handlers.obey, intake=intake, shop=shop),
            ),
            Subscription(
                stream="fulfillment.shipments.v1", handles=(DeliveryQuoted,), handler=partial(take_quotes, shop=shop)
            ),
            Subscription(stream="crm.customers.v1", handles=(CustomerErased,), handler=handlers.forget, linger_s=1.0),
            Subscription(
                stream="inventory.levels.v1",
                handles=(StockLevelChanged,),
                handler=partial(take_levels, intake.stock, stock.low_stock),
            ),
            Subscription(
                stream="inventory.items.v1", handles=(ItemChanged,), handler=partial(take_items, intake.stock)
            ),
        ],
        loops=[
            registry.run,
            door_loop,
            partial(shop_loop, shop=shop),
            partial(absorb_loop, intake=intake),
            partial(pull_loop, intake=intake),
            partial(keep_loop, intake=intake),
            partial(link_loop, intake=intake),
            partial(import_loop, intake=intake),
            partial(report_loop, intake=intake),
            warn_loop,
            partial(forget_loop, intake=intake),
            sender.run,
            reconciler.run,
        ],
        announcers={"channels.connections.v1": announce_connections},
        routers=[channels.router, admin_router(lambda: service, intake)],
    )
    metrics.register(service.metrics.registry)
    channels.serve(service)
    return service


if __name__ == "__main__":
    build(BusSettings(), ChannelsSettings(), StockSettings()).main()
