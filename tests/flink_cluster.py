"""A standalone Flink cluster for tests: one job manager, one task manager, from the pinned jars; loopback, free ports, always ended."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipelines.lake.processes import free_ports, start_child, stop_child
from pipelines.services.jars import ADD_OPENS, classpath, java
from pipelines.streaming.engines.flink_rest import Cluster
from pipelines.streaming.engines.worker_pool import TOKEN
from transforms.errors import TandemError
from transforms.own_program import module_command

JOB_MANAGER = "org.apache.flink.runtime.entrypoint.StandaloneSessionClusterEntrypoint"
TASK_MANAGER = "org.apache.flink.runtime.taskexecutor.TaskManagerRunner"


@dataclass
class FlinkCluster:
    """A running cluster."""

    folder: Path
    master: str
    job_manager: subprocess.Popen[bytes]
    task_manager: subprocess.Popen[bytes]

    def kill_task_manager(self) -> None:
        """kill -9, and start another."""
        self.task_manager.kill()
        self.task_manager.wait()
        self.task_manager = _start(self.folder, TASK_MANAGER, "-Xmx512m")

    def slots(self) -> int:
        """Free slots."""
        try:
            return int(Cluster(self.master).ask("GET", "overview")["slots-available"])
        except TandemError:  # it does not answer yet, or has no leader
            return 0


def _start(folder: Path, main_class: str, memory: str) -> subprocess.Popen[bytes]:
    words = [java(), memory, "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", *ADD_OPENS]
    name = main_class.rpartition(".")[2]
    env = {**os.environ, "CLASSPATH": classpath("flink")}
    return start_child([*words, main_class, "--configDir", str(folder / "conf")], folder / f"{name}.log", env)


@contextlib.contextmanager
def flink_cluster(folder: Path, slots: int = 2, seconds: float = 120.0, more: Mapping[str, str] | None = None) -> Iterator[FlinkCluster]:
    """A cluster whose task manager has registered; ``more``: of its settings."""
    rpc, rest, blob = free_ports(3)
    settings = {
        "jobmanager.rpc.address": "127.0.0.1",
        "jobmanager.bind-host": "127.0.0.1",
        "jobmanager.rpc.port": rpc,
        "blob.server.port": blob,
        "rest.address": "127.0.0.1",
        "rest.bind-address": "127.0.0.1",
        "rest.port": rest,
        "taskmanager.host": "127.0.0.1",
        "taskmanager.bind-host": "127.0.0.1",
        "taskmanager.numberOfTaskSlots": slots,
        "taskmanager.cpu.cores": 1,
        "taskmanager.memory.task.heap.size": "256m",
        "taskmanager.memory.task.off-heap.size": "0m",
        "taskmanager.memory.network.min": "64m",
        "taskmanager.memory.network.max": "64m",
        "taskmanager.memory.managed.size": "32m",
        "taskmanager.memory.framework.heap.size": "64m",
        "taskmanager.memory.framework.off-heap.size": "64m",
        "taskmanager.memory.jvm-metaspace.size": "128m",
        "taskmanager.memory.jvm-overhead.min": "64m",
        "taskmanager.memory.jvm-overhead.max": "64m",
        "heartbeat.interval": 1000,
        "heartbeat.timeout": 10000,
        "classloader.resolve-order": "parent-first",
        "io.tmp.dirs": folder / "tmp",
        "state.savepoints.dir": (folder / "savepoints").as_uri(),
        **(more or {}),
    }
    (folder / "conf").mkdir(parents=True)
    (folder / "tmp").mkdir()
    (folder / "conf" / "flink-conf.yaml").write_text("".join(f"{key}: {value}\n" for key, value in settings.items()))
    job_manager = _start(folder, JOB_MANAGER, "-Xmx512m")
    task_manager = _start(folder, TASK_MANAGER, "-Xmx512m")
    cluster = FlinkCluster(folder, f"127.0.0.1:{rest}", job_manager, task_manager)
    try:
        until = time.monotonic() + seconds
        while cluster.slots() < slots:
            for process in (cluster.job_manager, cluster.task_manager):
                if process.poll() is not None or time.monotonic() > until:
                    logs = "\n".join(p.read_text()[-2000:] for p in folder.glob("*.log"))
                    raise RuntimeError(f"Flink does not start (exit code {process.poll()})\n{logs}")
            time.sleep(0.1)
        yield cluster
    finally:
        for process in (cluster.task_manager, cluster.job_manager):
            process.kill()
            process.wait()


@contextlib.contextmanager
def worker_pool(folder: Path, environment: Mapping[str, str]) -> Iterator[str]:
    """A pool of SDK workers on this machine; its address. Streams of this process' environment know its token."""
    (port,) = free_ports(1)
    words = ["--service-port", str(port), "--log", str(folder / "worker.log")]
    token = f"of {folder}"
    command = module_command("pipelines.streaming.engines.worker_pool", *words)
    process = start_child(command, folder / "pool.log", {**environment, TOKEN: token})
    before, os.environ[TOKEN] = os.environ.get(TOKEN), token
    try:
        yield f"127.0.0.1:{port}"
    finally:
        stop_child(process)
        del os.environ[TOKEN]
        if before is not None:
            os.environ[TOKEN] = before
