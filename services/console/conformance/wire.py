"""The kit's way to the broker: it writes records, follows the offsets of a group, listens to topics."""

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final, final

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment
from aiokafka.errors import KafkaError

from services.console.conformance.cases import Sent
from services.console.conformance.judge import Output

TRIES: Final = 100
"""Of a question that the broker cannot answer yet, 0.2 s apart: it has just started, or a group is being shared out."""

REQUEST_BYTES: Final = 1_048_576
CONNECTIONS: Final = "channels.connections.v1"


@final
class Wire:
    """Connections to one broker, an async context. It belongs to no consumer group and commits nothing.

    `outputs` are the records heard so far that are about `tenant`.
    """

    def __init__(self, bootstrap: str, tenant: str) -> None:
        self._bootstrap, self._tenant = bootstrap, tenant
        self._admin: Any = None
        self._producer: Any = None
        self._consumer: Any = None
        self._listening: asyncio.Task[None] | None = None
        self.outputs: list[Output] = []

    async def __aenter__(self) -> "Wire":
        """Connect. Raises `KafkaError` where nothing answers."""
        async with contextlib.AsyncExitStack() as stack:
            self._admin = AIOKafkaAdminClient(bootstrap_servers=self._bootstrap)
            stack.push_async_callback(self._admin.close)
            await self._admin.start()
            self._producer = AIOKafkaProducer(
                bootstrap_servers=self._bootstrap, enable_idempotence=True, max_request_size=REQUEST_BYTES
            )
            stack.push_async_callback(self._producer.stop)
            await self._producer.start()
            self._consumer = AIOKafkaConsumer(
                bootstrap_servers=self._bootstrap, enable_auto_commit=False, auto_offset_reset="earliest"
            )
            stack.push_async_callback(self._consumer.stop)
            await self._consumer.start()
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Disconnect."""
        if self._listening:
            self._listening.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._listening
        await self._stack.aclose()

    async def partitions(self) -> dict[str, int]:
        """The number of partitions of every topic there is."""
        told = await self._admin.describe_topics(await self._admin.list_topics())
        return {topic["topic"]: len(topic["partitions"]) for topic in told}

    async def groups(self) -> list[str]:
        """Every consumer group that the broker knows."""
        return sorted(group[0] for group in await _patiently(self._admin.list_consumer_groups))

    async def read_by(self, groups: Iterable[str]) -> dict[str, set[str]]:
        """The topics that each group reads: those given to its members now, and those it has offsets of."""
        read: dict[str, set[str]] = {}
        for group in groups:
            offsets = await _patiently(partial(self._admin.list_consumer_group_offsets, group))
            read[group] = {position.topic for position in offsets}
            for response in await _patiently(partial(self._admin.describe_consumer_groups, [group])):
                for member in response.groups[0][5]:
                    if member[4]:  # Empty while the group is still sharing out.
                        assigned = ConsumerProtocolMemberAssignment.decode(member[4])
                        read[group] |= {position.topic for position in assigned.partitions()}
        return read

    async def committed(self, groups: Iterable[str], topics: Iterable[str]) -> dict[tuple[str, int], int]:
        """The highest offset that one of `groups` committed, by topic and partition."""
        wanted, offsets = set(topics), dict[tuple[str, int], int]()
        for group in groups:
            found = await _patiently(partial(self._admin.list_consumer_group_offsets, group))
            for position, told in found.items():
                place = position.topic, position.partition
                if position.topic in wanted:
                    offsets[place] = max(told.offset, offsets.get(place, 0))
        return offsets

    async def send(self, records: Sequence[Sent]) -> dict[tuple[str, int], int]:
        """Write `records` in order; the offset behind the last one of each partition."""
        waiting = [
            await self._producer.send(
                one.topic, one.value, key=one.key, partition=one.partition, headers=list(one.headers)
            )
            for one in records
        ]
        ends: dict[tuple[str, int], int] = {}
        for told in await asyncio.gather(*waiting):
            ends[told.topic, told.partition] = told.offset + 1
        return ends

    async def production_connections(self) -> list[str]:
        """Connections of a real company, as the broker's own stream of connections tells them: key by key the last."""
        places = [TopicPartition(CONNECTIONS, 0)]
        ends = await self._consumer.end_offsets(places)
        self._consumer.assign(places)
        await self._consumer.seek_to_beginning(*places)
        latest: dict[bytes, str] = {}
        while await self._consumer.position(places[0]) < ends[places[0]]:
            for records in (await self._consumer.getmany(timeout_ms=200)).values():
                for record in records:
                    with contextlib.suppress(ValueError, AttributeError):
                        latest[record.key] = json.loads(record.value or b"null").get("environment", "")
        return sorted(key.decode(errors="replace") for key, name in latest.items() if name == "production" and key)

    async def listen(self, topics: Mapping[str, int]) -> None:
        """Hear what comes on `topics` (with their partitions) from now on."""
        places = [TopicPartition(topic, number) for topic, count in topics.items() for number in range(count)]
        if places:
            ends = await self._consumer.end_offsets(places)
            self._consumer.assign(places)
            for place, end in ends.items():
                self._consumer.seek(place, end)
            self._listening = asyncio.create_task(self._hear(), name="conformance")

    async def _hear(self) -> None:
        own_key, own = f"{self._tenant}:".encode(), self._tenant.encode()
        while True:
            for records in (await self._consumer.getmany(timeout_ms=200)).values():
                for record in records:
                    headers = dict(record.headers)
                    # Without tenant in head and key it still counts where the body names ours.
                    mine = headers.get("ce_tenant") == own or (record.key or b"").startswith(own_key)
                    if mine or own in (record.value or b""):
                        self.outputs.append(
                            Output(record.topic, record.partition, record.offset, record.key, record.value, headers)
                        )


async def _patiently(ask: Callable[[], Awaitable[Any]]) -> Any:
    for _ in range(TRIES):
        try:
            return await ask()
        except KafkaError as error:
            if not error.retriable:
                raise
        await asyncio.sleep(0.2)
    return await ask()
