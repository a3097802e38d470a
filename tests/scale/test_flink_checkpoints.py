"""Flink's own checkpoints of a stream: on Azure's store (Azurite) a killed task manager goes on from them; that all fail is told."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.streaming.engines.flink_rest import Cluster
from tests.contract.brokers import KafkaHarness
from tests.contract.conftest import kafka  # noqa: F401  # a fixture
from tests.flink_cluster import FlinkCluster, flink_cluster, worker_pool
from tests.integration.stream_world import end, environment, events, make_stream_world
from tests.object_stores import azurite
from tests.scale.tools import AZURITE, flink_plugins, npm_tool
from tests.waiting import until

PORT = 10_000
"""Hadoop's client asks an emulator at this port of this machine and at no other."""


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[FlinkCluster, str]]:
    """A cluster with the plugin, and the address of a worker pool."""
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind(("127.0.0.1", PORT))
        except OSError:
            pytest.skip(f"port {PORT} is taken")
    monkeypatch.setenv("FLINK_PLUGINS_DIR", str(flink_plugins("azure")))
    emulator = {"fs.azure.storage.emulator.account.name": "emulator"}
    with (
        azurite(tmp_path / "azurite", npm_tool(AZURITE, "azurite-blob"), port=PORT),
        flink_cluster(tmp_path / "flink", more=emulator) as cluster,
        worker_pool(tmp_path, environment()) as pool,
    ):
        yield cluster, pool


def checkpoints_of(cluster: FlinkCluster) -> dict[str, Any]:
    """What Flink says of them."""
    (job,) = Cluster(cluster.master).jobs("tandem-main")
    told: dict[str, Any] = Cluster(cluster.master).ask("GET", f"jobs/{job['jid']}/checkpoints")
    return told


def test_a_stream_goes_on_from_flinks_checkpoints_on_azure(
    tmp_path: Path,
    kafka: KafkaHarness,  # noqa: F811
    started: tuple[FlinkCluster, str],
) -> None:
    cluster, pool = started
    world = make_stream_world(tmp_path / "world", kafka.bootstrap_servers, topic="azure", checkpoints="wasb://tandem@emulator/flink")

    def checkpoints() -> dict[str, Any]:
        return checkpoints_of(cluster)

    world.produce(events(500, 0, start=0, seconds=3600))
    driver = world.start("--master", cluster.master, "--worker-pool", pool)
    try:
        until(lambda: world.delivered() == world.total(), process=driver)
        until(lambda: checkpoints()["counts"]["completed"] > 1, process=driver)
        latest = checkpoints()["latest"]["completed"]
        assert latest["external_path"].startswith("wasb://tandem@emulator/flink/") and latest["state_size"] > 0
        cluster.kill_task_manager()
        world.produce(events(500, 1, start=3600, seconds=3600))
        until(lambda: world.delivered() == world.total(), process=driver)
        assert checkpoints()["counts"]["restored"] == 1 and "restarting" not in world.out(), "Flink repairs this by itself"
        assert world.stop().returncode == 0
        assert driver.wait(60) == 0
        world.assert_right()
    finally:
        end(driver)
        print(world.out())


def test_checkpoints_that_all_fail_are_told_and_so_is_their_end(tmp_path: Path, kafka: KafkaHarness) -> None:  # noqa: F811
    place = tmp_path / "checkpoints"
    with flink_cluster(tmp_path / "flink") as cluster, worker_pool(tmp_path, environment()) as pool:
        world = make_stream_world(tmp_path / "world", kafka.bootstrap_servers, topic="failing", checkpoints=place.as_uri())
        world.produce(events(500, 0, start=0, seconds=3600))
        driver = world.start("--master", cluster.master, "--worker-pool", pool)
        try:
            until(lambda: world.delivered() == world.total(), process=driver)
            until(lambda: checkpoints_of(cluster)["counts"]["completed"] > 0, process=driver)
            place.rename(tmp_path / "aside")
            place.write_text("a file where a folder was")
            until(lambda: "checkpoints of Flink failed (" in world.out(), process=driver)
            place.unlink()
            (tmp_path / "aside").rename(place)
            until(lambda: "Flink completes checkpoints again" in world.out(), process=driver)
            assert world.stop().returncode == 0
            assert driver.wait(60) == 0
            world.assert_right()
        finally:
            end(driver)
            print(world.out())
