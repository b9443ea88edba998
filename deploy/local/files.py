"""Files of an instance: written whole, readable by their owner alone; its secrets; locks that die with a process."""

import base64
import fcntl
import json
import os
import secrets
import tempfile
from collections.abc import Sequence
from pathlib import Path


def write_private(path: Path, text: str) -> None:
    """Replace the file in one step, mode 0600: a reader sees the old text or the new one, never half."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w") as file:
            file.write(text)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def keep_secrets(instance: Path, names: Sequence[str]) -> dict[str, str]:
    """Return one secret a name: 32 random bytes in base64, made at the first start and kept in ``secrets.json``."""
    path = instance / "secrets.json"
    kept: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
    missing = [name for name in names if name not in kept]
    for name in missing:
        kept[name] = base64.b64encode(secrets.token_bytes(32)).decode()
    if missing:
        write_private(path, json.dumps(kept, indent=2) + "\n")
    return {name: kept[name] for name in names}


class FileLock:
    """An advisory lock on a file; the system lets go of it when the last process with the descriptor has ended."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor: int | None = None

    def acquire(self) -> bool:
        """Take the lock if nobody holds it."""
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self.descriptor = descriptor
        return True

    def write(self, text: str) -> None:
        """Put a note for others (the holder's pid) into the locked file."""
        assert self.descriptor is not None
        os.ftruncate(self.descriptor, 0)
        os.pwrite(self.descriptor, text.encode(), 0)

    def release(self) -> None:
        """Let go of this process's hold; a child that inherited the descriptor still has its own."""
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None


def is_locked(path: Path) -> bool:
    """Tell whether some process holds the lock on this file now."""
    if not path.exists():
        return False
    lock = FileLock(path)
    if lock.acquire():
        lock.release()
        return False
    return True
