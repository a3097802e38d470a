"""Hosts on one machine: network namespaces on a bridge, and a Flink or a Spark over them; processes can be killed, hosts cut off. Needs
root."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Self

from pipelines.lake.processes import start_child, stop_child
from pipelines.services.jars import ADD_OPENS, classpath, java
from pipelines.streaming.engines.flink_rest import Cluster
from tests.flink_cluster import JOB_MANAGER, TASK_MANAGER
from tests.scale.tools import flink_plugins, spark_home
from transforms.errors import TandemError

__all__ = ["HERE", "FlinkOnHosts", "SparkOnHosts", "cut_off", "hosts"]

HERE = "10.77.0.1"
"""The address of this side of the bridge."""
MASTER, WORKER = "org.apache.spark.deploy.master.Master", "org.apache.spark.deploy.worker.Worker"


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@contextlib.contextmanager
def hosts(names: list[str]) -> Iterator[dict[str, str]]:
    """Network namespaces on one bridge, each with an address of its own: name -> address."""
    bridge, made = "tb0", list[str]()
    addresses = {name: f"10.77.0.{n + 2}" for n, name in enumerate(names)}
    try:
        _ip("link", "add", bridge, "type", "bridge")
        _ip("addr", "add", f"{HERE}/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        for name, address in addresses.items():
            _ip("netns", "add", name)
            made.append(name)
            _ip("link", "add", f"v{name}", "type", "veth", "peer", "name", "eth0", "netns", name)
            _ip("link", "set", f"v{name}", "master", bridge, "up")
            _ip("-n", name, "addr", "add", f"{address}/24", "dev", "eth0")
            _ip("-n", name, "link", "set", "eth0", "up")
            _ip("-n", name, "link", "set", "lo", "up")
        yield addresses
    finally:
        for name in made:
            _ip("netns", "del", name)
        _ip("link", "del", bridge)


@contextlib.contextmanager
def cut_off(name: str) -> Iterator[None]:
    """For the body, a host reaches nobody, and nobody reaches it."""
    _ip("link", "set", f"v{name}", "down")
    try:
        yield
    finally:
        _ip("link", "set", f"v{name}", "up")


class _OnHosts(ABC):
    """An engine of one coordinator on this side of the bridge, and workers in namespaces.

    ``hidden``: folders of this machine that no host sees; ``environment``: name of a host -> more variables of its processes.
    """

    coordinator: str
    master: str

    def __init__(
        self, folder: Path, hidden: Sequence[Path] = (), environment: Mapping[str, Mapping[str, str]] | None = None, **settings: str
    ) -> None:
        self.folder, self.hidden, self.environment, self.settings = folder, hidden, environment or {}, settings
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.hosts: dict[str, str] = {}

    @abstractmethod
    def start(self, process: str, host: str = "", address: str = HERE) -> None:
        """Start a process called ``process``: a worker on a host, the coordinator here."""

    @abstractmethod
    def free(self) -> int:
        """How many slots are free. Raises TandemError or OSError while nothing answers."""

    def launch(self, process: str, host: str, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Run a command on a host, or here; its log is in the folder of the process."""
        self.hosts[process] = host
        if host:
            hide = "".join(f"mount -t tmpfs none '{each}' && " for each in self.hidden)
            command = ["ip", "netns", "exec", host, "sh", "-c", f'{hide}exec "$@"', "sh", *command]
        env = {**os.environ, **environment, **self.environment.get(host, {})}
        self.processes[process] = start_child(command, self.folder / process / "log", env)

    def slots(self, n: int, seconds: float = 300) -> None:
        """Wait for so many free slots."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            with contextlib.suppress(TandemError, OSError):
                if self.free() == n:
                    return
            time.sleep(0.5)
        raise RuntimeError(f"no {n} free slots: " + (self.folder / self.coordinator / "log").read_text()[-2000:])

    def kill(self, process: str) -> None:
        """kill -9."""
        child = self.processes.pop(process)
        child.kill()
        child.wait()

    @contextlib.contextmanager
    def running(self, addresses: Mapping[str, str]) -> Iterator[Self]:
        """The coordinator, and a worker on each host, called as that."""
        try:
            self.start(self.coordinator)
            for name, address in addresses.items():
                self.start(name, name, address)
            self.slots(len(addresses))
            yield self
        finally:
            for child in self.processes.values():
                stop_child(child, 5)


class FlinkOnHosts(_OnHosts):
    """A job manager, and task managers of one slot."""

    coordinator, master = "job-manager", f"{HERE}:8081"

    def free(self) -> int:
        """See the base class."""
        return int(Cluster(self.master).ask("GET", "overview")["slots-available"])

    def start(self, process: str, host: str = "", address: str = HERE) -> None:
        """See the base class."""
        conf = {
            "jobmanager.rpc.address": HERE,
            "jobmanager.bind-host": "0.0.0.0",
            "jobmanager.rpc.port": 6123,
            "blob.server.port": 6124,
            "rest.address": HERE,
            "rest.bind-address": HERE,
            "rest.port": 8081,
            "taskmanager.bind-host": "0.0.0.0",
            "taskmanager.numberOfTaskSlots": 1,
            "taskmanager.cpu.cores": 1,
            "taskmanager.memory.task.heap.size": "256m",
            "taskmanager.memory.task.off-heap.size": "0m",
            "taskmanager.memory.network.min": "256m",
            "taskmanager.memory.network.max": "256m",
            "taskmanager.memory.managed.size": "128m",
            "taskmanager.memory.framework.heap.size": "64m",
            "taskmanager.memory.framework.off-heap.size": "64m",
            "taskmanager.memory.jvm-metaspace.size": "192m",
            "taskmanager.memory.jvm-overhead.min": "64m",
            "taskmanager.memory.jvm-overhead.max": "64m",
            "classloader.resolve-order": "parent-first",
            "jobmanager.memory.jvm-metaspace.size": "256m",
            **self.settings,
            "io.tmp.dirs": self.folder / process / "tmp",
            **({"taskmanager.host": address} if host else {}),
        }
        place = self.folder / process
        (place / "conf").mkdir(parents=True, exist_ok=True)
        (place / "tmp").mkdir(exist_ok=True)
        (place / "conf/flink-conf.yaml").write_text("".join(f"{k}: {v}\n" for k, v in conf.items()))
        words = [java(), "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", *ADD_OPENS]
        command = [*words, "-Xmx512m", TASK_MANAGER if host else JOB_MANAGER, "--configDir", str(place / "conf")]
        self.launch(process, host, command, {"CLASSPATH": classpath("flink"), "FLINK_PLUGINS_DIR": str(flink_plugins("s3"))})

    def job(self) -> str:
        """The number of the newest job."""
        return str(max(Cluster(self.master).ask("GET", "jobs/overview")["jobs"], key=lambda job: job["start-time"])["jid"])

    def checkpoints(self, what: str) -> int:
        """How many of its checkpoints the newest job has ``completed``, or ``restored``."""
        return int(Cluster(self.master).ask("GET", f"jobs/{self.job()}/checkpoints")["counts"][what])

    def workers(self, process: str) -> list[int]:
        """The workers that a task manager has started."""
        found = subprocess.run(["pgrep", "-P", str(self.processes[process].pid)], capture_output=True, text=True)
        return [int(pid) for pid in found.stdout.split()]


class SparkOnHosts(_OnHosts):
    """A standalone Spark as it is distributed: a master, and workers of one core, which start an executor for each job."""

    coordinator, master = "master", f"spark://{HERE}:7077"

    def start(self, process: str, host: str = "", address: str = HERE) -> None:
        """See the base class."""
        place = self.folder / process
        place.mkdir(parents=True, exist_ok=True)
        said = ["--host", address, "--port", "7078" if host else "7077", "--webui-port", "8082"]
        if host:
            said += ["--cores", "1", "--memory", "1g", "--work-dir", str(place / "work"), self.master]
        command = [java(), *ADD_OPENS, "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx256m", WORKER if host else MASTER, *said]
        env = {"SPARK_HOME": str(spark_home()), "SPARK_SCALA_VERSION": "2.12", "CLASSPATH": f"{spark_home()}/jars/*"}  # as its scripts do
        self.launch(process, host, command, env)

    def free(self) -> int:
        """See the base class."""
        with urllib.request.urlopen(f"http://{HERE}:8082/json", timeout=5) as answer:
            told = json.load(answer)
        return int(told["cores"]) - int(told["coresused"])
