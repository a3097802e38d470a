"""``tandem batch`` on engines: the same bytes as on the direct runner, on this machine and on a cluster of two hosts."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from pipelines.batch.batch_job import run_batch
from pipelines.engines import portable_job
from pipelines.engines.batch_engines import EngineFlags, engine_of
from pipelines.lake.data_files import sha256
from pipelines.lake.processes import start_child
from tests.integration.flights import make_world
from tests.integration.orders_world import Orders
from tests.integration.prepared_world import prepared
from tests.integration.prepared_world import twin as prepared_twin
from tests.integration.test_continued_batch import NOW, day, file_bytes
from tests.listening import heard
from tests.scale.containers import ROOT
from tests.scale.hosts import FlinkOnHosts, SparkOnHosts, hosts
from transforms.errors import TandemError

START, END = datetime(2013, 1, 1, tzinfo=UTC), datetime(2014, 1, 1, tzinfo=UTC)
OWN = '''
import pyarrow as pa
from tandem.transforms.definitions import Count

class Tally(Count):
    """Of the repository: the workers must have its module."""

    kind = "tally"
'''
KILLS = """
import os

with open(f"/proc/{os.getppid()}/cmdline") as parent:
    if "CoarseGrainedExecutorBackend" in parent.read():
        os.kill(os.getppid(), 9)
"""


@pytest.fixture
def world(tmp_path: Path) -> Orders:
    """Four days of events, in a repository with an aggregate of its own and a preprocessing function for each group."""
    made = prepared(tmp_path / "there", learn_rows=200)
    (made.repo_path / "tallies.py").write_text(OWN)
    features = made.repo_path / "features.py"
    text = features.read_text().replace("over=hours(1))]", 'over=hours(1)), Tally(over=hours(24), name="tally_24h")]')
    features.write_text("from tallies import Tally\n" + text)
    return made


def made_by(world: Orders, engine: str, flags: EngineFlags | None = None) -> dict[str, bytes]:
    for module in ("features", "preparing"):
        sys.modules.pop(module, None)
    repo = world.repo()
    return file_bytes(world, run_batch(repo, day(0), day(3), now=NOW, engine=engine_of(engine, repo, flags or EngineFlags(), [])).run.id)


def twin(world: Orders, path: Path) -> Orders:
    """The same elsewhere, where each file is read in parts."""
    other = prepared_twin(world, path, learn_rows=200, split_bytes=6000)
    (other.repo_path / "tallies.py").write_text(OWN)
    return other


@pytest.mark.parametrize("engine", ["flink", "spark"])
def test_an_embedded_engine_makes_the_bytes_of_the_direct_runner(world: Orders, tmp_path: Path, engine: str) -> None:
    direct = made_by(world, "direct")
    assert len(direct) > 6
    with heard() as ports:
        assert made_by(twin(world, tmp_path / "other"), engine, EngineFlags(parallelism=2)) == direct
    assert ports and all(ip_address(host).is_loopback for host, _ in ports), "SECURITY C1: nothing of it is reached from another machine"


def test_a_failure_on_an_engine_is_one_line(world: Orders) -> None:
    fails = "    def extract_output(self, parts, boundary):\n        if len(boundary) > 9:\n            raise ValueError('no such tally')\n"
    broken = f"{OWN}{fails}        return super().extract_output(parts, boundary)\n"  # the definition's own trial has three rows
    (world.repo_path / "tallies.py").write_text(broken)
    sys.modules.pop("tallies", None)
    with pytest.raises(TandemError) as told:
        made_by(world, "flink", EngineFlags(parallelism=1))
    assert re.fullmatch(r"the batch job failed on Flink: ValueError: no such tally.*; its full output is in \S+engine.log", str(told.value))


def test_a_driver_that_is_killed_or_whose_heap_is_full_is_one_line(world: Orders, monkeypatch: pytest.MonkeyPatch) -> None:
    def told(name: str, heap_mb: int) -> str:
        repo = world.repo()
        engine: Any = engine_of(name, repo, EngineFlags(parallelism=1), [])
        made = engine.program
        engine.program = lambda: replace(made(), heap_mb=heap_mb)
        with pytest.raises(TandemError) as failed:
            run_batch(repo, day(0), day(3), now=NOW, engine=engine)
        return str(failed.value)

    def killed(*command: Any, **how: Any) -> subprocess.Popen[bytes]:
        child = start_child(*command, **how)
        child.kill()
        return child

    assert re.fullmatch(r"the batch job failed on Flink: the heap of its JVM was full \(.*\); its full output is in \S+", told("flink", 24))
    monkeypatch.setattr(portable_job, "start_child", killed)
    assert "failed on Spark: its JVM was ended by signal 9, as the kernel does where memory is short; its" in told("spark", 512)


# --------------------------------------------------------------------------------------------------------------------- two hosts


@pytest.mark.parametrize("engine", ["flink", "spark"])
def test_two_hosts_of_an_engine_make_the_bytes_of_the_direct_runner(world: Orders, tmp_path: Path, engine: str) -> None:
    """Each host starts its own workers, with the code that came with the job."""
    direct = made_by(world, "direct")
    there = twin(world, tmp_path / "other")
    with two_hosts(tmp_path, engine) as flags:
        assert made_by(there, engine, flags) == direct


def test_executors_that_do_not_start_are_one_line(world: Orders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Dspark.executor.extraJavaOptions=-agentlib:none")
    with pytest.raises(TandemError) as told, two_hosts(tmp_path, "spark") as flags:
        made_by(world, "spark", flags)
    why = "executors were lost, the last one: Command exited with code 1; why is in its stderr, in the folder 'work' of Spark's worker"
    assert f"the batch job failed on Spark: {why}; its full output is in " in str(told.value)


def test_a_job_that_no_host_has_room_for_says_so_and_ends(
    world: Orders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Dspark.executor.memory=900g")
    with pytest.raises(TandemError) as told, two_hosts(tmp_path, "spark") as flags:
        made_by(world, "spark", replace(flags, wait_minutes=0.5))
    assert str(told.value).startswith(
        "the batch job failed on Spark: no executor worked for it for 0.5 minutes: the cluster's cores or memory"
    )
    (line,) = [line for line in capfd.readouterr().err.splitlines() if "--wait-minutes" in line]
    assert line.startswith("Spark has no executor for the batch job, which waits for 0.5 minutes at most (--wait-minutes): the cluster's")


def test_executors_that_are_killed_are_one_line(world: Orders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spark starts others; the workers of each kill it. They have the memory that Spark's own setting says."""
    monkeypatch.setenv("JAVA_TOOL_OPTIONS", "-Dspark.executor.memory=600m")
    (world.repo_path / "tallies.py").write_text(OWN + KILLS)
    sys.modules.pop("tallies", None)
    with pytest.raises(TandemError) as told, two_hosts(tmp_path, "spark") as flags:
        made_by(world, "spark", flags)
    why = r"executors were lost, the last one on 10\.77\.0\.[23]: it was ended by signal 9, as the kernel does where memory is short"
    assert re.fullmatch(rf"the batch job failed on Spark: {why}; its full output is in \S+engine.log", str(told.value))
    logs = [log.read_text() for log in (tmp_path / "cluster").glob("*/work/*/*/stderr")]
    assert logs and all('"-Xmx600M"' in log for log in logs)


