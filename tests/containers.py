"""Kafka and PostgreSQL in containers, for machines where a Docker engine answers."""

import asyncio
import contextlib
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import asyncpg

from deploy.local.kafka import broker_answers
from deploy.local.ports import draw_port

KAFKA_IMAGE, POSTGRES_IMAGE = "apache/kafka:4.3.1", "postgres:18"
READY_TIMEOUT_S = 120


def engine_answers() -> bool:
    """Tell whether a Docker engine answers a ping."""
    import docker  # type: ignore[import-untyped]
    from docker.errors import DockerException  # type: ignore[import-untyped]

    try:
        client = docker.from_env(timeout=3)
    except DockerException:
        return False
    with contextlib.closing(client):
        try:
            return bool(client.ping())
        except DockerException:
            return False


@contextlib.contextmanager
def container_servers() -> Iterator[tuple[str, str]]:
    """Start both; yield the broker's address and the superuser's address of the database."""
    from testcontainers.core.container import DockerContainer

    kafka_port, postgres_port, password = draw_port(), draw_port(), secrets.token_hex(16)
    kafka = DockerContainer(KAFKA_IMAGE).with_bind_ports(9092, ("127.0.0.1", kafka_port))  # type: ignore[arg-type]
    # The advertised address has to be the one that tests use, so the port is chosen before the start.
    for name, value in {
        "KAFKA_NODE_ID": "1",
        "KAFKA_PROCESS_ROLES": "broker,controller",
        "KAFKA_LISTENERS": "PLAINTEXT://:9092,CONTROLLER://:9093",
        "KAFKA_ADVERTISED_LISTENERS": f"PLAINTEXT://127.0.0.1:{kafka_port}",
        "KAFKA_LISTENER_SECURITY_PROTOCOL_MAP": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "KAFKA_CONTROLLER_LISTENER_NAMES": "CONTROLLER",
        "KAFKA_CONTROLLER_QUORUM_VOTERS": "1@localhost:9093",
        "KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR": "1",
        "KAFKA_OFFSETS_TOPIC_NUM_PARTITIONS": "5",
        "KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
        "KAFKA_TRANSACTION_STATE_LOG_MIN_ISR": "1",
        "KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS": "0",
        "KAFKA_AUTO_CREATE_TOPICS_ENABLE": "false",
    }.items():
        kafka = kafka.with_env(name, value)
    postgres = (
        DockerContainer(POSTGRES_IMAGE)
        .with_bind_ports(5432, ("127.0.0.1", postgres_port))  # type: ignore[arg-type]
        .with_env("POSTGRES_PASSWORD", password)
        .with_command("postgres -c max_connections=200 -c max_wal_size=4GB")
    )
    bootstrap, dsn = f"127.0.0.1:{kafka_port}", f"postgresql://postgres:{password}@127.0.0.1:{postgres_port}/postgres"
    with kafka, postgres:
        _wait_for(bootstrap, dsn)
        yield bootstrap, dsn


def _wait_for(bootstrap: str, dsn: str) -> None:
    """Return when the broker answers a metadata request and the database a query."""

    async def answers() -> bool:
        try:
            if not await broker_answers(bootstrap):
                return False
            connection = await asyncpg.connect(dsn, timeout=5)
        except (OSError, asyncpg.PostgresError):
            return False
        await connection.close()
        return True

    async def wait() -> None:
        async with asyncio.timeout(READY_TIMEOUT_S):
            while not await answers():  # noqa: ASYNC110  (no event tells when a container is ready)
                await asyncio.sleep(0.2)

    # A thread of its own: the tests' event loop is none of this function's business.
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, wait()).result()
