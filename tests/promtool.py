"""The real ``promtool`` and ``prometheus``: on $PATH, or Debian's package, unpacked into the cache without being installed."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from pipelines.lake.locks import alone
from pipelines.services.jars import cache_folder

PACKAGE = "prometheus"


def tool(name: str) -> str:
    """The path of ``promtool`` or ``prometheus``; skips the test, with the reason, where neither $PATH nor apt-get has it."""
    found, why = _find(name)
    if not found:
        pytest.skip(why)
    return found


@functools.cache
def _find(name: str) -> tuple[str, str]:
    if on_path := shutil.which(name):
        return on_path, ""
    mend = f"{name} is not on $PATH; install Prometheus (Debian: apt-get install prometheus)"
    folder = cache_folder().parent / PACKAGE
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        return "", mend
    with alone(folder.parent, lambda line: None, ""):
        if not (folder / "usr" / "bin" / name).exists():
            why = _fetch(folder)
            if why:
                return "", f"{mend}; apt-get download: {why}"
    return str(folder / "usr" / "bin" / name), ""


def _fetch(folder: Path) -> str:
    """Unpack the package into ``folder``; why not, in a line, or nothing. apt checks it against the archive's signature."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as text:
        work = Path(text)
        os.chmod(work, 0o755)
        state, cache = work / "state", work / "cache"
        for part in (state / "lists" / "partial", cache / "archives" / "partial"):
            part.mkdir(parents=True)
        # Lists of its own, so that it works for any user, and on a machine whose lists were never fetched.
        own = ["-o", f"Dir::State={state}", "-o", "Dir::State::status=/var/lib/dpkg/status", "-o", f"Dir::Cache={cache}", "-q"]
        said = ""
        for words in (["download", PACKAGE], [*own, "update"], [*own, "download", PACKAGE]):
            done = subprocess.run(["apt-get", *words], cwd=work, capture_output=True, text=True, timeout=240, stdin=subprocess.DEVNULL)
            said = next((line for line in reversed((done.stdout + done.stderr).splitlines()) if line.startswith("E:")), "")
            packages = list(work.glob("*.deb"))
            if packages:
                subprocess.run(["dpkg-deb", "-x", str(packages[0]), str(work / "unpacked")], check=True)
                shutil.rmtree(folder, ignore_errors=True)
                (work / "unpacked").rename(folder)
                return ""
        return said or "it has no such package"
