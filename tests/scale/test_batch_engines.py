"""``tandem batch`` on engines: the same bytes as on the direct runner, on this machine and on a cluster of two hosts."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path

import pytest

from pipelines.batch.batch_job import run_batch
from pipelines.engines.batch_engines import EngineFlags, engine_of
from pipelines.lake.data_files import sha256
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


# --------------------------------------------------------------------------------------------------------------------- two hosts


@pytest.mark.parametrize("engine", ["flink", "spark"])
def test_two_hosts_of_an_engine_make_the_bytes_of_the_direct_runner(world: Orders, tmp_path: Path, engine: str) -> None:
    """Each host starts its own workers, with the code that came with the job."""
    direct = made_by(world, "direct")
    there = twin(world, tmp_path / "other")
    with two_hosts(tmp_path, engine) as flags:
        assert made_by(there, engine, flags) == direct


def test_a_year_of_flights_on_two_hosts_have_the_bytes_of_the_direct_runner(tmp_path: Path) -> None:
    """The demo, its graphs learnt in shares."""
    words = ["--data", str(tmp_path / "logs"), "--start", "2013-01-01", "--end", "2014-01-01"]
    subprocess.run([sys.executable, ROOT / "feature_repo/flights_events.py", *words], check=True, capture_output=True, cwd=ROOT)
    made = {}
    for engine in ("direct", "flink"):
        world = make_world(tmp_path / engine, tmp_path / "logs", light=False)
        world.configure(shards=2, learn_rows=50_000)
        for module in ("features", "preprocessing"):
            sys.modules.pop(module, None)
        repo, began = world.repo(), time.monotonic()
        with two_hosts(tmp_path, engine) if engine == "flink" else nullcontext(EngineFlags()) as flags:
            run = run_batch(repo, START, END, now=END, engine=engine_of(engine, repo, flags, [])).run
        tops = [*(world.data / "offline").glob(f"*/run={run.id}"), run.folder / "tiles"]
        files = [(top, p) for top in tops for p in sorted(top.rglob("*.parquet"))]
        made[engine] = {f"{top.parent.name}/{p.relative_to(top)}": sha256(p) for top, p in files if top.name != "tiles"}
        made[engine] |= {f"tiles/{p.relative_to(top)}": sha256(p) for top, p in files if top.name == "tiles"}
        print(f"{engine}: {run.manifest['rows']}, {len(made[engine])} files, {time.monotonic() - began:.0f} s")
    assert made["flink"] == made["direct"] and len(made["direct"]) > 100


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
