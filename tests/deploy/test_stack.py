"""The stack as an instance: attached, in the background, kept, thrown away, in any path, as root and as a user."""

import base64
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest

from deploy.local.jars import cache_folder
from deploy.local.postgres import Postgres
from deploy.local.stack import (
    READER,
    InstanceBusyError,
    RunningStack,
    Stack,
    StartError,
    start_attached,
    start_background,
    status,
    stop,
)
from deploy.local.supervisor import PROJECT, Supervisor
from tests.deploy.processes import alive, wait_until


@pytest.fixture
def instance() -> Iterator[Path]:
    """A folder with a blank and a colon in its path, which everybody may enter."""
    base = Path(tempfile.mkdtemp(prefix="saldo-stack-"))
    base.chmod(0o711)
    folder = base / "a b:c" / "up"
    try:
        yield folder
    finally:
        stop(folder)
        Postgres(folder / "postgres", 0, "").wipe()
        shutil.rmtree(base)


def pids(folder: Path) -> list[int]:
    state = json.loads((folder / "state.json").read_text())
    return [state["pid"], *(process["pid"] for process in state["processes"].values())]


def servers_only(folder: Path, *, fresh: bool = False) -> Stack:
    return Stack(folder, services=(), sandboxes=(), fresh=fresh)


async def remember(folder: Path) -> str | None:
    """Note in the database that we were here, and return what an earlier run noted."""
    secret = json.loads((folder / "secrets.json").read_text())["postgres"]
    port = json.loads((folder / "ports.json").read_text())["postgres"]
    connection = await asyncpg.connect(Postgres(folder, port, secret).admin_dsn)
    try:
        await connection.execute("CREATE TABLE IF NOT EXISTS notes (note text)")
        found = await connection.fetchval("SELECT note FROM notes")
        await connection.execute("INSERT INTO notes VALUES ('kept')")
        return str(found) if found else None
    finally:
        await connection.close()


@pytest.mark.asyncio
@pytest.mark.rule(36)
async def test_background_instance_keeps_data_and_ports_until_a_fresh_start(instance: Path) -> None:
    first = start_background(servers_only(instance))
    assert {name: process["health"] for name, process in first["processes"].items()} == {
        "kafka": "ready",
        "postgres": "ready",
    }
    assert await remember(instance) is None
    with pytest.raises(InstanceBusyError, match=f"already run by process {first['pid']}"):
        start_background(servers_only(instance))
    assert status(instance)["running"]
    started = pids(instance)
    assert stop(instance)
    assert [pid for pid in started[1:] if alive(pid)] == []
    assert not stop(instance)
    stopped = status(instance)
    assert not stopped["running"]
    assert {process["pid"] for process in stopped["processes"].values()} == {None}

    second = start_background(servers_only(instance))
    assert second["endpoints"] == first["endpoints"]
    assert await remember(instance) == "kept"
    stop(instance)

    with start_attached(servers_only(instance, fresh=True)) as running:
        assert running.endpoints == first["endpoints"]
        assert await remember(instance) is None
    assert not status(instance)["running"]


