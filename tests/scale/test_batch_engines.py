"""``tandem batch`` on engines: the same bytes as on the direct runner, on this machine and on a cluster of two hosts."""

from __future__ import annotations

import os
import random
import re
import shutil
import stat
import sys
from pathlib import Path

import pytest

from pipelines.batch.batch_job import run_batch
from pipelines.engines.batch_engines import EngineFlags, engine_of
from tests.integration.orders_world import Orders
from tests.integration.test_continued_batch import NOW, at, copied, day, file_bytes, write
from tests.scale.hosts import FlinkOnHosts, hosts
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
    with hosts(["tandem-a", "tandem-b"]) as addresses, FlinkOnHosts(tmp_path / "flink").running(addresses) as flink:
        flags = EngineFlags(master=flink.master, parallelism=2, worker=str(command))
        assert made_by(there, "flink", flags) == direct
    ran = (tmp_path / "ran").read_text()
    assert all(address in ran for address in addresses.values()), ran
