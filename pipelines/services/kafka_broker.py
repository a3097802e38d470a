"""A Kafka broker as a local process: one KRaft node, loopback only, data and logs in one folder.

With ``secured`` (as ``tandem up`` has it) both its listeners ask for a password (SASL, PLAIN: it does not leave the machine), generated at
the first start and kept in the file ``password`` of the folder, which its owner alone may read, as the broker's settings.
"""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import time
import uuid
from pathlib import Path
from typing import Any

from pipelines.lake.private import without_secrets, write_private
from pipelines.lake.processes import free_ports, port_taken, reason, rotate, start_child, stop_child
from pipelines.services import jars
from pipelines.services import service_state as state
from transforms.errors import ConfigError, StoreError

__all__ = ["LOCAL_USER", "PASSWORD", "Broker", "answers", "password_of", "running"]

HOST = "127.0.0.1"
LOCAL_USER, PASSWORD = "tandem", "password"
SECONDS_TO_START = 90.0
# Of a small machine's memory and time: the first compiler tier alone, one garbage collecting thread. The log goes to the log file.
JVM = (
    "-Xms128m",
    "-Xmx512m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:+ExitOnOutOfMemoryError",
    "-Djava.awt.headless=true",
    "-Djava.net.preferIPv4Stack=true",
    "-XX:-UsePerfData",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.log.org.apache.kafka.clients.NetworkClient=error",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSS",
    "-Dorg.slf4j.simpleLogger.showShortLogName=true",
)
SETTINGS = {
    "process.roles": "broker,controller",
    "node.id": 1,
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
    "inter.broker.listener.name": "PLAINTEXT",
    "auto.create.topics.enable": "false",  # a mistyped topic is an error, not a new topic
    "log.retention.ms": -1,  # replayed history carries old timestamps: with a limit it would be deleted within minutes
    "log.retention.bytes": -1,
    "log.segment.bytes": 134_217_728,
    "log.cleaner.dedupe.buffer.size": 4_194_304,  # the default takes 128 MB at the start
    "num.partitions": 1,
    "num.network.threads": 2,
    "num.io.threads": 4,
    "num.recovery.threads.per.data.dir": 2,
    "background.threads": 2,
    "broker.session.timeout.ms": 2000,  # after a kill the broker is let in again after this
    "broker.heartbeat.interval.ms": 500,
    "controller.quorum.election.timeout.ms": 200,
    "controller.quorum.fetch.timeout.ms": 2000,
    "default.replication.factor": 1,
    "min.insync.replicas": 1,
    "offsets.topic.replication.factor": 1,
    "offsets.topic.num.partitions": 4,
    "transaction.state.log.replication.factor": 1,
    "transaction.state.log.min.isr": 1,
    "transaction.state.log.num.partitions": 4,
    "group.initial.rebalance.delay.ms": 0,
    "message.max.bytes": 10_485_760,
    "replica.fetch.max.bytes": 10_485_760,
    "delete.topic.enable": "true",
}


def running(data: Path) -> str | None:
    """``host:port`` of the broker that ``tandem up`` started for this data folder, None if none runs."""
    return state.address(data, "kafka")


def password_of(folder: Path) -> str:
    """The password of the broker whose everything lies in ``folder``; "" of one that asks for none."""
    try:
        return (folder / PASSWORD).read_text("ascii").strip()
    except FileNotFoundError:
        return ""


def _secured(password: str) -> dict[str, Any]:
    """Settings with which both listeners ask for the password."""
    login = "org.apache.kafka.common.security.plain.PlainLoginModule required"
    jaas = f'{login} username="{LOCAL_USER}" password="{password}" user_{LOCAL_USER}="{password}";'
    return {
        "listener.security.protocol.map": "CONTROLLER:SASL_PLAINTEXT,SASL_PLAINTEXT:SASL_PLAINTEXT",
        "inter.broker.listener.name": "SASL_PLAINTEXT",
        "sasl.enabled.mechanisms": "PLAIN",
        "sasl.mechanism.inter.broker.protocol": "PLAIN",
        "sasl.mechanism.controller.protocol": "PLAIN",
        "listener.name.sasl_plaintext.plain.sasl.jaas.config": jaas,
        "listener.name.controller.plain.sasl.jaas.config": jaas,
    }


def _receive(connection: socket.socket, size: int) -> bytes:
    parts = b""
    while len(parts) < size:
        part = connection.recv(size - len(parts))
        if not part:
            raise OSError("the connection was closed")
        parts += part
    return parts


