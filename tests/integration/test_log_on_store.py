"""The row log of a stream and its checkpoints, with workers and machines that are lost: whatever a checkpoint says that was delivered is in
the log, of the disk and of the object store."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipelines.project.config import KafkaSettings, StreamSettings
from pipelines.sources.memory import MemoryBroker
from pipelines.streaming.stages.coders import Element, FoldOutput, with_offsets
from pipelines.streaming.stages.fold_shard import FoldShard
from pipelines.streaming.stages.sink import SinkRows, StopRequested, StreamSink
from pipelines.streaming.state.checkpoint_records import Checkpoint
from pipelines.streaming.state.job_spec import JobSpec
from pipelines.streaming.state.job_state import JobState
from pipelines.streaming.state.log_segments import LeftSegments
from pipelines.streaming.state.row_log import RowLog, read_rows
from pipelines.streaming.state.stream_link import link_of
from pipelines.streaming.state.workers_elsewhere import WorkersElsewhere
from serving.object_store.cache import data_path
from tests.bench.worker import Bag, Cell
from tests.integration.sink_world import GROUPS, HOP, T0, ZONE, World, events, make_world, rows
from tests.network import URL, machines, network
from transforms.errors import StoreError, TandemError
from transforms.fold import OffsetRange

BATCH = events(600)
MOST_WRITES = 100


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """See ``machines``."""
    return machines(tmp_path, monkeypatch)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


def spec(world: World, data: Path) -> JobSpec:
    """A job whose data lies at ``data``; the graphs are the world's."""
    if not (data / "graphs").exists():
        (data / "graphs").symlink_to(world.data / "graphs")
    folder, link = data / "stream" / "main", link_of(data / "stream" / "main")
    if link is not None and not link.attempt:
        link.fence("first")
        link.place(2)
    return JobSpec(
        repo=world.repo,
        data=data,
        folder=folder,
        groups=GROUPS,
        graphs=world.graphs,
        kafka=KafkaSettings(),
        stream=StreamSettings(shards=2),
        broker=MemoryBroker(),
        attempt="" if link is None else link.attempt,
    )


def instance(spec: JobSpec) -> SinkRows:
    """One of a worker's, as an engine makes them."""
    out = SinkRows(spec)
    out.setup()
    return out


def output(n: int, shard: int = 0, ends: bool = False) -> FoldOutput:
    """The ``n``-th of a shard: the rows of one hop, and the checkpoint that says so."""
    checkpoint: Checkpoint = {"shard": n, "shards": 2}
    if ends:
        checkpoint["ends"] = True  # is saved durably at once, as every few seconds one is
    return FoldOutput(shard, {"zone_fares": made(n)}, {}, checkpoint)


def made(n: int) -> pa.RecordBatch:
    return rows(ZONE, BATCH, T0 + (n - 1) * HOP, T0 + n * HOP)


def delivered(folder: Path, shard: int = 0) -> int:
    """Up to where the durable checkpoint says that a shard has delivered."""
    state = JobState(folder)
    state.have_checkpoints()
    return int(state.load_checkpoints().get(shard, {"shard": 0})["shard"])


def in_log(folder: Path) -> set[tuple[str, int]]:
    """The rows of the log: key and time."""
    return named(read_rows(folder, ZONE))


def keys(upto: int) -> set[tuple[str, int]]:
    """The rows of all outputs up to one."""
    return {row for n in range(1, upto + 1) for row in named(pa.Table.from_batches([made(n)]))}


def named(table: pa.Table) -> set[tuple[str, int]]:
    if not table.num_rows:
        return set()
    return set(zip(table.column("zone").to_pylist(), table.column("event_timestamp").cast(pa.int64()).to_pylist(), strict=True))


def seen_elsewhere(machine: Callable[..., Path], name: str) -> int:
    """What another machine, which knows the store alone, finds; the rows of all that was delivered must be there."""
    folder = machine(name) / "stream" / "main"
    upto = delivered(folder)
    missing = keys(upto) - in_log(folder)
    assert not missing, f"the checkpoint says {upto}; {len(missing)} rows of that are not in the log"
    return upto


