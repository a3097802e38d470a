"""Which process: its number, when it started and on which boot of which machine, so that a number given again is not mistaken for it.

Light: standard library only.
"""

from __future__ import annotations

import os
import pwd
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from transforms.own_program import boot_id

__all__ = ["ProcessId", "started", "user"]


@cache
def _host() -> str:
    """The name of this machine (or container), whose process numbers are ours to judge."""
    return socket.gethostname()


def user() -> str:
    """Who runs this process, by its user id (the environment may say what it likes); the number of one without a name, in a container."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def started(pid: int) -> str | None:
    """When a process started, as text that tells it from a later one of the same number; None if there is none (a zombie is none).

    ``<boot id>-<clock ticks since that boot>`` where there is ``/proc``; what ``ps`` says elsewhere, "" where there is neither.
    """
    try:
        # "pid (name, which may hold anything) state ppid ... starttime": field 22 counted from 1
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return None if fields[0] in "ZX" else f"{boot_id()[:8]}-{fields[19]}"
    except OSError:
        if Path("/proc/self/stat").exists():
            return None  # it is not there, or went while we read
    return _started_by_ps(pid)


def _started_by_ps(pid: int) -> str | None:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except OSError:
        pass
    try:
        return subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=True).stdout.strip() or None
    except (OSError, subprocess.CalledProcessError):
        return ""


@dataclass(frozen=True)
class ProcessId:
    """One process, now or ever. ``host`` "" is one whose machine nobody wrote down."""

    pid: int
    started: str
    host: str = ""

    @classmethod
    def of(cls, pid: int) -> ProcessId | None:
        """The process of this machine that has this number now."""
        at = started(pid)
        return None if at is None else cls(pid, at, _host())

    @classmethod
    def current(cls) -> ProcessId:
        """This process."""
        return cls(os.getpid(), started(os.getpid()) or "", _host())

    @classmethod
    def of_manifest(cls, manifest: Mapping[str, Any]) -> ProcessId | None:
        """The process that a run's manifest names as its maker; None if it names none."""
        if "pid" not in manifest:
            return None
        return cls(int(manifest["pid"]), manifest.get("process_start") or "", manifest.get("host") or "")

    def for_manifest(self) -> dict[str, Any]:
        """What a run's manifest says of its maker: ``pid``, ``process_start``, ``host``."""
        return {"pid": self.pid, "process_start": self.started, "host": self.host}

    @property
    def alive(self) -> bool | None:
        """Whether this very process is still there; None if that cannot be judged from here (it runs on another machine)."""
        if self.host not in ("", _host()):
            return None
        found = started(self.pid)
        if found is None:
            return False
        # What was written down before there was a boot id in it has the ticks alone.
        return self.started in ("", found) or self.started == found.rpartition("-")[2]
