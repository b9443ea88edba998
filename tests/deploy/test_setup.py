"""`deploy/setup.sh` for a newcomer: which Python it takes, what it says where nothing can work, in a path of any name.

Everything that it calls is a stub that writes down how it was called; the shell is the real one.
"""

import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "deploy" / "setup.sh"

PYTHON = """#!/bin/sh
printf '%s\\n' "$0 $*" >> "$CALLS"
case "$*" in
  *"sys.version_info"*) exit FITS ;;
  *ensurepip*) exit "${ENSUREPIP:-0}" ;;
  *"-m venv"*)
    for target; do :; done
    mkdir -p "$target/bin" && cp "$0" "$target/bin/python" ;;
  "-m pip --version") case "$0" in .venv/*) exit "${ENSUREPIP:-0}" ;; esac ;;
esac
"""


class Machine:
    """A checkout in `folder` and a PATH with nothing but what a test puts there."""

    def __init__(self, base: Path, checkout: str = "a b") -> None:
        self.folder, self.bin, self.calls = base / checkout, base / "bin", base / "calls"
        (self.folder / "deploy").mkdir(parents=True)
        shutil.copy(SCRIPT, self.folder / "deploy")
        self.bin.mkdir()
        for tool in ("sh", "cat", "cp", "mkdir", "rm", "ln", "cut", "cksum", "grep"):
            found = shutil.which(tool)
            assert found, tool
            (self.bin / tool).symlink_to(found)
        self.system("Linux")

    def stub(self, name: str, text: str) -> None:
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def system(self, name: str, libc: str = "ldd (GNU libc) 2.41") -> None:
        self.stub("uname", f"#!/bin/sh\necho {name}\n")
        self.stub("ldd", f"#!/bin/sh\necho '{libc}' >&2\n")

    def python(self, name: str, *, fits: bool = True) -> None:
        self.stub(name, PYTHON.replace("FITS", "0" if fits else "1"))

    def setup(self, **env: str) -> "subprocess.CompletedProcess[str]":
        given = {"PATH": str(self.bin), "HOME": str(self.bin.parent), "CALLS": str(self.calls), **env}
        return subprocess.run(
            ["/bin/sh", "deploy/setup.sh"], cwd=self.folder, env=given, capture_output=True, text=True, check=False
        )

    def called(self, words: str) -> list[str]:
        return [line for line in self.calls.read_text().splitlines() if words in line]


@pytest.mark.parametrize(
    ("there", "taken"),
    [
        (["python3.11", "python3.13", "python3"], "python3.13"),
        (["python3.11", "python3"], "python3.11"),
        (["python3.14"], "python3.14"),
        (["python3"], "python3"),
    ],
)
@pytest.mark.rule(37)
def test_the_python_that_fits_best_makes_the_environment(tmp_path: Path, there: list[str], taken: str) -> None:
    machine = Machine(tmp_path)
    machine.python("python3.12", fits=False)
    for name in there:
        machine.python(name)
    done = machine.setup()
    assert done.returncode == 0, done.stderr
    [made] = machine.called("-m venv")
    assert made.startswith(str(machine.bin / taken))
    assert "--without-pip" not in made
    [installed] = machine.called("--require-hashes")
    assert "--only-binary :all:" in installed
    assert machine.called("deploy.local.jars fetch")


@pytest.mark.rule(37)
def test_a_python_without_ensurepip_gets_an_environment_without_pip(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.python("python3")
    done = machine.setup(ENSUREPIP="1")
    assert done.returncode == 0, done.stderr
    assert "--without-pip" in machine.called("-m venv")[0]
    assert "-m pip --python .venv/bin/python install" in machine.called("--require-hashes")[0]


@pytest.mark.parametrize(
    ("system", "libc", "said"),
    [
        ("MINGW64_NT-10.0", "", "on Windows run it inside WSL 2"),
        ("Linux", "musl libc (x86_64)", "this system uses musl"),
    ],
)
@pytest.mark.rule(37)
def test_what_cannot_work_is_said_before_anything_is_made(tmp_path: Path, system: str, libc: str, said: str) -> None:
    machine = Machine(tmp_path)
    machine.system(system, libc)
    machine.python("python3")
    done = machine.setup()
    assert done.returncode == 1
    assert said in done.stderr
    assert not (machine.folder / ".venv").exists()


@pytest.mark.rule(37)
def test_without_a_python_that_fits_it_says_what_it_tried_and_how_to_name_one(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.python("python3", fits=False)
    done = machine.setup()
    assert done.returncode == 1
    assert "tried: python3.13 python3.12 python3.11 python3.14 python3" in done.stderr
    machine.python("mine")
    assert machine.setup(PYTHON=str(machine.bin / "mine")).returncode == 0


@pytest.mark.rule(37)
def test_a_checkout_with_a_colon_in_its_path_has_its_environment_elsewhere(tmp_path: Path) -> None:
    machine = Machine(tmp_path, "a b:c")
    machine.python("python3")
    done = machine.setup()
    assert done.returncode == 0, done.stderr
    environment = machine.folder / ".venv"
    assert environment.is_symlink()
    assert ":" not in str(environment.resolve())
    assert (environment / "bin" / "python").exists()
