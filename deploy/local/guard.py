"""The parent of one child process: it ends the child when whoever holds the other end of its stdin is gone.

A supervisor that is killed with SIGKILL cannot clean up. So each child is started by a guard, in a session of its
own, and the guard's stdin is a pipe that only the supervisor holds: end of file means that the supervisor closed it (a
normal stop) or died. Either way the child gets its stop signal, and its process group SIGKILL after the grace.

Usage: ``python -I -S guard.py STOP_SIGNAL GRACE_S UID GID -- ARGV...`` (``-`` for UID and GID: unchanged).
The first line on stdout is the child's pid, or ``! reason`` if it could not be started. The child writes to the
guard's stderr. The exit code is the child's, or 128 + the signal that ended it. Standard library only, so that it
starts in a few milliseconds and stays small.
"""

import contextlib
import os
import select
import signal
import sys
import time


def main(arguments: list[str]) -> int:
    """Run one child to its end and return its exit code."""
    stop_signal, grace_s, uid, gid = int(arguments[0]), float(arguments[1]), arguments[2], arguments[3]
    argv = arguments[5:]
    # The guard is not to be ended by what is meant for others: a Ctrl-C in the terminal, a hang-up, a closed pipe.
    for ignored in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(ignored, signal.SIG_IGN)
    wake_reader, wake_writer = os.pipe()
    os.set_blocking(wake_writer, False)
    signal.set_wakeup_fd(wake_writer, warn_on_full_buffer=False)
    terminated: list[int] = []
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda number, _: terminated.append(number))

    child = start(argv, uid, gid)
    os.write(1, f"{child}\n".encode())
    os.close(1)
    watched = [0, wake_reader]
    deadline: float | None = None
    while True:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid == child:
            end_group(child, signal.SIGKILL)  # What the child left behind in its group goes with it.
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
        left_s = None if deadline is None else deadline - time.monotonic()
        if left_s is not None and left_s <= 0:
            end_group(child, signal.SIGKILL)
            left_s = 1.0
        readable, _, _ = select.select(watched, [], [], left_s)
        if wake_reader in readable:
            os.read(wake_reader, 512)
        ended = 0 in readable and not os.read(0, 512)
        if (ended or terminated) and deadline is None:
            watched, deadline = [wake_reader], time.monotonic() + grace_s
            end_process(child, stop_signal)


def start(argv: list[str], uid: str, gid: str) -> int:
    """Fork and execute the child in a new session, as another user if asked; exit with 127 if it cannot run."""
    failed_reader, failed_writer = os.pipe()  # Closed by a successful exec (close-on-exec), else it carries the reason.
    child = os.fork()
    if child == 0:
        try:
            os.setsid()
            if gid != "-":
                os.setgroups([])
                os.setgid(int(gid))
            if uid != "-":
                os.setuid(int(uid))
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(2, 1)
            for restored in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGTERM, signal.SIGCHLD):
                signal.signal(restored, signal.SIG_DFL)
            os.execvp(argv[0], argv)  # noqa: S606  (no shell is the point)
        except OSError as error:
            os.write(failed_writer, f"{argv[0]}: {error.strerror}".encode())
        finally:
            os._exit(127)
    os.close(failed_writer)
    reason = os.read(failed_reader, 4096)
    os.close(failed_reader)
    if reason:
        os.write(1, b"! " + reason + b"\n")
        raise SystemExit(127)
    return child


def end_process(pid: int, number: int) -> None:
    """Send one signal to the child, which may just have gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def end_group(pid: int, number: int) -> None:
    """Send one signal to the child's whole process group, which may be empty by now."""
    # macOS answers "not permitted" for a group of zombies.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
