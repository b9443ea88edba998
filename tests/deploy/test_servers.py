"""Kafka and PostgreSQL really start, answer, and leave nothing."""

import asyncpg
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic


@pytest.mark.asyncio
@pytest.mark.rule(35)
async def test_a_record_and_a_row_come_back(kafka_bootstrap: str, database: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka_bootstrap)
    await admin.start()
    await admin.create_topics([NewTopic("deploy-test", 1, 1)])
    await admin.close()
    producer = AIOKafkaProducer(bootstrap_servers=kafka_bootstrap, enable_idempotence=True)
    await producer.start()
    await producer.send_and_wait("deploy-test", b"value", key=b"key")
    await producer.stop()
    consumer = AIOKafkaConsumer("deploy-test", bootstrap_servers=kafka_bootstrap, auto_offset_reset="earliest")
    await consumer.start()
    record = await consumer.getone()
    await consumer.stop()
    assert (record.key, record.value) == (b"key", b"value")

    connection = await asyncpg.connect(database)
    assert await connection.fetchval("SHOW server_version_num") >= "180000"
    assert await connection.fetchval("SHOW server_encoding") == "UTF8"
    assert await connection.fetchval("SHOW fsync") == "on"
    await connection.execute("CREATE TABLE t (x int)")
    await connection.close()