def test_any_instance_of_a_worker_vouches_for_what_the_others_delivered(machine: Callable[..., Path], world: World) -> None:
    job = spec(world, machine("a"))
    one, two = instance(job), instance(job)
    one.process(output(1))
    one.process(output(2))
    two.process(output(3, ends=True))
    assert seen_elsewhere(machine, "b") == 3
    machine("a")
    reports = JobState(job.folder).reports()["sink-0"]
    assert reports["outputs"] == 3, "numbers of a shard are those of all instances"
    one.teardown()
    two.process(output(4, ends=True))
    two.teardown()
    assert seen_elsewhere(machine, "c") == 4


def test_a_worker_killed_at_each_step(machine: Callable[..., Path], world: World) -> None:
    """The network is cut after each write in turn, and the machine is never seen again."""
    ends = []
    for step in range(MOST_WRITES):
        url = f"s3://bucket/lake-{step}"
        data = machine(f"a{step}", url)
        job = spec(world, data)
        one, two = instance(job), instance(job)
        JobState(job.folder).request("stop")  # who waits for the store gives up
        network(data).passes = step
        try:
            one.process(output(1))
            two.process(output(2))
            one.process(output(3, ends=True))
            two.process(output(4))
            one.process(output(5, ends=True))
        except StopRequested:
            pass
        one.teardown()
        two.teardown()
        cut = network(data).passes < 0  # type: ignore[operator]
        ends.append(seen_elsewhere(lambda name, url=url: machine(name, url), f"b{step}"))
        if not cut:
            break
    assert ends[-1] == 5 and sorted(set(ends)) == [0, 1, 3, 5] and ends == sorted(ends)


def lost(*sinks: StreamSink) -> None:
    """Their process is gone: nothing is closed, and the system lets go of its files."""
    for sink in sinks:
        sink._closed.set()
        for segment in sink.log._open.values():
            os.close(segment.handle)


def test_what_a_killed_worker_left_is_in_the_store_before_the_next_one_saves(machine: Callable[..., Path], world: World) -> None:
    data = machine("a")
    job = spec(world, data)
    first = instance(job)
    first.process(output(1))
    first.process(output(2))
    network(data).passes = 0  # so nothing is sent of what is sealed
    lost(first.sink)
    second = instance(job)
    network(data).passes = None
    second.process(output(3))
    second.process(output(4, ends=True))
    assert seen_elsewhere(machine, "b") == 4
    machine("a")
    second.process(output(5))
    network(data).passes = 0
    second.teardown()  # seals, and cannot send
    network(data).passes = None
    third = instance(job)
    third.process(output(6, ends=True))
    assert seen_elsewhere(machine, "c") == 6


def test_a_worker_of_before_that_has_not_ended_yet(machine: Callable[..., Path], world: World) -> None:
    data = machine("a")
    job = spec(world, data)
    before = StreamSink(job.repo, job.data, dict(job.groups), dict(job.graphs), job.job_state())
    before.deliver(output(1))
    before.deliver(output(2))
    now = instance(job)
    now.process(output(3, ends=True))
    assert seen_elsewhere(machine, "b") == 3
    machine("a")
    before.close()
    now.process(output(4, ends=True))
    assert seen_elsewhere(machine, "c") == 4
    now.teardown()


def test_what_the_store_had_once_does_not_come_back(machine: Callable[..., Path], world: World) -> None:
    """Files that were taken from the store stay away, whatever machine has copies of them."""
    data = machine("a")
    job = spec(world, data)
    sink = instance(job)
    sink.process(output(1, ends=True))
    sink.teardown()
    other = machine("b")
    read_rows(other / "stream" / "main", ZONE)
    keys = [h.key for h in network(data).list("stream/main/rows/")]
    assert keys and all(key.endswith(".parquet") for key in keys)
    for key in keys:
        network(data).delete(key)
    for name in ("a", "b"):
        folder = machine(name) / "stream" / "main"
        log = RowLog(folder)
        log.append("rows/zone_fares", 1, made(2))
        log.sync(1)
        assert not [h.key for h in network(data).list("stream/main/rows/") if h.key in keys]
        log.close()


