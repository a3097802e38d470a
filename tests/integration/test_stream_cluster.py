"""``tandem stream`` on a standalone Flink cluster with its own worker pool: a task manager is killed, savepoints are taken and used."""

from __future__ import annotations

import json

import pytest

from pipelines.streaming.engines.flink_rest import Cluster
from tests.flink_cluster import flink_cluster, worker_pool
from tests.integration.stream_world import end, environment, events, make_stream_world, wait_for
from tests.kafka_server import kafka_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_a_cluster_recovers_keeps_savepoints_and_ends_the_job_of_a_killed_driver(tmp_path):
    with (
        kafka_server(tmp_path / "broker") as broker,
        flink_cluster(tmp_path / "flink") as cluster,
        worker_pool(tmp_path, environment()) as pool,
    ):
        go_through_it(make_stream_world(tmp_path / "world", broker.bootstrap, topic="recovers"), cluster, pool)


def go_through_it(world, cluster, pool):
    flags = ["--flink-master", cluster.master, "--worker-pool", pool]
    logs = [events(500, seed, start=seed * 3600, seconds=3600) for seed in range(4)]
    world.produce(logs[0])
    driver = world.start(*flags)
    try:
        wait_for(lambda: world.delivered() == world.total(), 240, driver)
        assert Cluster(cluster.master).running("tandem-main") is not None
        world.produce(logs[1])
        cluster.kill_task_manager()
        wait_for(lambda: world.delivered() == world.total(), 240, driver)
        assert "starting again" not in world.out(), "Flink repairs this by itself"
        stopped = world.stop(savepoint=True)
        assert stopped.returncode == 0, stopped.stderr
        assert driver.wait(60) == 0
        path = stopped.stdout.rpartition("--savepoint ")[2].strip()
        assert path.startswith("file:")
        assert Cluster(cluster.master).jobs("tandem-main") == []
        world.produce(logs[2])
        driver = world.start(*flags, "--savepoint", path)
        wait_for(lambda: world.delivered() == world.total(), 240, driver)
        assert "brought no state along" not in world.out()
        driver.kill()
        driver.wait()
        assert len(Cluster(cluster.master).jobs("tandem-main")) == 1, "it goes on without its driver"
        world.produce(logs[3])
        driver = world.start(*flags)
        wait_for(lambda: "still runs at" in world.out(), 240, driver)
        wait_for(lambda: world.delivered() == world.total(), 240, driver)
        assert world.stop().returncode == 0
        assert driver.wait(60) == 0
        assert Cluster(cluster.master).jobs("tandem-main") == []
        world.assert_right()
        runs = sorted((world.data / "runs").glob("stream-*/manifest.json"))
        assert json.loads(runs[-1].read_text())["status"] == "complete"
    finally:
        end(driver)
        print(world.out())
