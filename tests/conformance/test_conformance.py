"""The contract kit against services of somebody else: a good one passes, each vice is named by the check of its own."""

import asyncio
import json
import re
import secrets
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import pytest_asyncio
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from contracts.catalogue import CATALOGUE
from contracts.schema import released
from services.console.conformance.bodies import (
    Body,
    bodies_of,
    dressed,
    is_valid,
    with_unknown_fields,
    with_unknown_values,
)
from services.console.conformance.cases import Author, cases
from services.console.conformance.judge import ASKS
from services.console.conformance.run import Report, Target, Unfit, own_topics, run
from services.runtime.topics import ensure_topics
from tests.conformance.outsider import LEVELS, Vice, empty, running
from tests.contracts.test_evolution import PARCELS, V1, V2

NOW = datetime(2026, 7, 1, 12, tzinfo=UTC)


def quiet(what: str, done: int, every: int) -> None:
    """Nobody looks at the progress."""


@pytest_asyncio.fixture
async def broker(kafka_bootstrap: str) -> AsyncIterator[str]:
    await ensure_topics(kafka_bootstrap, CATALOGUE)
    yield kafka_bootstrap
    await empty(kafka_bootstrap, LEVELS, "channels.connections.v1")


async def hit(bootstrap: str, vice: Vice, restart: str = "") -> Report:
    """A run of the kit against a service with a vice, under a name of its own."""
    name = f"outsider-{secrets.token_hex(4)}"
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(f"{name}.suggestions.v1", 3, 1)])
    finally:
        await admin.close()
    async with running(name, vice, bootstrap) as service:
        await service.reads.wait()
        return await run(
            Target(bootstrap, name, reads=(LEVELS,), restart=restart, patience_s=10, settle_s=1, is_test_broker=True),
            quiet,
        )


def results(report: Report) -> dict[str, set[str]]:
    """The results of each check."""
    found: dict[str, set[str]] = {}
    for finding in report.findings:
        found.setdefault(finding.check, set()).add(finding.result.value)
    return found


@pytest.mark.asyncio
async def test_a_service_that_keeps_to_the_contracts_passes_and_what_nobody_sees_is_said(broker: str) -> None:
    report = await hit(broker, Vice.NONE, restart="true")
    found = results(report)
    assert report.failed == []
    assert {check for check, seen in found.items() if seen == {"not observable"}} == {
        "majors", "dead letters", "bodies"
    }  # fmt: skip
    assert {check for check, seen in found.items() if seen == {"pass"}} == ASKS.keys() - {
        "majors", "dead letters", "bodies", "personal data"
    }  # fmt: skip


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("vice", "checks"),
    [
        (Vice.STALLS, {"poison"}),
        (Vice.DOUBLES, {"duplicates"}),
        (Vice.UNTRACED, {"traces"}),
        (Vice.FORGETFUL, {"beside poison"}),
        (Vice.BACKWARD, {"reordering"}),
        (Vice.STRICT, {"newer minor"}),
        (Vice.ECHOES, {"broken traces"}),
        (Vice.CARELESS, {"envelope"}),
    ],
    ids=lambda value: value.name if isinstance(value, Vice) else "",
)
async def test_a_vice_is_named_by_its_check(broker: str, vice: Vice, checks: set[str]) -> None:
    report = await hit(broker, vice)
    assert {finding.check for finding in report.failed} == checks, report.failed
    if vice is Vice.STALLS:
        assert [finding.about for finding in report.failed] == ["broken JSON"]
        assert results(report)["still at work"] == {"not observable"}


@pytest.mark.asyncio
async def test_a_command_that_does_not_start_the_service_again_is_named(broker: str) -> None:
    with pytest.raises(Unfit, match="false ended with 1: it has to start the service again"):
        await hit(broker, Vice.NONE, restart="false")


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("target", "reason"),
    [
        (Target("kafka.example:9092", "any"), "kafka.example:9092 is not on this machine"),
        (Target("here", "nobody"), "no consumer group is named nobody or nobody.…: start it, or give --group"),
        (Target("here", "any", groups=("nobody",)), "there is no consumer group nobody"),
    ],
)
async def test_the_kit_says_why_it_does_not_run(broker: str, target: Target, reason: str) -> None:
    here = target.bootstrap.replace("here", broker)
    with pytest.raises(Unfit, match=reason):
        await run(Target(here, target.service, groups=target.groups, is_test_broker="example" not in here), quiet)


