"""The supervisor starts by stages, restarts, refuses a second one, stops in order and leaves nothing."""

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from deploy.local.files import is_locked
from deploy.local.supervisor import PROJECT, InstanceBusyError, ProcessSpec, StartError, Supervisor
from tests.deploy.processes import alive, stand_in, until, wait_until

pytestmark = pytest.mark.asyncio


def state(instance: Path) -> dict[str, Any]:
    return dict(json.loads((instance / "state.json").read_text()))


async def started(instance: Path, *specs: ProcessSpec) -> Supervisor:
    supervisor = Supervisor(instance)
    async with supervisor.starting():
        await supervisor.run(specs)
    return supervisor


async def test_crashed_process_is_restarted_and_recorded(tmp_path: Path) -> None:
    supervisor = await started(tmp_path, stand_in("worker", tmp_path))
    try:
        first = state(tmp_path)["processes"]["worker"]["pid"]
        assert first == int((tmp_path / "worker").read_text())
        os.kill(first, signal.SIGKILL)
        await until(lambda: state(tmp_path)["processes"]["worker"]["pid"] not in (first, None))
        worker = state(tmp_path)["processes"]["worker"]
        assert worker["restarts"] == 1
        assert worker["last_exit"] == 128 + signal.SIGKILL
    finally:
        await supervisor.stop()
    assert not alive(worker["pid"])
    assert state(tmp_path)["phase"] == "stopped"


@pytest.mark.rule(36)
async def test_child_is_ended_even_where_its_guard_was_killed(tmp_path: Path) -> None:
    supervisor = await started(tmp_path, stand_in("worker", tmp_path))
    try:
        first = state(tmp_path)["processes"]["worker"]["pid"]
        parent = subprocess.run(["ps", "-o", "ppid=", "-p", str(first)], capture_output=True, check=True).stdout
        os.kill(int(parent), signal.SIGKILL)
        await until(lambda: state(tmp_path)["processes"]["worker"]["pid"] not in (first, None))
        await until(lambda: not alive(first))
    finally:
        await supervisor.stop()


@pytest.mark.rule(36)
async def test_second_supervisor_of_an_instance_is_refused_naming_the_first(tmp_path: Path) -> None:
    supervisor = await started(tmp_path, stand_in("worker", tmp_path))
    try:
        with pytest.raises(InstanceBusyError, match=f"already run by process {os.getpid()}; stop it first"):
            await started(tmp_path, stand_in("worker", tmp_path))
        assert state(tmp_path)["processes"]["worker"]["health"] == "ready"
    finally:
        await supervisor.stop()
    again = await started(tmp_path, stand_in("worker", tmp_path))
    await again.stop()


async def test_what_never_gets_ready_is_reported_with_its_log_and_all_is_stopped(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"(?s)broken ended 3 times before it was ready.*no such table"):
        await started(
            tmp_path,
            stand_in("worker", tmp_path),
            stand_in("broken", tmp_path, "raise SystemExit('no such table')", stage=1),
        )
    assert not alive(int((tmp_path / "worker").read_text()))
    assert state(tmp_path)["phase"] == "failed"
    assert "no such table" in state(tmp_path)["error"]


async def test_program_that_cannot_be_started_is_reported(tmp_path: Path) -> None:
    async def ready() -> bool:
        return False

    with pytest.raises(StartError, match="/no/such/program: No such file or directory"):
        await started(tmp_path, ProcessSpec("nothing", ["/no/such/program"], {}, ready))


@pytest.mark.rule(36)
async def test_stages_start_upwards_and_stop_in_their_own_order(tmp_path: Path) -> None:
    program = """
import os, pathlib, signal, sys, time
note = pathlib.Path(sys.argv[1])
def write(word):
    with open(note.parent / "story", "a") as story:
        story.write(f"{word} {note.name}\\n")
def end(*_):
    write("stop")
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
write("start")
note.write_text(str(os.getpid()))
while True:
    time.sleep(3600)
"""
    supervisor = await started(
        tmp_path,
        stand_in("service", tmp_path, program, stage=1, stop_order=0),
        stand_in("database", tmp_path, program, stage=0, stop_order=2),
        stand_in("broker", tmp_path, program, stage=0, stop_order=1),
    )
    await supervisor.stop()
    story = (tmp_path / "story").read_text().splitlines()
    assert set(story[:2]) == {"start database", "start broker"}
    assert story[2:] == ["start service", "stop service", "stop broker", "stop database"]


async def test_state_is_private_and_logs_are_kept_one_run_back(tmp_path: Path) -> None:
    program = "import os, pathlib, sys, time; print(os.getpid(), flush=True);"
    program += "pathlib.Path(sys.argv[1]).write_text('x'); time.sleep(3600)"
    for _ in range(2):
        supervisor = await started(tmp_path, stand_in("worker", tmp_path, program))
        pid = state(tmp_path)["processes"]["worker"]["pid"]
        assert stat.S_IMODE((tmp_path / "state.json").stat().st_mode) == 0o600
        await supervisor.stop()
    log, older = tmp_path / "log" / "worker.log", tmp_path / "log" / "worker.log.1"
    assert log.read_text().split() == [str(pid)]
    assert len(older.read_text().split()) == 1
    assert older.read_text() != log.read_text()


# Run as a process of its own, to be killed.
PROGRAM = """
import asyncio, sys
from pathlib import Path
from deploy.local.supervisor import Supervisor
from tests.deploy.processes import stand_in

async def main(folder):
    supervisor = Supervisor(folder)
    async with supervisor.starting():
        await supervisor.run([stand_in("worker", folder), stand_in("slow", folder, SLOW)])
    await asyncio.sleep(3600)

SLOW = '''
import os, pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: (time.sleep(1), sys.exit(0)))
pathlib.Path(sys.argv[1]).write_text(str(os.getpid()))
while True:
    time.sleep(3600)
'''
asyncio.run(main(Path(sys.argv[1])))
"""


async def test_sigkill_of_the_supervisor_leaves_nothing_and_the_next_one_waits_for_that(tmp_path: Path) -> None:
    killed = subprocess.Popen([sys.executable, "-c", PROGRAM, str(tmp_path)], cwd=PROJECT)
    await asyncio.to_thread(
        wait_until, lambda: (tmp_path / "state.json").exists() and state(tmp_path)["phase"] == "ready"
    )
    pids = [process["pid"] for process in state(tmp_path)["processes"].values()]
    killed.kill()
    killed.wait()
    supervisor = Supervisor(tmp_path)
    async with supervisor.starting():
        assert [pid for pid in pids if alive(pid)] == []
        await supervisor.run([stand_in("worker", tmp_path)])
    await supervisor.stop()


async def test_asking_whether_an_instance_runs_never_stops_it_from_starting(tmp_path: Path) -> None:
    looking = True

    def look() -> None:
        while looking:
            is_locked(tmp_path / "lock")

    looker = asyncio.create_task(asyncio.to_thread(look))
    try:
        for _ in range(5):
            await (await started(tmp_path, stand_in("worker", tmp_path))).stop()
    finally:
        looking = False
        await looker
