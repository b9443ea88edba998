"""The whole of Saldo on this machine as one instance: servers, databases, sandbox marketplaces, services.

An instance is a folder (``var/up``, ``var/demo``, ...) with its own data, ports, secrets, logs and lock, so that
several run side by side. Its supervisor is a process of its own: ``start_background`` detaches it, ``start_attached``
ties it to the caller's life. ``state.json`` in the folder (0600) says where everything is and how it is.
"""

import asyncio
import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from deploy.local.files import is_locked, keep_secrets
from deploy.local.kafka import Kafka
from deploy.local.parts import HOST, SANDBOXES, SERVICES, Drawn, Part
from deploy.local.ports import keep_ports
from deploy.local.postgres import Postgres, create_database, create_reader
from deploy.local.supervisor import (
    BACKOFF_CAP_S,
    PROJECT,
    InstanceBusyError,
    ProcessSpec,
    StartError,
    Supervisor,
    base_environment,
    tail,
)

__all__ = [
    "READER", "Attached", "InstanceBusyError", "RunningStack", "Stack", "StartError",
    "read_state", "start_attached", "start_background", "status", "stop",
]  # fmt: skip
# The role that reads every database and writes none, for ``saldo verify``.
READER = "verify"
START_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 90.0
CLUSTER_HEAP_MB = 256

State = dict[str, Any]


@dataclass(frozen=True)
class Stack:
    """What an instance consists of. ``environment`` is added to every service's (fault points, sampling ratio).

    ``fresh`` throws the instance's data away before the start; ports and secrets stay. ``pause_cap_s`` is the longest
    pause before a process that ends again and again is started again.

    ``detours`` are servers and sandboxes that services reach by a detour: ``endpoints`` tells for each where they will
    ``come`` and where to ``pass`` that on, which is up to the caller. ``doubles`` are services that run as two
    processes, the second called ``NAME-2``, with so many member slots between them. ``brokers`` are Kafka's nodes: more
    than one are a cluster with a copy of every topic on each, called ``kafka-1`` and so on, and have no detour.
    """

    instance: Path
    services: Sequence[str] = tuple(SERVICES)
    sandboxes: Sequence[str] = tuple(SANDBOXES)
    fresh: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    pause_cap_s: float = BACKOFF_CAP_S
    detours: Sequence[str] = ()
    doubles: Mapping[str, int] = field(default_factory=dict)
    brokers: int = 1

    @property
    def folder(self) -> Path:
        """The instance's folder, absolute."""
        return Path(self.instance).absolute()

    async def start(self) -> "RunningStack":
        """Start everything in this process and event loop; return when all is ready.

        Raises ``InstanceBusyError`` where the instance runs already, ``StartError`` with the end of the failing log.
        """
        supervisor = Supervisor(self.folder, self.pause_cap_s)
        async with supervisor.starting():
            if self.fresh:
                await asyncio.to_thread(_wipe, self.folder)
            running = RunningStack(self, supervisor)
            supervisor.endpoints = running.endpoints()
            await supervisor.run([*(node.spec() for node in running.kafka), running.postgres.spec()])
            await running.create_databases()
            await supervisor.run([running.sandbox(name) for name in self.sandboxes])
            await supervisor.run([running.service(name) for name in self.services])
            await supervisor.run([running.second(name) for name in self.doubles])
        return running


