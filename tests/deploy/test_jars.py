"""Kafka's jars are the reviewed ones or are not run."""

import hashlib
import re
from pathlib import Path

import pytest

from deploy.local import jars
from deploy.local.jars import KAFKA_VERSION, Jar, JarMismatchError, ensure_jars, read_lock


def pin(content: bytes = b"reviewed") -> Jar:
    return Jar("org.example", "thing", "1.0", hashlib.sha256(content).hexdigest())


def test_lock_pins_one_kafka_and_a_logging_binding_and_names_no_address() -> None:
    pinned = read_lock()
    assert {jar.version for jar in pinned if jar.group == "org.apache.kafka"} == {KAFKA_VERSION}
    assert {"slf4j-api", "log4j-core", "log4j-slf4j-impl"} <= {jar.artifact for jar in pinned}
    for line in jars.LOCK.read_text().splitlines():
        assert re.fullmatch(r"[\w.\-]+:[\w.\-]+:[\w.\-]+ [0-9a-f]{64}", line)


def test_tampered_jar_in_the_cache_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thing-1.0.jar").write_bytes(b"tampered")
    with pytest.raises(JarMismatchError, match=r"org\.example:thing:1\.0 .* is not run"):
        ensure_jars([pin()], tmp_path)


def test_download_with_another_content_is_refused_and_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def serve(jar: Jar, repository: Path) -> Path:
        path = repository / jar.filename
        path.write_bytes(b"something else")
        return path

    monkeypatch.setattr(jars, "_download", serve)
    with pytest.raises(JarMismatchError):
        ensure_jars([pin()], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_good_download_is_kept_and_checked_again_at_the_next_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[str] = []

    def serve(jar: Jar, repository: Path) -> Path:
        served.append(jar.filename)
        path = repository / jar.filename
        path.write_bytes(b"reviewed")
        return path

    monkeypatch.setattr(jars, "_download", serve)
    assert ensure_jars([pin()], tmp_path) == tmp_path
    assert ensure_jars([pin()], tmp_path) == tmp_path
    assert served == ["thing-1.0.jar"]
    (tmp_path / "thing-1.0.jar").write_bytes(b"changed")
    with pytest.raises(JarMismatchError):
        ensure_jars([pin()], tmp_path)


def test_malformed_lock_is_refused(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    lock.write_text("org.example:thing 1234\n")
    with pytest.raises(ValueError, match="group:artifact:version sha256"):
        read_lock(lock)
