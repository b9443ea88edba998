"""`saldo` as a person runs it, against admin listeners that answer what a test says."""

import json
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from contracts.envelope import Message
from services.console import output, people
from services.console.cli import main

TOKEN = "a token"


@dataclass
class Listener:
    """One listener that stands for all services: answers by (method, path), asked by (method, path, query, body).

    Of several answers each is given once, the last one ever after.
    """

    answers: dict[tuple[str, str], list[Any]] = field(default_factory=dict)
    asked: list[tuple[str, str, dict[str, str], Any]] = field(default_factory=list)
    url: str = ""

    def say(self, method: str, path: str, body: Any, status: int = 200) -> None:
        self.answers[method, path] = [(status, body)]

    def say_each(self, method: str, path: str, bodies: Iterable[Any]) -> None:
        self.answers[method, path] = [(200, body) for body in bodies]

    def answer(self, method: str, path: str) -> Any:
        answers = self.answers.get((method, path), [(404, {"detail": f"nothing at {path}"})])
        return answers.pop(0) if len(answers) > 1 else answers[0]


def _handler(listener: Listener) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            parts = urlsplit(self.path)
            raw = self.rfile.read(int(self.headers.get("content-length", 0)))
            path = parts.path.removeprefix("/admin/")
            listener.asked.append((self.command, path, dict(parse_qsl(parts.query)), json.loads(raw) if raw else None))
            if parts.path != "/readyz" and self.headers.get("authorization") != f"Bearer {TOKEN}":
                status, body = 401, {"detail": "wrong token"}
            else:
                status, body = listener.answer(self.command, path)
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = answer  # noqa: N815 - the name that http.server calls
        do_POST = answer  # noqa: N815
        do_PUT = answer  # noqa: N815

        def log_message(self, *args: object) -> None:
            pass

    return Handler


@pytest.fixture
def listener(monkeypatch: pytest.MonkeyPatch) -> Iterator[Listener]:
    listener = Listener()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(listener))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    listener.url = f"http://127.0.0.1:{server.server_address[1]}"
    for service in ("INVENTORY", "ORDERS", "CHANNELS"):
        monkeypatch.setenv(f"SALDO_ADMIN_{service}_URL", listener.url)
    monkeypatch.setenv("SALDO_ADMIN_TOKEN", TOKEN)
    yield listener
    server.shutdown()
    thread.join()
    server.server_close()


@dataclass(frozen=True)
class Printed:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def saldo(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Printed]:
    # As into a file, wherever the tests run.
    monkeypatch.setattr(output.console, "width", output.WIDTH_OF_FILES)
    monkeypatch.setattr(output.errors, "width", output.WIDTH_OF_FILES)

    def run(*arguments: str) -> Printed:
        monkeypatch.setattr("sys.argv", ["saldo", *arguments])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return Printed(int(ended.value.code or 0), printed.out, printed.err)

    return run


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Message]]:
    """Commands that would have gone to Kafka, as (id, message)."""
    commands: list[tuple[str, Message]] = []

    async def send_all(bootstrap: str, given: list[tuple[str, Message]], *, tenant: str, source: str) -> None:
        commands.extend(given)

    monkeypatch.setattr(people, "send_all", send_all)
    return commands