@pytest.fixture(scope="module")
def flights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The event logs of the demo's year."""
    logs = tmp_path_factory.mktemp("flights") / "logs"
    words = ["--data", str(logs), "--start", "2013-01-01", "--end", "2014-01-01"]
    subprocess.run([sys.executable, ROOT / "feature_repo/flights_events.py", *words], check=True, capture_output=True, cwd=ROOT)
    return logs


def year_by(flights: Path, path: Path, name: str, flags: EngineFlags) -> dict[str, str]:
    """Hash of each file of a run over the year, its graphs learnt in shares."""
    world = make_world(path / name, flights, light=False)
    world.configure(shards=2, learn_rows=50_000)
    for module in ("features", "preprocessing"):
        sys.modules.pop(module, None)
    repo, began = world.repo(), time.monotonic()
    run = run_batch(repo, START, END, now=END, engine=engine_of(name, repo, flags, [])).run
    tops = {**{top.parent.name: top for top in (world.data / "offline").glob(f"*/run={run.id}")}, "tiles": run.folder / "tiles"}
    files = {f"{of}/{p.relative_to(top)}": sha256(p) for of, top in tops.items() for p in top.rglob("*.parquet")}
    print(f"{name}: {run.manifest['rows']}, {len(files)} files, {time.monotonic() - began:.0f} s")
    return files


@pytest.fixture(scope="module")
def year(flights: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the direct runner makes of it."""
    return year_by(flights, tmp_path_factory.mktemp("year"), "direct", EngineFlags())


@pytest.mark.parametrize("engine", ["flink", "spark"])
def test_a_year_of_flights_on_two_hosts_has_the_bytes_of_the_direct_runner(
    flights: Path, year: dict[str, str], tmp_path: Path, engine: str
) -> None:
    """The demo."""
    with two_hosts(tmp_path, engine) as flags:
        assert year_by(flights, tmp_path, engine, flags) == year and len(year) > 100


@contextmanager
def two_hosts(tmp_path: Path, engine: str) -> Iterator[EngineFlags]:
    """A cluster over both; says when it ends whether workers ran on each."""
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")
    command = tmp_path / "worker"  # what an image has as tandem-worker; it says on which host it ran
    boot = f"{sys.executable} -P {Path.cwd()}/tandem/__main__.py -m pipelines.engines.worker_boot"
    command.write_text(
        f'#!/bin/sh\nip -br addr show eth0 >> {tmp_path}/ran\nTANDEM_WORKER_LOG={tmp_path}/worker.log exec {boot} "$@"\n',
    )
    command.chmod(stat.S_IRWXU)
    make = {"flink": FlinkOnHosts, "spark": SparkOnHosts}[engine]
    with hosts(["tandem-a", "tandem-b"]) as addresses, make(tmp_path / "cluster").running(addresses) as cluster:
        yield EngineFlags(master=cluster.master, parallelism=2, worker=str(command))
    logs = "".join(log.read_text() for log in (tmp_path / "cluster").glob("*/work/*/*/stderr"))  # of Spark's executors
    assert "NoSuchMethodError" not in logs and "NoClassDefFoundError" not in logs, "Spark tries a task again whose classes do not fit"
    ran = (tmp_path / "ran").read_text()
    assert all(address in ran for address in addresses.values()), ran
