"""The real Prometheus and Alertmanager and their tools: on $PATH, or Debian's packages, unpacked into the cache without being installed."""

from __future__ import annotations

import functools
import json
import os
import platform
import shutil
import subprocess
import tempfile
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from pipelines.services.jars import cache_folder
from transforms.locks import lock

PACKAGES = {
    "promtool": ("prometheus", "promtool"),  # in Debian 13 a package of its own
    "prometheus": ("prometheus",),
    "amtool": ("prometheus-alertmanager",),
    "prometheus-alertmanager": ("prometheus-alertmanager",),
}


def tool(name: str) -> str:
    """The path of a program of ``PACKAGES``; skips the test, with the reason, where neither $PATH nor apt-get has it."""
    found, why = _find(name)
    if not found:
        pytest.skip(why)
    return found


def with_its_files(name: str) -> list[str]:
    """The words that start a program which wants files of its package below /usr/share: where the package is only unpacked, they are laid
    over that folder, for this process alone."""
    path = tool(name)
    unpacked = Path(path).parents[2]
    if shutil.which(name):
        return [path]
    overlay = ["unshare", "--mount", "--map-root-user", "sh", "-c"]
    mount = 'mount -t overlay overlay -o lowerdir="$0/usr/share:/usr/share" /usr/share && '
    if subprocess.run([*overlay, mount + "true", str(unpacked)], capture_output=True, timeout=60).returncode:
        pytest.skip(f"{name} needs its package's files in /usr/share; install it (Debian: apt-get install {PACKAGES[name][-1]})")
    return [*overlay, mount + 'exec "$@"', str(unpacked), path]


@functools.cache
def _find(name: str) -> tuple[str, str]:
    if on_path := shutil.which(name):
        return on_path, ""
    fix = f"{name} is not on $PATH; install it (Debian: apt-get install {PACKAGES[name][-1]})"
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        return "", fix
    release = platform.freedesktop_os_release()  # two of them may share the cache, as a root folder and its machine do
    folders = cache_folder().parent / f"{release['ID']}-{release.get('VERSION_ID', 'testing')}"
    folders.mkdir(parents=True, exist_ok=True)
    why = "no package has it"
    with lock(folders / ".lock"):
        for package in PACKAGES[name]:
            program = folders / package / "usr" / "bin" / name
            if not program.parent.exists():
                why = _fetch(package, folders / package)
            if program.exists():
                return str(program), ""
    return "", f"{fix}; apt-get download: {why}"


def _fetch(package: str, folder: Path) -> str:
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
        for words in (["download", package], [*own, "update"], [*own, "download", package]):
            done = subprocess.run(["apt-get", *words], cwd=work, capture_output=True, text=True, timeout=240, stdin=subprocess.DEVNULL)
            said = next((line for line in reversed((done.stdout + done.stderr).splitlines()) if line.startswith("E:")), "")
            packages = list(work.glob("*.deb"))
            if packages:
                subprocess.run(["dpkg-deb", "-x", str(packages[0]), str(work / "unpacked")], check=True)
                shutil.rmtree(folder, ignore_errors=True)
                (work / "unpacked").rename(folder)
                return ""
        return said or "it has no such package"


def send_alerts(port: int, alerts: list[dict[str, Any]], process: subprocess.Popen[bytes], log: Path, until: float) -> None:
    """Give alerts to the Alertmanager at a port of this machine, as soon as it takes them; fails with what it said if it ends, or if
    :func:`time.monotonic` reaches ``until`` first."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/api/v2/alerts", json.dumps(alerts).encode(), {"Content-Type": "application/json"}
    )
    while True:
        try:
            urllib.request.urlopen(request, timeout=10).close()
            return
        except OSError:
            assert time.monotonic() < until and process.poll() is None, log.read_text()
            threading.Event().wait(0.1)
