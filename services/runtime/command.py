"""Commands of people go straight to Kafka: there is no business transaction they would have to agree with."""

import secrets
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from contracts.catalogue import CATALOGUE, Catalogue
from contracts.envelope import Envelope, Message
from services.bus.outbox import encoded, packed, unpack
from services.bus.relay import new_producer


async def send(bootstrap: str, message: Message, *, tenant: str, command_id: str, **options: Any) -> None:
    """Send one command and wait until all in-sync replicas have it; `options` are those of `send_all`.

    `command_id` is made by the caller before the first try and is the event id: sent again after an unknown outcome, it
    books nothing twice. A flow starts here, so this is where it is sampled. Raises aiokafka's errors.
    """
    await send_all(bootstrap, [(command_id, message)], tenant=tenant, **options)


async def send_all(
    bootstrap: str,
    commands: Sequence[tuple[str, Message]],
    *,
    tenant: str,
    source: str = "console",
    correlation_id: str = "",
    sampled: bool = True,
    catalogue: Catalogue = CATALOGUE,
) -> None:
    """`send` for many (command id, message) pairs over one producer; their order is kept within a key."""
    producer = new_producer(bootstrap)
    await producer.start()
    try:
        waiting = []
        for command_id, message in commands:
            entry = catalogue.of(message)
            envelope = Envelope(
                id=command_id, type=entry.name, source=source, time=datetime.now(UTC),
                subject=entry.aggregate(message), tenant=tenant, correlation_id=correlation_id or command_id,
                traceparent=f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-0{int(sampled)}",
            )  # fmt: skip
            [(key, headers, payload)] = unpack(packed([encoded(envelope.values(), message)[1]]))
            waiting.append(await producer.send(entry.stream.name, value=payload, key=key, headers=headers))
        for acknowledged in waiting:
            await acknowledged
    finally:
        await producer.stop()