class RunningStack:
    """An instance that is being started or runs: its ports and secrets are drawn, its processes known."""

    def __init__(self, stack: Stack, supervisor: Supervisor) -> None:
        self.stack, self.instance, self._supervisor = stack, stack.folder, supervisor
        instance = self.instance
        admin = [f"{name}_admin" for name in dict.fromkeys((*SERVICES, *stack.services))]
        sandboxes = [f"{name}_sandbox" for name in stack.sandboxes]
        parts = [*SERVICES.values(), *SANDBOXES.values()]
        further = [port for part in parts for port in part.ports]
        doubles = [f"{name}_second" for name in stack.doubles]
        detours = [f"{name}_detour" for name in stack.detours] + ["kafka_behind"] * ("kafka" in stack.detours)
        nodes = [f"{port}{nth}" for nth in range(2, stack.brokers + 1) for port in ("kafka_", "kafka_controller_")]
        servers = ("kafka", "kafka_controller", "postgres", *nodes)
        self.ports = keep_ports(instance, (*servers, *further, *admin, *sandboxes, *doubles, *detours))
        keys = [key for part in parts for key in part.secrets]
        roles = [f"{name}_database" for name in (*stack.services, READER)]
        self.secrets = keep_secrets(instance, ("postgres", "admin_token", "sandbox_token", *keys, *roles))
        self._drawn = Drawn(self.ports, self.secrets, instance / "sandbox")
        self.kafka = self._brokers()
        self.postgres = Postgres(instance / "postgres", self.ports["postgres"], self.secrets["postgres"])

    def _brokers(self) -> list[Kafka]:
        folder, ports = self.instance / "kafka", self.ports
        told = self.detours().get("kafka")
        detour = (told["pass"], told["come"]) if told else None
        first = Kafka(folder, ports["kafka"], ports["kafka_controller"], detour=detour)
        if self.stack.brokers == 1:
            return [first]
        nodes = {1: (first.port, first.controller_port)} | {
            node: (ports[f"kafka_{node}"], ports[f"kafka_controller_{node}"])
            for node in range(2, self.stack.brokers + 1)
        }
        voters = {node: controller for node, (_, controller) in nodes.items()}
        return [
            Kafka(folder / str(node), port, controller, node=node, voters=voters, heap_mb=CLUSTER_HEAP_MB)
            for node, (port, controller) in nodes.items()
        ]

    def _bootstrap(self) -> str:
        return ",".join(node.bootstrap for node in self.kafka)

    async def stop(self) -> None:
        """Stop services, sandboxes, Kafka and PostgreSQL, in this order."""
        await self._supervisor.stop()

    def _address(self, name: str) -> str:
        return f"http://{HOST}:{self.ports[name]}"

    def _dsn(self, database: str, role: str) -> str:
        return self.postgres.dsn(database, role, self.secrets[f"{role}_database"])

    def detours(self) -> dict[str, dict[str, int]]:
        """By name, the port where services ``come`` and the one to ``pass`` that on to."""

        def behind(name: str) -> int:
            direct = {"kafka": "kafka_behind", "postgres": "postgres"}
            return self.ports[direct.get(name, f"{name}_sandbox")]

        return {name: {"come": self.ports[f"{name}_detour"], "pass": behind(name)} for name in self.stack.detours}

    def endpoints(self) -> dict[str, Any]:
        """Where everything is, with what it takes to get in."""
        services, sandboxes = self.stack.services, self.stack.sandboxes
        admin_token, control_token = self.secrets["admin_token"], self.secrets["sandbox_token"]
        return {
            "kafka": {"bootstrap_servers": self._bootstrap()},
            "databases": {
                name: {"dsn": self._dsn(name, name), "verify_dsn": self._dsn(name, READER)} for name in services
            },
            "webhooks": {"base_url": self._address("door")},
            "shop": {"base_url": self._address("shop")},
            "doors": {name: {"base_url": self._address(f"{name}_door")} for name in ("payments", "fulfillment")},
            "sandboxes": {
                name: {"base_url": self._address(f"{name}_sandbox"), "control_token": control_token}
                for name in sandboxes
            },
            "admin": {name: {"base_url": self._address(f"{name}_admin"), "token": admin_token} for name in services},
            "detours": self.detours(),
        }

    async def create_databases(self) -> None:
        """Create a database and role for each service, and the reader of all."""
        await create_reader(self.postgres.admin_dsn, READER, self.secrets[f"{READER}_database"])
        for name in self.stack.services:
            password = self.secrets[f"{name}_database"]
            await create_database(self.postgres.admin_dsn, name, name, password, reader=READER)

    def service(self, name: str) -> ProcessSpec:
        """One service: everything it knows comes from its environment."""
        spans = self.instance / "spans"
        spans.mkdir(exist_ok=True)
        come = {server: told["come"] for server, told in self.detours().items()}
        postgres = replace(self.postgres, port=come.get("postgres", self.postgres.port))
        environment = base_environment() | {
            "KAFKA_BOOTSTRAP_SERVERS": f"{HOST}:{come['kafka']}" if "kafka" in come else self._bootstrap(),
            "SALDO_REPLICATION_FACTOR": str(self.stack.brokers),
            "POSTGRES_DSN": postgres.dsn(name, name, self.secrets[f"{name}_database"]),
            "SALDO_ADMIN_HOST": HOST,
            "SALDO_ADMIN_PORT": str(self.ports[f"{name}_admin"]),
            "SALDO_ADMIN_TOKEN": self.secrets["admin_token"],
            "SALDO_SPANS_PATH": str(spans / f"{name}.sqlite"),
            "SALDO_LOG_FORMAT": "json",
            "SALDO_REPLICAS": str(self.stack.doubles.get(name, 1)),
        }
        ready_url = self._address(f"{name}_admin") + "/readyz"
        return ProcessSpec(
            name=name,
            argv=(sys.executable, "-m", f"services.{name}.app"),
            env=environment | dict(SERVICES.get(name, Part()).environment(self._drawn)) | dict(self.stack.environment),
            ready=lambda: asyncio.to_thread(answers, ready_url),
            ready_url=ready_url,
            stop_order=0,
        )

    def second(self, name: str) -> ProcessSpec:
        """The second process of a service: the same with a listener and spans of its own.

        It may stand by without a member slot for ever, and then it only lives: whoever does not read is not ready.
        """
        port, spans = self.ports[f"{name}_second"], self.instance / "spans" / f"{name}-2.sqlite"
        ready_url = f"http://{HOST}:{port}/livez"
        first = self.service(name)
        return replace(
            first,
            name=f"{name}-2",
            env={**first.env, "SALDO_ADMIN_PORT": str(port), "SALDO_SPANS_PATH": str(spans)},
            ready=lambda: asyncio.to_thread(answers, ready_url),
            ready_url=ready_url,
        )

    def sandbox(self, name: str) -> ProcessSpec:
        """One sandbox of what is outside (a marketplace, the gateway, the carrier) with its durable books."""
        books = self.instance / "sandbox"
        books.mkdir(exist_ok=True)
        ready_url = self._address(f"{name}_sandbox") + "/_control/health"
        return ProcessSpec(
            name=f"sandbox-{name}",
            argv=(sys.executable, "-m", "services.sandbox.app", name),
            env=base_environment()
            | {
                "SALDO_SANDBOX_HOST": HOST,
                "SALDO_SANDBOX_PORT": str(self.ports[f"{name}_sandbox"]),
                "SALDO_SANDBOX_BOOKS": str(books / f"{name}.sqlite"),
                "SALDO_SANDBOX_TOKEN": self.secrets["sandbox_token"],
            }
            | dict(SANDBOXES.get(name, Part()).environment(self._drawn)),
            ready=lambda: asyncio.to_thread(answers, ready_url),
            ready_url=ready_url,
            stop_order=1,
        )


