"""``tandem stream`` on hosts that share no folder, by an object store: processes killed, the network parted, more and fewer machines."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient

from pipelines.services import kafka_broker
from serving.object_store.cache import FOLDER
from serving.object_store.connecting import connect
from tests.integration.kafka_world import options_of
from tests.integration.stream_world import ROOT, StreamWorld, end, environment, events, make_stream_world
from tests.kafka_server import kafka_server
from tests.object_stores import seaweed
from tests.redis_server import redis_server
from tests.scale.hosts import HERE, FlinkOnHosts, cut_off, hosts
from tests.waiting import until

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")
SECONDS = 900
HOUR = 3600


class Fleet:
    """Two hosts with a Flink, and a stream that is watched from this side of the bridge."""

    def __init__(self, world: StreamWorld, flink: FlinkOnHosts, worker: Path, addresses: dict[str, str]) -> None:
        self.world, self.flink, self.worker, self.addresses = world, flink, worker, addresses
        self.driver: subprocess.Popen[bytes] | None = None
        self.hours = 0

    def start(self, tasks: int) -> None:
        words = ["--master", self.flink.master, "--worker-command", str(self.worker)]
        self.driver = self.world.start(*words, "--parallelism", str(tasks), "--shards", str(tasks))

    def stop(self) -> None:
        stopped = self.world.stop()
        assert stopped.returncode == 0, stopped.stderr
        assert self.driver is not None and self.driver.wait(60) == 0

    def produce(self, parts: int = 1, between: Callable[[], None] = lambda: None) -> None:
        """The events of an hour, in so many parts; ``between`` is called after each."""
        hour = events(400, self.hours, start=self.hours * HOUR, seconds=HOUR)
        for n in range(parts):
            self.world.produce(hour[n * len(hour) // parts : (n + 1) * len(hour) // parts])
            between()
        self.hours += 1

    def all_is_delivered(self) -> None:
        begun = time.monotonic()
        until(lambda: self.world.delivered() == self.world.total(), SECONDS, self.driver)
        print(f"{self.world.total()} records delivered after {time.monotonic() - begun:.0f} s")

    def verify(self, *, all_counted: bool) -> None:
        """By the oracle, where no event came too late to count; and by ``tandem verify``, which tells what came too late."""
        if all_counted:
            self.world.assert_right()
        said = subprocess.run(self.world.command("verify"), cwd=ROOT, capture_output=True, text=True, env=environment(), timeout=SECONDS)
        print(said.stdout)
        assert said.returncode == 0, said.stdout + said.stderr


@contextmanager
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **stream: Any) -> Iterator[Fleet]:
    """A stream of two tasks, with these settings, that has delivered its first events."""
    worker = tmp_path / "tandem-worker"  # as an image has it
    log = '"$TANDEM_CACHE/worker.log"'
    worker.write_text(
        f'#!/bin/sh\nTANDEM_WORKER_LOG={log} exec {sys.executable} -P {ROOT}/tandem/__main__.py -m pipelines.engines.worker_boot "$@"\n'
    )
    worker.chmod(stat.S_IRWXU)
    monkeypatch.setattr(kafka_broker, "HOST", HERE)
    monkeypatch.setenv(FOLDER, str(tmp_path / "driver" / "cache"))
    names = ["tandem-a", "tandem-b"]
    for name in names:
        (tmp_path / name).mkdir()
    with (
        hosts(names) as addresses,
        seaweed(tmp_path / "seaweed", host=HERE) as s3,
        redis_server(host=HERE) as redis,
        kafka_server(tmp_path / "broker") as broker,
    ):
        connect.cache_clear()
        for name, value in s3.items():
            monkeypatch.setenv(name, value)
        online = f"{{type: serving.online_store.redis.OrderedRedisOnlineStore, connection_string: '{redis.connection_string}'}}"
        world = make_stream_world(
            tmp_path / "driver" / "world", broker.bootstrap, url=f"s3://tandem/{uuid.uuid4().hex}", online_store=online, **stream
        )
        flink = FlinkOnHosts(
            tmp_path / "flink",
            [tmp_path / "driver"],
            {name: {FOLDER: str(tmp_path / name), "HOME": str(tmp_path / name)} for name in names},
            **{"s3.endpoint": s3["AWS_ENDPOINT_URL"], "s3.path.style.access": "true"},  # whose it is, its plugin finds as AWS's tools do
        )
        with flink.running(addresses):
            made = Fleet(world, flink, worker, addresses)
            try:
                made.produce()
                made.start(2)
                made.all_is_delivered()
                yield made
            finally:
                if made.driver is not None:
                    end(made.driver)
                print(world.out())


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    """Whose Flink keeps no checkpoints."""
    with started(tmp_path, monkeypatch) as made:
        yield made


@pytest.fixture
def repairing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    """Whose Flink keeps checkpoints in the object store, and repairs itself from there."""
    with started(tmp_path, monkeypatch, checkpoints="s3://tandem/flink") as made:
        yield made


@pytest.mark.timeout(3 * SECONDS)
def test_whatever_is_killed_or_cut_off_every_row_is_right(fleet: Fleet) -> None:
    flink, world = fleet.flink, fleet.world
    assert all(flink.workers(name) for name in fleet.addresses), "a worker on each host"
    until(lambda: all(point.get("tiles") for point in world.control.load_checkpoints().values()), SECONDS, fleet.driver)

    fleet.produce()
    os.kill(flink.workers("tandem-a")[0], 9)
    fleet.all_is_delivered()
    assert "restarting from the checkpoint of the run before, with its windows" in world.out()

    fleet.produce()
    flink.kill("tandem-b")
    flink.start("tandem-b", "tandem-b", fleet.addresses["tandem-b"])
    fleet.all_is_delivered()

    failures = world.out().count("the engine failed")
    flink.kill("job-manager")
    flink.start("job-manager")
    until(lambda: world.out().count("the engine failed") > failures, SECONDS, fleet.driver)
    fleet.produce()
    fleet.all_is_delivered()

    fleet.produce()
    with cut_off("tandem-b"):
        fleet.produce()
        time.sleep(30)
    fleet.all_is_delivered()

    assert fleet.driver is not None
    fleet.driver.kill()
    fleet.driver.wait()
    fleet.start(2)
    until(lambda: "of this stream still runs at" in world.out(), SECONDS, fleet.driver)
    fleet.produce()
    fleet.all_is_delivered()
    fleet.stop()
    fleet.verify(all_counted=True)


@pytest.mark.timeout(3 * SECONDS)
def test_more_and_fewer_task_managers_and_new_partitions(fleet: Fleet) -> None:
    flink, world = fleet.flink, fleet.world
    admin = KafkaAdminClient(**options_of(world.bootstrap))
    admin.create_partitions({world.topic: 4})
    admin.close()
    world.partitions = 4
    fleet.produce()
    fleet.all_is_delivered()
    fleet.stop()
    for name, address in fleet.addresses.items():
        flink.start(f"{name}-2", name, address)
    flink.slots(4)
    fleet.produce()
    fleet.start(4)
    fleet.all_is_delivered()
    fleet.stop()
    for name in fleet.addresses:
        flink.kill(f"{name}-2")
    flink.slots(2)
    fleet.produce()
    fleet.start(2)
    fleet.all_is_delivered()
    fleet.stop()
    fleet.verify(all_counted=False)  # until new partitions are found, time goes on without them


@pytest.mark.timeout(3 * SECONDS)
def test_a_flink_that_repairs_itself_from_its_own_checkpoints(repairing: Fleet) -> None:
    """Task managers are killed while nothing is under way, and while Flink's checkpoint is newer than the stream's."""
    fleet, flink, world = repairing, repairing.flink, repairing.world

    def failed() -> int:
        return world.out().count("the engine failed")

    def another_checkpoint() -> None:
        begun, job = flink.checkpoints("completed"), flink.job()
        until(lambda: flink.job() != job or flink.checkpoints("completed") > begun, SECONDS, fleet.driver)

    def kill(name: str) -> None:
        flink.kill(name)
        flink.start(name, name, fleet.addresses[name])

    before, mended = failed(), flink.checkpoints("restored")
    another_checkpoint()
    another_checkpoint()
    kill("tandem-a")
    until(lambda: flink.checkpoints("restored") > mended, SECONDS, fleet.driver)
    fleet.produce()
    fleet.all_is_delivered()
    assert failed() == before, "what the stream's checkpoint vouches for is gone on from"

    for name in [*fleet.addresses, *fleet.addresses]:
        fleet.produce(4, another_checkpoint)
        kill(name)
        fleet.all_is_delivered()
    beyond = world.out().count("beyond the stream's checkpoint; restarting from the checkpoint")
    print(f"{beyond} of 4 times Flink's checkpoint was newer than the stream's")
    assert beyond
    fleet.stop()
    fleet.verify(all_counted=True)
