"""Child processes that do not outlive us, and facts about processes. Light: standard library only."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from transforms.errors import ConfigError

__all__ = ["alone", "free_ports", "port_taken", "reason", "rotate", "start_child", "started", "stop_child"]


@contextlib.contextmanager
def alone(folder: Path, say: Callable[[str], None], waiting: str) -> Iterator[None]:
    """One process at a time in ``folder``; the others say ``waiting`` and wait. The hold ends with the process, however it ends."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(waiting)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


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


def port_taken(port: int) -> bool:
    """Whether somebody listens on this port of the loopback interface."""
    with socket.socket() as probe:
        # Connections that have ended linger for a minute; they do not hinder a server.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
        return False


def rotate(log: Path, above: int = 16 << 20) -> None:
    """Begin a log anew once it is large; one older part is kept."""
    if log.exists() and log.stat().st_size > above:
        log.replace(log.with_name(log.name + ".1"))


def start_child(
    command: Sequence[str], log: Path, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> subprocess.Popen[bytes]:
    """Start a command that the kernel kills (SIGKILL) when we die, however we die (Linux; elsewhere: when we end in order and stop it).

    Its output is appended to ``log``. It has its own session: a Ctrl-C in our terminal reaches us alone, and we stop it.
    The tie is to the *thread* that starts it: call this from one that lives as long as the child should.
    """
    program = shutil.which(command[0])
    if program is None:
        raise ConfigError(f"{command[0]} is no command on this machine; install it or name another")
    log.parent.mkdir(parents=True, exist_ok=True)
    tether = [sys.executable, "-I", "-S", str(Path(__file__).with_name("die_with_parent.py")), str(os.getpid())]
    with open(log, "ab") as sink:
        return subprocess.Popen(
            [*tether, str(Path(program).absolute()), *command[1:]],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            env=None if env is None else dict(env),
            cwd=cwd,
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
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()[:8]
        return None if fields[0] in "ZX" else f"{boot}-{fields[19]}"
    except FileNotFoundError:
        if Path("/proc/self/stat").exists():
            return None
    except OSError:  # it went while we read
        return None
    said = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True).stdout.strip()
    return said or None


def reason(log: Path, begin: int = 0) -> str:
    """The line of a log, from byte ``begin`` on, that most likely tells why its process ended."""
    try:
        with open(log, "rb") as file:
            file.seek(max(begin, file.seek(0, os.SEEK_END) - 65_536))
            lines = [line.strip() for line in file.read().decode(errors="replace").splitlines()]
    except OSError:
        lines = []
    told = [line for line in lines if line and not line.startswith(("at ", "..."))]
    blamed = [line for line in told if re.search(r"\b(ERROR|FATAL)\b|Exception|Error:|# ", line)]
    return (blamed or told or ["it said nothing"])[-1][:300]
