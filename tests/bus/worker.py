"""The sample service as a process of its own: `python -m tests.bus.worker OWNER`, everything else by environment."""

import asyncio
import sys

from services.bus import BusSettings, Subscription
from services.runtime import Service
from tests.bus.model import MIGRATIONS, Deposited, deposit, make_streams


async def main(owner: str) -> None:
    streams = make_streams(owner)
    service = Service(
        name="bank",
        settings=BusSettings(),
        migrations=MIGRATIONS,
        subscriptions=[Subscription(stream=streams.deposits.name, handles=(Deposited,), handler=deposit)],
        catalogue=streams.catalogue,
    )
    await service.run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
