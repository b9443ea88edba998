"""Chaos: schedules repeat themselves, the proxy does to connections what it is told, and what overtakes is seen."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest

from contracts.catalogue import CATALOGUE
from contracts.channels.v1 import SaleReported, SaleStatus
from contracts.envelope import Envelope, Message
from deploy.local.ports import draw_port
from services.console.chaos import stream
from services.console.chaos.hand import Hand
from services.console.chaos.history import History, Ordered
from services.console.chaos.proxy import Proxy
from services.console.chaos.schedule import BROKERS_PER_MINUTE, KILLS, NAMES, SERVERS, Fault, plan_faults, points
from services.console.chaos.stream import Books, plan_records
from services.console.demo.accounts import settle
from services.console.demo.evidence import Evidence, read_books
from services.console.demo.seed import make_catalogue

SERVICES = ["inventory", "orders", "channels"]
CATALOGUE_OF_20 = make_catalogue(20, 1)


def planned(seed: int = 7, minutes: float = 20.0) -> list[Fault]:
    return plan_faults(seed, minutes, SERVICES, ["inventory"], ["shopify", "vtex"])


def test_a_seed_has_its_faults_and_another_seed_others() -> None:
    assert planned() == planned()
    assert planned(8) != planned()


def test_twenty_minutes_have_five_hundred_faults_and_ten_restarts_of_servers() -> None:
    faults = planned()
    of_server = [fault for fault in faults if fault.of_server]
    kills = [fault for fault in faults if fault.kind in KILLS and fault not in of_server]
    assert len(faults) >= 500
    assert len(of_server) == 10
    assert {(fault.kind, fault.target) for fault in of_server} == {
        (kind, server) for kind in ("stop", "kill") for server in SERVERS
    }
    assert len(kills) >= 100
    assert {fault.target for fault in kills} == {*SERVICES, "inventory-2"}
    assert [fault.at_s for fault in faults] == sorted(fault.at_s for fault in faults)
    assert all(0 <= fault.at_s <= 1200 for fault in faults)


def test_every_kind_of_fault_is_in_twenty_minutes_by_its_name() -> None:
    ends = {f"{server} {how}" for server in SERVERS for how in ("shutdown", "SIGKILL")}
    assert {fault.name for fault in planned()} == {*NAMES.values(), *ends, "second instance leaves and joins"}


def test_of_a_cluster_each_broker_goes_in_its_turn_and_none_while_another_is_away() -> None:
    brokers = ["kafka-1", "kafka-2", "kafka-3"]
    faults = plan_faults(7, 3, SERVICES, ["inventory"], ["vtex"], brokers)
    lost = [fault for fault in faults if fault.of_server]
    assert [(fault.kind, fault.target) for fault in lost] == [
        (kind, one) for kind in ("stop", "kill") for one in brokers
    ]
    assert min(later.at_s - one.at_s for one, later in pairwise(lost)) >= 60 / BROKERS_PER_MINUTE / 2
    assert "kafka" not in {fault.target for fault in faults}, "its nodes have no detour"


def test_the_points_of_a_service_are_its_own_and_those_of_the_bus() -> None:
    assert {"push.sent", "intake.store.before", "inbox.after", "relay.send.after"} <= set(points("channels"))
    assert "push.sent" not in points("orders")


@asynccontextmanager
async def echo_behind_a_proxy() -> AsyncIterator[tuple[Proxy, list[bytes]]]:
    """A proxy before a server that says everything back; what the server got, chunk by chunk."""
    got: list[bytes] = []

    async def say_back(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionResetError):
            while chunk := await reader.read(1000):
                got.append(chunk)
                writer.write(chunk)
        writer.close()

    server = await asyncio.start_server(say_back, "127.0.0.1", 0)
    proxy = Proxy(draw_port(), server.sockets[0].getsockname()[1])
    await proxy.start()
    try:
        yield proxy, got
    finally:
        await proxy.stop()
        server.close()
        await asyncio.sleep(0.05)  # What was reset is heard of, and closed.


async def said_back(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, said: bytes) -> bytes:
    writer.write(said)
    async with asyncio.timeout(5):
        return await reader.readexactly(len(said))


@pytest.mark.asyncio
async def test_the_proxy_passes_everything_on_and_a_delay_only_delays() -> None:
    async with echo_behind_a_proxy() as (proxy, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.come)
        assert await said_back(reader, writer, b"x" * 300_000) == b"x" * 300_000
        proxy.delay_s = 0.01
        assert await said_back(reader, writer, b"slow") == b"slow"
        writer.close()


@pytest.mark.asyncio
async def test_a_cut_resets_connections_and_lets_new_ones_in() -> None:
    async with echo_behind_a_proxy() as (proxy, _):
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.come)
        await said_back(reader, writer, b"before")
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)
        writer.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.come)
        assert await said_back(reader, writer, b"after") == b"after"
        proxy.refusing = True
        reader, refused = await asyncio.open_connection("127.0.0.1", proxy.come)
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)
        refused.close()
        writer.close()


@pytest.mark.asyncio
async def test_what_stalls_goes_on_with_nothing_lost() -> None:
    async with echo_behind_a_proxy() as (proxy, got):
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.come)
        await said_back(reader, writer, b"one")
        proxy.stall()
        writer.write(b"two")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await reader.readexactly(3)
        assert got == [b"one"]
        proxy.flow()
        assert await reader.readexactly(3) == b"two"
        writer.close()


@pytest.mark.parametrize("deaf", [False, True])
@pytest.mark.asyncio
async def test_a_dead_connection_is_never_answered_and_a_new_one_is(deaf: bool) -> None:
    async with echo_behind_a_proxy() as (proxy, got):
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.come)
        await said_back(reader, writer, b"before")
        proxy.kill(deaf=deaf)
        writer.write(b"heard?")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await reader.read(1)
        assert (b"heard?" in got) is deaf
        other_reader, other = await asyncio.open_connection("127.0.0.1", proxy.come)
        assert await said_back(other_reader, other, b"after") == b"after"
        writer.close()
        other.close()


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.asyncio
async def test_a_commit_is_cut_before_or_after_it_arrived(when: str, tmp_path: Path) -> None:
    async with echo_behind_a_proxy() as (proxy, got):
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.come)
        with History(tmp_path / "history.jsonl") as history:
            hand = Hand(tmp_path, {"postgres": proxy}, history)
            fault = Fault(0, "commit", "postgres", 5, when)
            striking = asyncio.create_task(hand.run([fault], asyncio.get_running_loop().time()))
            for _ in range(10):  # The strike's own turns of the loop.
                await asyncio.sleep(0)
            assert proxy.commit == when
            assert await said_back(reader, writer, b"INSERT") == b"INSERT"
            writer.write(b"COMMIT;")
            with pytest.raises(ConnectionResetError):
                await reader.readexactly(1)
            await striking
            writer.close()
        assert hand.done == {"commit": 1}
        assert (b"COMMIT;" in got) is (when == "after")
        (line,) = (tmp_path / "history.jsonl").read_text().splitlines()
        assert json.loads(line)["took_effect"] is True


@pytest.mark.asyncio
async def test_a_point_that_nobody_passes_does_not_count(tmp_path: Path) -> None:
    with History(tmp_path / "history.jsonl") as history:
        hand = Hand(tmp_path, {}, history)
        await hand.run([Fault(0, "point", "orders", 0.2, "inbox.after")], asyncio.get_running_loop().time())
        assert hand.count() == 0
        assert not list((tmp_path / "faults" / "orders").iterdir())


def test_records_repeat_themselves_and_are_dirty() -> None:
    records = plan_records(CATALOGUE_OF_20, 7, 600, 20)
    assert records == plan_records(CATALOGUE_OF_20, 7, 600, 20)
    assert records != plan_records(CATALOGUE_OF_20, 8, 600, 20)
    first = {record.order: record.at_s for record in records if record.revision == 1}
    dirt = Counter(
        twice=sum(record.copies > 1 for record in records),
        told_again=sum(record.told_again for record in records),
        mixed_up=sum(record.cancelled and record.at_s < first[record.order] for record in records),
        spoilt=sum(record.spoilt for record in records),
    )
    assert all(dirt[kind] for kind in ("twice", "told_again", "mixed_up", "spoilt")), dirt


def test_the_books_of_the_stream_are_read_like_a_sandbox_s() -> None:
    books = Books()
    records = plan_records(CATALOGUE_OF_20, 7, 60, 20)
    for record in records:
        if not record.spoilt:
            books.add(record)
    read = read_books(books.rows)[stream.CHANNEL.shop]
    evidence = Evidence(CATALOGUE_OF_20.plan, [stream.CHANNEL], {stream.CONNECTION: read}, Ordered())
    units = settle(evidence).units
    cancelled = sum(sum(record.lines.values()) for record in records if record.cancelled)
    assert units["cancelled"] == cancelled > 0
    assert units["accepted"] == sum(line.quantity for line in read.sold)
    assert len(settle(evidence).lost) == books.orders


def heard(message: Message, number: int) -> tuple[Envelope, Message]:
    now = datetime.now(UTC)
    return Envelope(f"{number}", CATALOGUE.of(message).name, "saldo/channels", now, "", "demo", ""), message


def test_an_event_that_comes_after_a_later_one_of_its_key_is_named() -> None:
    def sale(revision: int, order: str = "a", connection: str = "shop") -> SaleReported:
        now = datetime.now(UTC)
        return SaleReported(
            connection_id=connection, external_id=order, order_id=order, revision=revision, status=SaleStatus.PAID,
            sold_at=now, received_at=now, customer_ref="", currency="BRL", lines=(),
        )  # fmt: skip

    ordered = Ordered(dirty=stream.CONNECTION)
    in_order = [sale(1), sale(1, "b"), sale(2), sale(2, "c", stream.CONNECTION), sale(1, "c", stream.CONNECTION)]
    for number, message in enumerate(in_order):
        assert ordered.add(*heard(message, number))
    assert not ordered.add(*heard(sale(1), 0)), "a second copy of an event is none"
    assert not ordered.overtaken
    ordered.add(*heard(sale(1), 99))
    (said,) = ordered.overtaken
    assert "a: (1,) after (2,)" in said
