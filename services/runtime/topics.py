"""Topics are made from the catalogue; configuration that differs is put right, partitions are never changed."""

from typing import Final

import structlog
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import TopicAlreadyExistsError, for_code

from contracts.catalogue import Catalogue, Stream

HOUR_MS: Final = 3_600_000
_log = structlog.get_logger("saldo.runtime")


def configuration(stream: Stream, replication_factor: int = 1) -> dict[str, str]:
    """The topic settings of a stream. `segment.ms` is set because an active segment outlives its retention.

    Of three copies two have to have a record before it is acknowledged: then any one broker may be lost.
    """
    in_sync = {"min.insync.replicas": str((replication_factor + 1) // 2)} if replication_factor > 1 else {}
    return in_sync | {
        "cleanup.policy": "delete",
        "retention.ms": str(stream.retention_h * HOUR_MS),
        "segment.ms": str(stream.segment_h * HOUR_MS),
    }


async def ensure_topics(bootstrap: str, catalogue: Catalogue, replication_factor: int = 1) -> None:
    """Create what is missing and alter what differs; safe to run from several services at once."""
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        await admin.start()
        existing = set(await admin.list_topics())
        wanted = {stream: configuration(stream, replication_factor) for stream in catalogue.streams.values()}
        missing = [
            NewTopic(stream.name, stream.partitions, replication_factor, topic_configs=configs)
            for stream, configs in wanted.items()
            if stream.name not in existing
        ]
        if missing:
            answer = await admin.create_topics(missing)
            for topic, code, *text in answer.topic_errors:
                if code not in {0, TopicAlreadyExistsError.errno}:
                    raise for_code(code)(f"{topic}: {text}")
        await _alter(admin, {one.name: configs for one, configs in wanted.items() if one.name in existing})
    finally:
        await admin.close()


async def _alter(admin: AIOKafkaAdminClient, configurations: dict[str, dict[str, str]]) -> None:
    if not configurations:
        return
    wanted = {name: ConfigResource(ConfigResourceType.TOPIC, name, of) for name, of in configurations.items()}
    differing = []
    for response in await admin.describe_configs(list(wanted.values())):
        for _, _, _, name, entries in response.resources:
            current = {entry[0]: entry[1] for entry in entries}
            if not wanted[name].configs.items() <= current.items():
                differing.append(wanted[name])
                _log.info("topic configuration altered", topic=name)
    if differing:
        await admin.alter_configs(differing)
