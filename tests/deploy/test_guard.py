"""A child ends with its supervisor, whatever became of that one."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.local.supervisor import GUARD
from tests.deploy.processes import alive, wait_until

STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(3600)"
)
# A supervisor of one child: it prints the child's pid and waits to be killed.
SUPERVISOR = """
import subprocess, sys, time
guard = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
print(guard.pid, guard.stdout.readline().decode().strip(), flush=True)
time.sleep(3600)
"""


def guarded(*argv: str, grace_s: float = 10, stop: signal.Signals = signal.SIGTERM) -> list[str]:
    return [sys.executable, "-I", "-S", str(GUARD), str(int(stop)), str(grace_s), "-", "-", "--", *argv]


@pytest.mark.rule(36)
def test_sigkill_of_the_supervisor_leaves_nothing() -> None:
    child = (sys.executable, "-c", "import time; time.sleep(3600)")
    with subprocess.Popen([sys.executable, "-c", SUPERVISOR, *guarded(*child)], stdout=subprocess.PIPE) as supervisor:
        assert supervisor.stdout is not None
        guard, pid = map(int, supervisor.stdout.readline().split())
        assert alive(guard)
        assert alive(pid)
        supervisor.kill()
    wait_until(lambda: not alive(pid) and not alive(guard))


def test_child_that_ignores_the_stop_signal_is_killed_after_the_grace(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            guarded(sys.executable, "-c", STUBBORN, grace_s=0.2),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=output,
        ) as guard,
    ):  # fmt: skip
        assert guard.stdout is not None
        pid = int(guard.stdout.readline())
        wait_until(lambda: "up" in log.read_text())
        guard.communicate()
    assert guard.returncode == 128 + signal.SIGKILL
    assert not alive(pid)


def test_grandchildren_of_the_group_go_too(tmp_path: Path) -> None:
    log = tmp_path / "log"
    program = "import subprocess, sys; print(subprocess.Popen(['sleep', '3600']).pid, flush=True)"
    with (
        log.open("wb") as output,
        subprocess.Popen(
            guarded(sys.executable, "-c", program), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=output
        ) as guard,
    ):
        guard.wait()
    wait_until(lambda: not alive(int(log.read_text().split()[-1])))


@pytest.mark.parametrize(
    ("program", "code"),
    [("raise SystemExit(7)", 7), ("import os; os.kill(os.getpid(), 9)", 137)],
    ids=["exit", "signal"],
)
def test_exit_code_is_passed_on(program: str, code: int) -> None:
    with subprocess.Popen(
        guarded(sys.executable, "-c", program), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as guard:
        guard.wait()
    assert guard.returncode == code


def test_stop_signal_is_the_childs_own(tmp_path: Path) -> None:
    log = tmp_path / "log"
    program = (
        "import signal, sys, time; signal.signal(signal.SIGINT, lambda *_: sys.exit(42));"
        "print('up', flush=True); time.sleep(3600)"
    )
    with (
        log.open("wb") as output,
        subprocess.Popen(
            guarded(sys.executable, "-c", program, stop=signal.SIGINT),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=output,
        ) as guard,
    ):  # fmt: skip
        wait_until(lambda: "up" in log.read_text())
        guard.communicate()
    assert guard.returncode == 42


def test_program_that_is_not_there_is_said() -> None:
    done = subprocess.run(guarded("/no/such/program"), stdin=subprocess.DEVNULL, capture_output=True, check=False)
    assert done.returncode == 127
    assert done.stdout.decode() == "! /no/such/program: No such file or directory\n"
