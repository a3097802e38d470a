"""The one place that starts processes: Python of this installation, JVMs, servers; tied to us so that they do not outlive us.

Python children are those of :mod:`transforms.own_program`. Light: standard library only.
"""

from __future__ import annotations

import contextlib
import os
import queue
import re
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import IO, Any, NoReturn

from serving import tracing
from transforms.errors import ConfigError

__all__ = [
    "become", "free_ports", "let_go", "port_taken", "reason", "rotate", "start_child", "start_detached", "stop_child", "tail",
]  # fmt: skip

_DIE_WITH_PARENT = str(Path(__file__).with_name("die_with_parent.py"))
_LARGE_LOG = 16 << 20


def become(command: Sequence[str]) -> NoReturn:
    """Take up another program in place of this one, in the same process."""
    tracing.finish()
    os.execv(command[0], list(command))


# --------------------------------------------------------------------------------------------------------- children that die with us

_orders: queue.SimpleQueue[tuple[list[str], dict[str, Any], Future[subprocess.Popen[bytes]]]] = queue.SimpleQueue()
_starter: list[threading.Thread] = []
_starting = threading.Lock()


def _serve() -> None:
    while True:
        command, how, answer = _orders.get()
        try:
            answer.set_result(subprocess.Popen(command, **how))
        except BaseException as error:
            answer.set_exception(error)


def start_child(
    command: Sequence[str],
    log: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    *,
    new_log: bool = False,
    stdin: int = subprocess.DEVNULL,
    output: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Start a command that the kernel kills (SIGKILL) when we die, however we die (Linux; elsewhere: when we end in order and stop it).

    What it says is appended to ``log`` (``new_log``: in place of what is there); its standard output goes to the file ``output`` if that is
    given. ``env`` is its whole environment, by default ours. It has its own session: a Ctrl-C in our terminal reaches us alone, and we
    stop it. The kernel ties a child to the *thread* that starts it: all are started by one that lives as long as we do. Raises ConfigError.
    """
    program = shutil.which(command[0])
    if program is None:
        raise ConfigError(f"{command[0]} is not a command on this machine; install it or give another")
    tied = [sys.executable, "-I", "-S", _DIE_WITH_PARENT, str(os.getpid()), str(Path(program).absolute()), *command[1:]]
    log.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as files:
        said: IO[bytes] = files.enter_context(open(log, "wb" if new_log else "ab"))
        out = said if output is None else files.enter_context(open(output, "wb"))
        how = {"stdin": stdin, "stdout": out, "stderr": said, "env": None if env is None else dict(env), "cwd": cwd}
        answer: Future[subprocess.Popen[bytes]] = Future()
        with _starting:
            if not _starter or not _starter[0].is_alive():  # not yet, or not in this fork of the process
                _starter[:] = [threading.Thread(target=_serve, name="starts children", daemon=True)]
                _starter[0].start()
        _orders.put((tied, {**how, "start_new_session": True}, answer))
        return answer.result()


def stop_child(process: subprocess.Popen[bytes], seconds: float = 30) -> int:
    """SIGTERM, wait, then SIGKILL (``seconds`` 0: at once); the exit code. Harmless for one that has ended."""
    if process.poll() is None and seconds > 0:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(seconds)
    if process.poll() is None:
        process.kill()
    return process.wait()


# --------------------------------------------------------------------------------------------------------- processes that outlive us

_released: list[int] = []


def start_detached(
    command: Sequence[str],
    log: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    *,
    new_log: bool = False,
    stdout: int | None = None,
) -> subprocess.Popen[bytes]:
    """Start a command that may live on when we and our terminal are gone. Its standard input is a pipe; ``let_go`` of it in the end.

    What it says is appended to ``log`` (``new_log``: in place of what is there), but for its standard output where that is ``PIPE``.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "wb" if new_log else "ab") as said:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=said if stdout is None else stdout,
            stderr=said,
            env=None if env is None else dict(env),
            cwd=cwd,
            start_new_session=True,
        )


def let_go(process: subprocess.Popen[bytes]) -> None:
    """The process goes on without us: nobody waits for it. Those let go of before that have ended are taken off the process table."""
    for pid in _released[:]:
        with contextlib.suppress(ChildProcessError):
            if os.waitpid(pid, os.WNOHANG) == (0, 0):
                continue
        _released.remove(pid)
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
    _released.append(process.pid)
    process.returncode = 0  # without this, Python complains of a child that still runs


# -------------------------------------------------------------------------------------------------------------------- ports and logs


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


def rotate(log: Path) -> None:
    """Begin a log anew once it is large; one older part is kept."""
    if log.exists() and log.stat().st_size > _LARGE_LOG:
        log.replace(log.with_name(log.name + ".1"))


def tail(log: Path, size: int, begin: int = 0) -> str:
    """The last ``size`` bytes of a log, from byte ``begin`` on; empty where it cannot be read. Reads no more of it."""
    try:
        with open(log, "rb") as file:
            file.seek(max(begin, file.seek(0, os.SEEK_END) - size))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def reason(log: Path, begin: int = 0) -> str:
    """The line of a log, from byte ``begin`` on, that most likely tells why its process ended."""
    lines = [line.strip() for line in tail(log, 65_536, begin).splitlines()]
    told = [line for line in lines if line and not line.startswith(("at ", "..."))]
    blamed = [line for line in told if re.search(r"\b(ERROR|FATAL)\b|Exception|Error:|# ", line)]
    return (blamed or told or ["no output"])[-1][:300]
