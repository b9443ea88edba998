"""A company with its own people: a merchant at the gateway, a carrier, an office, and a verdict on its orders."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from services.console.demo.collector import BookReader, Collector, settle
from services.console.demo.company import (
    open_outside,
    register_carrier,
    register_company,
    register_merchant,
)
from services.console.demo.evidence import Evidence, cancelled_orders
from services.console.demo.markets import MARKETS
from services.console.demo.office import Office
from services.console.demo.path import PathVerdict, judge
from services.console.demo.verdict import judge as judge_stock
from services.console.demo.verdict import unsettled
from tests.flow.company import Company, until


@dataclass
class Retailer:
    """A company whose orders find their way while `run` is open; `journeys` is what was said of them."""

    company: Company
    collector: Collector
    office: Office

    async def until_over(self, orders: int) -> None:
        """Every one of so many orders has come to its end."""
        journeys = self.collector.journeys

        async def ends() -> list[str]:
            said = [one.newest for one in journeys.by_order.values()]
            return sorted(type(fact).__name__ for fact in said if fact)

        await until(ends, lambda said: len(said) == orders and journeys.is_over, "the end of every order", 150)

    async def verdicts(self) -> tuple[PathVerdict, list[str]]:
        """On the orders' way, and what is wrong with stock, once all is right or a minute has gone."""
        reader = BookReader(self.company.sandboxes)
        channels = [shop.channel for shop in self.company.shops]
        steps = {channel.connection_id: MARKETS[channel.marketplace].told for channel in channels}

        def judged(seen: Evidence) -> PathVerdict:
            gateway, carrier = reader.outside(self.company.tenant)
            told, movements = reader.told(channels), seen.heard.movements
            return judge(
                self.collector.journeys, gateway, carrier, told, movements, self.company.plan, steps=steps,
                cancelled=cancelled_orders(seen), paid=reader.paid(channels), invoiced=True,
            )  # fmt: skip

        def is_over(seen: Evidence) -> bool:
            return unsettled(seen) == (0, 0) and not judged(seen).failures

        evidence = await settle(self.collector, reader, is_over, self.company.plan, channels, 60)
        return judged(evidence), judge_stock(evidence).failures


@asynccontextmanager
async def at_work(
    company: Company, *, return_share: float = 0.0, office: type[Office] = Office
) -> AsyncIterator[Retailer]:
    """Register the company outside, and let its people work."""
    endpoints = company.system.endpoints
    outside = await open_outside(endpoints, company.tenant)
    await asyncio.to_thread(register_company, company.admin)
    await asyncio.to_thread(register_merchant, company.admin, outside.merchant, "http://127.0.0.1:9/paid")
    await register_carrier(company.admin, endpoints, outside.carrier)
    collector = Collector(endpoints.kafka, company.tenant)
    await collector.start()
    people = office(company.admin, outside.courier, collector.journeys, seed=1, return_share=return_share)
    working = asyncio.create_task(people.run())
    try:
        yield Retailer(company, collector, people)
        assert not people.refused, people.refused
    finally:
        working.cancel()
        with suppress(asyncio.CancelledError):
            await working
        await collector.stop()
