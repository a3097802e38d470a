"""The end of the stream on both real stores: nothing is lost or undone, whatever is away, killed, refused or forgotten."""

from __future__ import annotations

import multiprocessing
import random
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from pipelines.batch.steps import TransformFile, write_parquet
from pipelines.streaming.stages import held_rows
from pipelines.streaming.stages import sink as deliver_module
from pipelines.streaming.stages.coders import FoldOutput, as_late, with_offsets
from pipelines.streaming.stages.sink import StreamSink, stamped
from pipelines.streaming.state import checkpoint_records
from pipelines.streaming.state.job_state import JobState
from pipelines.streaming.state.row_log import RowLog, read_late, read_rows
from tests.integration.sink_world import (
    GROUPS,
    HOP,
    SOURCE,
    STEPS,
    T0,
    ZONE,
    World,
    check,
    events,
    expected,
    make_world,
    output,
    rows,
    said,
)
from tests.redis_server import redis_server
from transforms.errors import FingerprintError, GraphError, OwnerError, StoreError
from transforms.graph import TransformGraph


@pytest.fixture(params=["sqlite", "redis"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    if request.param == "sqlite":
        yield make_world(tmp_path)
    else:
        with redis_server() as server:
            yield make_world(tmp_path, server.connection_string)


def test_rows_come_to_the_store_and_the_log_and_then_the_checkpoint(world: World) -> None:
    deliver = world.deliver(clock=lambda: 77)
    for step in range(STEPS):
        deliver.deliver(output(step))
    assert world.control.load_checkpoints()[0]["shard"] == STEPS - 1
    check(world)
    report = world.control.reports()["sink-0"]
    assert report["outputs"] == STEPS
    assert report["rows"]["zone_fares"] == sum(output(i).rows["zone_fares"].num_rows for i in range(STEPS))
    assert report["written"] + report["stale"] == sum(report["rows"].values())
    assert (report["refused"], report["restored"], report["outages"]) == (0, 0, 0)
    deliver.close()
    table = read_rows(world.control.folder, ZONE)
    assert set(table.column("tandem_fingerprint").to_pylist()) == {world.graphs["zone_fares"]}
    assert pc.unique(table.column("created_timestamp").cast(pa.int64())).to_pylist() == [77]
    assert said(world) == ""
    assert world.control.failure() is None


def test_rows_that_more_follow_wait_and_the_last_of_each_key_is_written_once(world: World) -> None:
    deliver = world.deliver()
    for step in range(STEPS - 1):
        deliver.deliver(replace(output(step), checkpoint={}), more=True)
    counts = deliver._shards[0].counts
    assert counts.written == 0 and world.control.load_checkpoints() == {}
    assert all(row["at"] is None or not row["at"] for row in world.online(ZONE, [{"zone": "z0"}]))
    deliver.deliver(replace(output(STEPS - 1), checkpoint={}), more=True)
    deliver.settle()
    check(world)
    keys = sum(len({tuple(row[k] for k in g.entity.keys) for row in expected()[n].to_pylist()}) for n, g in GROUPS.items())
    assert counts.written == keys, "each key once"
    assert counts.written + counts.stale == sum(counts.rows.values())
    deliver.settle()
    assert counts.written == keys, "nothing is left"
    deliver.close()


def test_a_checkpoint_vouches_for_no_row_that_waits(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    deliver = world.deliver()
    for step in range(STEPS - 1):
        deliver.deliver(replace(output(step), checkpoint={}), more=True)
    at_the_time: list[bool] = []
    save = JobState.save_checkpoint

    def saved(self: JobState, *args: Any) -> None:
        check(world)
        at_the_time.append(True)
        save(self, *args)

    monkeypatch.setattr(JobState, "save_checkpoint", saved)
    deliver.deliver(output(STEPS - 1), more=True)
    assert at_the_time == [True]
    deliver.close()


def test_what_bears_an_earlier_stamp_was_readable_before_the_next_one(world: World) -> None:
    """By that verify knows what a server could have read; also of rows that waited for others."""
    seen: dict[int, int] = {}  # stamp -> the event timestamp that the store had then

    def clock() -> int:
        seen[now := len(seen) + 1] = max((row["at"] or 0 for row in world.online(ZONE, [{"zone": f"z{n}"} for n in range(9)])), default=0)
        return now

    deliver = world.deliver(clock=clock)
    for step in range(STEPS):
        deliver.deliver(replace(output(step), checkpoint={}), more=step % 6 < 4)
        if step == STEPS // 2:
            deliver.settle()
    deliver.settle()
    deliver.close()
    table = read_rows(world.control.folder, ZONE)
    created, at = (table.column(n).cast(pa.int64()).to_pylist() for n in ("created_timestamp", "event_timestamp"))
    assert 6 < len(set(created)) < STEPS // 2, "some waited together"
    for stamp, there in seen.items():
        assert there == max((a for a, c in zip(at, created) if c < stamp), default=0)


def test_rows_that_wait_are_a_bounded_number(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_rows, "MOST_ROWS", 40)
    deliver = world.deliver()
    for step in range(STEPS):
        deliver.deliver(replace(output(step), checkpoint={}), more=True)
        assert sum(rows.num_rows for some in deliver._held._held[0].values() for rows in some) < 40  # type: ignore[union-attr]
    deliver.settle()
    check(world)
    deliver.close()


def test_rows_ahead_of_a_clock_that_was_set_back_shadow_none_while_they_wait(world: World) -> None:
    """A row that the store refuses replaces none of its key: the one before it is written."""
    deliver = world.deliver()
    assert deliver.store is not None
    horizon = T0 + STEPS // 2 * HOP + 60_000_000
    deliver.store.online.clock = lambda: horizon - 60_000_000  # rows up to a minute ahead are taken
    for step in range(STEPS):
        deliver.deliver(replace(output(step), checkpoint={}), more=True)
    deliver.settle()
    last: dict[str, int] = {}
    for row in expected()["zone_fares"].to_pylist():
        at = int(pa.scalar(row["event_timestamp"], pa.timestamp("us", "UTC")).value)
        if at <= horizon:
            last[row["zone"]] = at
    assert [f["at"] for f in world.online(ZONE, [{"zone": z} for z in last])] == list(last.values())
    assert deliver._shards[0].counts.refused > 0
    deliver.close()


def test_late_events_and_outputs_without_rows_or_checkpoint(world: World) -> None:
    deliver = world.deliver()
    log = events(6)
    late = as_late(SOURCE, with_offsets(log, pa.array(range(6)).to_numpy()), 3, None)
    deliver.deliver(FoldOutput(0, {}, {"trips": late}, {}))
    assert world.control.load_checkpoints() == {}
    deliver.deliver(FoldOutput(0, {}, {}, {"shard": 1}))
    assert world.control.load_checkpoints()[0]["shard"] == 1
    found = read_late(world.control.folder, SOURCE)
    assert found.column("_offset").to_pylist() == list(range(6))
    assert found.column("trip").to_pylist() == log.column(1).to_pylist()
    deliver.close()


def test_rows_that_another_folder_took_over_get_none_more(world: World) -> None:
    """In the write itself, however long ago the stream looked at whose they are."""
    store = world.feast()
    online = store._get_provider().online_store
    online.claim(store.config, "one /here")
    deliver = world.deliver(owner="one /here")
    deliver.deliver(output(0))
    check(world, upto=1)
    before = world.control.load_checkpoints()
    assert before
    online.claim(store.config, "two /there", take=True)
    with pytest.raises(OwnerError):
        deliver.deliver(output(1))
    assert "another data folder now (/there)" in str(world.control.failure())
    deliver.close()
    assert world.control.load_checkpoints() == before, "what is not delivered is not vouched for"


def test_rows_of_another_graph_than_the_applied_one_end_the_job(world: World) -> None:
    deliver = world.deliver()
    deliver.deliver(output(0))
    world.apply_fingerprint("trip_fares", "f" * 64)
    with pytest.raises(FingerprintError, match="'trip_fares'"):
        deliver.deliver(output(1))
    assert "'ffffffffffffffff' is applied" in str(world.control.failure())
    assert world.control.load_checkpoints()[0]["shard"] == 0
    deliver.close()


def test_rows_too_far_in_the_future_are_refused_counted_and_said(world: World) -> None:
    deliver = world.deliver()
    ahead = (time.time_ns() // 1000 + 3 * 86_400_000_000) // HOP * HOP
    made = {"zone_fares": rows(ZONE, events(50, start=ahead, span=HOP), ahead, ahead + HOP)}
    deliver.deliver(FoldOutput(0, made, {}, {"shard": 0}))
    deliver.deliver(output(0))
    assert world.control.reports()["sink-0"]["refused"] == made["zone_fares"].num_rows
    assert "rows lie too far in the future and were refused" in said(world)
    assert world.online(ZONE, [{"zone": "z1"}])[0]["at"] < ahead
    deliver.close()


def test_a_row_that_the_store_has_no_room_for_stops_no_other(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused, counted and told, and not waited for: neither until it fits nor for a clock."""
    deliver = world.deliver()
    assert deliver.store is not None
    only = [True]

    def first(config: Any, table: Any, rows: Any) -> Any:
        """The first row of the first write."""
        return np.array([only.pop() if only else False, *[False] * (len(rows) - 1)])

    monkeypatch.setattr(deliver.store.online, "too_large", first)
    deliver.deliver(output(0))
    deliver.deliver(output(1))
    report = world.control.reports()["sink-0"]
    assert report["refused"] == 1 and report["outages"] == 0 and report["restored"] == 0
    assert "are larger than the online store takes and were refused" in said(world)
    assert world.control.load_checkpoints()[0]["early"] == 0
    deliver.close()


def test_what_cannot_be_delivered_at_all_is_the_jobs_failure(tmp_path: Path) -> None:
    world = make_world(tmp_path)
    with pytest.raises(GraphError):
        StreamSink(world.repo, world.data, GROUPS, {**world.graphs, "zone_fares": "0" * 64}, world.control)
    offline = world.deliver(online=False)
    offline.deliver(output(0))
    assert world.online(ZONE, [{"zone": "z1"}])[0]["at"] is None
    assert read_rows(world.control.folder, ZONE).num_rows == output(0).rows["zone_fares"].num_rows
    assert "generation" not in world.control.load_checkpoints()[0]
    offline.close()


def test_what_a_clock_that_was_set_back_made_too_early_comes_when_it_is_due(world: World) -> None:
    """A worker that starts anew meanwhile knows of it too: by the checkpoint."""
    right = T0 + (STEPS + 1) * HOP
    clock = [right]

    def begin() -> StreamSink:
        made = world.deliver()
        assert made.store is not None
        made.store.online.clock = lambda: clock[0]
        return made

    deliver = begin()
    for step in range(STEPS // 2):
        deliver.deliver(output(step))
    clock[0] = T0
    for step in range(STEPS // 2, STEPS - 2):
        deliver.deliver(output(step))
    assert "was the clock set back? They wait in the row log until it is" in said(world)
    deliver.close()
    deliver = begin()
    deliver.deliver(output(STEPS - 2))
    with pytest.raises(AssertionError):
        check(world, STEPS - 1)
    clock[0] = right
    deliver.deliver(output(STEPS - 1))
    assert "shard 0: the clock is there" in said(world)
    check(world)
    assert world.control.load_checkpoints()[0]["early"] == 0
    deliver.close()


def test_a_full_disk_is_waited_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    deliver = world.deliver()
    deliver.deliver(output(0))
    real, failures = RowLog.append, [3]

    def append(self: Any, place: str, shard: int, batch: pa.RecordBatch) -> None:
        if failures[0]:
            failures[0] -= 1
            raise StoreError("row log x: No space left on device; free its disk")
        real(self, place, shard, batch)

    monkeypatch.setattr(RowLog, "append", append)
    for step in range(1, STEPS):
        deliver.deliver(output(step))
    assert "shard 0 waits: row log x: No space left on device" in said(world)
    assert "row log is back" in said(world)
    check(world)
    deliver.close()


def test_after_a_power_loss_the_last_durable_checkpoint_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_world(tmp_path)
    deliver = world.deliver()
    deliver.deliver(output(0))
    deliver.deliver(output(1))
    monkeypatch.setattr(deliver_module, "_SYNC_SECONDS", 0.0)
    deliver.deliver(output(2))
    monkeypatch.setattr(deliver_module, "_SYNC_SECONDS", 1e9)
    deliver.deliver(output(3))
    assert world.control.load_checkpoints()[0]["shard"] == 3
    monkeypatch.setattr(checkpoint_records, "_BOOT", "the next one")
    assert world.control.load_checkpoints()[0]["shard"] == 2
    deliver.close()


def _work(world: World, ready: Any) -> None:
    """A worker: goes on where the one before it ended."""
    deliver = world.deliver()
    start = world.control.load_checkpoints().get(0, {}).get("shard", -1) + 1
    ready.set()
    for step in range(start, STEPS):
        deliver.deliver(output(step))
    deliver.close()


def test_a_worker_killed_at_any_moment_loses_nothing(world: World) -> None:
    chance, context = random.Random(11), multiprocessing.get_context("fork")
    for step in range(STEPS):
        output(step)  # made once, here
    kills = 0
    while True:
        ready = context.Event()
        process = context.Process(target=_work, args=(world, ready))
        process.start()
        assert ready.wait(120)
        if kills < 8:
            process.join(chance.uniform(0.0, 0.06))
            process.kill()
            kills += 1
        process.join(120)
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
    check(world)
    logged = read_rows(world.control.folder, ZONE)
    assert logged.num_rows >= sum(output(i).rows["zone_fares"].num_rows for i in range(STEPS))
    assert world.control.failure() is None
    assert "lost rows" not in said(world)


@pytest.mark.slow
def test_the_stamped_rows_are_those_of_batch_bit_for_bit(tmp_path: Path) -> None:
    from tests.unit import graph_build

    graph_build.build(str(tmp_path), ["base"])
    (path,) = (tmp_path / "graphs" / "base").glob("*/")
    given = graph_build.rows(3000, seed=3)
    write_parquet(given, tmp_path / "rows" / "a.parquet")
    step = TransformFile(str(path), str(tmp_path / "rows"), str(tmp_path / "out"), 5)
    step.setup()
    (made,) = step.process(str(tmp_path / "rows" / "a.parquet"))
    batch = pq.ParquetFile(made).read()
    graph = TransformGraph.load(path)
    for cut in (1, 700, 3000):
        parts = [stamped(given.slice(at, cut), graph, 5) for at in range(0, 3000, cut)]
        stream = pa.Table.from_batches(parts if cut > 1 else parts[:50])
        assert stream.schema.names == batch.schema.names
        assert stream.schema.types == batch.schema.types
        for name in batch.schema.names:
            assert stream.column(name).combine_chunks().equals(batch.column(name).slice(0, len(stream)).combine_chunks()), name
