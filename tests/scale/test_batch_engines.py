"""``tandem batch`` on engines: the same bytes as on the direct runner, on this machine and on a cluster of two hosts."""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.batch.batch_job import run_batch
from pipelines.engines.batch_engines import EngineFlags, engine_of
from pipelines.lake.processes import start_child, stop_child
from pipelines.services.jars import ADD_OPENS, classpath, java
from pipelines.streaming.engines.flink_rest import Cluster
from tests.flink_cluster import JOB_MANAGER, TASK_MANAGER
from tests.integration.orders_world import Orders
from tests.integration.test_continued_batch import NOW, at, copied, day, file_bytes, write
from transforms.errors import TandemError

OWN = '''
import pyarrow as pa
from tandem.transforms.definitions import Count

class Tally(Count):
    """Of the repository: the workers must have its module."""

    kind = "tally"
'''


@pytest.fixture
def world(tmp_path: Path) -> Orders:
    """A repository with an aggregate of its own, and four days of events."""
    made, chance = Orders(tmp_path / "there"), random.Random(0)
    (made.repo_path / "tallies.py").write_text(OWN)
    features = made.repo_path / "features.py"
    features.write_text("from tallies import Tally\n" + features.read_text().replace("Count(over=hours(24))]", "Tally(over=hours(24))]"))
    settings = made.repo_path / "tandem.yaml"
    settings.write_text(settings.read_text().replace("shards: 1", "shards: 3"))
    for n in range(4):
        events = [at(day(n - 1) + (day(1) - day(0)) * i / 300, f"{n}-{i}", chance) for i in range(300)]
        write(made.data, f"date={day(n - 1):%Y-%m-%d}/all.jsonl", events)
    return made


def made_by(world: Orders, engine: str, flags: EngineFlags | None = None) -> dict[str, bytes]:
    sys.modules.pop("features", None)
    repo = world.repo()
    return file_bytes(world, run_batch(repo, day(0), day(3), now=NOW, engine=engine_of(engine, repo, flags or EngineFlags(), [])).run.id)


def twin(world: Orders, path: Path) -> Orders:
    other = copied(world, path)
    shutil.copytree(world.repo_path, other.repo_path, dirs_exist_ok=True)
    return other


@pytest.mark.parametrize("engine", ["flink", "spark"])
def test_an_embedded_engine_makes_the_bytes_of_the_direct_runner(world: Orders, tmp_path: Path, engine: str) -> None:
    direct = made_by(world, "direct")
    assert len(direct) > 6
    assert made_by(twin(world, tmp_path / "other"), engine, EngineFlags(parallelism=2)) == direct


def test_a_failure_on_an_engine_is_one_line(world: Orders) -> None:
    fails = "    def extract_output(self, parts, boundary):\n        if len(boundary) > 9:\n            raise ValueError('no such tally')\n"
    broken = f"{OWN}{fails}        return super().extract_output(parts, boundary)\n"  # the definition's own trial has three rows
    (world.repo_path / "tallies.py").write_text(broken)
    sys.modules.pop("tallies", None)
    with pytest.raises(TandemError) as told:
        made_by(world, "flink", EngineFlags(parallelism=1))
    assert re.fullmatch(r"the batch job failed on Flink: ValueError: no such tally.*; all it said is in \S+engine.log", str(told.value))


# --------------------------------------------------------------------------------------------------------------------- two hosts


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@contextlib.contextmanager
def hosts(names: list[str]) -> Iterator[dict[str, str]]:
    """Network namespaces on one bridge, each with an address of its own: name -> address."""
    bridge, made = "tb0", list[str]()
    addresses = {name: f"10.77.0.{n + 2}" for n, name in enumerate(names)}
    try:
        _ip("link", "add", bridge, "type", "bridge")
        _ip("addr", "add", "10.77.0.1/24", "dev", bridge)
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
def flink_on(addresses: dict[str, str], folder: Path) -> Iterator[str]:
    """A Flink of one job manager on this host's side of the bridge and a task manager in each namespace: ``host:port`` of REST."""
    conf = {
        "jobmanager.rpc.address": "10.77.0.1",
        "jobmanager.bind-host": "0.0.0.0",
        "jobmanager.rpc.port": 6123,
        "blob.server.port": 6124,
        "rest.address": "10.77.0.1",
        "rest.bind-address": "10.77.0.1",
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
    }
    words = [java(), "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", *ADD_OPENS]
    env = {**os.environ, "CLASSPATH": classpath("flink")}
    children = []
    try:
        for name, address in {"": "10.77.0.1", **addresses}.items():
            place = folder / (name or "job-manager")
            (place / "conf").mkdir(parents=True)
            mine = conf | ({"taskmanager.host": address} if name else {}) | {"io.tmp.dirs": place / "tmp"}
            (place / "tmp").mkdir()
            (place / "conf/flink-conf.yaml").write_text("".join(f"{k}: {v}\n" for k, v in mine.items()))
            main = TASK_MANAGER if name else JOB_MANAGER
            command = [*words, "-Xmx512m", main, "--configDir", str(place / "conf")]
            children.append(start_child((["ip", "netns", "exec", name] if name else []) + command, place / "log", env))
        until = time.monotonic() + 300
        while time.monotonic() < until:
            with contextlib.suppress(TandemError):
                if int(Cluster("10.77.0.1:8081").ask("GET", "overview")["slots-available"]) == len(addresses):
                    break
            time.sleep(0.5)
        yield "10.77.0.1:8081"
    finally:
        for child in children:
            stop_child(child, 5)


def test_two_hosts_of_flink_make_the_bytes_of_the_direct_runner(world: Orders, tmp_path: Path) -> None:
    """Each host starts its own workers, with the code that came with the job: the pool of workers is the task manager's."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    direct = made_by(world, "direct")
    there = twin(world, tmp_path / "other")
    command = tmp_path / "worker"  # what an image has as tandem-worker; it says on which host it ran
    boot = f"{sys.executable} -P {Path.cwd()}/tandem/__main__.py -m pipelines.engines.worker_boot"
    command.write_text(
        f'#!/bin/sh\nip -br addr show eth0 >> {tmp_path}/ran\nTANDEM_WORKER_LOG={tmp_path}/worker.log exec {boot} "$@"\n',
    )
    command.chmod(stat.S_IRWXU)
    with hosts(["tandem-a", "tandem-b"]) as addresses, flink_on(addresses, tmp_path / "flink") as master:
        flags = EngineFlags(master=master, parallelism=2, worker=str(command))
        assert made_by(there, "flink", flags) == direct
    ran = (tmp_path / "ran").read_text()
    assert all(address in ran for address in addresses.values()), ran
