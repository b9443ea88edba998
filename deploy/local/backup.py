"""A backup of all databases of an instance at one point, and the way back.

They are databases of one server with one log, so a base backup is one moment for all of them: what a service did
because of another's message is in it only with what that one did before. The files, once written, are checked against
the manifest that the server made, and again before anything is replaced by them.
"""

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from deploy.local.files import is_locked, keep_secrets, write_private
from deploy.local.ports import kept_ports
from deploy.local.postgres import SUPERUSER, Postgres, server_account, wheel_folder
from deploy.local.supervisor import base_environment


class BackupError(Exception):
    """The backup was not made or cannot be used; the text says why and what to do. Nothing was replaced."""


def take(instance: Path, folder: Path) -> Path:
    """Write the databases of a running instance, as of one moment near the end, into `folder`, which must be new.

    It holds secrets (what sealed the data and lets in to it) and is readable by its owner alone. Raises `BackupError`.
    """
    instance, folder = Path(instance).absolute(), Path(folder).absolute()
    if not is_locked(instance / "lock"):
        raise BackupError(f"nothing is running in {instance}: start it with `saldo up`")
    try:
        folder.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        raise BackupError(f"{folder} is there already: name a new folder") from None
    port = kept_ports(instance)["postgres"]
    password = keep_secrets(instance, ("postgres",))["postgres"]
    try:
        _run(
            "pg_basebackup",
            ("-D", str(folder / "data"), "-h", "127.0.0.1", "-p", str(port), "-U", SUPERUSER, "--no-password",
             "--checkpoint=fast", "--wal-method=stream", "--manifest-checksums=SHA256"),
            password,
        )  # fmt: skip
        _verify(folder)
        (folder / "secrets.json").touch(mode=0o600)
        shutil.copyfile(instance / "secrets.json", folder / "secrets.json")
        # Last: a folder without it is no backup.
        write_private(folder / "backup.json", json.dumps({"taken_at": datetime.now(UTC).isoformat()}) + "\n")
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder


def put_back(instance: Path, folder: Path) -> None:
    """Replace the databases of a stopped instance, and its log of messages by an empty one. Raises `BackupError`.

    The log may hold what happened after the backup, of which the databases then know nothing.
    """
    instance, folder = Path(instance).absolute(), Path(folder).absolute()
    if is_locked(instance / "lock"):
        raise BackupError(f"{instance} is running: stop it with `saldo down`")
    if not (folder / "backup.json").exists():
        raise BackupError(f"{folder} holds no whole backup: name one that `saldo backup` wrote")
    _verify(folder)
    postgres = Postgres(instance / "postgres", 0, "")
    postgres.folder.mkdir(parents=True, exist_ok=True)
    account = server_account()
    if account:
        postgres.own_home(account)
    # Beside the old data first: a full disk is met before anything is gone.
    beside = postgres.home / "restored"
    shutil.rmtree(beside, ignore_errors=True)
    shutil.copytree(folder / "data", beside, symlinks=True)
    if account:
        for place in (beside, *beside.rglob("*")):
            os.chown(place, account.pw_uid, account.pw_gid, follow_symlinks=False)
    beside.chmod(0o700)
    shutil.rmtree(postgres.data, ignore_errors=True)
    beside.rename(postgres.data)
    shutil.rmtree(instance / "kafka", ignore_errors=True)
    write_private(instance / "secrets.json", (folder / "secrets.json").read_text())


def _verify(folder: Path) -> None:
    """Compare every file with the manifest; the wheel's own pg_verifybackup ends with a segmentation fault."""
    data = folder / "data"
    try:
        files = json.loads((data / "backup_manifest").read_text())["Files"]
        for told in files:
            with (data / told["Path"]).open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != told["Checksum"]:
                    raise BackupError(f"{data / told['Path']} is not what was written: take another backup")
    except (OSError, ValueError, KeyError) as error:
        raise BackupError(f"{folder} is damaged ({error}): take another backup") from None


def _run(name: str, arguments: Sequence[str], password: str) -> None:
    done = subprocess.run(  # noqa: S603 - a binary of the wheel, our own arguments
        [str(wheel_folder() / "pginstall18" / "bin" / name), *arguments],
        env=base_environment() | {"LC_ALL": "C", "PGPASSWORD": password},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    if done.returncode != 0:
        raise BackupError(f"{name}: {done.stdout.decode(errors='replace').strip()}")