def _wipe(instance: Path) -> None:
    """Delete an instance's data; its lock is held, so nothing of it runs. Ports, secrets and logs stay."""
    Postgres(instance / "postgres", 0, "").wipe()
    for name in ("postgres", "kafka", "sandbox", "spans"):
        shutil.rmtree(instance / name, ignore_errors=True)


def answers(url: str, timeout_s: float = 2.0) -> bool:
    """Whether an HTTP URL answers 200, or anybody listens at a ``tcp://`` one."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    try:
        if parts.scheme == "tcp":
            socket.create_connection((parts.hostname, parts.port), timeout_s).close()
            return True
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout_s)
        with contextlib.closing(connection):
            connection.request("GET", parts.path)
            return connection.getresponse().status == http.HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False


def start_background(stack: Stack, progress: Callable[[State], None] | None = None) -> State:
    """Start an instance that goes on after the caller has ended; return its state when all is ready.

    ``progress`` gets the state each time it is looked at. Raises ``InstanceBusyError`` or ``StartError``.
    """
    _refuse_if_running(stack)
    launched = subprocess.run(  # noqa: S603  (ourselves)
        _supervisor_argv(stack, "detached"), cwd=PROJECT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=True
    )
    pid = int(launched.stdout)
    return _await_ready(stack, pid, lambda: _is_alive(pid), progress)


def start_attached(stack: Stack, progress: Callable[[State], None] | None = None) -> "Attached":
    """Start an instance that ends when the caller does, however that comes about; return when all is ready."""
    _refuse_if_running(stack)
    log = _supervisor_log(stack)
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603  (ourselves)
            _supervisor_argv(stack, "attached"),
            cwd=PROJECT,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    attached = Attached(stack.folder, process)
    try:
        _await_ready(stack, process.pid, lambda: process.poll() is None, progress)
    except BaseException:
        attached.stop()
        raise
    return attached


class Attached:
    """An instance whose supervisor is a child of this process: ``with start_attached(stack) as running``."""

    def __init__(self, instance: Path, process: subprocess.Popen[bytes]) -> None:
        self.instance, self._process = instance, process

    @property
    def endpoints(self) -> dict[str, Any]:
        """Where everything is."""
        return dict(read_state(self.instance)["endpoints"])

    def stop(self) -> None:
        """Stop the instance and wait until nothing is left of it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def stop(instance: Path) -> bool:
    """Stop a background instance and return when nothing is left of it; False if it did not run."""
    instance = Path(instance).absolute()
    if not is_locked(instance / "lock"):
        return False
    pid = int((instance / "lock").read_text())
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    if not _wait_unlocked(instance, STOP_TIMEOUT_S):
        # Its guards end the rest.
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        _wait_unlocked(instance, STOP_TIMEOUT_S)
    return True


