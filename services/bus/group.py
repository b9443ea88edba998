"""This process as a member of its consumer groups: with a slot it reads, without one it waits."""

import asyncio
from collections.abc import Mapping
from functools import partial
from itertools import chain
from typing import Any, Final, final

import structlog
from faststream import AckPolicy
from faststream.kafka import KafkaBroker
from faststream.kafka.message import FAKE_CONSUMER, KafkaMessage

from services.bus.consumer import Consumer
from services.bus.failures import SERVER_ERRORS, Backoff, describe
from services.bus.members import Holder, claim_slot
from services.bus.work import Work

SESSION_TIMEOUT_MS: Final = 30_000
MAX_POLL_INTERVAL_MS: Final = 3_600_000
BATCH_RECORDS: Final = 1_000
POLL_MS: Final = 1_000
STOP_TIMEOUT_S: Final = 15.0

_log = structlog.get_logger("saldo.bus")


@final
class Group:
    """The consumers of one service, which read while this process holds one of its `replicas` slots."""

    def __init__(self, work: Work, consumers: Mapping[str, Consumer]) -> None:
        self._work, self._consumers = work, consumers

    async def run(self, stop: asyncio.Event) -> None:
        """Read until `stop` and bring the batch that is under way to its end. A lost slot is asked for again."""
        settings = self._work.settings
        backoff = Backoff(stop, settings.backoff_cap_s)
        while self._consumers and not stop.is_set():
            holder = Holder(settings.postgres_dsn.get_secret_value(), f"saldo.member.{self._work.service}")
            try:
                await holder.open()
                slot = await claim_slot(holder, settings.replicas, stop)
                if slot is not None:
                    await self._read(slot, holder, stop, backoff)
            except Exception as failure:  # noqa: BLE001 - whatever the client raises, a service goes on consuming
                _log.warning("not consuming", error=describe(failure), exc_info=not isinstance(failure, SERVER_ERRORS))
                await backoff.wait()
            finally:
                await holder.close()

    async def _read(self, slot: int, holder: Holder, stop: asyncio.Event, backoff: Backoff) -> None:
        broker = KafkaBroker(
            self._work.settings.kafka_bootstrap_servers.split(","), consumer_only=True, allow_auto_create_topics=False,
            apply_types=False, graceful_timeout=STOP_TIMEOUT_S, logger=None,
        )  # fmt: skip
        for consumer in self._consumers.values():
            await consumer.begin(self._subscriber(broker, consumer, slot))
        try:
            await broker.start()
            backoff.tries = 0
            waits = {asyncio.create_task(stop.wait()), asyncio.create_task(holder.lost.wait())}
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for wait in waits:
                wait.cancel()
        finally:
            for consumer in self._consumers.values():
                consumer.stop.set()
            await broker.stop()

    def _subscriber(self, broker: KafkaBroker, consumer: Consumer, slot: int) -> Any:
        subscriber: Any = broker.subscriber(
            consumer.stream, batch=True, group_id=consumer.group_id,
            group_instance_id=f"{consumer.group_id}.{slot}", auto_offset_reset="earliest",
            ack_policy=AckPolicy.MANUAL, no_reply=True, session_timeout_ms=SESSION_TIMEOUT_MS,
            max_poll_interval_ms=MAX_POLL_INTERVAL_MS, parser=_passed_through, decoder=_raw_records,
        )  # fmt: skip
        subscriber.get_msg = partial(fetched, consumer)
        return subscriber


async def fetched(consumer: Consumer, kafka: Any) -> tuple[Any, ...]:
    """The next batch, as soon as there is one. FastStream's own waits, and where nothing came sleeps as long, deaf to
    what comes: short enough for a sale, that took a hundredth of a core for every stream, all day long.
    """
    await asyncio.sleep(consumer.linger_s)
    return tuple(chain(*(await kafka.getmany(timeout_ms=POLL_MS, max_records=BATCH_RECORDS)).values()))


async def _passed_through(records: Any) -> KafkaMessage:
    """FastStream's parser decodes headers and loses the batch over a bad one; ours is `record.Reader`."""
    return KafkaMessage(body=b"", raw_message=records, headers={}, consumer=FAKE_CONSUMER)


async def _raw_records(message: Any) -> Any:
    return message.raw_message
