"""Starts processes by stages, restarts what crashes, stops in order, and writes down how all of them are.

Every child runs under a guard (``guard.py``), so that nothing of an instance outlives its supervisor, not even after
SIGKILL. An instance is a folder; two supervisors of one folder refuse each other by a lock file that names the holder.
"""

import asyncio
import contextlib
import json
import os
import resource
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy.local.files import FileLock, write_private

GUARD = Path(__file__).with_name("guard.py")
PROJECT = Path(__file__).resolve().parents[2]
BACKOFF_FIRST_S, BACKOFF_CAP_S = 0.5, 10.0
STEADY_AFTER_S = 60.0
PROBE_S, PROBE_UNREADY_S, PROBE_TIMEOUT_S = 2.0, 0.05, 10.0
EARLY_EXITS = 3
KEPT_LOGS = 3
ACQUIRE_TRIES = 10
OPEN_FILES = 65_536
# What a killed supervisor's children may take to end: the longest grace, and a little.
LEFTOVERS_TIMEOUT_S = 45.0

Probe = Callable[[], Awaitable[bool]]
Step = Callable[[], Awaitable[None]]


class StartError(RuntimeError):
    """The instance did not come up; the message says which process, and has the end of its log."""


class InstanceBusyError(RuntimeError):
    """Another supervisor runs this instance; the message names its pid."""


@dataclass(frozen=True)
class ProcessSpec:
    """One process of an instance.

    ``ready`` answers whether it can be used; it may raise ``OSError`` while it cannot. ``prepare`` runs once, before
    the first start, ``clean_up`` once, after the last end. Stages start in ascending order; ``stop_order`` ascends too,
    and what shares one stops together.
    ``uid`` and ``gid`` run it as another user (root only).
    """

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    ready: Probe
    restart: bool = True
    stop_signal: signal.Signals = signal.SIGTERM
    stop_grace_s: float = 15.0
    stage: int = 0
    stop_order: int = 0
    cwd: Path = PROJECT
    uid: int | None = None
    gid: int | None = None
    ready_timeout_s: float = 150.0
    prepare: Step | None = None
    clean_up: Callable[[], None] | None = None
    ready_url: str | None = None


@dataclass
class _Process:
    """What is known of one running process."""

    spec: ProcessSpec
    log: Path
    guard: asyncio.subprocess.Process | None = None
    pid: int | None = None
    health: str = "stopped"
    restarts: int = 0
    last_exit: int | None = None
    started: float = 0.0
    was_ready: bool = False
    keeper: asyncio.Task[None] | None = None
    failure: str | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    stop: asyncio.Event = field(default_factory=asyncio.Event)


