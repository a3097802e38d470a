"""A stream whose data lies on a real object store (SeaweedFS): what it keeps is there, so another machine goes on with it, and sees it."""

from __future__ import annotations

import json
import shutil
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.feature_store.online_sink import views_of
from pipelines.streaming.state.job_state import JobState
from pipelines.streaming.state.stream_link import StreamLink, here, link_of
from pipelines.streaming.state.stream_objects import Superseded
from pipelines.streaming.state.workers_elsewhere import WorkersElsewhere
from pipelines.streaming.stream_job import run_stream
from pipelines.streaming.stream_options import StreamOptions
from pipelines.verify.stream_record import load_record
from serving.object_store.cache import FOLDER, data_path
from serving.object_store.connecting import connect
from tests.integration.stream_world import StreamWorld, events, make_stream_world
from transforms.errors import ConfigError

Machine = Callable[[str], None]


@pytest.fixture
def machine(s3_here: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """``machine(name)``: from now on this process is a machine of that name, with a cache of its own."""
    return lambda name: monkeypatch.setenv(FOLDER, str(tmp_path / name / "cache"))


def read_all(world: StreamWorld, **options: object) -> dict[str, object]:
    sys.modules.pop("features", None)
    how = StreamOptions(runner="direct", until="latest", given={"parts": "3"}, **options)  # type: ignore[arg-type]
    return run_stream(world.repo(), how, say=lambda line: None)


def test_another_machine_goes_on_with_a_stream(machine: Machine, tmp_path: Path) -> None:
    machine("a")
    world = make_stream_world(tmp_path / "world", url=f"s3://tandem/{uuid.uuid4().hex}")
    world.produce(events(400, 0, seconds=7200))
    read_all(world)
    world.assert_right()
    first = world.data

    machine("b")
    assert world.data != first
    world.produce(events(400, 1, start=7200, seconds=7200))
    manifest = read_all(world)
    assert "with its windows" in str(manifest["start"]["why"])  # type: ignore[index]
    assert all(offset > 0 for each in manifest["start"]["offsets"].values() for offset, _ in each.values())  # type: ignore[index]
    world.assert_right()  # the rows of both

    machine("a")  # whose own files are older than the store
    world.produce(events(400, 2, start=14400, seconds=7200))
    read_all(world)
    world.assert_right()
    shutil.rmtree(world.data)  # a machine that was lost
    machine("c")
    sys.modules.pop("features", None)
    record = load_record(world.stream, "main", world.repo().groups)
    assert sum(record.rows[name].num_rows for name in record.rows) > 0
    assert world.delivered() == world.total() == 1200
    world.assert_right()
    with pytest.raises(ConfigError, match="the online store OrderedSqliteOnlineStore is on this machine alone"):
        views_of(world.repo())


def test_anew_and_other_numbers_of_shards_on_another_machine(machine: Machine, tmp_path: Path) -> None:
    machine("a")
    world = make_stream_world(tmp_path / "world", url=f"s3://tandem/{uuid.uuid4().hex}")
    world.produce(events(300, 0, seconds=7200))
    read_all(world, shards=3)
    machine("b")
    world.produce(events(300, 1, start=7200, seconds=7200))
    read_all(world, shards=2)
    world.assert_right()
    assert len(world.control.load_checkpoints()) == 2
    assert world.control.link is not None and not world.control.link.began_before()
    machine("a")
    read_all(world, reset=True)
    world.assert_right()
    machine("b")
    assert world.control.link.began_before() and world.control.began_before() and world.control.beside() == []
    assert JobState(world.stream.with_name("other")).beside() == ["main"], "its checkpoints are in the store alone"
    world.control.have_checkpoints()
    world.assert_right()
    store = connect(world.url or "")
    kept = [head.key for head in store.list("stream/main/")]
    assert any("/before/" in key for key in kept)
    named = json.dumps([found.content.decode() for k in kept if "/checkpoints/" in k and (found := store.read(k)) is not None])
    assert all(Path(key).name in named for key in kept if "/tiles/" in key), "files of tiles that nobody needs are deleted"


def worker(world: StreamWorld, attempt: str, home: str) -> JobState:
    """The state as a worker process of this machine has it."""
    folder = data_path(world.url or "") / "stream" / "main"
    out = JobState(folder)
    made = link_of(folder)
    assert made is not None
    out.link = StreamLink(made.cache, folder)  # another process
    out.link.join(attempt, home)
    return out


def test_a_driver_and_workers_on_other_machines_hear_of_each_other(machine: Machine, tmp_path: Path) -> None:
    machine("driver")
    world = make_stream_world(tmp_path / "world", url=f"s3://tandem/{uuid.uuid4().hex}")
    driver = world.control
    assert driver.link is not None
    driver.link.fence("first")
    driver.link.place(2)
    driver.request("stop")
    driver.skip("trips", 1, 17, "broken")
    elsewhere, home = WorkersElsewhere(driver, driver.link), here(driver.folder)
    elsewhere.look()

    machine("worker")
    far = worker(world, "first", home)
    assert far.requested("stop") and not far.requested("savepoint")
    assert far.skips() == {("trips", 1): frozenset({17})}
    far.report("poll-trips-0", {"next": 5, "at": 1.0})
    far.say("reading")
    far.clear("stop")
    far.save_checkpoint(1, {"shard": 1}, durable=True)
    far.link._exchange()  # type: ignore[union-attr]

    machine("driver")
    elsewhere.look()
    assert driver.reports()["poll-trips-0"]["next"] == 5 and driver.reports()["poll-trips-0"]["at"] > 1.0
    assert [line.partition(" ")[2] for line in driver.said()[0]] == ["reading"]
    assert not driver.requested("stop")
    assert driver.load_checkpoints() == {1: {"shard": 1}}
    elsewhere.look()
    assert len(driver.said()[0]) == 1, "a line is said once"

    # The job is started anew while that worker is cut off.
    driver.link.fence("second")
    elsewhere.look()
    machine("worker")
    with pytest.raises(Superseded, match="was started again"):
        far.save_checkpoint(1, {"shard": 2}, durable=True)
    far.fail("what a worker of before says is nothing")
    again = worker(world, "second", home)
    again.save_checkpoint(1, {"shard": 3}, durable=True)
    again.fail("no room")

    machine("driver")
    elsewhere.look()
    assert driver.failure() == "no room"
    assert driver.load_checkpoints() == {1: {"shard": 3}}
