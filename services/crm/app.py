"""Who the buyers are: `python -m services.crm.app`."""

from functools import partial
from pathlib import Path
from typing import Final

from contracts.channels.v1 import BuyerReported
from services.border.vault import Vault
from services.bus import BusSettings, Subscription
from services.crm import timeline
from services.crm.admin import admin_router
from services.crm.erase import keep_retention
from services.crm.handlers import recognise, remember
from services.crm.settings import CrmSettings
from services.runtime import Service

LINGER_S: Final = 1.0
"""Nobody waits for crm, and it hears much: a second's facts in one transaction cost a fraction of one each."""


def build(bus: BusSettings, settings: CrmSettings) -> Service:
    """The crm service, not yet running. Raises `KeyInvalid` where the settings' key is none."""
    vault = Vault(settings.secrets_key.get_secret_value())
    told = partial(remember, vault=vault, settings=settings)
    service = Service(
        name="crm",
        settings=bus,
        migrations=Path(__file__).parent / "migrations",
        subscriptions=[
            Subscription(
                stream="channels.buyers.v1",
                handles=(BuyerReported,),
                handler=partial(recognise, vault=vault, settings=settings),
                linger_s=LINGER_S,
            ),
            Subscription(stream="orders.orders.v1", handles=tuple(timeline.ORDERS), handler=told, linger_s=LINGER_S),
            Subscription(
                stream="payments.payments.v1", handles=tuple(timeline.PAYMENTS), handler=told, linger_s=LINGER_S
            ),
            Subscription(
                stream="fulfillment.shipments.v1", handles=tuple(timeline.SHIPMENTS), handler=told, linger_s=LINGER_S
            ),
            Subscription(stream="erp.documents.v1", handles=tuple(timeline.DOCUMENTS), handler=told, linger_s=LINGER_S),
        ],
        loops=[partial(keep_retention, vault=vault, settings=settings)],
        routers=[admin_router(lambda: service, vault, settings)],
    )
    return service


if __name__ == "__main__":
    build(BusSettings(), CrmSettings()).main()
