"""A standalone Flink cluster with its own worker pool holds the contract that ships, and its jobs outlive its parts and their drivers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import tests.contract.test_engine  # noqa: F401  # the other suites
from pipelines.project import extensions
from pipelines.streaming.engines.flink_rest import Cluster
from tandem.testing.broker import BrokerHarness
from tandem.testing.engine import EngineContract
from tests.contract.brokers import KafkaHarness
from tests.flink_cluster import FlinkCluster, flink_cluster, worker_pool
from tests.integration.stream_world import end, environment, events, make_stream_world
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FlinkCluster, str]]:
    """A cluster and the address of a worker pool."""
    folder = tmp_path_factory.mktemp("cluster")
    with flink_cluster(folder / "flink") as cluster, worker_pool(folder, environment()) as pool:
        yield cluster, pool


class TestFlinkCluster(EngineContract):
    runner = "flink-cluster"

    @pytest.fixture
    def harness(self, kafka: KafkaHarness) -> BrokerHarness:
        return kafka

    @pytest.fixture
    def given(self, started: tuple[FlinkCluster, str]) -> Mapping[str, str]:
        return {"flink_master": started[0].master, "worker_pool": started[1]}


def test_every_engine_of_our_own_is_held_to_the_suite() -> None:
    assert {suite.runner for suite in EngineContract.__subclasses__()} >= set(extensions.ENGINES.own)


def test_a_cluster_recovers_keeps_savepoints_and_ends_the_job_of_a_killed_driver(
    tmp_path: Path, kafka: KafkaHarness, started: tuple[FlinkCluster, str]
) -> None:
    """``tandem stream`` there: a task manager is killed, savepoints are taken and used."""
    cluster, pool = started
    world = make_stream_world(tmp_path / "world", kafka.bootstrap_servers, topic="recovers")
    flags = ["--master", cluster.master, "--worker-pool", pool]
    logs = [events(500, seed, start=seed * 3600, seconds=3600) for seed in range(4)]
    world.produce(logs[0])
    driver = world.start(*flags)
    try:
        until(lambda: world.delivered() == world.total(), 240, driver)
        assert Cluster(cluster.master).running("tandem-main") is not None
        world.produce(logs[1])
        cluster.kill_task_manager()
        until(lambda: world.delivered() == world.total(), 240, driver)
        assert "restarting" not in world.out(), "Flink repairs this by itself"
        stopped = world.stop(savepoint=True)
        assert stopped.returncode == 0, stopped.stderr
        assert driver.wait(60) == 0
        path = stopped.stdout.rpartition("--from-savepoint ")[2].strip()
        assert path.startswith("file:")
        assert Cluster(cluster.master).jobs("tandem-main") == []
        world.produce(logs[2])
        driver = world.start(*flags, "--from-savepoint", path)
        until(lambda: world.delivered() == world.total(), 240, driver)
        assert "brought no state along" not in world.out()
        driver.kill()
        driver.wait()
        assert len(Cluster(cluster.master).jobs("tandem-main")) == 1, "it goes on without its driver"
        world.produce(logs[3])
        driver = world.start(*flags)
        until(lambda: "still runs at" in world.out(), 240, driver)
        until(lambda: world.delivered() == world.total(), 240, driver)
        assert world.stop().returncode == 0
        assert driver.wait(60) == 0
        assert Cluster(cluster.master).jobs("tandem-main") == []
        world.assert_right()
        runs = sorted((world.data / "runs").glob("stream-*/manifest.json"))
        assert json.loads(runs[-1].read_text())["status"] == "complete"
    finally:
        end(driver)
        print(world.out())


@pytest.mark.scale
def test_a_flink_without_a_plugin_for_its_checkpoints_ends_the_stream_with_one_line(
    tmp_path: Path, kafka: KafkaHarness, started: tuple[FlinkCluster, str]
) -> None:
    cluster, pool = started
    world = make_stream_world(tmp_path / "world", kafka.bootstrap_servers, topic="plugin", checkpoints="s3://bucket/flink")
    driver = world.start("--master", cluster.master, "--worker-pool", pool)
    try:
        assert driver.wait(240) == 1
        why = f"Flink at {cluster.master} has no file system for such a URL; its job manager and each task manager need a plugin"
        assert f"stream.checkpoints s3://bucket/flink: {why} (flink-s3-fs-hadoop, flink-s3-fs-presto)" in world.out()
        assert "restarting" not in world.out() and Cluster(cluster.master).jobs("tandem-main") == []
    finally:
        end(driver)
        print(world.out())
