"""Commands of people go straight to Kafka: there is no business transaction they would have to agree with."""

import secrets
from datetime import UTC, datetime

from contracts.catalogue import CATALOGUE, Catalogue
from contracts.envelope import Envelope, Message
from services.bus.outbox import encoded
from services.bus.relay import new_producer


async def send(
    bootstrap: str,
    message: Message,
    *,
    tenant: str,
    command_id: str,
    source: str = "console",
    correlation_id: str = "",
    sampled: bool = True,
    catalogue: Catalogue = CATALOGUE,
) -> None:
    """Send one command and wait until all in-sync replicas have it.

    `command_id` is made by the caller before the first try and is the event id: sent again after an unknown outcome, it
    books nothing twice. A flow starts here, so this is where it is sampled. Raises aiokafka's errors.
    """
    entry = catalogue.of(message)
    envelope = Envelope(
        id=command_id,
        type=entry.name,
        source=source,
        time=datetime.now(UTC),
        subject=entry.aggregate(message),
        tenant=tenant,
        correlation_id=correlation_id or command_id,
        traceparent=f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-0{int(sampled)}",
    )
    _, topic, key, _, payload, _, _ = encoded(envelope, message, entry.stream.name, 1, personal=entry.stream.personal)
    producer = new_producer(bootstrap, "none")
    await producer.start()
    try:
        await producer.send_and_wait(topic, value=payload, key=key.encode(), headers=envelope.to_headers())
    finally:
        await producer.stop()
