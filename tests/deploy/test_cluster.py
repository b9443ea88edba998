"""Three brokers, of which any one may be lost: topics have a copy on each, and what is acknowledged is on two."""

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from contracts.catalogue import CATALOGUE, SALES
from deploy.local.postgres import Postgres
from deploy.local.stack import Stack, read_state
from services.runtime.topics import configuration, ensure_topics


@pytest.fixture
def instance() -> Iterator[Path]:
    """A folder that everybody may enter: as root, PostgreSQL runs as another user."""
    base = Path(tempfile.mkdtemp(prefix="saldo-cluster-"))
    base.chmod(0o711)
    yield base / "up"
    Postgres(base / "up" / "postgres", 0, "").wipe()
    shutil.rmtree(base)


def test_of_three_copies_two_have_a_record_and_of_one_nobody_asks() -> None:
    assert configuration(SALES, 3)["min.insync.replicas"] == "2"
    assert "min.insync.replicas" not in configuration(SALES)


@pytest.mark.asyncio
async def test_a_cluster_takes_records_while_one_broker_is_lost_and_has_them_all(instance: Path) -> None:
    running = await Stack(instance, services=(), sandboxes=(), brokers=3).start()
    bootstrap = ",".join(node.bootstrap for node in running.kafka)
    try:
        await ensure_topics(bootstrap, CATALOGUE, 3)
        admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
        await admin.start()
        [topic] = await admin.describe_topics([SALES.name])
        [told] = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, SALES.name)])
        await admin.close()
        assert {len(partition["replicas"]) for partition in topic["partitions"]} == {3}
        assert {entry[0]: entry[1] for entry in told.resources[0][4]}["min.insync.replicas"] == "2"

        producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", enable_idempotence=True)
        await producer.start()
        await asyncio.gather(*(producer.send_and_wait(SALES.name, b"before", partition=at) for at in range(3)))
        os.kill(read_state(instance)["processes"]["kafka-2"]["pid"], signal.SIGKILL)
        await asyncio.gather(*(producer.send_and_wait(SALES.name, b"after", partition=at) for at in range(3)))
        await producer.stop()

        consumer = AIOKafkaConsumer(SALES.name, bootstrap_servers=bootstrap, auto_offset_reset="earliest")
        await consumer.start()
        heard: list[bytes] = []
        while len(heard) < 6:
            heard += [
                record.value for records in (await consumer.getmany(timeout_ms=500)).values() for record in records
            ]
        await consumer.stop()
        assert sorted(heard) == [b"after"] * 3 + [b"before"] * 3
    finally:
        await running.stop()