def raise_open_files() -> None:
    """Let this process and its children open as many files as the system allows, at most ``OPEN_FILES``."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    # macOS refuses more than OPEN_MAX (10,240) even below the hard limit it reports.
    for limit in (wanted, 10_240):
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
            return


def base_environment() -> dict[str, str]:
    """The little of our own environment that a child needs; nothing else leaks into it."""
    kept = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "SYSTEMROOT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    return {name: os.environ[name] for name in kept if name in os.environ} | {"PYTHONUNBUFFERED": "1"}


def tail(path: Path, lines: int = 20) -> str:
    """The last lines of a log, for an error message."""
    if not path.exists():
        return "(no log)"
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 16_384))
        return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])


class Supervisor:
    """Runs the processes of one instance, inside one event loop::

        async with supervisor.starting():      # takes the instance's lock; on an error stops all and gives it back
            ports = keep_ports(instance, ...)  # what is decided only once nothing else runs here
            await supervisor.run(specs)        # returns when all is ready
        ...
        await supervisor.stop()

    ``state.json`` says how everything is at any time; ``pid`` there is the process itself, not its guard.
    ``pause_cap_s`` is the longest pause before what ends again and again is started again.
    """

    def __init__(self, instance: Path, pause_cap_s: float = BACKOFF_CAP_S) -> None:
        self.instance, self._pause_cap_s = instance, pause_cap_s
        self.endpoints: dict[str, Any] = {}
        self._processes: dict[str, _Process] = {}
        self._lock = InstanceLock(instance)
        self._phase = "stopped"
        self._error: str | None = None

    @contextlib.asynccontextmanager
    async def starting(self) -> AsyncIterator[None]:
        """Hold the instance while it is prepared and started. Raises ``InstanceBusyError`` where another one has it."""
        raise_open_files()
        await self._lock.acquire()
        self._phase, self._error = "starting", None
        try:
            self._write_state()
            yield
        except BaseException as error:
            self._error = str(error) or type(error).__name__
            await asyncio.shield(asyncio.ensure_future(self._stop("failed")))
            raise
        self._phase = "ready"
        self._write_state()

    async def run(self, specs: Sequence[ProcessSpec]) -> None:
        """Start these processes, stage by stage, and return when all are ready. Raises ``StartError``.

        May be called again for more, once what they need is there (databases before services).
        """
        new = {spec.name: _Process(spec, self.instance / "log" / f"{spec.name}.log") for spec in specs}
        self._processes |= new
        for stage in sorted({spec.stage for spec in specs}):
            await _all_or_first_error([self._bring_up(new[spec.name]) for spec in specs if spec.stage == stage])

    async def _bring_up(self, process: _Process) -> None:
        """Prepare and start one process; return when it is ready, raise ``StartError`` when it will not be."""
        spec = process.spec
        if spec.prepare:
            await spec.prepare()
        _rotate(process.log)
        process.keeper = asyncio.create_task(self._keep(process), name=f"keep {spec.name}")
        try:
            async with asyncio.timeout(spec.ready_timeout_s):
                while not process.was_ready:
                    process.changed.clear()
                    if process.failure is not None:
                        raise StartError(
                            f"{spec.name} {process.failure}. The end of {process.log}:\n{tail(process.log)}"
                        )
                    await process.changed.wait()
        except TimeoutError:
            raise StartError(
                f"{spec.name} was not ready within {spec.ready_timeout_s:g} s. The end of {process.log}:\n"
                f"{tail(process.log)}"
            ) from None

    async def _keep(self, process: _Process) -> None:
        """Run one process until it is told to stop; when it ends unasked, again: at once, then with growing pauses."""
        backoff_s = 0.0
        while not process.stop.is_set():
            try:
                await self._spawn(process)
            except StartError as error:
                if not process.was_ready:
                    process.failure = str(error)
            else:
                await self._attend(process)
            if process.stop.is_set():
                break
            if process.failure is None and not process.spec.restart:
                process.failure = f"ended with exit code {process.last_exit}"
            if process.failure is None and not process.was_ready and process.restarts + 1 >= EARLY_EXITS:
                process.failure = f"ended {EARLY_EXITS} times before it was ready, last with code {process.last_exit}"
            self._note(process, "failed" if process.failure else "down")
            if process.failure:
                process.changed.set()
                return
            if time.monotonic() - process.started > STEADY_AFTER_S:
                backoff_s = 0.0
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(backoff_s):
                    await process.stop.wait()
            backoff_s = min(self._pause_cap_s, backoff_s * 2 or BACKOFF_FIRST_S)
            process.restarts += 1
        self._note(process, "stopped")

    async def _attend(self, process: _Process) -> None:
        """Watch a running process to its end: its own, or the one it is brought to when told to stop."""
        guard = process.guard
        assert guard is not None
        assert guard.stdin is not None
        ended = asyncio.create_task(guard.wait())
        told = asyncio.create_task(process.stop.wait())
        prober = asyncio.create_task(self._probe(process), name=f"probe {process.spec.name}")
        try:
            await asyncio.wait({ended, told}, return_when=asyncio.FIRST_COMPLETED)
            guard.stdin.close()  # The guard ends the child, by force after the grace.
            await asyncio.wait({ended}, timeout=process.spec.stop_grace_s + 10)
            if not ended.done():
                guard.kill()
            process.last_exit = await ended
        finally:
            for task in (ended, told, prober):
                task.cancel()
            await asyncio.gather(ended, told, prober, return_exceptions=True)
        if process.pid is not None:
            # Needed only where the guard itself was killed: then nobody else ends the child.
            _kill_group(process.pid)
        process.pid = None

    async def _spawn(self, process: _Process) -> None:
        """Start the guard, and learn the child's pid from it."""
        spec = process.spec
        process.started = time.monotonic()
        # -I -S: no site packages, no user settings; the guard starts in milliseconds.
        guard = (sys.executable, "-I", "-S", str(GUARD), str(int(spec.stop_signal)), str(spec.stop_grace_s))
        account = ("-" if spec.uid is None else str(spec.uid), "-" if spec.gid is None else str(spec.gid))
        try:
            with process.log.open("ab") as log:
                process.guard = await asyncio.create_subprocess_exec(
                    *(*guard, *account, "--", *spec.argv),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    stderr=log,
                    cwd=spec.cwd,
                    env=dict(spec.env),
                    start_new_session=True,
                    pass_fds=self._lock.inherited(),
                )
        except OSError as error:
            raise StartError(f"cannot be started: {error}") from error
        assert process.guard.stdout is not None
        answer = (await process.guard.stdout.readline()).decode().strip()
        if not answer.isdecimal():
            process.last_exit = await process.guard.wait()
            raise StartError(f"cannot be started: {answer.removeprefix('! ') or 'its guard died'}")
        process.pid = int(answer)
        self._note(process, "starting")

    async def _probe(self, process: _Process) -> None:
        """Ask the process how it is, often until it is ready and then now and again."""
        while True:
            try:
                async with asyncio.timeout(PROBE_TIMEOUT_S):
                    ready = await process.spec.ready()
            except (OSError, TimeoutError):
                ready = False
            except Exception as error:  # noqa: BLE001  (not an answer that will come right by asking again)
                ready = False
                if not process.was_ready:
                    process.failure = f"cannot be asked how it is: {error!r}"
                    process.changed.set()
                    return
            if ready and not process.was_ready:
                process.was_ready = True
                process.changed.set()
            self._note(process, "ready" if ready else "not ready" if process.was_ready else "starting")
            await asyncio.sleep(PROBE_S if ready else PROBE_UNREADY_S)

    def _note(self, process: _Process, health: str) -> None:
        if process.health != health:
            process.health = health
            self._write_state()

    async def stop(self) -> None:
        """Stop everything in order; return when nothing is left. May be called at any time, and twice."""
        await self._stop("stopped")

    async def _stop(self, phase: str) -> None:
        if not self._lock.held:
            return
        self._phase = "stopping"
        self._write_state()
        for order in sorted({process.spec.stop_order for process in self._processes.values()}):
            group = [process for process in self._processes.values() if process.spec.stop_order == order]
            await asyncio.gather(*(self._end(process) for process in group))
        self._phase = phase
        self._write_state()
        self._lock.release()

    async def _end(self, process: _Process) -> None:
        process.stop.set()
        if process.keeper is not None:
            await asyncio.wait({process.keeper})
        if process.spec.clean_up:
            process.spec.clean_up()

    def state(self) -> dict[str, Any]:
        """What ``state.json`` holds: phase, endpoints, and each process with pid, health, restarts and log."""
        return {
            "pid": os.getpid(),
            "phase": self._phase,
            "error": self._error,
            "processes": {
                name: {
                    "pid": process.pid,
                    "health": process.health,
                    "restarts": process.restarts,
                    "last_exit": process.last_exit,
                    "log": str(process.log),
                    "ready_url": process.spec.ready_url,
                }
                for name, process in self._processes.items()
            },
            "endpoints": self.endpoints,
        }

    def _write_state(self) -> None:
        write_private(self.instance / "state.json", json.dumps(self.state(), indent=2) + "\n")


