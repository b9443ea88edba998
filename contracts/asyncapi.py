"""AsyncAPI 3.0 of all streams, generated from the catalogue: `python -m contracts.asyncapi` prints it as JSON.

Bindings are those of the Kafka binding 0.5.0 (topic, partitions, topic configuration; message key; consumer group).
"""

import inspect
import sys
from collections.abc import Mapping
from typing import Any, Final

from contracts.catalogue import CATALOGUE, Catalogue, MessageType, Stream, StreamKind
from contracts.schema import component_schemas, released, render, version_key

BINDING_VERSION: Final = "0.5.0"
HOUR_MS: Final = 3_600_000

SENDERS: Final[Mapping[str, tuple[str, ...]]] = {
    "channels.commands.v1": ("orders",),
    "fulfillment.commands.v1": ("channels", "orders"),
    "inventory.commands.v1": ("orders",),
    "inventory.stock-commands.v1": ("console", "erp"),
    "payments.commands.v1": ("orders",),
}
"""Who writes commands. Facts and state are written by the stream's owner."""

RECEIVERS: Final[Mapping[str, tuple[str, ...]]] = {
    "channels.buyers.v1": ("crm", "fulfillment"),
    "channels.commands.v1": ("channels",),
    "channels.connections.v1": ("inventory", "orders"),
    "channels.sales.v1": ("orders",),
    "crm.customers.v1": ("channels", "fulfillment"),
    "erp.documents.v1": ("crm", "orders"),
    "fulfillment.commands.v1": ("fulfillment",),
    "fulfillment.shipments.v1": ("channels", "crm", "erp", "orders"),
    "inventory.commands.v1": ("inventory",),
    "inventory.items.v1": ("channels", "erp", "fulfillment"),
    "inventory.levels.v1": ("channels",),
    "inventory.movements.v1": ("erp",),
    "inventory.reservations.v1": ("orders",),
    "inventory.stock-commands.v1": ("inventory",),
    "orders.orders.v1": ("crm", "erp", "payments"),
    "payments.commands.v1": ("payments",),
    "payments.payments.v1": ("crm", "erp", "orders"),
}
"""Which services of this project subscribe to a stream."""

HEADERS: Final[Mapping[str, Any]] = {
    "type": "object",
    "description": "CloudEvents 1.0 attributes in Kafka's binary content mode, and the W3C trace context.",
    "required": ["ce_specversion", "ce_id", "ce_type", "ce_source", "ce_time", "ce_tenant"],
    "properties": {
        "ce_specversion": {"type": "string", "const": "1.0"},
        "ce_id": {"type": "string", "description": "UUIDv7, one for all majors of a message."},
        "ce_type": {"type": "string", "description": "saldo.<owner>.<message>.v<major>"},
        "ce_source": {"type": "string", "description": "The service and place that the message comes from."},
        "ce_time": {"type": "string", "format": "date-time", "description": "When it happened, in UTC."},
        "ce_subject": {"type": "string", "description": "The aggregate: the key without the tenant."},
        "ce_tenant": {"type": "string", "pattern": "^[a-z0-9-]{1,32}$"},
        "ce_correlationid": {"type": "string", "description": "The sale or order that the flow belongs to."},
        "ce_causationid": {"type": "string", "description": "The message that led to this one."},
        "traceparent": {"type": "string", "description": "W3C Trace Context of the span that created it."},
        "content-type": {"type": "string", "const": "application/json"},
    },
}


def asyncapi_document(catalogue: Catalogue = CATALOGUE) -> dict[str, Any]:
    """The whole document: a channel per stream, a message per type, an operation per service and stream.

    Its version is that of the newest released schema.
    """
    versions = {version for entry in catalogue.types for version in released("schemas", entry.name)}
    payloads, schemas = component_schemas(catalogue)
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Saldo",
            "version": max(versions, key=version_key),
            "description": "One stock, many marketplaces: what the services say to each other.",
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": "application/json",
        "channels": {stream.name: _channel(stream, catalogue) for stream in catalogue.streams.values()},
        "operations": {
            f"{service}.{action}.{stream.name}": _operation(service, action, stream, catalogue)
            for stream in catalogue.streams.values()
            for service, action in [
                *((service, "send") for service in SENDERS.get(stream.name, (stream.owner,))),
                *((service, "receive") for service in RECEIVERS.get(stream.name, ())),
            ]
        },
        "components": {
            "messages": {entry.name: _message(entry, payloads[entry.name]) for entry in catalogue.types},
            "schemas": schemas,
        },
    }


def _channel(stream: Stream, catalogue: Catalogue) -> dict[str, Any]:
    absolute = " The latest by (epoch, version) wins." if stream.kind is StreamKind.STATE else ""
    channel: dict[str, Any] = {
        "address": stream.name,
        "description": stream.summary + absolute,
        "messages": {
            entry.name: {"$ref": f"#/components/messages/{entry.name}"} for entry in catalogue.types_of(stream.name)
        },
        "bindings": {
            "kafka": {
                "topic": stream.name,
                "partitions": stream.partitions,
                "topicConfiguration": {
                    "cleanup.policy": ["delete"],
                    "retention.ms": stream.retention_h * HOUR_MS,
                    "segment.ms": stream.segment_h * HOUR_MS,
                },
                "bindingVersion": BINDING_VERSION,
            }
        },
        "x-owner": stream.owner,
        "x-kind": stream.kind.value,
        "x-personal-data": stream.personal,
    }
    if stream.readers:
        channel["x-readers"] = list(stream.readers)
    return channel


def _message(entry: MessageType, payload: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": entry.name,
        "title": entry.model.__name__,
        "summary": (inspect.getdoc(entry.model) or "").split("\n\n")[0],
        "contentType": "application/json",
        "headers": HEADERS,
        "payload": payload,
        "correlationId": {"location": "$message.header#/ce_correlationid"},
        "bindings": {
            "kafka": {
                "key": {"type": "string", "description": ":".join(("tenant", *entry.key))},
                "bindingVersion": BINDING_VERSION,
            }
        },
    }


def _operation(service: str, action: str, stream: Stream, catalogue: Catalogue) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "action": action,
        "channel": {"$ref": f"#/channels/{stream.name}"},
        "summary": f"{service} {'writes' if action == 'send' else 'reads'} {stream.name}.",
        "messages": [
            {"$ref": f"#/channels/{stream.name}/messages/{entry.name}"} for entry in catalogue.types_of(stream.name)
        ],
    }
    if action == "receive":
        group = {"type": "string", "const": f"{service}.{stream.name}"}
        operation["bindings"] = {"kafka": {"groupId": group, "bindingVersion": BINDING_VERSION}}
    return operation


if __name__ == "__main__":
    sys.stdout.write(render(asyncapi_document()))
