"""Only the servers, Kafka and PostgreSQL, for as long as a ``with`` block lasts: what tests run on."""

import asyncio
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from deploy.local.files import keep_secrets
from deploy.local.jars import KAFKA_VERSION
from deploy.local.kafka import Kafka
from deploy.local.ports import keep_ports
from deploy.local.postgres import Postgres, create_database
from deploy.local.supervisor import Supervisor


class Servers:
    """A Kafka broker and a PostgreSQL server in ``instance_dir``: ``with Servers(path) as servers`` or ``async with``.

    Both forms return when both answer, and leave no process behind. The plain ``with`` runs its supervisor in a thread
    of its own, so that any event loop, or none, may use the servers.
    """

    description = f"embedded (Kafka {KAFKA_VERSION}, PostgreSQL 18)"

    def __init__(self, instance_dir: Path, postgres_settings: Mapping[str, str] | None = None) -> None:
        self.instance = Path(instance_dir).absolute()
        self._settings = postgres_settings or {}
        self._supervisor: Supervisor | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self.kafka: Kafka
        self.postgres: Postgres

    @property
    def kafka_bootstrap(self) -> str:
        """``host:port`` of the broker."""
        return self.kafka.bootstrap

    @property
    def postgres_admin_dsn(self) -> str:
        """The superuser's address of the database ``postgres``."""
        return self.postgres.admin_dsn

    async def create_database(self, name: str, role: str, password: str) -> str:
        """Create a database with its owner role, and return the owner's address of it."""
        await create_database(self.postgres.admin_dsn, name, role, password)
        return self.postgres.dsn(name, role, password)

    def remove(self) -> None:
        """Delete the instance with its data; only after the block has ended."""
        Postgres(self.instance / "postgres", 0, "").wipe()
        shutil.rmtree(self.instance, ignore_errors=True)

    async def __aenter__(self) -> Self:
        self._supervisor = Supervisor(self.instance)
        async with self._supervisor.starting():
            ports = keep_ports(self.instance, ("kafka", "kafka_controller", "postgres"))
            password = keep_secrets(self.instance, ("postgres",))["postgres"]
            self.kafka = Kafka(self.instance / "kafka", ports["kafka"], ports["kafka_controller"])
            self.postgres = Postgres(self.instance / "postgres", ports["postgres"], password, self._settings)
            await self._supervisor.run([self.kafka.spec(), self.postgres.spec()])
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._supervisor is not None
        await self._supervisor.stop()

    def __enter__(self) -> Self:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="servers", daemon=True)
        self._thread.start()
        starting = asyncio.run_coroutine_threadsafe(self.__aenter__(), self._loop)
        try:
            starting.result()
        except BaseException:  # A Ctrl-C while waiting, too.
            starting.cancel()
            if self._supervisor is not None:
                asyncio.run_coroutine_threadsafe(self._supervisor.stop(), self._loop).result()
            self._end_thread()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._loop is not None
        try:
            asyncio.run_coroutine_threadsafe(self.__aexit__(kind, error, trace), self._loop).result()
        finally:
            self._end_thread()

    def _end_thread(self) -> None:
        assert self._loop is not None
        assert self._thread is not None
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