class InstanceLock:
    """Two locks: ``lock`` is the supervisor's own, with its pid; ``children.lock`` is inherited by all children.

    So a second supervisor is refused while the first lives, and one that follows a killed supervisor waits until the
    last child of that one has ended, before it touches ports or data.
    """

    def __init__(self, instance: Path) -> None:
        self.instance = instance
        self._own = FileLock(instance / "lock")
        self._children = FileLock(instance / "children.lock")

    @property
    def held(self) -> bool:
        """Whether this process holds the instance."""
        return self._own.descriptor is not None

    async def acquire(self) -> None:
        """Take the instance or raise ``InstanceBusyError``."""
        self.instance.mkdir(parents=True, exist_ok=True)
        (self.instance / "log").mkdir(exist_ok=True)
        if self.held:
            return
        # Whoever asks whether the lock is held has it for a moment: only a lock that stays held is a supervisor's.
        for _ in range(ACQUIRE_TRIES):
            if self._own.acquire():
                break
            await asyncio.sleep(0.05)
        else:
            holder = self._own.path.read_text().strip() or "unknown"
            raise InstanceBusyError(
                f"the instance in {self.instance} is already run by process {holder}; stop it first"
            )
        self._own.write(f"{os.getpid()}\n")
        deadline = time.monotonic() + LEFTOVERS_TIMEOUT_S
        while not self._children.acquire():
            if time.monotonic() > deadline:
                self._own.release()
                raise InstanceBusyError(f"processes of an earlier run in {self.instance} have not ended yet; try again")
            await asyncio.sleep(0.1)

    def inherited(self) -> tuple[int, ...]:
        """The descriptor that every guard, and its child, keeps open for as long as it lives."""
        return () if self._children.descriptor is None else (self._children.descriptor,)

    def release(self) -> None:
        """Give the instance up, if it is held."""
        if not self.held:
            return
        self._own.write("")
        self._children.release()
        self._own.release()


async def _all_or_first_error(steps: Sequence[Awaitable[None]]) -> None:
    """Await all at once; on the first error cancel the others and raise that error."""
    tasks = [asyncio.ensure_future(step) for step in steps]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _rotate(log: Path) -> None:
    """Move the logs of earlier runs one number up and start with an empty one."""
    for number in range(KEPT_LOGS, 0, -1):
        older = log.with_name(f"{log.name}.{number}")
        newer = log if number == 1 else log.with_name(f"{log.name}.{number - 1}")
        if newer.exists():
            newer.replace(older)
    log.touch(mode=0o600)


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