def _request(connection: socket.socket, api: int, version: int, body: bytes) -> bytes:
    """One request by hand; the answer without its length. Raises OSError for somebody who speaks another protocol."""
    client = b"tandem"
    head = struct.pack(">hhih", api, version, 1, len(client)) + client
    connection.sendall(struct.pack(">i", len(head) + len(body)) + head + body)
    (size,) = struct.unpack(">i", _receive(connection, 4))
    if not 6 <= size <= 1 << 20:
        raise OSError("no Kafka")
    return _receive(connection, size)


def _log_in(connection: socket.socket, password: str) -> None:
    """SaslHandshake (version 1) and SaslAuthenticate (version 0). Raises OSError where the broker refuses."""
    login = f"\0{LOCAL_USER}\0{password}".encode()
    for api, version, body in ((17, 1, struct.pack(">h", 5) + b"PLAIN"), (36, 0, struct.pack(">i", len(login)) + login)):
        if struct.unpack_from(">h", _request(connection, api, version, body), 4) != (0,):
            raise OSError("refused")


def answers(port: int, timeout: float = 1.0, password: str = "") -> tuple[str, list[int]] | None:
    """What a broker on this port says of its cluster: (cluster id, ports of the brokers that are let in); None if none answers us.

    One Metadata request (version 2, no topics) by hand: a client library would retry and log while the broker starts.
    """
    try:
        with socket.create_connection((HOST, port), timeout) as connection:
            connection.settimeout(timeout)
            if password:
                _log_in(connection, password)
            answer = _request(connection, 3, 2, struct.pack(">i", 0))
        at = 4

        def number(form: str) -> int:
            nonlocal at
            (value,) = struct.unpack_from(form, answer, at)
            at += struct.calcsize(form)
            return int(value)

        def text() -> str:
            nonlocal at
            size = max(number(">h"), 0)
            at += size
            return answer[at - size : at].decode()

        ports = []
        for _ in range(number(">i")):
            number(">i")
            text()
            ports.append(number(">i"))
            text()
        return text(), ports
    except (OSError, struct.error, UnicodeDecodeError):
        return None


def _thread_states(pid: int) -> list[str]:
    """The state letter of each thread (proc(5)); none where there is no /proc."""
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/stat"):
        try:
            found.append(path.read_text().rpartition(")")[2].split()[0])
        except OSError:  # it has just ended
            continue
    return found


