"""The service as it is wired, on real servers: a command comes by Kafka, and what follows is told."""

import asyncio
from typing import Any

import pytest
from pydantic import ValidationError

from services.bus import BusSettings
from services.payments.app import build
from services.payments.settings import PaymentsSettings
from services.runtime.command import send
from tests.payments.given import authorize


def test_a_key_is_needed_its_own_or_the_common_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PAYMENTS_SECRETS_KEY", "SALDO_SECRETS_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValidationError, match="SECRETS_KEY"):
        PaymentsSettings()
    monkeypatch.setenv("SALDO_SECRETS_KEY", "common")
    assert PaymentsSettings().secrets_key.get_secret_value() == "common"
    monkeypatch.setenv("PAYMENTS_SECRETS_KEY", "own")
    assert PaymentsSettings().secrets_key.get_secret_value() == "own"


@pytest.mark.asyncio
async def test_a_command_by_kafka_is_obeyed(kafka_bootstrap: str, database: str) -> None:
    bus: Any = {"postgres_dsn": database, "kafka_bootstrap_servers": kafka_bootstrap, "admin_port": 0}
    service = build(BusSettings(**bus), PaymentsSettings(secrets_key=bytes(range(32, 64)).hex()))
    running = asyncio.create_task(service.run(handle_signals=False))
    try:
        await asyncio.wait_for(service.started.wait(), 60)
        # There is no account at any gateway, so the payment fails without one being asked.
        await send(kafka_bootstrap, authorize(), tenant="acme", command_id="command-1")
        status = None
        async with asyncio.timeout(60):
            while status != "closed":
                await asyncio.sleep(0.1)
                status = await service.pool.fetchval("SELECT status FROM payments")
    finally:
        service.stop()
        await running
