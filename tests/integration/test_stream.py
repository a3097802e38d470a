"""``tandem stream`` end to end: a real broker, the embedded Flink, an online store; every row as one batch over all events gives it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from pipelines.lake.counted import counted
from pipelines.services.kafka_broker import Broker
from pipelines.streaming import stream_plan
from pipelines.streaming.status import Tracker
from pipelines.streaming.stream_job import run_stream
from pipelines.streaming.stream_options import StreamOptions
from pipelines.streaming.supervisor import Supervisor
from tests.integration.stream_world import ROOT, end, environment, events, is_running, make_stream_world, parts_of
from tests.integration.ticking import alive
from tests.kafka_server import kafka_server
from tests.waiting import until
from transforms.errors import ConfigError, DataError, GraphError

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    with kafka_server(tmp_path_factory.mktemp("broker")) as server:
        yield server


@pytest.mark.slow
def test_direct_reads_to_the_end_and_resumes(tmp_path):
    world = make_stream_world(tmp_path / "world")
    world.produce(events(2000, 1))
    said: list[str] = []
    manifest = run_stream(world.repo(), StreamOptions(runner="direct", until="latest"), said.append)
    assert (manifest["code"], manifest["status"]) == (0, "complete")
    assert any("starting from the beginning of the topics" in line for line in said)
    world.assert_right()
    world.produce(events(1000, 2, start=6 * 3600 - 600))
    said.clear()
    manifest = run_stream(world.repo(), StreamOptions(runner="direct", until="latest"), said.append)
    assert manifest["code"] == 0 and "the checkpoint" in manifest["start"]["why"]
    assert any("starting from the checkpoint" in line for line in said)
    world.assert_right()
    # Another number of shards goes on from the same checkpoint.
    world.produce(events(1000, 3, start=12 * 3600 - 1200))
    for shards in (5, 1):
        said.clear()
        how = StreamOptions(runner="direct", until="latest", shards=shards, given={"parts": "5"})
        assert run_stream(world.repo(), how, said.append)["code"] == 0
        assert any(line.endswith(f", {counted(shards, 'shard')}") for line in said)
        world.assert_right()


def test_after_an_orderly_end_the_row_log_is_parquet(tmp_path: Path) -> None:
    """FAULTS 29: the SQL of the documents found nothing after a stop; only .log files lay there."""
    import duckdb

    world = make_stream_world(tmp_path / "world")
    world.produce(events(500, 1))
    assert run_stream(world.repo(), StreamOptions(runner="direct", until="latest"), lambda line: None)["code"] == 0
    folders = [f for f in (world.data / "stream/main/rows").iterdir() if f.is_dir()]
    assert folders
    for folder in folders:
        assert not list(folder.glob("*.log"))
        [(count,)] = duckdb.sql(f"SELECT count(*) FROM '{folder}/*.parquet'").fetchall()
        assert count > 0


@pytest.mark.slow
def test_flink_survives_its_parts_and_its_driver(tmp_path, broker):
    world = make_stream_world(tmp_path / "world", broker.bootstrap, topic="killed")
    logs = [events(800, seed, start=seed * 3600, seconds=3600) for seed in range(6)]
    world.produce(logs[0])
    driver = world.start("--metrics-port", "0")
    try:
        until(lambda: world.delivered() == world.total(), process=driver)
        # the worker
        (worker,) = parts_of(driver.pid)["worker"]
        world.produce(logs[1])
        os.kill(worker, signal.SIGKILL)
        until(lambda: world.delivered() == world.total(), process=driver)
        # the engine
        (java,) = parts_of(driver.pid)["java"]
        world.produce(logs[2])
        os.kill(java, signal.SIGKILL)
        facts = json.loads((world.stream / "driver.json").read_text())

        def restarts() -> list[str]:
            text = urllib.request.urlopen(facts["metrics"], timeout=10).read().decode()
            return re.findall(r"^tandem_stream_restarts_total (\S+)$", text, re.MULTILINE)

        # All may have been delivered before the kill: that is no sign yet that the driver has seen it, and counted it behind what it says.
        until(lambda: restarts() == ["1.0"] and world.delivered() == world.total(), process=driver)
        assert "restarting from the checkpoint" in world.out()
        # the driver, and a second one meanwhile
        second = subprocess.run(world.command("stream"), cwd=ROOT, capture_output=True, text=True, env=environment())
        assert second.returncode == 1 and "already runs" in second.stderr
        parts = [pid for pids in parts_of(driver.pid).values() for pid in pids]
        assert len(parts) == 2
        world.produce(logs[3])
        driver.kill()
        driver.wait()
        until(lambda: not any(alive(pid) for pid in parts), 10)
        assert not is_running(world)
        world.produce(logs[4])
        driver = world.start()
        until(lambda: world.delivered() == world.total(), process=driver)
        world.produce(logs[5])
        stopped = world.stop()
        assert stopped.returncode == 0, stopped.stderr
        assert driver.wait(30) == 0
        assert "stopped" in stopped.stdout
        world.assert_right()
        # what the stop left in the topic comes now
        driver = world.start("--until", "latest")
        assert driver.wait(120) == 0
        assert world.delivered() == world.total()
        world.assert_right()
    finally:
        end(driver)
        print(world.out())
    assert world.stop().returncode == 0, "nothing to stop is no error"


@pytest.mark.slow
def test_a_worker_that_stands_still_is_replaced_and_a_broker_that_is_away_is_waited_for(
    tmp_path: Path, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real SIGSTOP: Flink waits for such a worker without end. The limit of ten minutes is one of some polls of a broker that is away."""
    limit = 40.0
    monkeypatch.setattr(stream_plan, "Supervisor", partial(Supervisor, silent_seconds=limit))
    world = make_stream_world(tmp_path / "world", broker.bootstrap, topic="silent")
    world.produce(events(500, 1, seconds=3600))
    said: list[str] = []
    with ThreadPoolExecutor(1) as pool:
        stream = pool.submit(run_stream, world.repo(), StreamOptions(), said.append)
        try:
            until(lambda: stream.done() or world.delivered() == world.total())
            (worker,) = parts_of(os.getpid())["worker"]
            broker.pause()
            away = time.monotonic()
            until(lambda: stream.done() or (Tracker(world.control).look().away and time.monotonic() - away > 1.5 * limit))
            broker.resume()
            world.produce(events(500, 2, start=3600, seconds=3600))
            until(lambda: stream.done() or world.delivered() == world.total())
            assert parts_of(os.getpid())["worker"] == [worker] and not [line for line in said if "failed" in line], said
            os.kill(worker, signal.SIGSTOP)
            world.produce(events(500, 3, start=7200, seconds=3600))
            until(lambda: stream.done() or world.delivered() == world.total())
            assert not alive(worker)
            assert [line for line in said if "its workers have not reported for 40 s" in line], said
        finally:
            broker.resume()
            world.control.request("stop")
    assert stream.result()["code"] == 0
    world.assert_right()


