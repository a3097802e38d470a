"""A real MySQL, as MariaDB, for tests: its own process, a free port on the loopback interface, killed at the end."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from pipelines.lake.processes import free_ports

USER, PASSWORD, DATABASE = "tandem", "not-a-secret", "shop"
PROGRAMS = ("mariadbd", "mariadb-install-db", "mariadb")


def missing_programs() -> list[str]:
    """What a server and its client need and this machine does not have; Debian: mariadb-server-core, mariadb-client-core."""
    return [name for name in PROGRAMS if _found(name) is None]


def _found(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


@dataclass
class MySqlServer:
    """A server on a port of its own, whose only other way in is a socket in its folder. It refuses to run as root: then it runs as
    nobody."""

    folder: Path
    port: int
    process: subprocess.Popen[bytes] = field(init=False)

    @property
    def address(self) -> str:
        """What stands behind ``mysql:`` in the variable that names it."""
        return f"host=127.0.0.1 port={self.port} user={USER} password={PASSWORD} database={DATABASE}"

    def create(self) -> None:
        """Make its folder."""
        self._own()
        made = self._run("mariadb-install-db", "--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db", *self._where)
        if made.wait(120):
            raise RuntimeError(f"mariadb-install-db failed: {self._said()}")

    def start(self, seconds: float = 60.0) -> None:
        """Start it; returns when it answers, with the database and its user."""
        how = (
            "--bind-address=127.0.0.1",
            f"--port={self.port}",
            f"--socket={self.socket}",
            "--innodb-flush-log-at-trx-commit=0",
            "--default-time-zone=+05:00",
        )
        self.process = self._run("mariadbd", "--no-defaults", *self._where, *how)
        until = time.monotonic() + seconds
        while True:
            with contextlib.suppress(subprocess.CalledProcessError):
                self.execute(
                    f"CREATE DATABASE {DATABASE} CHARACTER SET utf8mb4; CREATE USER '{USER}'@'127.0.0.1' IDENTIFIED BY '{PASSWORD}';"
                    f" GRANT SELECT ON {DATABASE}.* TO '{USER}'@'127.0.0.1'",
                    "",
                )
                return
            if self.process.poll() is not None or time.monotonic() > until:
                self.kill()
                raise RuntimeError(f"mariadbd does not answer on port {self.port} (exit code {self.process.poll()}): {self._said()}")
            time.sleep(0.1)

    def execute(self, statements: str, database: str = DATABASE) -> None:
        """Run statements as root, through the socket. Raises CalledProcessError."""
        client = _found("mariadb")
        assert client is not None
        command = [client, "--no-defaults", f"--socket={self.socket}", "--user=root", "--default-character-set=utf8mb4", database]
        subprocess.run([part for part in command if part], input=statements.encode(), check=True, capture_output=True)

    def kill(self) -> None:
        """End it at once."""
        self.process.kill()
        self.process.wait()

    @property
    def socket(self) -> Path:
        """Its socket."""
        return self.folder / "socket"

    @property
    def _where(self) -> tuple[str, ...]:
        return (f"--datadir={self.folder / 'data'}", f"--pid-file={self.folder / 'pid'}", "--innodb-buffer-pool-size=32M")

    def _own(self) -> None:
        if os.getuid() == 0:
            shutil.chown(self.folder, "nobody")

    def _said(self) -> str:
        return "".join(log.read_text(errors="replace")[-2000:] for log in sorted(self.folder.glob("*.log")))

    def _run(self, program: str, *args: str) -> subprocess.Popen[bytes]:
        path = _found(program)
        assert path is not None
        with open(self.folder / f"{program}.log", "ab") as log:
            env = {"PATH": f"{os.environ['PATH']}:/usr/sbin", "HOME": str(self.folder)}
            if os.getuid() != 0:
                return subprocess.Popen([path, *args], stdout=log, stderr=log, cwd=self.folder, env=env)
            group = os.stat(self.folder).st_gid
            return subprocess.Popen(
                [path, *args], stdout=log, stderr=log, cwd=self.folder, env=env, user="nobody", group=group, extra_groups=[]
            )


@contextlib.contextmanager
def mysql_server() -> Iterator[MySqlServer]:
    """A server that answers."""
    with tempfile.TemporaryDirectory(prefix="tandem-mysql-", ignore_cleanup_errors=True) as folder:
        server = MySqlServer(Path(folder), free_ports(1)[0])
        server.create()
        server.start()
        try:
            yield server
        finally:
            server.kill()
