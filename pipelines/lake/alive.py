"""Whether the process of a run still lives: by its id and the moment it started, so that a reused id is not mistaken for it."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ["lives", "process", "started_at"]


@cache
def host() -> str:
    """The name of this machine (or container), whose process ids are ours to judge."""
    return socket.gethostname()


def started_at(pid: int) -> str | None:
    """A text that two processes of one id do not share; None if there is no such process (a dead one that nobody waited for included)."""
    stat = Path("/proc") / str(pid) / "stat"
    try:
        fields = stat.read_text(errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        if Path("/proc/self/stat").exists():
            return None
        return _by_ps(pid)
    except OSError:
        return _by_ps(pid)
    return None if fields[0] in "ZX" else fields[19]


def _by_ps(pid: int) -> str | None:
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


def process() -> dict[str, Any]:
    """What a manifest says of the process that makes the run: ``pid``, ``process_start``, ``host``."""
    return {"pid": os.getpid(), "process_start": started_at(os.getpid()), "host": host()}


def lives(manifest: Mapping[str, Any]) -> bool | None:
    """Whether the run's process lives; None if that cannot be judged from here (another machine, or an older manifest)."""
    if "pid" not in manifest or manifest.get("host", host()) != host():
        return None
    found = started_at(int(manifest["pid"]))
    return found is not None and manifest.get("process_start") in (None, "", found)
