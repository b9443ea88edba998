"""Inventory as a process: `python -m services.inventory.app`."""

from functools import partial
from pathlib import Path

from contracts.channels.v1 import ConnectionChanged
from contracts.inventory.v1 import (
    AdjustStock,
    CountStock,
    OrderDemand,
    PutItem,
    PutLocation,
    ReceiveStock,
    TransferStock,
)
from services.bus import BusSettings, Subscription
from services.inventory.admin import admin_router
from services.inventory.announce import announce_items, announce_levels
from services.inventory.expiry import watch
from services.inventory.handlers import allocate, know_connections, obey_commands
from services.inventory.settings import InventorySettings
from services.runtime import Service

STOCK_COMMANDS = (PutItem, PutLocation, ReceiveStock, AdjustStock, CountStock, TransferStock)


def build(bus: BusSettings, settings: InventorySettings) -> Service:
    """The inventory service, not yet running."""
    service = Service(
        name="inventory",
        settings=bus,
        migrations=Path(__file__).parent / "migrations",
        subscriptions=[
            Subscription(stream="inventory.commands.v1", handles=(OrderDemand,), handler=allocate),
            Subscription(stream="inventory.stock-commands.v1", handles=STOCK_COMMANDS, handler=obey_commands),
            Subscription(stream="channels.connections.v1", handles=(ConnectionChanged,), handler=know_connections),
        ],
        loops=[partial(watch, settings=settings)],
        announcers={"inventory.levels.v1": announce_levels, "inventory.items.v1": announce_items},
        routers=[admin_router(lambda: service.pool)],
    )
    return service


if __name__ == "__main__":
    build(BusSettings(), InventorySettings()).main()
