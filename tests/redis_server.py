"""A real redis-server for tests: its own process, a free port on the loopback interface, killed at the end."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redis import Redis

from pipelines.lake.processes import free_ports
from pipelines.services.redis_server import redis_binary


@dataclass
class RedisServer:
    """A server on a port of its own; what it holds is in ``folder``, or in memory alone."""

    port: int
    folder: Path | None = None
    host: str = "127.0.0.1"
    process: subprocess.Popen[bytes] = field(init=False)

    @property
    def connection_string(self) -> str:
        """As in ``feature_store.yaml``."""
        return f"{self.host}:{self.port}"

    @property
    def client(self) -> Any:
        """As a client of its own."""
        return Redis(host=self.host, port=self.port)

    def start(self, seconds: float = 20.0) -> None:
        """Start it, or start it again after :meth:`kill`; returns when it answers."""
        keep = ["--appendonly", "no"] if self.folder is None else ["--appendonly", "yes", "--dir", str(self.folder)]
        self.process = subprocess.Popen(
            [
                redis_binary(),
                "--port",
                str(self.port),
                "--bind",
                self.host,
                "--protected-mode",
                "no",
                "--save",
                "",
                "--daemonize",
                "no",
                *keep,
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
        )
        until = time.monotonic() + seconds
        while True:
            with contextlib.suppress(OSError), socket.create_connection((self.host, self.port), timeout=1) as s:
                s.sendall(b"PING\r\n")
                if s.recv(16).startswith(b"+PONG"):
                    return
            if self.process.poll() is not None or time.monotonic() > until:
                self.kill()
                raise RuntimeError(f"redis-server does not answer on port {self.port} (exit code {self.process.poll()})")
            time.sleep(0.02)

    def kill(self) -> None:
        """End it at once, without a chance to save anything."""
        self.process.kill()
        self.process.wait()


def free_port() -> int:
    """A port of the loopback interface that was free just now."""
    return free_ports(1)[0]


@contextlib.contextmanager
def redis_server(seconds: float = 20.0, folder: Path | None = None, host: str = "127.0.0.1") -> Iterator[RedisServer]:
    """A server that answers."""
    server = RedisServer(free_port(), folder, host)
    server.start(seconds)
    try:
        yield server
    finally:
        server.kill()
