"""A server of Tryton for tests: on 127.0.0.1, over SQLite in a folder that goes with it."""

import base64
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from deploy.local.ports import draw_port

DATABASE, USER = "erp", "admin"
MODULES = ("sale", "stock", "account")
START_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class TrytonServer:
    """Where a server is, and who may enter."""

    base_url: str
    password: str

    def call(self, method: str, *params: Any) -> Any:
        """What `model.<method>` answers, as the administrator."""
        with httpx.Client(base_url=self.base_url, trust_env=False, timeout=60) as http:

            def ask(name: str, given: tuple[Any, ...], headers: dict[str, str]) -> Any:
                body = {"id": 1, "method": name, "params": given}
                told = http.post(f"/{DATABASE}/rpc/", json=body, headers=headers).json()
                assert "error" not in told, told
                return told["result"]

            user, token, _ = ask("common.db.login", (USER, {"password": self.password}), {})
            session = base64.b64encode(f"{USER}:{user}:{token}".encode()).decode()
            return ask(f"model.{method}", (*params, {"company": 1}), {"authorization": f"Session {session}"})

    def rows(self, model: str, fields: list[str], domain: list[Any] | None = None) -> list[dict[str, Any]]:
        """Every row of a model, by age."""
        found: list[dict[str, Any]] = self.call(f"{model}.search_read", domain or [], 0, None, [["id", "ASC"]], fields)
        return found


def run(*command: str, **environment: str) -> None:
    """A program of Tryton, to its end."""
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def tryton_server(products: int) -> Iterator[TrytonServer]:
    """A company with `products` products and the modules sale, stock and account, served until the end."""
    folder = Path(tempfile.mkdtemp(prefix="saldo-tryton-"))
    port, password = draw_port(), secrets.token_hex(16)
    configuration, passfile = folder / "trytond.conf", folder / "password"
    configuration.write_text(f"[database]\nuri = sqlite://\npath = {folder}\n[web]\nlisten = 127.0.0.1:{port}\n")
    passfile.write_text(password)
    (folder / f"{DATABASE}.sqlite").touch()
    programs = Path(sys.executable).parent
    settings = ("-c", str(configuration), "-d", DATABASE)
    try:
        run(
            str(programs / "trytond-admin"), *settings, "-u", *MODULES, "--activate-dependencies", "--email",
            "admin@example.com", "-p", TRYTONPASSFILE=str(passfile),
        )  # fmt: skip
        run(sys.executable, str(Path(__file__).with_name("tryton_company.py")), settings[1], DATABASE, str(products))
        with (folder / "log").open("wb") as log:
            server = subprocess.Popen([programs / "trytond", *settings], stdout=log, stderr=log)
        try:
            base_url = f"http://127.0.0.1:{port}"
            await_answer(base_url, server, folder / "log")
            yield TrytonServer(base_url, password)
        finally:
            server.terminate()
            server.wait()
    finally:
        shutil.rmtree(folder)


def await_answer(base_url: str, server: "subprocess.Popen[bytes]", log: Path) -> None:
    """Until the server answers."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        assert server.poll() is None, log.read_text()
        try:
            httpx.post(f"{base_url}/rpc/", json={"method": "common.server.version"}, trust_env=False)
        except httpx.TransportError:
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        else:
            return