class Broker:
    """One broker whose everything lies in ``folder``: ``log/`` (the data), ``server.properties``, ``broker.log``.

    The process dies with the one that started it (see ``start_child``). Ports are kept in ``folder`` and taken again at the next start
    if they are free, so that clients find a broker that came back. Topics keep their records for ever unless they say otherwise,
    are never made by asking for them, and transactions work.
    """

    def __init__(self, folder: Path, *, port: int | None = None, secured: bool = False) -> None:
        self.folder = folder.resolve()
        self.secured = secured
        self.log = self.folder / "broker.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.port = 0
        self.controller_port = 0
        self._asked_port = port

    @property
    def bootstrap(self) -> str:
        """``host:port`` for clients."""
        return f"{HOST}:{self.port}"

    @property
    def address(self) -> str:
        """The same as ``bootstrap``."""
        return self.bootstrap

    @property
    def pid(self) -> int | None:
        """The process id while it runs."""
        return self.process.pid if self.process is not None and self.process.poll() is None else None

    @property
    def cluster(self) -> str:
        """The cluster's id, made at the first start."""
        found = re.search(r"^cluster\.id=(\S+)", (self.folder / "log" / "meta.properties").read_text(), re.M)
        assert found
        return found[1]

    def start(self, seconds: float = SECONDS_TO_START) -> None:
        """Start and wait until clients can use it. Raises StoreError (with the log's last line) if that does not come true."""
        if self.pid is not None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        java = jars.java()
        classpath = jars.classpath("kafka")
        rotate(self.log)
        deadline = time.monotonic() + seconds
        for attempt in range(3):
            self._choose_ports(anew=attempt > 0)
            self._format(java, classpath)
            begin = self.log.stat().st_size if self.log.exists() else 0
            self.process = self._start(java, classpath, ["kafka.Kafka", "server.properties"])
            if self._wait(deadline):
                return
            code = self.process.poll()
            self.stop(5)
            with open(self.log, "rb") as file:
                file.seek(begin)
                taken = b"Address already in use" in file.read()
            if not taken:  # a port that another process took in between is worth another try
                break
        how = "ended while starting" if code is not None else f"was not ready within {seconds:g} s"
        raise StoreError(f"the Kafka broker {how}: {reason(self.log, begin)}; see {self.log}")

    def stop(self, seconds: float = 30) -> None:
        """Stop it in order (SIGTERM, after ``seconds`` SIGKILL)."""
        if self.process is not None:
            self.resume()
            stop_child(self.process, seconds)

    def kill(self) -> None:
        """kill -9, and wait until it is gone."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def pause(self) -> None:
        """SIGSTOP: it keeps its connections and answers nobody, once this has returned: threads on other cores stop a moment later."""
        self._signal(signal.SIGSTOP)
        pid = self.pid
        while pid is not None and any(state not in "tTZX" for state in _thread_states(pid)):
            time.sleep(0.001)

    def resume(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def restart(self, seconds: float = SECONDS_TO_START) -> None:
        """Stop it if it runs, and start it on the same data (and port)."""
        self.stop()
        self.start(seconds)

    def ready(self) -> bool:
        """Whether clients can use it: it answers, is this folder's cluster, and its controller has let it in."""
        found = answers(self.port, password=password_of(self.folder) if self.secured else "")
        return found is not None and found[0] == self.cluster and self.port in found[1]

    def _signal(self, number: int) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def _wait(self, deadline: float) -> bool:
        assert self.process is not None
        while time.monotonic() < deadline and self.process.poll() is None:
            if self.ready():
                return True
            time.sleep(0.05)
        return False

    def _choose_ports(self, anew: bool) -> None:
        file = self.folder / "ports.json"
        ports: list[int] = []
        if not anew:
            try:
                ports = [int(p) for p in json.loads(file.read_text())]
            except (OSError, ValueError, TypeError):
                ports = []
        if len(ports) != 2 or any(map(port_taken, ports)):
            ports = free_ports(2)
        if self._asked_port is not None:
            ports[0] = self._asked_port
            if port_taken(ports[0]):
                raise ConfigError(f"port {ports[0]} of {HOST} is in use; choose another port, or omit the option to use a free one")
        self.port, self.controller_port = ports
        file.write_text(json.dumps(ports))
        name, asked = "PLAINTEXT", {}
        if self.secured:
            password = password_of(self.folder) or secrets.token_hex(24)
            write_private(self.folder / PASSWORD, password + "\n")
            name, asked = "SASL_PLAINTEXT", _secured(password)
        settings: dict[str, Any] = {
            **SETTINGS,
            **asked,
            "listeners": f"{name}://{HOST}:{self.port},CONTROLLER://{HOST}:{self.controller_port}",
            "advertised.listeners": f"{name}://{HOST}:{self.port}",
            "controller.quorum.voters": f"1@{HOST}:{self.controller_port}",
            "log.dirs": "log",
        }
        self._write_settings("server.properties", settings)

    def _write_settings(self, name: str, settings: dict[str, Any]) -> None:
        write_private(self.folder / name, "".join(f"{key}={value}\n" for key, value in settings.items()))
        self._settings = settings

    def _start(self, java: str, classpath: str, arguments: list[str]) -> subprocess.Popen[bytes]:
        temporary = self.folder / "tmp"  # native libraries are unpacked there; a killed broker leaves them
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        # A class path or options of the user's shell must not add jars to ours; Java reads paths by the locale.
        env = {k: v for k, v in without_secrets(os.environ).items() if k not in ("CLASSPATH", "JDK_JAVA_OPTIONS")} | {"LC_ALL": "C.UTF-8"}
        # Paths in its settings are relative to the folder: they need no escaping then.
        return start_child([java, *JVM, "-Djava.io.tmpdir=tmp", "-cp", classpath, *arguments], self.log, env, self.folder)

    def _format(self, java: str, classpath: str) -> None:
        """Make the data folder at the first start: beside it, then moved there whole, so that a crash leaves none rather than a half."""
        data, new = self.folder / "log", self.folder / "log.new"
        if (data / "meta.properties").exists():
            return
        shutil.rmtree(new, ignore_errors=True)
        begin = self.log.stat().st_size if self.log.exists() else 0
        self._write_settings("format.properties", {**self._settings, "log.dirs": new.name})
        # The tool's argument parser takes an id that begins with a dash for an option.
        cluster = "T" + base64.urlsafe_b64encode(uuid.uuid4().bytes).decode()[1:22]
        tool = self._start(java, classpath, ["kafka.tools.StorageTool", "format", "-t", cluster, "-c", "format.properties"])
        try:
            tool.wait(SECONDS_TO_START)
        except subprocess.TimeoutExpired:
            pass
        finally:
            code = stop_child(tool, 0)
        if code != 0:
            raise StoreError(f"the Kafka broker's data folder could not be made: {reason(self.log, begin)}; see {self.log}")
        (self.folder / "format.properties").unlink()
        new.rename(data)
