"""The AsyncAPI document against independent readers, and against what the services really do."""

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from faststream.specification.asyncapi.v3_0_0.schema import ApplicationSchema
from jsonschema import Draft202012Validator

from contracts.asyncapi import BINDING_VERSION, RECEIVERS, SENDERS, asyncapi_document
from contracts.catalogue import CATALOGUE, StreamKind
from contracts.envelope import Envelope
from contracts.schema import released

DOCUMENT = asyncapi_document()
SERVICES = Path(__file__).parents[2] / "services"


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if isinstance(reference := value.get("$ref"), str):
            yield reference
        for part in value.values():
            yield from references(part)
    elif isinstance(value, list):
        for part in value:
            yield from references(part)


def resolve(reference: str) -> Any:
    found: Any = DOCUMENT
    for step in reference.removeprefix("#/").split("/"):
        found = found[step]
    return found


def test_an_independent_reader_takes_the_whole_document() -> None:
    read = ApplicationSchema.model_validate(DOCUMENT)

    assert read.channels.keys() == CATALOGUE.streams.keys()
    assert read.components
    assert read.components.messages
    assert read.components.messages.keys() == CATALOGUE.by_name.keys()
    for name, channel in read.channels.items():
        assert channel.address == name
        assert channel.bindings
        assert channel.bindings.kafka
        assert channel.bindings.kafka.partitions == CATALOGUE.streams[name].partitions
    assert {operation.action.value for operation in read.operations.values()} == {"send", "receive"}


def test_every_reference_leads_somewhere() -> None:
    found = list(references(DOCUMENT))

    assert len(found) > len(CATALOGUE.types)
    for reference in found:
        assert resolve(reference)


@pytest.mark.parametrize("name", CATALOGUE.by_name)
def test_a_sample_fits_the_payload_that_the_document_shows(name: str) -> None:
    payload = {**DOCUMENT["components"]["messages"][name]["payload"], "components": DOCUMENT["components"]}
    sample = json.loads(list(released("samples", name).values())[-1].read_bytes())

    Draft202012Validator(payload).validate(sample)
    assert not Draft202012Validator(payload).is_valid(sample | {"unheard_of": 1})


def test_the_headers_are_those_of_an_envelope() -> None:
    from datetime import UTC, datetime

    envelope = Envelope("1", "t", "/s", datetime(2026, 1, 1, tzinfo=UTC), "a", "acme", "c", "d", "00-1-2-01")
    written = {name: value.decode() for name, value in envelope.to_headers()}
    [headers] = {json.dumps(message["headers"]) for message in DOCUMENT["components"]["messages"].values()}

    Draft202012Validator(json.loads(headers)).validate(written)
    assert written.keys() == json.loads(headers)["properties"].keys()


def test_kafka_bindings_name_version_key_partitions_and_retention() -> None:
    buyers = DOCUMENT["channels"]["channels.buyers.v1"]["bindings"]["kafka"]
    demand = DOCUMENT["components"]["messages"]["saldo.inventory.order-demand.v1"]["bindings"]["kafka"]

    assert buyers["bindingVersion"] == demand["bindingVersion"] == BINDING_VERSION == "0.5.0"
    assert buyers["topicConfiguration"] == {
        "cleanup.policy": ["delete"],
        "retention.ms": 72 * 3_600_000,
        "segment.ms": 3_600_000,
    }
    assert demand["key"] == {"type": "string", "description": "tenant:order_id"}


def subscriptions() -> dict[str, set[str]]:
    """Which services say `Subscription(stream="…")` in their wiring, per stream."""
    found: dict[str, set[str]] = {}
    for path in SERVICES.glob("*/app.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Subscription":
                [stream] = [word.value.value for word in node.keywords if word.arg == "stream"]
                found.setdefault(stream, set()).add(path.parent.name)
    return found


def test_the_receivers_are_the_services_that_subscribe() -> None:
    assert {stream: set(services) for stream, services in RECEIVERS.items()} == subscriptions()


def test_every_command_stream_names_who_writes_it() -> None:
    commands = {stream.name for stream in CATALOGUE.streams.values() if stream.kind is StreamKind.COMMANDS}

    assert SENDERS.keys() == commands


def test_the_module_prints_the_document() -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "contracts.asyncapi"], capture_output=True, check=True, cwd=SERVICES.parent
    )

    assert json.loads(printed.stdout) == DOCUMENT


def test_the_architecture_page_lists_every_stream_with_its_key() -> None:
    page = (SERVICES.parent / "docs" / "architecture.md").read_text("utf-8")

    for name in CATALOGUE.streams:
        keys = {":".join(entry.key) for entry in CATALOGUE.types_of(name)}
        [row] = [line for line in page.splitlines() if line.startswith(f"| `{name}` |")]
        assert {key.strip() for key in row.split("|")[2].replace(" or ", " ").split(",")} == keys