@pytest.fixture
def forced(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """File -> how much of it was forced to disk."""
    out: dict[str, int] = {}
    real = os.fsync

    def fsync(handle: int) -> None:
        out[os.readlink(f"/proc/self/fd/{handle}")] = os.fstat(handle).st_size
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    return out


def test_in_a_plain_folder_all_is_on_disk_before_a_durable_checkpoint(tmp_path: Path, world: World, forced: dict[str, int]) -> None:
    job = spec(world, tmp_path)
    before = StreamSink(job.repo, job.data, dict(job.groups), dict(job.graphs), job.job_state())
    before.deliver(output(1))
    one, two = instance(job), instance(job)
    one.process(output(2))
    before.deliver(output(3))
    one.process(output(4))
    two.sink._shards[0].synced = float("-inf")  # some seconds later
    two.process(output(5))
    segments = sorted(job.folder.glob("rows/*/*.log"))
    assert len(segments) == 2
    assert {str(path): path.stat().st_size for path in segments} == {str(path): forced.get(str(path)) for path in segments}
    for each in (one, two):
        each.teardown()
    before.close()


def test_a_log_at_rest_is_not_listed_again(tmp_path: Path, world: World, forced: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever others append is on disk all the same, from the first row on, and however soon after a look."""
    folder, now, listed = tmp_path / "stream" / "main", [0.0], list[Path]()
    real = os.listdir

    def listdir(path: Any) -> list[Any]:
        listed.append(path)
        return real(path)

    monkeypatch.setattr(os, "listdir", listdir)

    def looked(left: LeftSegments) -> int:
        """How often it listed the folder in three looks, the last two of which are seconds later."""
        before = len(listed)
        for later in (0.0, 5.0, 5.0):
            now[0] += later
            left.settle(0)
        return len(listed) - before

    old = RowLog(folder)
    old.append("rows/zone_fares", 0, made(1))
    old.close()
    left = LeftSegments(folder, "own", lambda: now[0])
    assert looked(left) == 2 and looked(left) == 0
    for n in (2, 3):
        other = RowLog(folder)
        other.append("rows/zone_fares", 0, made(n))
        left.settle(0)
        other.append("rows/zone_fares", 0, made(n))
        left.settle(0)
        (segment,) = (folder / "rows" / "zone_fares").glob("*.log")
        assert forced[str(segment)] == segment.stat().st_size
        assert looked(left) == 3, "a writer is at work"
        other.close()
        assert looked(left) == 2 and looked(left) == 0


def test_a_part_that_is_sealed_while_it_is_read(machine: Callable[..., Path], world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    data = machine("a")
    job = spec(world, data)
    sink = instance(job)
    sink.process(output(1, ends=True))
    folder = machine("b") / "stream" / "main"
    store = network(folder.parents[1])
    real = type(store).download

    def download(self: Any, key: str, file: Path) -> Any:
        if key.endswith(".part"):
            sink.teardown()
            monkeypatch.setattr(type(store), "download", real)
        return real(self, key, file)

    monkeypatch.setattr(type(store), "download", download)
    assert in_log(folder) == keys(1)


def test_a_full_disk_holds_the_checkpoint_back(tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    job = spec(world, tmp_path)
    first = instance(job)
    first.process(output(1))
    lost(first.sink)
    log = RowLog(job.folder)
    monkeypatch.setattr("pipelines.streaming.state.log_segments.pq.write_table", _full)
    with pytest.raises(StoreError, match="No space left on device; free its disk"):
        log.sync(0)


def _full(*args: Any, **options: Any) -> None:
    raise OSError(28, "No space left on device")


class Restored:
    """A shard whose worker folded, and a worker of another machine that is given a state of it which the engine had kept."""

    def __init__(self, machine: Callable[..., Path], world: World) -> None:
        self.machine = machine
        job = spec(world, machine("driver"))
        self.driver = JobState(job.folder)
        self.elsewhere = WorkersElsewhere(self.driver, self.driver.link)  # type: ignore[arg-type]
        self.elsewhere.look()
        machine("first")
        self.job = replace(job, home="the driver's")
        self.cells = Cell(), Bag(), Bag()
        self.first = self._shard()
        self.none = {name: with_offsets(BATCH.slice(0, 0), np.zeros(0, np.int64)) for name in GROUPS}

    def _shard(self) -> FoldShard:
        data = data_path(URL)
        out = FoldShard(replace(self.job, data=data, folder=data / "stream" / "main"))
        out.setup()
        return out

    def fold(self, span: OffsetRange, saved: bool) -> tuple[Any, ...]:
        """Fold records of no events; ``saved``: the stream's checkpoint knows of it. What the engine keeps, should it do so now."""
        (made,) = self.first.take(0, [Element(span, self.none, None, True)], *self.cells)
        if saved:
            self.first.job_state.save_checkpoint(0, made.checkpoint, durable=True)
        return self.cells[0].value, list(self.cells[1].values), list(self.cells[2].values)

    def gone_on(self, kept: tuple[Any, ...]) -> Checkpoint:
        """The checkpoint after ten records more, by another machine."""
        self.machine("second")
        second, cells = self._shard(), (Cell(), Bag(), Bag())
        cells[0].value, cells[1].values, cells[2].values = kept
        at = second._load(0, *cells).shard.partitions["trips"][0].expected
        span = OffsetRange("trips", 0, 1, 0, at, at + 10, T0, T0 + 3 * HOP, T0 + 3 * HOP)
        return second.take(0, [Element(span, self.none, None, True)], *cells)[0].checkpoint

    def asked_anew(self, since: float = 0.0) -> str | None:
        self.machine("driver")
        self.elsewhere.look()
        return self.driver.asked_anew(since)


def span(n: int, records: int = 10, **more: Any) -> OffsetRange:
    """Records that take event time to the end of the ``n``-th hop."""
    return OffsetRange("trips", 0, 1, 0, n * 10, n * 10 + records, T0, T0 + n * HOP, T0 + n * HOP, **more)


def test_what_an_engine_restored_counts_no_further_than_the_store_vouches_for(machine: Callable[..., Path], world: World) -> None:
    """A cluster's own checkpoint may be newer than the stream's, whose worker was lost with its rows: then nobody would make them again."""
    shard = Restored(machine, world)
    vouched = shard.fold(span(0), saved=True)
    beyond = shard.fold(span(1), saved=False)
    assert shard.gone_on(vouched)["partitions"]["trips"]["0"]["next"] == 20, "what the checkpoint vouches for is gone on from"
    with pytest.raises(TandemError, match="the engine restored shard 0 at trips/0 20, beyond the stream's checkpoint"):
        shard.gone_on(beyond)
    assert "beyond the stream's checkpoint" in str(shard.asked_anew())
    assert shard.asked_anew(time.time() + 60) is None


def test_rows_that_came_without_a_record_are_vouched_for_too(machine: Callable[..., Path], world: World) -> None:
    """A partition that falls idle lets rows out that no record brought: the same offsets, and more given out."""
    shard = Restored(machine, world)
    vouched = shard.fold(span(0), saved=True)
    beyond = shard.fold(replace(span(1, 0), watermark=T0 + 2 * HOP, idle=True), saved=False)
    assert shard.gone_on(vouched)["partitions"]["trips"]["0"]["next"] == 20
    with pytest.raises(TandemError, match=r"the engine restored shard 0 at \w+ [-0-9]+ [:0-9]+ UTC, beyond the stream's checkpoint"):
        shard.gone_on(beyond)
    assert "beyond the stream's checkpoint" in str(shard.asked_anew())