def _wait_unlocked(instance: Path, timeout_s: float) -> bool:
    deadline = time.monotonic() + timeout_s
    while is_locked(instance / "lock") or is_locked(instance / "children.lock"):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def status(instance: Path) -> State:
    """How an instance is now: ``running``, ``phase``, ``endpoints``, and each process with ``pid`` and ``health``.

    What ``state.json`` says is believed only while a supervisor holds the instance's lock, and every process that has a
    listener is asked again.
    """
    instance = Path(instance).absolute()
    state = read_state(instance)
    if not is_locked(instance / "lock"):
        stopped = {"pid": None, "health": "stopped"}
        processes = {name: process | stopped for name, process in state["processes"].items()}
        return state | {"running": False, "pid": None, "phase": "stopped", "processes": processes, "endpoints": {}}
    for process in state["processes"].values():
        if process["health"] == "ready" and process["ready_url"] and not answers(process["ready_url"]):
            process["health"] = "not ready"
    return state | {"running": True}


def read_state(instance: Path) -> State:
    """What the instance's supervisor wrote last, whether or not it still runs: see ``Supervisor.state``."""
    try:
        state: State = json.loads((instance / "state.json").read_text())
    except FileNotFoundError:
        return {"pid": None, "phase": "stopped", "error": None, "processes": {}, "endpoints": {}}
    return state


def _await_ready(stack: Stack, pid: int, alive: Callable[[], bool], progress: Callable[[State], None] | None) -> State:
    """Follow the state that this supervisor writes until everything is ready or it gave up."""
    instance = stack.folder
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        running = alive()
        state = read_state(instance)
        if state["pid"] == pid:
            if progress:
                progress(state)
            if state["phase"] == "ready":
                return state
        if not running:
            if state["pid"] == pid and state["error"]:
                raise StartError(state["error"])
            raise StartError(f"the supervisor ended before it had begun:\n{tail(_supervisor_log(stack))}")
        time.sleep(0.05)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    raise StartError(f"{instance} was not ready within {START_TIMEOUT_S:g} s; its logs are in {instance / 'log'}")


def _refuse_if_running(stack: Stack) -> None:
    """Say so before anything of the running instance is touched; the supervisor's own lock decides the races."""
    lock = stack.folder / "lock"
    if is_locked(lock):
        raise InstanceBusyError(
            f"the instance in {stack.folder} is already run by process {lock.read_text().strip()}; stop it first"
        )


def _supervisor_log(stack: Stack) -> Path:
    folder = stack.folder / "log"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / "supervisor.log"


def _supervisor_argv(stack: Stack, mode: str) -> list[str]:
    described = asdict(stack) | {"instance": str(stack.folder)}
    return [sys.executable, "-m", "deploy.local.stack", mode, json.dumps(described)]


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def serve(stack: Stack, *, attached: bool) -> None:
    """Run an instance until a signal comes, or, attached, until stdin ends."""
    loop, told = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, told.set)
    if attached:
        loop.add_reader(sys.stdin.fileno(), told.set)  # Nothing is ever written to it: readable means that it ended.
    starting = asyncio.create_task(stack.start())
    waiting = asyncio.create_task(told.wait())
    await asyncio.wait({starting, waiting}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        running = await starting
        await told.wait()
        await running.stop()


def main(mode: str, described: str) -> int:
    """``attached`` or ``detached``, and the stack as JSON; detached prints the supervisor's pid and returns."""
    fields = json.loads(described)
    stack = Stack(**fields | {"instance": Path(fields["instance"])})
    if mode == "detached":
        log = _supervisor_log(stack)
        pid = os.fork()
        if pid:
            print(pid)
            return 0
        os.setsid()
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(output, 1)
        os.dup2(output, 2)
    try:
        asyncio.run(serve(stack, attached=mode == "attached"))
    except (StartError, InstanceBusyError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
