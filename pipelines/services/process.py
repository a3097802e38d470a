"""Child processes that do not outlive us, and facts about processes. Light: standard library only."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from transforms.errors import ConfigError

__all__ = ["free_ports", "last_line", "start_child", "started", "stop_child"]


def free_ports(count: int) -> list[int]:
    """``count`` ports of the loopback interface that were free just now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for s in sockets:
            s.bind(("127.0.0.1", 0))
        return [int(s.getsockname()[1]) for s in sockets]
    finally:
        for s in sockets:
            s.close()


def start_child(command: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Start a command that the kernel kills (SIGKILL) when we die, however we die (Linux; elsewhere: when we end in order and stop it).

    Its output is appended to ``log``. It has its own session: a Ctrl-C in our terminal reaches us alone, and we stop it.
    The tie is to the *thread* that starts it: call this from one that lives as long as the child should.
    """
    program = shutil.which(command[0])
    if program is None:
        raise ConfigError(f"{command[0]} is no command on this machine; install it or name another")
    log.parent.mkdir(parents=True, exist_ok=True)
    tether = [sys.executable, "-I", "-S", str(Path(__file__).with_name("tether.py")), str(os.getpid())]
    with open(log, "ab") as sink:
        return subprocess.Popen(
            [*tether, str(Path(program).absolute()), *command[1:]],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            env=None if env is None else dict(env),
            start_new_session=True,
        )


def stop_child(process: subprocess.Popen[bytes], seconds: float = 30) -> int:
    """SIGTERM, wait, then SIGKILL; the exit code. Harmless for one that has ended."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait()


def started(pid: int) -> str | None:
    """When a process started, as text that tells it from a later one of the same number; None if there is none (a zombie is none)."""
    try:
        # "pid (name, which may hold anything) state ppid ... starttime": field 22 counted from 1
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if fields[0] in "ZX" else fields[19]
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return None
    except OSError:  # it went while we read
        return None
    said = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
    return said or None


def last_line(log: Path, lines: int = 1) -> str:
    """The last lines of a log, joined, for a message."""
    try:
        with open(log, "rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - 16_384))
            text = file.read().decode(errors="replace").strip().splitlines()
    except OSError:
        text = []
    return " / ".join(line.strip() for line in text[-lines:]) or "no output"