# A Ctrl-C has to arrive, also where the tests run in a background that ignores it: children would inherit that.
ATTACHED = """
import signal, sys, time
from pathlib import Path
from deploy.local.stack import Stack, start_attached
signal.signal(signal.SIGINT, signal.default_int_handler)
with start_attached(Stack(Path(sys.argv[1]), services=(), sandboxes=())):
    print("up", flush=True)
    time.sleep(3600)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_attached_instance_ends_with_its_caller(instance: Path, tmp_path: Path, number: signal.Signals) -> None:
    errors = tmp_path / "errors"
    with (
        errors.open("wb") as output,
        subprocess.Popen(
            [sys.executable, "-c", ATTACHED, str(instance)],
            cwd=PROJECT, stdout=subprocess.PIPE, stderr=output, start_new_session=True,
        ) as caller,
    ):  # fmt: skip
        assert caller.stdout is not None
        assert caller.stdout.readline() == b"up\n", errors.read_text()
        started = pids(instance)
        os.killpg(caller.pid, number)  # As a Ctrl-C in a terminal: everybody in the group gets it.
    wait_until(lambda: not any(alive(pid) for pid in started))
    wait_until(lambda: not status(instance)["running"])


@pytest.mark.rule(36)
def test_sigkill_of_a_background_supervisor_leaves_nothing(instance: Path) -> None:
    state = start_background(servers_only(instance))
    started = pids(instance)
    os.kill(state["pid"], signal.SIGKILL)
    wait_until(lambda: not any(alive(pid) for pid in started))
    assert status(instance)["phase"] == "stopped"
    again = start_background(servers_only(instance))
    assert again["phase"] == "ready"


def test_service_that_cannot_start_is_said_with_its_log_and_leaves_nothing(instance: Path) -> None:
    with pytest.raises(StartError, match=r"(?s)nowhere ended 3 times.*nowhere\.log.*No module named"):
        start_background(Stack(instance, services=("nowhere",), sandboxes=()))
    assert not status(instance)["running"]


@pytest.mark.asyncio
@pytest.mark.rule(35)
async def test_each_service_has_a_database_of_its_own_and_the_reader_only_reads(instance: Path) -> None:
    supervisor = Supervisor(instance)
    async with supervisor.starting():
        running = RunningStack(Stack(instance, sandboxes=()), supervisor)
        await supervisor.run([running.postgres.spec()])
        await running.create_databases()
        await running.create_databases()  # A second start finds them there.
    try:
        databases = running.endpoints()["databases"]
        admin = await asyncpg.connect(running.postgres.admin_dsn)
        assert await admin.fetchval("SHOW listen_addresses") == "127.0.0.1"
        assert await admin.fetchval("SHOW unix_socket_directories") == ""
        methods = await admin.fetch("SELECT DISTINCT auth_method FROM pg_hba_file_rules")
        assert [row["auth_method"] for row in methods] == ["scram-sha-256"]
        collations = await admin.fetch("SELECT DISTINCT datcollate FROM pg_database")
        assert [row["datcollate"] for row in collations] == ["C"]
        await admin.close()
        owner = await asyncpg.connect(databases["orders"]["dsn"])
        await owner.execute("CREATE TABLE later (x int GENERATED ALWAYS AS IDENTITY); INSERT INTO later DEFAULT VALUES")
        await owner.execute("CREATE SCHEMA bus; CREATE TABLE bus.later (x int)")
        await owner.close()
        reader = await asyncpg.connect(databases["orders"]["verify_dsn"])
        assert await reader.fetchval("SELECT count(*) FROM later") == 1
        assert await reader.fetchval("SELECT count(*) FROM bus.later") == 0
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            await reader.execute("DELETE FROM later")
        await reader.execute("SET default_transaction_read_only = off")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await reader.execute("DELETE FROM later")
        await reader.close()
        secret = running.secrets["orders_database"]
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await asyncpg.connect(running.postgres.dsn("inventory", "orders", secret))
        with pytest.raises(asyncpg.InvalidPasswordError):
            await asyncpg.connect(running.postgres.dsn("orders", READER, "wrong"))
    finally:
        await supervisor.stop()


@pytest.mark.rule(35)
def test_processes_learn_everything_from_their_environment(instance: Path) -> None:
    instance.mkdir(parents=True)
    stack = Stack(instance, environment={"SALDO_FAULTS": "push.sent"})
    running = RunningStack(stack, Supervisor(instance))
    orders, channels, sandbox = running.service("orders"), running.service("channels"), running.sandbox("skyhub")
    common = {
        "KAFKA_BOOTSTRAP_SERVERS", "POSTGRES_DSN", "SALDO_ADMIN_HOST", "SALDO_ADMIN_PORT", "SALDO_ADMIN_TOKEN",
        "SALDO_SPANS_PATH", "SALDO_LOG_FORMAT", "SALDO_FAULTS",
    }  # fmt: skip
    assert common <= set(orders.env)
    assert common | {"SALDO_SECRETS_KEY", "SALDO_DOOR_HOST", "SALDO_DOOR_PORT"} <= set(channels.env)
    assert "SALDO_SECRETS_KEY" not in orders.env
    assert len(base64.b64decode(channels.env["SALDO_SECRETS_KEY"], validate=True)) == 32
    assert {name for name in sandbox.env if name.startswith("SALDO_")} == {
        "SALDO_SANDBOX_HOST", "SALDO_SANDBOX_PORT", "SALDO_SANDBOX_BOOKS", "SALDO_SANDBOX_TOKEN",
    }  # fmt: skip
    assert not any("TOKEN" in part or channels.env["SALDO_ADMIN_TOKEN"] in part for part in channels.argv)
    for name in ("secrets.json", "ports.json"):
        assert stat.S_IMODE((instance / name).stat().st_mode) == 0o600
    assert RunningStack(stack, Supervisor(instance)).service("orders").env == orders.env


AS_USER = """
import os, sys
sys.path[:0] = [sys.argv[1], sys.argv[2]]
from pathlib import Path
from deploy.local.servers import Servers
with Servers(Path(sys.argv[3])) as servers:
    print(os.geteuid(), servers.postgres.data.is_relative_to(sys.argv[3]))
"""


@pytest.mark.rule(35)
def test_servers_run_as_a_normal_user_too() -> None:
    import pwd

    if os.geteuid() != 0:
        pytest.skip("not root: every other test of the servers already runs as a normal user")
    account = pwd.getpwnam("nobody")
    site = Path(sysconfig.get_path("purelib"))
    python = shutil.which(f"python{sys.version_info.major}.{sys.version_info.minor}", path="/usr/bin:/usr/local/bin")
    hidden = [folder for folder in (*site.parents, *PROJECT.parents) if not folder.stat().st_mode & 0o001]
    if python is None or hidden:
        pytest.skip(f"nobody cannot enter {hidden or 'a Python of this version'}; run the tests as a user instead")
    with tempfile.TemporaryDirectory(prefix="saldo-user-") as base:
        shutil.copytree(cache_folder(), Path(base) / "cache", ignore=shutil.ignore_patterns("venv-*"))
        for folder, _, files in os.walk(base):
            for path in (folder, *(os.path.join(folder, file) for file in files)):
                os.chown(path, account.pw_uid, account.pw_gid)
        done = subprocess.run(
            [python, "-c", AS_USER, str(PROJECT), str(site), f"{base}/instance"],
            cwd="/", user=account.pw_uid, group=account.pw_gid, extra_groups=[], capture_output=True, check=False,
            env={"SALDO_CACHE_DIR": f"{base}/cache", "HOME": "/nonexistent", "PATH": "/usr/bin:/bin"},
        )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().split() == [str(account.pw_uid), "True"]
