"""The floor of the propagation bench: the steps between a sale and nine other channels, and nothing between them.

For every sale, in sequence: one HTTP request in, a durable commit, Kafka, a commit (the order), Kafka, a commit (the
reservation), Kafka, two commits (the level, and the claim of what to write), then nine HTTP requests out at once. Plain
aiohttp, aiokafka and asyncpg in one process, the nine shops in another; commits of one row each, acks=all, no inbox, no
outbox, no spans. Fewer processes and less work than any system of services can have: a floor, not a rival.

`python -m tests.bench.bare_path` is the process of the nine shops: it prints its port and ends with its input.
"""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import asyncpg
from aiohttp import web
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

HOPS = ("sale", "demand", "level")
SHOPS = 9
_LAST_S = 30.0


class Floor:
    """The steps of one run; `reached_ms` gathers, per sale and shop, milliseconds from the sale to its number there."""

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]", producer: AIOKafkaProducer, run: str) -> None:
        self._pool, self._producer, self._run = pool, producer, run
        self.http: aiohttp.ClientSession
        self.shops_url = ""
        self.reached_ms: list[float] = []
        self._sending: set[asyncio.Task[Any]] = set()

    def topic(self, hop: str) -> str:
        """The topic of a hop in this run."""
        return f"floor.{self._run}.{hop}"

    async def make_topics(self, bootstrap: str) -> None:
        """One for each hop."""
        admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
        await admin.start()
        try:
            await admin.create_topics([NewTopic(self.topic(hop), 1, 1) for hop in HOPS])
        finally:
            await admin.close()

    async def door(self, request: web.Request) -> web.Response:
        """A shop tells of a sale."""
        sale = await request.json()
        await self._commit("intake", sale)
        sending = asyncio.create_task(self._send("sale", sale))
        self._sending.add(sending)
        sending.add_done_callback(self._sending.discard)
        return web.Response()

    async def order(self, sale: dict[str, Any]) -> None:
        """The order is kept and demands its stock."""
        await self._commit("orders", sale)
        await self._send("demand", sale)

    async def reserve(self, sale: dict[str, Any]) -> None:
        """The stock is reserved and its level told."""
        await self._commit("reservations", sale)
        await self._send("level", sale)

    async def push(self, sale: dict[str, Any]) -> None:
        """The level is kept, what it changes is claimed, and every other shop gets its number."""
        await self._commit("levels", sale)
        await self._commit("claims", sale)
        self.reached_ms += await asyncio.gather(*(self._put(shop, sale) for shop in range(SHOPS)))

    async def _put(self, shop: int, sale: dict[str, Any]) -> float:
        async with self.http.put(f"{self.shops_url}/{shop}", json=sale) as answer:
            told = await answer.json()
        return float(told["at_ms"] - sale["at_ms"])

    async def _commit(self, table: str, sale: dict[str, Any]) -> None:
        await self._pool.execute("INSERT INTO steps VALUES ($1, $2, $3)", sale["id"], table, json.dumps(sale))

    async def _send(self, hop: str, sale: dict[str, Any]) -> None:
        await self._producer.send_and_wait(self.topic(hop), json.dumps(sale).encode(), key=sale["id"].encode())

    async def follow(self, bootstrap: str, hop: str, step: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
        """Do `step` for every record of a hop, in order."""
        consumer = AIOKafkaConsumer(self.topic(hop), bootstrap_servers=bootstrap, auto_offset_reset="earliest")
        await consumer.start()
        try:
            async for record in consumer:
                await step(json.loads(record.value))
        finally:
            await consumer.stop()


async def measure(bootstrap: str, dsn: str, rate: float, seconds: float) -> list[float]:
    """Sales at `rate` a second, open loop; milliseconds from each to each of the nine shops."""
    async with AsyncExitStack() as opened:
        shops = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.bench.bare_path", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        assert shops.stdin
        assert shops.stdout
        opened.push_async_callback(shops.wait)
        opened.callback(shops.stdin.close)
        pool = await opened.enter_async_context(asyncpg.create_pool(dsn, min_size=4, max_size=8))
        await pool.execute("CREATE TABLE steps (id text, step text, body text, PRIMARY KEY (id, step))")
        producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", enable_idempotence=True)
        await producer.start()
        opened.push_async_callback(producer.stop)
        floor = Floor(pool, producer, f"{time.time_ns()}")
        floor.shops_url = f"http://127.0.0.1:{int(await shops.stdout.readline())}/shops"
        floor.http = await opened.enter_async_context(aiohttp.ClientSession())
        await floor.make_topics(bootstrap)
        steps = zip(HOPS, (floor.order, floor.reserve, floor.push), strict=True)
        following = [asyncio.create_task(floor.follow(bootstrap, hop, step)) for hop, step in steps]
        opened.callback(lambda: [task.cancel() for task in following])
        runner = web.AppRunner(_application(web.post("/sale", floor.door)))
        await runner.setup()
        opened.push_async_callback(runner.cleanup)
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        door_url = f"http://127.0.0.1:{runner.addresses[0][1]}/sale"
        await _sell(floor, door_url, rate=2, seconds=3)  # Connections, plans and caches.
        floor.reached_ms.clear()
        await _sell(floor, door_url, rate=rate, seconds=seconds)
        return floor.reached_ms


async def _sell(floor: Floor, door_url: str, *, rate: float, seconds: float) -> None:
    begun, sales = time.perf_counter(), int(rate * seconds)
    expected = len(floor.reached_ms) + sales * SHOPS
    async with asyncio.TaskGroup() as telling:
        for number in range(sales):
            await asyncio.sleep(max(0.0, begun + number / rate - time.perf_counter()))
            sale = {"id": f"{rate}-{number}", "at_ms": time.time() * 1000}
            telling.create_task(_tell(floor.http, door_url, sale))
    deadline = time.monotonic() + _LAST_S
    while len(floor.reached_ms) < expected:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{expected - len(floor.reached_ms)} numbers of the floor never arrived")
        await asyncio.sleep(0.05)


async def _tell(http: aiohttp.ClientSession, door_url: str, sale: dict[str, Any]) -> None:
    async with http.post(door_url, json=sale) as answer:
        answer.raise_for_status()


def _application(*routes: web.RouteDef) -> web.Application:
    application = web.Application()
    application.add_routes(routes)
    return application


async def _shops() -> None:
    """Nine shops that take a number and say when."""

    async def take(request: web.Request) -> web.Response:
        await request.json()
        return web.json_response({"at_ms": time.time() * 1000})

    runner = web.AppRunner(_application(web.put("/shops/{shop}", take)))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(_shops())
