"""Ports of an instance: drawn once from 20000-29999, kept in ``ports.json``.

The range lies below every system's ephemeral ports: a client that retries a dead port inside the ephemeral range can
connect to itself, and then the server cannot bind again.
"""

import json
import random
import socket
from collections.abc import Collection, Sequence
from pathlib import Path

from deploy.local.files import write_private

FIRST_PORT, LAST_PORT = 20000, 29999


def is_free(port: int) -> bool:
    """Tell whether a server could listen on 127.0.0.1 at this port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def draw_port(taken: Collection[int] = ()) -> int:
    """Draw a free port that is not among ``taken``. Raises ``RuntimeError`` where the range is used up."""
    draw = random.SystemRandom()
    for _ in range(1000):
        port = draw.randint(FIRST_PORT, LAST_PORT)
        if port not in taken and is_free(port):
            return port
    raise RuntimeError(f"no free port between {FIRST_PORT} and {LAST_PORT} on 127.0.0.1; end what uses them")


def keep_ports(instance: Path, names: Sequence[str]) -> dict[str, int]:
    """Return one port for each name, as drawn at this instance's first start.

    A kept port that somebody else listens on by now is drawn again, and the new one kept. Call it with the instance's
    lock held and nothing of the instance running.
    """
    path = instance / "ports.json"
    kept: dict[str, int] = json.loads(path.read_text()) if path.exists() else {}
    for name in names:
        if name not in kept or not is_free(kept[name]):
            kept[name] = draw_port(kept.values())
    write_private(path, json.dumps(kept, indent=2) + "\n")
    return {name: kept[name] for name in names}


def kept_ports(instance: Path) -> dict[str, int]:
    """The ports of an instance that runs, as they were drawn; nothing is drawn again."""
    kept: dict[str, int] = json.loads((instance / "ports.json").read_text())
    return kept
