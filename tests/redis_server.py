"""A real redis-server for tests: its own process, a free port on the loopback interface, nothing on disk, killed at the end."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass

from pipelines.services.process import free_ports
from pipelines.services.redis import redis_binary


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


def free_port() -> int:
    """A port of the loopback interface that was free just now."""
    return free_ports(1)[0]


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