def in_parts(n: int) -> tuple[str, ...]:
    """Words that divide a job of the embedded engine, which it does where it is told to."""
    return "--shards", str(n), "--engine-option", f"parts={n}"


@pytest.mark.slow
def test_a_job_goes_on_in_another_number_of_parts_and_in_as_many_without_the_topic(tmp_path, broker):
    """One part, three, two, and two again, which goes on from its tiles and reads no record again. Under keys that Flink spreads evenly
    three tasks share a worker, which is killed; SIGTERM comes while records are under way, and delivers what was polled of them."""
    world = make_stream_world(tmp_path / "world", broker.bootstrap, topic="re-parted", poll_records=100)
    world.produce(events(300, 0, seconds=1800))
    assert run_stream(world.repo(), StreamOptions(runner="direct", until="latest", shards=1), print)["code"] == 0
    assert sorted(world.control.load_checkpoints()) == [0] and world.delivered() == world.total()
    world.assert_right()
    world.produce(events(300, 1, start=1800, seconds=1800))
    driver = world.start(*in_parts(3))
    try:
        until(lambda: world.delivered() == world.total(), process=driver)
        assert sorted(world.control.load_checkpoints()) == [0, 1, 2]
        world.produce(events(600, 2, start=3600, seconds=3600))
        os.kill(parts_of(driver.pid)["worker"][0], signal.SIGKILL)
        until(lambda: world.delivered() == world.total(), process=driver)
        world.assert_right()
        whole = world.total()
        world.produce(events(6000, 7, start=7200))
        until(lambda: world.delivered() > whole, process=driver)
        driver.send_signal(signal.SIGTERM)
        assert driver.wait(60) == 0
        polls = [v for part, v in world.control.reports().items() if part.startswith("poll-")]
        assert all(p["stopped"] for p in polls)
        before = sum(p["next"] for p in polls)
        assert world.delivered() == before
        runs = sorted((world.data / "runs").glob("stream-*/manifest.json"))
        assert json.loads(runs[-1].read_text())["status"] == "complete"
        for more in (3, 4):
            world.produce(events(300, more, start=(5 + more) * 3600, seconds=1800))
            driver = world.start(*in_parts(2), "--until", "latest")
            assert driver.wait(240) == 0
            assert world.delivered() == world.total() > before
            assert sorted(world.control.load_checkpoints()) == [0, 1]
            world.assert_right()
            polls = [v for part, v in world.control.reports().items() if part.startswith("poll-")]
            if more == 4:
                assert sum(p["start"] for p in polls) == before, "in as many parts as before reading begins where it ended"
            before = world.total()
    finally:
        end(driver)
        print(world.out())


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"runner": "direct"}, "give --until latest"),
        ({"runner": "spark"}, "--runner spark"),
        ({"until": "tomorrow"}, "only 'latest'"),
        ({"name": "../x"}, "--name"),
        ({"savepoint": "/sp"}, "the embedded Flink ignores savepoints"),
        ({"parallelism": 0}, "give 1 to 128"),
    ],
)
def test_flags_that_cannot_be(options, line):
    with pytest.raises(ConfigError, match=line):
        StreamOptions(**options)


@pytest.mark.slow
def test_what_is_wrong_is_said_before_anything_runs(tmp_path):
    world = make_stream_world(tmp_path / "world")
    direct = StreamOptions(runner="direct", until="latest")
    with pytest.raises(ConfigError, match="there is no complete batch run"):
        run_stream(world.repo(), StreamOptions(runner="direct", until="latest", from_run="latest"))
    with pytest.raises(DataError, match="no run is called"):
        run_stream(world.repo(), StreamOptions(runner="direct", until="latest", from_run="nothing"))
    features = (world.path / "features.py").read_text()
    (world.path / "features.py").write_text(features.replace('topic="trips"', 'topic="trisp"'))
    import sys

    sys.modules.pop("features", None)
    with pytest.raises(ConfigError, match="no topic 'trisp'"):
        run_stream(world.repo(), direct)
    (world.path / "features.py").write_text(features)
    sys.modules.pop("features", None)
    (world.data / "graphs" / "zones" / "CURRENT").unlink()
    with pytest.raises(GraphError, match="'zones' has no applied graph"):
        run_stream(world.repo(), direct)
