"""Helpers of these tests: stand-in processes, and whether a process lives."""

import asyncio
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from deploy.local.supervisor import ProcessSpec, base_environment

PATIENCE_S = 30.0

# Says that it is ready by making a file with its pid, and then waits to be told to end.
STAND_IN = """
import os, pathlib, sys, time
note = pathlib.Path(sys.argv[1])
scratch = note.with_suffix(".part")
scratch.write_text(str(os.getpid()))
scratch.replace(note)
while True:
    time.sleep(3600)
"""


def stand_in(name: str, folder: Path, program: str = STAND_IN, **changes: object) -> ProcessSpec:
    """A process that is ready once it has written ``<folder>/<name>``."""
    note = folder / name

    async def ready() -> bool:
        return note.exists()

    async def prepare() -> None:
        note.unlink(missing_ok=True)

    fields: dict[str, object] = {"ready": ready, "prepare": prepare, "ready_timeout_s": PATIENCE_S} | changes
    return ProcessSpec(
        name=name, argv=(sys.executable, "-c", program, str(note)), env=base_environment(), **fields  # type: ignore[arg-type]
    )  # fmt: skip


def alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and only waits to be collected does not."""
    stat = Path(f"/proc/{pid}/stat")
    try:
        os.kill(pid, 0)
        return not stat.parent.parent.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def wait_until(condition: Callable[[], bool]) -> None:
    """Return when it holds; fail loudly when it never does."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        time.sleep(0.02)


async def until(condition: Callable[[], bool]) -> None:
    """The same inside an event loop."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)
