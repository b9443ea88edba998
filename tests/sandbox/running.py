"""A sandbox process for tests: on a free loopback port, with its books in a temporary folder."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "a token for tests"


class Sandbox:
    """One marketplace as a process of its own; it may be killed and started again on the same books."""

    def __init__(self, marketplace: str, books: Path) -> None:
        self.marketplace = marketplace
        self.books = books
        self.base_url = ""
        self._process: subprocess.Popen[str] | None = None

    def environment(self) -> dict[str, str]:
        wanted = {"SALDO_SANDBOX_PORT": "0", "SALDO_SANDBOX_BOOKS": str(self.books), "SALDO_SANDBOX_TOKEN": TOKEN}
        return {**os.environ, "PYTHONPATH": str(ROOT), **wanted}

    def start(self) -> None:
        command = [sys.executable, "-m", "services.sandbox.app", self.marketplace]
        self._process = subprocess.Popen(
            command, cwd=self.books.parent, env=self.environment(), stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert "listening on " in line, f"the {self.marketplace} sandbox did not start: {line!r}"
        self.base_url = line.split()[-1]

    def stop(self) -> int:
        """SIGTERM; returns the exit status."""
        assert self._process is not None
        self._process.terminate()
        return self._ended()

    def kill(self) -> None:
        """SIGKILL: nothing is flushed that was not already."""
        assert self._process is not None
        self._process.kill()
        self._ended()

    def _ended(self) -> int:
        assert self._process is not None
        assert self._process.stdout is not None
        status = self._process.wait(30)
        self._process.stdout.close()
        self._process = None
        return status

    @property
    def running(self) -> bool:
        return self._process is not None


def running(marketplace: str, folders: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """A sandbox for as long as a fixture lives; it has to end well."""
    sandbox = Sandbox(marketplace, folders.mktemp(marketplace) / "books.sqlite")
    sandbox.start()
    yield sandbox
    assert sandbox.stop() == 0