@pytest.mark.asyncio
async def test_a_broker_with_a_connection_of_production_is_refused_without_the_flag(broker: str) -> None:
    (sample,) = released("samples", "saldo.channels.connection-changed.v1").values()
    connection = json.loads(sample.read_bytes())
    producer = AIOKafkaProducer(bootstrap_servers=broker)
    await producer.start()
    try:
        for environment, answer in (
            ("production", "has connections of environment production"),
            ("sandbox", "no group"),
        ):
            body = json.dumps({**connection, "environment": environment}).encode()
            await producer.send_and_wait("channels.connections.v1", body, key=b"acme:real", partition=0)
            with pytest.raises(Unfit, match=answer.replace("no group", "no consumer group")):
                await run(Target(broker, "nobody"), quiet)
    finally:
        await producer.stop()


def test_whoever_runs_in_production_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SALDO_ENVIRONMENT", "production")
    with pytest.raises(Unfit, match="SALDO_ENVIRONMENT is production"):
        asyncio.run(run(Target("127.0.0.1:1", "any"), quiet))


@pytest.mark.parametrize("name", CATALOGUE.by_name)
def test_every_released_sample_can_be_told_again_about_another_aggregate(name: str) -> None:
    entry = CATALOGUE.by_name[name]
    bodies = bodies_of(entry)
    assert bodies
    for body in bodies:
        one, value = dressed(body, "one", NOW, step=1)
        other, _ = dressed(body, "other", NOW)
        assert one != other
        assert not set(re.findall(r"[0-9a-f]{8}-[0-9a-f-]{27}", json.dumps(body.value))) & set(
            re.findall(r"[0-9a-f]{8}-[0-9a-f-]{27}", json.dumps(value))
        )
        assert dressed(body, "one", NOW, step=1) == (one, value)
        assert entry.aggregate(entry.model.model_validate_json(json.dumps(value), extra="ignore")) == one
        for change in (with_unknown_fields, with_unknown_values):
            assert is_valid(entry, change(entry, value))
            assert change is with_unknown_values or change(entry, value) != value


def test_bodies_of_ones_own_come_first_and_a_wrong_one_is_named(tmp_path: Path) -> None:
    entry = CATALOGUE.by_name["saldo.inventory.stock-level-changed.v1"]
    folder = tmp_path / entry.name
    folder.mkdir()
    low = {"sku": "CUP", "epoch": 0, "version": 1, "available": 1, "reserved": 0, "levels": []}
    (folder / "low.json").write_text(json.dumps(low))
    assert (bodies_of(entry, tmp_path)[0].label, bodies_of(entry, tmp_path)[0].value) == ("low.json", low)
    (folder / "wrong.json").write_text('{"sku": "CUP"}')
    with pytest.raises(ValueError, match=r"wrong\.json is no saldo\.inventory\.stock-level-changed\.v1"):
        bodies_of(entry, tmp_path)


def test_where_the_catalogue_has_two_majors_one_fact_is_sent_in_both_under_one_id() -> None:
    author = Author("conformance-1", PARCELS, {V1.name: 6, V2.name: 6}, clock=lambda: NOW)
    body = Body(PARCELS.types[0], {"parcel_id": "p", "weight_kg": 1.5}, "sample")
    (case,) = [case for case in cases(author, V1.name, (body,)) if case.check == "majors"]
    assert {one.topic for one in case.sent} == {V1.name, V2.name}
    assert len({one.event_id for one in case.sent}) == 1
    assert len({one.key for one in case.sent}) == 1
    assert [json.loads(one.value or b"").keys() for one in case.sent] == [
        {"parcel_id", "weight_g", "carrier"}, {"parcel_id", "weight_kg"},
    ]  # fmt: skip


def test_a_service_is_not_taken_for_the_author_of_its_commands() -> None:
    topics = ["payments.payments.v1", "payments.commands.v1", "payments.private.v1", "orders.orders.v1"]
    assert own_topics("payments", topics, CATALOGUE) == ("payments.payments.v1", "payments.private.v1")
