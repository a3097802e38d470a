"""Hosts on one machine: network namespaces on a bridge, and a Flink over them; processes can be killed, hosts cut off. Needs root."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from pipelines.lake.processes import start_child, stop_child
from pipelines.services.jars import ADD_OPENS, classpath, java
from pipelines.streaming.engines.flink_rest import Cluster
from tests.flink_cluster import JOB_MANAGER, TASK_MANAGER
from transforms.errors import TandemError

__all__ = ["HERE", "FlinkOnHosts", "cut_off", "hosts"]

HERE = "10.77.0.1"
"""The address of this side of the bridge."""


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


class FlinkOnHosts:
    """A Flink of one job manager on this side of the bridge, and task managers of one slot in namespaces.

    ``hidden``: folders of this machine that no host sees; ``environment``: name of a host -> more variables of its processes.
    """

    master = f"{HERE}:8081"

    def __init__(
        self, folder: Path, hidden: Sequence[Path] = (), environment: Mapping[str, Mapping[str, str]] | None = None, **settings: str
    ) -> None:
        self.folder, self.hidden, self.environment, self.settings = folder, hidden, environment or {}, settings
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.hosts: dict[str, str] = {}

    def start(self, process: str, host: str = "", address: str = HERE) -> None:
        """Start a process called ``process``: a task manager on a host, the job manager here."""
        self.hosts[process] = host
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
        if host:
            hide = "".join(f"mount -t tmpfs none '{each}' && " for each in self.hidden)
            command = ["ip", "netns", "exec", host, "sh", "-c", f'{hide}exec "$@"', "sh", *command]
        env = {**os.environ, "CLASSPATH": classpath("flink"), **self.environment.get(host, {})}
        self.processes[process] = start_child(command, place / "log", env)

    def slots(self, n: int, seconds: float = 300) -> None:
        """Wait for so many free slots."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            with contextlib.suppress(TandemError):
                if int(Cluster(self.master).ask("GET", "overview")["slots-available"]) == n:
                    return
            time.sleep(0.5)
        raise RuntimeError(f"no {n} free slots: " + (self.folder / "job-manager/log").read_text()[-2000:])

    def job(self) -> str:
        """The number of the newest job."""
        return str(max(Cluster(self.master).ask("GET", "jobs/overview")["jobs"], key=lambda job: job["start-time"])["jid"])

    def checkpoints(self, what: str) -> int:
        """How many of its checkpoints the newest job has ``completed``, or ``restored``."""
        return int(Cluster(self.master).ask("GET", f"jobs/{self.job()}/checkpoints")["counts"][what])

    def kill(self, process: str) -> None:
        """kill -9."""
        child = self.processes.pop(process)
        child.kill()
        child.wait()

    def workers(self, process: str) -> list[int]:
        """The workers that a task manager has started."""
        found = subprocess.run(["pgrep", "-P", str(self.processes[process].pid)], capture_output=True, text=True)
        return [int(pid) for pid in found.stdout.split()]

    @contextlib.contextmanager
    def running(self, addresses: Mapping[str, str]) -> Iterator[FlinkOnHosts]:
        """The job manager, and a task manager on each host, called as that."""
        try:
            self.start("job-manager")
            for name, address in addresses.items():
                self.start(name, name, address)
            self.slots(len(addresses))
            yield self
        finally:
            for child in self.processes.values():
                stop_child(child, 5)
