"""Kafka's jars: resolved by Maven coordinates, pinned, and checked against a committed SHA-256 before every use.

``kafka-jars.lock`` has one line a jar, ``group:artifact:version sha256``, and no addresses: where the jars come from is
the business of jgo's own configuration (Maven Central unless ``~/.config/jgo.conf`` names other repositories).

``python -m deploy.local.jars fetch`` fills the cache, ``python -m deploy.local.jars lock`` resolves Kafka anew and
rewrites the lock.
"""

import hashlib
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KAFKA_VERSION = "4.3.1"
# Kafka's own pom brings slf4j 1.7 without a binding, and then every log line vanishes: log4j-slf4j-impl is the binding
# that fits, in the version of the log4j-core that Kafka brings.
KAFKA = f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}"
SLF4J_BINDING = "org.apache.logging.log4j:log4j-slf4j-impl:2.25.4"
LOCK = Path(__file__).with_name("kafka-jars.lock")
ATTEMPTS = 3

log = logging.getLogger(__name__)


class JarMismatchError(RuntimeError):
    """A jar is not the one that was reviewed: it is not run."""


@dataclass(frozen=True)
class Jar:
    """One line of the lock."""

    group: str
    artifact: str
    version: str
    sha256: str

    @property
    def filename(self) -> str:
        """Name in the flat cache folder; Maven's own."""
        return f"{self.artifact}-{self.version}.jar"

    def __str__(self) -> str:
        return f"{self.group}:{self.artifact}:{self.version}"


def cache_folder() -> Path:
    """``$SALDO_CACHE_DIR``, else ``saldo`` in the user's cache folder."""
    if chosen := os.environ.get("SALDO_CACHE_DIR"):
        return Path(chosen)
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "saldo"
    return Path.home() / ".cache" / "saldo"


def read_lock(path: Path = LOCK) -> list[Jar]:
    """The pinned jars, in the order of the class path. Raises ``ValueError`` on a line of another shape."""
    jars = []
    for line in path.read_text().splitlines():
        coordinates, _, sha256 = line.partition(" ")
        parts = coordinates.split(":")
        if len(parts) != 3 or len(sha256) != 64:
            raise ValueError(f"{path}: not 'group:artifact:version sha256': {line!r}")
        jars.append(Jar(parts[0], parts[1], parts[2], sha256))
    return jars


def ensure_jars(jars: Sequence[Jar] | None = None, folder: Path | None = None) -> Path:
    """Return a folder that has every pinned jar, each just checked; download what is missing.

    Raises ``JarMismatchError`` for a jar with another SHA-256, whether cached or freshly downloaded, and
    ``RuntimeError`` where one cannot be had.
    """
    jars = read_lock() if jars is None else jars
    folder = folder or cache_folder() / f"kafka-{KAFKA_VERSION}"
    missing = [jar for jar in jars if not (folder / jar.filename).exists()]
    if missing:
        folder.mkdir(parents=True, exist_ok=True)
        # Downloads land in a folder of their own and are moved over only when they are right: an interrupted one
        # leaves nothing that looks like a jar.
        with tempfile.TemporaryDirectory(dir=folder, prefix=".download-") as temporary:
            with ThreadPoolExecutor(8) as pool:
                fetched = list(pool.map(lambda jar: _download(jar, Path(temporary)), missing))
            for jar, path in zip(missing, fetched, strict=True):
                _check(jar, path)
                path.replace(folder / jar.filename)
    for jar in jars:
        _check(jar, folder / jar.filename)
    return folder


def _check(jar: Jar, path: Path) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != jar.sha256:
        raise JarMismatchError(
            f"{jar} at {path} has SHA-256 {found}, but {LOCK.name} has {jar.sha256}: it is not run. "
            "If the file was damaged, delete it and start again; if the repository serves it so, do not trust it."
        )


def _context(repository: Path) -> Any:
    """A jgo context that downloads into the given folder, from the repositories that the user configured for jgo."""
    from jgo.config import GlobalSettings
    from jgo.maven import MavenContext

    remote = GlobalSettings.load().repositories or None
    return MavenContext(repo_cache=repository, remote_repos=remote, timeout=60)


def _download(jar: Jar, repository: Path) -> Path:
    component = _context(repository).project(jar.group, jar.artifact).at_version(jar.version)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return Path(component.artifact().resolve())
        except (OSError, RuntimeError) as error:  # requests' errors are OSErrors; jgo's own are RuntimeErrors.
            shutil.rmtree(repository / component.path_prefix, ignore_errors=True)
            if attempt == ATTEMPTS:
                raise RuntimeError(
                    f"cannot download {jar} from the Maven repository: {error}. "
                    f"Check the network, or fill {cache_folder()} on a machine that has one."
                ) from error
            log.info("download of %s failed, trying again: %s", jar, error)
            time.sleep(attempt)
    raise AssertionError("unreachable: the last attempt returns or raises")


def write_lock(path: Path = LOCK) -> list[Jar]:
    """Resolve Kafka with all it needs at run time, add the SLF4J binding, download each jar, write its SHA-256 down."""
    import jgo

    coordinates = [(found.groupId, found.artifactId, found.version) for found in jgo.resolve(KAFKA)]
    # The binding alone, not resolved together with Kafka: its parent manages versions of its own, among them an older
    # kafka-clients, and would win. What it needs (slf4j-api, log4j-api, log4j-core) is Kafka's already.
    group, artifact, version = SLF4J_BINDING.split(":")
    coordinates.append((group, artifact, version))
    with tempfile.TemporaryDirectory() as temporary:
        jars = []
        for group, artifact, version in coordinates:
            pin = Jar(group, artifact, version, "")
            content = _download(pin, Path(temporary)).read_bytes()
            jars.append(Jar(pin.group, pin.artifact, pin.version, hashlib.sha256(content).hexdigest()))
    if len({jar.filename for jar in jars}) != len(jars):
        raise RuntimeError("two artifacts have one file name; the flat cache folder cannot hold both")
    path.write_text("".join(f"{jar} {jar.sha256}\n" for jar in jars))
    return jars


def main(arguments: Sequence[str]) -> int:
    """``fetch`` or ``lock``."""
    if list(arguments) == ["fetch"]:
        print(f"Kafka {KAFKA_VERSION}: {len(read_lock())} jars checked in {ensure_jars()}")
        return 0
    if list(arguments) == ["lock"]:
        print(f"{LOCK}: {len(write_lock())} jars")
        return 0
    print("usage: python -m deploy.local.jars fetch|lock", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
