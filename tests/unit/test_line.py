"""``docker/line.sh``, which line of packages ``make setup`` takes and with which Python, on machines of all kinds.

A machine is here what the script asks of one: ``uname``, ``getconf`` and interpreters, as little programs in a folder that is its PATH.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "docker" / "line.sh"
LOCKS = {"modern": "requirements-modern.lock", "older": "requirements.lock"}
OLD, NEW = "glibc 2.36", "glibc 2.39"


def program(path: Path, says: str) -> None:
    path.write_text(f"#!/bin/sh\n{says}\n")
    path.chmod(0o755)


def machine(folder: Path, glibc: str, pythons: Mapping[str, str], kind: str) -> Path:
    """A folder for PATH: a system with this C library ("": none) and interpreters of these versions ("": without venv)."""
    folder.mkdir()
    for tool in ("cat", "sed"):
        (folder / tool).symlink_to(str(shutil.which(tool)))
    system, processor = kind.split()
    program(folder / "uname", f'[ "$1" = -s ] && echo {system} || echo {processor}')
    program(folder / "getconf", f"echo {glibc}" if glibc else "exit 1")
    for name, version in pythons.items():
        short = version.rpartition(".")[0]
        about = f"echo {short} {folder / name}" if version else "exit 1"
        program(folder / name, f'[ "$1" = -V ] && echo Python {version} || {about}')
    return folder


def asked(path: Path, python: str = "", earlier: Path = Path("/dev/null")) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["/bin/sh", SCRIPT, python, earlier], env={"PATH": str(path)}, capture_output=True, text=True)


def chosen(*arguments: Path | str) -> tuple[str, str, str]:
    """The line, the interpreter's name, and the reason."""
    answer = asked(*arguments)  # type: ignore[arg-type]
    assert answer.returncode == 0, answer.stderr
    lock, interpreter, why = answer.stdout.splitlines()
    line = why.split()[0]
    assert lock == LOCKS[line]
    return line, Path(interpreter).name, why


DEBIAN_12 = {"python3": "3.11.2", "python3.11": "3.11.2"}
UBUNTU_24 = {"python3": "3.12.3", "python3.12": "3.12.3"}
DEBIAN_13 = {"python3": "3.13.5", "python3.13": "3.13.5"}
LINUX, MAC = "Linux x86_64", "Darwin arm64"


@pytest.mark.parametrize(
    ("glibc", "pythons", "kind", "python", "line", "interpreter", "version"),
    [
        (NEW, UBUNTU_24, LINUX, "", "modern", "python3.12", "3.12.3"),
        (NEW, UBUNTU_24, LINUX, "python3.12", "modern", "python3.12", "3.12.3"),
        (NEW, UBUNTU_24, LINUX, "python3", "modern", "python3", "3.12.3"),
        (NEW, {"python3": "3.12.3"}, LINUX, "", "modern", "python3", "3.12.3"),
        ("glibc 2.41", DEBIAN_13, LINUX, "", "modern", "python3.13", "3.13.5"),
        (NEW, UBUNTU_24 | DEBIAN_13, LINUX, "", "modern", "python3.13", "3.13.5"),
        (NEW, UBUNTU_24 | DEBIAN_13, LINUX, "python3.12", "modern", "python3.12", "3.12.3"),
        (NEW, UBUNTU_24 | DEBIAN_12, LINUX, "python3.11", "older", "python3.11", "3.11.2"),
        (NEW, {"python3.13": "", "python3.12": "3.12.3"}, LINUX, "", "modern", "python3.12", "3.12.3"),
        (NEW, DEBIAN_12 | {"python3": "3.14.0"}, LINUX, "", "older", "python3.11", "3.11.2"),
        (OLD, DEBIAN_12, LINUX, "", "older", "python3.11", "3.11.2"),
        (OLD, DEBIAN_12 | {"python3.12": "3.12.1"}, LINUX, "", "older", "python3.11", "3.11.2"),
        ("", UBUNTU_24, MAC, "", "modern", "python3.12", "3.12.3"),
        ("", UBUNTU_24, MAC, "python3.12", "modern", "python3.12", "3.12.3"),
    ],
)
def test_the_line_that_fits(
    tmp_path: Path, glibc: str, pythons: dict[str, str], kind: str, python: str, line: str, interpreter: str, version: str
) -> None:
    found, by, why = chosen(machine(tmp_path / "bin", glibc, pythons, kind), python)
    assert (found, by) == (line, interpreter)
    assert why.startswith(f"{line} line (Python {version}): ")
    assert (f"PYTHON={python} asks for it" in why) == bool(python)


@pytest.mark.parametrize(
    ("glibc", "pythons", "kind", "python", "words"),
    [
        (OLD, {"python3.12": "3.12.1"}, LINUX, "python3.12", "takes the modern line, which needs glibc 2.39, and here glibc is 2.36"),
        (OLD, {"python3.12": "3.12.1"}, LINUX, "", "glibc is 2.36, and no Python 3.11 with venv was found"),
        (NEW, {"python3": "3.14.0"}, LINUX, "", "glibc is 2.39, and no Python 3.12 or 3.13 with venv was found"),
        (NEW, {"python3": "3.14.0"}, LINUX, "python3", "is Python 3.14; name one of 3.11 (older line), 3.12 or 3.13 (modern line)"),
        (NEW, DEBIAN_13, LINUX, "python3.12", "PYTHON=python3.12 was not found"),
        (NEW, {"python3.12": ""}, LINUX, "python3.12", "PYTHON=python3.12 cannot make virtual environments"),
        ("", UBUNTU_24 | DEBIAN_12, MAC, "python3.11", "PYTHON=python3.11 takes the older line, which has no packages for macOS on arm64"),
        ("", DEBIAN_12, MAC, "", "macOS on arm64, and no Python 3.12 or 3.13 with venv was found"),
        ("", UBUNTU_24, LINUX, "", "this Linux has no glibc"),
        (NEW, UBUNTU_24, "Linux aarch64", "", "neither line has packages for Linux on aarch64"),
        ("", DEBIAN_12, "Darwin x86_64", "", "neither line has packages for Darwin on x86_64"),
    ],
)
def test_what_fits_no_line_is_one_line(tmp_path: Path, glibc: str, pythons: dict[str, str], kind: str, python: str, words: str) -> None:
    answer = asked(machine(tmp_path / "bin", glibc, pythons, kind), python)
    assert (answer.returncode, answer.stdout) == (1, "")
    assert len(answer.stderr.splitlines()) == 1
    assert words in answer.stderr


def test_a_choice_stays_as_long_as_its_python_runs(tmp_path: Path) -> None:
    here, earlier = machine(tmp_path / "bin", NEW, UBUNTU_24 | DEBIAN_13, LINUX), tmp_path / "line"
    earlier.write_text(asked(here, "python3.12").stdout)
    assert chosen(here, "", earlier)[:2] == ("modern", "python3.12")
    assert chosen(here, "python3.13", earlier)[:2] == ("modern", "python3.13")
    (here / "python3.12").unlink()
    assert chosen(here, "", earlier)[:2] == ("modern", "python3.13")
