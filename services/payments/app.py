"""Payments as a process: `python -m services.payments.app`."""

import asyncio
from functools import partial
from pathlib import Path
from typing import get_args

from contracts.payments.v1 import AuthorizePayment, CapturePayment, RefundPayment, VoidPayment
from services.border.vault import Vault
from services.bus import BusSettings, Subscription
from services.payments.accounts import Accounts
from services.payments.admin import admin_router
from services.payments.charge import Charger
from services.payments.door import Door
from services.payments.gateways import gateways
from services.payments.handlers import obey, take_over
from services.payments.settings import PaymentsSettings
from services.payments.settle import Settler
from services.payments.takeover import OrderHeard
from services.runtime import Service


def build(bus: BusSettings, settings: PaymentsSettings) -> Service:
    """The payments service, not yet running."""
    vault = Vault(settings.secrets_key.get_secret_value())
    tokens = Vault((settings.token_key or settings.secrets_key).get_secret_value())
    accounts = Accounts(lambda: service.pool, vault, gateways())
    due = asyncio.Event()

    async def charge(service: Service) -> None:
        try:
            point, tracing = service.faults.point, service.tracing
            await Charger(service.transaction, accounts.session, vault, settings, point, due, tracing).run()
        finally:
            await accounts.close()

    async def doors(service: Service) -> None:
        await Door(service, accounts, settings, due.set).run()

    async def settle(service: Service) -> None:
        await Settler(service, accounts, settings.settle_every_s).run()

    service = Service(
        name="payments",
        settings=bus,
        migrations=Path(__file__).parent / "migrations",
        subscriptions=[
            Subscription(
                stream="payments.commands.v1",
                handles=(AuthorizePayment, CapturePayment, VoidPayment, RefundPayment),
                handler=partial(obey, vault=vault, tokens=tokens, settings=settings, wake=due.set),
            ),
            Subscription(stream="orders.orders.v1", handles=get_args(OrderHeard), handler=take_over, linger_s=1.0),
        ],
        loops=[charge, doors, settle],
        routers=[admin_router(lambda: service.pool, accounts, settings)],
    )
    return service


if __name__ == "__main__":
    build(BusSettings(), PaymentsSettings()).main()
