"""The servers that tests run on: a real Kafka and a real PostgreSQL, wherever they can be had.

``KAFKA_BOOTSTRAP_SERVERS`` and ``POSTGRES_DSN`` (a superuser's) if set, else containers if a Docker engine answers,
else the embedded servers. The header of the run says which. They start when the first test asks for them.
"""

import gc
import os
import tempfile
import warnings
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import pytest_asyncio
from xdist.scheduler.loadscope import LoadScopeScheduling

from deploy.local.servers import Servers
from tests.containers import container_servers, engine_answers
from tests.tables import fresh_database

CHOICE = pytest.StashKey[str]()


@dataclass(frozen=True)
class ServerAddresses:
    """Where the servers of this run are."""

    kafka_bootstrap: str
    postgres_admin_dsn: str


def pytest_configure(config: pytest.Config) -> None:
    # No test asserts on time: a busy machine is not a wrong answer.
    hypothesis.settings.register_profile(
        "untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
    )
    hypothesis.settings.load_profile("untimed")
    # The embedded servers are supervised by a thread of this process. When it draws from the global generator while
    # Hypothesis builds an example, Hypothesis takes that for a strategy's doing.
    config.addinivalue_line(
        "filterwarnings",
        "ignore:Do not use the `random` module inside strategies:hypothesis.errors.HypothesisDeprecationWarning",
    )
    given = [name for name in ("KAFKA_BOOTSTRAP_SERVERS", "POSTGRES_DSN") if os.environ.get(name)]
    if len(given) == 1:
        raise pytest.UsageError(f"only {given[0]} is set: set KAFKA_BOOTSTRAP_SERVERS and POSTGRES_DSN, or neither")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Of the Docker client, which also leaves its socket to the collector.
        config.stash[CHOICE] = "environment" if given else "docker" if engine_answers() else "embedded"
        gc.collect()


class ByModule(LoadScopeScheduling):  # type: ignore[misc]
    """What a module sets up is set up once, by one of two workers; tests of the running system share one system.

    Not by marks (`--dist loadgroup`): pytest 9.2 keeps ids of its own, and xdist 3.8 marks them in vain.
    """

    def _split_scope(self, nodeid: str) -> str:
        module = nodeid.partition("::")[0]
        return "flow" if module.startswith("tests/flow/") else module


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByModule:
    return ByModule(config, log)


def pytest_report_header(config: pytest.Config) -> str:
    described = {
        "environment": "as named by KAFKA_BOOTSTRAP_SERVERS and POSTGRES_DSN",
        "docker": "containers (apache/kafka, postgres)",
        "embedded": Servers.description,
    }
    return f"servers: {described[config.stash[CHOICE]]}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    terminalreporter.write_line(pytest_report_header(config))


@pytest.fixture(scope="session")
def servers(request: pytest.FixtureRequest) -> Iterator[ServerAddresses]:
    """Kafka and PostgreSQL for the whole run."""
    choice = request.config.stash[CHOICE]
    if choice == "environment":
        yield ServerAddresses(os.environ["KAFKA_BOOTSTRAP_SERVERS"], os.environ["POSTGRES_DSN"])
    elif choice == "docker":
        with container_servers() as (kafka_bootstrap, postgres_admin_dsn):
            yield ServerAddresses(kafka_bootstrap, postgres_admin_dsn)
    else:
        folder = Path(tempfile.mkdtemp(prefix="saldo-tests-"))
        folder.chmod(0o711)  # As root, PostgreSQL runs as another user and has to reach its data.
        embedded = Servers(folder)
        try:
            with embedded:
                yield ServerAddresses(embedded.kafka_bootstrap, embedded.postgres_admin_dsn)
        finally:
            embedded.remove()


@pytest.fixture(scope="session")
def kafka_bootstrap(servers: ServerAddresses) -> str:
    """``host:port`` of the broker."""
    return servers.kafka_bootstrap


@pytest.fixture(scope="session")
def postgres_admin_dsn(servers: ServerAddresses) -> str:
    """The superuser's address of the server's own database."""
    return servers.postgres_admin_dsn


@pytest_asyncio.fixture
async def database(postgres_admin_dsn: str) -> AsyncIterator[str]:
    """The address of a fresh, empty database, as the role that owns it; dropped afterwards."""
    async with fresh_database(postgres_admin_dsn) as address:
        yield address
