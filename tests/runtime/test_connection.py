"""The Kafka client on uvloop: a connection that was just reset is a closed one, and no fault of the client's own."""

import asyncio

import pytest
import uvloop
from aiokafka import conn
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.metadata import MetadataRequest

from services.runtime.kafka_client import Connection, mend_client

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def _send_after_a_reset(bootstrap: str) -> None:
    host, _, port = bootstrap.rpartition(":")
    opened = await conn.create_conn(host, int(port))
    try:
        opened._writer.transport.abort()
        await opened.send(MetadataRequest([]))
    finally:
        opened.close()


@pytest.mark.rule(9)
async def test_a_request_on_a_connection_that_was_just_reset_says_that_it_is_closed(kafka_bootstrap, monkeypatch):
    monkeypatch.setattr(conn, "AIOKafkaConnection", Connection.__base__)
    with pytest.raises(RuntimeError):  # What the client makes of it by itself: its fetching would end for good.
        await asyncio.to_thread(lambda: uvloop.run(_send_after_a_reset(kafka_bootstrap)))
    mend_client()
    with pytest.raises(KafkaConnectionError):
        await asyncio.to_thread(lambda: uvloop.run(_send_after_a_reset(kafka_bootstrap)))
