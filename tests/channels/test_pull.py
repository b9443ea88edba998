"""Queues, repair polls, single reads and commands, against the sandboxes."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
import pytest_asyncio

from contracts.channels.v1 import RefetchSale, ResendBuyer
from contracts.envelope import Envelope
from services.bus import Received
from services.channels import handlers
from services.channels.connections.registry import Open
from services.channels.connectors.connector import Fetched, Rejected, Session, Throttled, Unreachable
from services.channels.intake import absorb, pull, store
from services.channels.shop.shop import Shop
from services.sandbox.client import SandboxClient
from tests.channels.conftest import START, Kit, shopify_order, skyhub_order
from tests.sandbox.running import TOKEN, Sandbox

pytestmark = pytest.mark.asyncio
_names = itertools.count(1)


@pytest.fixture(scope="module")
def sandboxes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Sandbox]]:
    running = {}
    for name in ("shopify", "skyhub"):
        running[name] = Sandbox(name, tmp_path_factory.mktemp(name) / "books.sqlite")
        running[name].start()
    yield running
    for sandbox in running.values():
        sandbox.stop()


@pytest_asyncio.fixture
async def shopify(sandboxes: dict[str, Sandbox]) -> AsyncIterator[SandboxClient]:
    async with SandboxClient(sandboxes["shopify"].base_url, TOKEN) as control:
        yield control


@pytest_asyncio.fixture
async def skyhub(sandboxes: dict[str, Sandbox]) -> AsyncIterator[SandboxClient]:
    async with SandboxClient(sandboxes["skyhub"].base_url, TOKEN) as control:
        yield control


async def opened(kit: Kit, control: SandboxClient, connector: str, **settings: Any) -> tuple[Open, str]:
    name = f"loja-{next(_names)}"
    told = await control.put_shop(name, **settings)
    await control.put_products(name, [{"sku": "SKU-1", "title": "t", "quantity": 100, "price_minor": 1990}])
    connection = await kit.connect(
        connector=connector, account=name, base_url=told["base_url"], credentials=told["credentials"]
    )
    entry = kit.intake.registry.get(connection.connection_id)
    assert entry is not None
    return entry, name


async def eventually(condition: Callable[[], Awaitable[Any]]) -> None:
    """Return once `condition` holds."""
    for _ in range(3000):
        if await condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it never came about")


async def states(kit: Kit) -> list[tuple[int, str]]:
    await kit.absorb()
    return [(sale["revision"], sale["status"]) for sale in await kit.published()]


async def test_a_queue_is_emptied_and_what_dies_before_the_acknowledgement_comes_again_and_doubles_nothing(
    kit: Kit, skyhub: SandboxClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry, name = await opened(kit, skyhub, "skyhub", queue_redelivery_ms=1)
    bought = await skyhub.buy(name, {"SKU-1": 2}, pay="later")
    acknowledge = entry.connector.acknowledge

    async def dies(session: Session, lot: Sequence[Fetched]) -> None:
        # By now it has to be ours for good.
        assert await kit.count("intake") == 1
        raise ConnectionError("the process is gone")

    monkeypatch.setattr(type(entry.connector), "acknowledge", staticmethod(dies))
    with pytest.raises(ConnectionError):
        await pull.empty_queue(kit.service, kit.intake, entry)
    monkeypatch.setattr(type(entry.connector), "acknowledge", staticmethod(acknowledge))
    assert await pull.empty_queue(kit.service, kit.intake, entry) >= 1
    assert await pull.empty_queue(kit.service, kit.intake, entry) == 0
    assert await states(kit) == [(1, "awaiting_payment")]
    await skyhub.pay(name, bought["order_id"])
    assert await pull.empty_queue(kit.service, kit.intake, entry) == 1
    await skyhub.cancel(name, bought["order_id"])
    assert await pull.empty_queue(kit.service, kit.intake, entry) == 1
    assert await states(kit) == [(1, "awaiting_payment"), (2, "paid"), (3, "cancelled")]


async def test_a_repair_poll_brings_lost_pushes_and_nothing_that_is_known(kit: Kit, shopify: SandboxClient) -> None:
    entry, name = await opened(kit, shopify, "shopify")
    for _ in range(3):
        await shopify.buy(name, {"SKU-1": 1})
    begun_at = kit.service.clock()
    assert await pull.repair(kit.service, kit.intake, entry, begun_at) == 3
    assert await states(kit) == [(1, "paid")] * 3
    assert await pull.repair(kit.service, kit.intake, entry, begun_at) == 0
    assert await kit.count("intake") == 3


async def test_what_an_unclean_end_left_hidden_in_the_queue_is_found_before_a_poll_is_complete(
    kit: Kit, skyhub: SandboxClient
) -> None:
    entry, name = await opened(kit, skyhub, "skyhub")
    connection_id = entry.connection.connection_id

    async def polled() -> Any:
        async with kit.service.pool.acquire() as database:
            return await store.polled_until(database, connection_id)

    async def run_until(condition: Any) -> None:
        running = asyncio.create_task(pull.pull(kit.service, kit.intake, entry))
        await eventually(condition)
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running

    await run_until(polled)
    assert await kit.count("polls", "open_since IS NULL AND finished_at >= begun_at") == 1
    await kit.service.pool.execute("UPDATE polls SET open_since = now(), begun_at = NULL, finished_at = NULL")
    await skyhub.buy(name, {"SKU-1": 3})
    # The dying process got the order and kept nothing: the queue hides it for five minutes.
    async for lost in entry.connector.receive(entry.session):
        assert [one.external_id for one in lost]
        break
    await run_until(polled)
    assert await kit.count("intake", "topic = 'poll'") == 1
    assert await kit.count("polls", "open_since IS NULL AND finished_at >= begun_at") == 1


async def test_a_poll_of_a_queue_that_could_not_be_listed_is_not_complete(
    kit: Kit, skyhub: SandboxClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry, _ = await opened(kit, skyhub, "skyhub")
    async with kit.service.pool.acquire() as database:
        assert not await store.open_pull(database, entry.connection.connection_id, kit.service.clock())
    listed = itertools.count()

    async def unreachable(*_: Any) -> int:
        next(listed)
        raise Unreachable(0.05)

    async def twice() -> bool:
        return next(listed) > 2

    monkeypatch.setattr(pull, "repair", unreachable)
    running = asyncio.create_task(pull.pull(kit.service, kit.intake, entry))
    await eventually(twice)
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    assert await kit.count("polls", "begun_at IS NULL AND open_since IS NOT NULL") == 1


def received(message: Any, tenant: str = "loja") -> Received[Any]:
    return Received(message, Envelope("e1", "t", "s", START, "", tenant, message.order_id), "k")


@pytest.mark.rule(22)
async def test_an_overdue_order_is_read_again_and_a_person_alerted(kit: Kit, shopify: SandboxClient) -> None:
    entry, name = await opened(kit, shopify, "shopify")
    bought = await shopify.buy(name, {"SKU-1": 1}, pay="later")
    await pull.repair(kit.service, kit.intake, entry, kit.service.clock())
    assert await states(kit) == [(1, "awaiting_payment")]
    await shopify.pay(name, bought["order_id"])
    order_id = (await kit.published())[0]["order_id"]
    command = received(RefetchSale(order_id=order_id, reason="unpaid past its deadline"))
    async with kit.service.transaction() as tx:
        await handlers.obey([command, command], tx, kit.intake, Shop(kit.intake, kit.vault))
    running = asyncio.create_task(pull.refetch(kit.service, kit.intake))
    await eventually(partial(kit.count, "intake_orders", "fetched_seq = notified_seq AND notified_seq > 0"))
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    assert await states(kit) == [(1, "awaiting_payment"), (2, "paid")]
    assert await kit.count("alerts", "kind = 'order_overdue' AND resolved_at IS NULL") == 1


async def test_a_refund_points_to_its_order_which_is_fetched(kit: Kit, shopify: SandboxClient) -> None:
    entry, name = await opened(kit, shopify, "shopify")
    bought = await shopify.buy(name, {"SKU-1": 3})
    await shopify.refund(name, bought["order_id"], {"SKU-1": 1})
    await kit.deliver(entry.connection, {"id": 9, "order_id": int(bought["order_id"])}, topic="refunds/create")
    await kit.absorb()
    assert await kit.published() == []
    async with kit.service.pool.acquire() as database:
        free = {entry.connection.connection_id: 1}
        [wanted] = await store.claim_fetches(database, free, kit.service.clock(), timedelta(seconds=60))
    await pull.keep_fetched(kit.service, kit.intake, [await pull.fetch_one(kit.service, kit.intake, entry, wanted)])
    await kit.absorb()
    sale = (await kit.published())[0]
    assert [(line["quantity"], line["cancelled"] + line["returned"]) for line in sale["lines"]] == [(3, 1)]


@pytest.mark.rule(30)
async def test_a_buyer_is_reported_again_while_kept_and_only_to_its_own_company(kit: Kit) -> None:
    shop = await kit.connect()
    await kit.deliver(shop, shopify_order())
    await kit.absorb()
    order_id = (await kit.published())[0]["order_id"]
    send = partial(handlers.obey, intake=kit.intake, shop=Shop(kit.intake, kit.vault))
    async with kit.service.transaction() as tx:
        await send([received(ResendBuyer(order_id=order_id)), received(ResendBuyer(order_id=order_id), "outra")], tx)
    buyers = await kit.published("channels.buyers.v1")
    assert [buyer["name"] for buyer in buyers] == ["Ana Souza", "Ana Souza"]
    assert buyers[0] == buyers[1]
    async with kit.service.transaction() as tx:
        await store.erase_orders(tx.connection, "loja", [order_id])
        await send([received(ResendBuyer(order_id=order_id))], tx)
    assert len(await kit.published("channels.buyers.v1")) == 2


async def test_overlapping_bodies_of_two_channels_keep_their_own_ways(kit: Kit) -> None:
    shop, hub = await kit.connect(), await kit.connect(connector="skyhub", account="casa")
    await kit.deliver(hub, skyhub_order(kind="CANCELED"), topic="queue")
    await kit.deliver(shop, shopify_order(status="pending"))
    await kit.deliver(hub, skyhub_order(kind="APPROVED"), topic="queue")
    await kit.deliver(shop, shopify_order(status="paid", minute=1))
    assert await states(kit) == [(1, "cancelled"), (1, "awaiting_payment"), (2, "paid")]


class Reads:
    """What a connector answers when it is asked for orders: an order, or what is `wrong` with one. Each waits."""

    def __init__(self, entry: Open, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wrong: dict[str, Exception] = {}
        self.asked: list[str] = []
        self.free = asyncio.Event()
        monkeypatch.setattr(type(entry.connector), "fetch", lambda *given: self.read(given[-1]))

    async def read(self, number: str) -> Fetched:
        self.asked.append(number)
        await self.free.wait()
        if number in self.wrong:
            raise self.wrong.pop(number)
        return Fetched(number, json.dumps(shopify_order(int(number), status="paid", minute=2)).encode())


async def pointed_to(kit: Kit, *numbers: int, parallel: int, monkeypatch: pytest.MonkeyPatch) -> tuple[Open, Reads]:
    """A connection with unpaid orders that have to be read again."""
    shop = await kit.connect()
    entry = kit.intake.registry.get(shop.connection_id)
    assert entry is not None
    traits = replace(entry.connector.traits, fetch_parallel=parallel)
    monkeypatch.setattr(type(entry.connector), "traits", traits)
    for number in numbers:
        await kit.deliver(shop, shopify_order(number, status="pending"))
        await kit.deliver(shop, {"id": number, "order_id": number}, topic="refunds/create")
    await kit.absorb()
    return entry, Reads(entry, monkeypatch)


@asynccontextmanager
async def reading(kit: Kit) -> AsyncIterator[None]:
    """The loop that reads orders again."""
    running = asyncio.create_task(pull.refetch(kit.service, kit.intake))
    try:
        yield
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


async def paid(kit: Kit, orders: int) -> bool:
    return await kit.count("intake_orders", "status = 'paid'") == orders


async def test_what_a_process_that_died_was_reading_is_read_again(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    _, reads = await pointed_to(kit, 1, parallel=1, monkeypatch=monkeypatch)
    kit.intake.settings = kit.intake.settings.model_copy(update={"lease_s": 0.2})
    async with reading(kit):
        await eventually(lambda: asyncio.sleep(0, len(reads.asked) == 1))
    reads.free.set()
    async with reading(kit):
        await eventually(partial(paid, kit, 1))
    assert len(reads.asked) == 2


async def test_orders_are_read_at_once_and_kept_by_one_transaction(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    _, reads = await pointed_to(kit, 1, 2, 3, 4, 5, parallel=4, monkeypatch=monkeypatch)
    kept: list[int] = []
    keep_fetched = pull.keep_fetched

    async def counted(service: Any, intake: Any, answers: Any) -> None:
        kept.append(len(answers))
        await keep_fetched(service, intake, answers)

    monkeypatch.setattr(pull, "keep_fetched", counted)
    monkeypatch.setattr(pull, "_LOOK_AGAIN_S", 1000.0)
    async with reading(kit):
        await eventually(lambda: asyncio.sleep(0, len(reads.asked) == 4))
        reads.free.set()
        await eventually(partial(paid, kit, 5))
    assert (kept, len(reads.asked)) == ([4, 1], 5)
    assert await kit.count("intake_orders", "fetched_seq = notified_seq") == 5


async def test_an_order_that_cannot_be_read_holds_up_no_other(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    _, reads = await pointed_to(kit, 1, 2, 3, parallel=4, monkeypatch=monkeypatch)
    reads.wrong = {"1": Rejected("404"), "2": ValueError("no order")}
    reads.free.set()
    async with reading(kit):
        await eventually(partial(paid, kit, 1))
        await eventually(partial(kit.count, "alerts", "kind = 'order_unreadable' AND resolved_at IS NULL"))
        # Their leases run on: they are tried again, and a person need not say so.
        assert await kit.count("intake_orders", "fetched_seq < notified_seq AND fetch_at > now()") == 2
        await kit.service.pool.execute("UPDATE intake_orders SET fetch_at = now()")
        kit.intake.wanted.set()
        await eventually(partial(paid, kit, 3))
    assert await kit.count("alerts", "kind = 'order_unreadable' AND resolved_at IS NULL") == 0


async def test_a_channel_that_asks_to_wait_is_asked_again_after_the_pause(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, reads = await pointed_to(kit, 1, parallel=1, monkeypatch=monkeypatch)
    reads.wrong = {"1": Throttled(0.05)}
    reads.free.set()
    async with reading(kit):
        await eventually(partial(paid, kit, 1))
    assert reads.asked == ["1", "1"]


async def test_reads_that_cannot_be_absorbed_are_kept_all_the_same(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    _, reads = await pointed_to(kit, 1, parallel=1, monkeypatch=monkeypatch)
    reads.free.set()
    absorbing = absorb._absorb_waiting

    async def fails(*_: Any) -> int:
        raise ValueError("a mistake")

    monkeypatch.setattr(absorb, "_absorb_waiting", fails)
    async with reading(kit):
        await eventually(partial(kit.count, "intake_orders", "fetched_seq = notified_seq"))
    monkeypatch.setattr(absorb, "_absorb_waiting", absorbing)
    assert await states(kit) == [(1, "awaiting_payment"), (2, "paid")]
