"""What ``tandem vacuum`` leaves of a stream's log: all that a start, a restore of the online store or a verify still needs, by an oracle of
plain loops over random logs, in a folder and in an object store; and what it took is not called missing."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.forgetting import store_things, stream_segments
from pipelines.forgetting.vacuum import vacuum
from pipelines.lake import layout, runs
from pipelines.lake.graphs import apply_graph
from pipelines.streaming.state.checkpoint_records import Checkpoint, PartitionCheckpoint, new_record
from pipelines.streaming.state.job_state import JobState
from pipelines.streaming.state.row_log import RowLog, read_late, read_rows
from pipelines.streaming.state.taken_segments import Taken, taken_of
from pipelines.verify.causes import VACUUMED, Position
from pipelines.verify.proof import GroupProof
from pipelines.verify.stream_record import StreamRecord
from tests.network import machines, network
from tests.oracle.strategies import HOUR, make_group, make_source, to_batch
from tests.whole_proof import Proof, prove
from transforms.aggregates import merge, rows_between, tile
from transforms.definitions import Count, hours
from transforms.errors import DataError

NOW = datetime(2030, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
T0 = 1_700_000_000_000_000 // HOUR * HOUR
SOURCE = make_source(delay_us=60_000_000, lateness_us=HOUR)
GROUP = make_group([Count(over=hours(1)), Count(over=hours(6))], source=SOURCE)
OTHER = replace(GROUP, name="slow", aggregates=[Count(over=hours(24))])
GROUPS = {GROUP.name: GROUP, OTHER.name: OTHER}
GRAPH, FORMER = "a" * 64, "b" * 64
Row = dict[str, Any]
Put = Callable[[str, pa.Table], None]


def rows_table(rows: list[Row]) -> pa.Table:
    types = {"origin": pa.string(), "event_timestamp": pa.timestamp("us", "UTC"), "tandem_revision": pa.int64()}
    types |= {"tandem_fingerprint": pa.string(), "created_timestamp": pa.timestamp("us", "UTC")}
    return pa.table({n: pa.array([r[n] for r in rows], t) for n, t in types.items()})


def late_table(rows: list[Row]) -> pa.Table:
    types = {"departed_at": pa.timestamp("us", "UTC"), "_partition": pa.int32(), "_offset": pa.int64(), "_group": pa.string()}
    return pa.table({n: pa.array([r[n] for r in rows], t) for n, t in types.items()})


@pytest.fixture(params=["folder", "bucket"])
def world(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A data folder or an object store: its repository, and how a segment and a checkpoint get there."""
    data = tmp_path if request.param == "folder" else machines(tmp_path, monkeypatch)("a")
    stream = layout.stream(data, "main")

    def put(name: str, table: pa.Table) -> None:
        path = stream / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, path)
        os.utime(path, (T0 / 1e6,) * 2)
        if request.param == "bucket":
            network(data).put(f"stream/main/{name}", path.read_bytes())
            path.unlink()

    def checkpoint(shard: int, point: Checkpoint, folder: str = "checkpoints") -> None:
        record = new_record(point, NOW.isoformat())
        if request.param == "bucket":
            text = json.dumps({"attempt": "x", "record": record})
            network(data).put(f"stream/main/checkpoints/shard-{shard:04d}.json", text.encode())
            return
        path = stream / folder / f"shard-{shard:04d}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record) + "\n")

    def here() -> None:
        if request.param == "bucket":
            JobState(stream).link.have_whole_log()  # type: ignore[union-attr]

    apply_graph(data, GROUP.name, GRAPH)
    apply_graph(data, OTHER.name, "c" * 64)
    settings = SimpleNamespace(request_log=lambda path: None)
    repo = SimpleNamespace(path=data, data=data, settings=settings, groups=GROUPS)
    return SimpleNamespace(repo=repo, data=data, stream=stream, put=put, checkpoint=checkpoint, here=here, bucket=request.param == "bucket")


def point(watermark: dict[str, int | None], needed: dict[str, int], shard: int = 0, shards: int = 1) -> Checkpoint:
    partitions: dict[str, dict[str, PartitionCheckpoint]] = {
        SOURCE.name: {p: {"next": n + 50, "needed": n, "needed_newest": 0, "newest": 0} for p, n in needed.items()}
    }
    return {"shard": shard, "shards": shards, "output_watermark": watermark, "partitions": partitions, "run": None}


def read(world: Any) -> tuple[list[Row], list[Row]]:
    world.here()
    rows, late = read_rows(world.stream, GROUP.name), read_late(world.stream, SOURCE.name)
    return rows.to_pylist(), late.to_pylist()


def us(at: datetime) -> int:
    return int(at.timestamp() * 1_000_000 + 0.5)


@pytest.mark.parametrize("seed", range(16))
def test_what_a_start_a_restore_or_a_verify_needs_stays(world: Any, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rand = random.Random(seed)
    if seed % 2:  # a few rows are many here, and no object is small
        monkeypatch.setattr(stream_segments, "_AT_ONCE", 1)
        monkeypatch.setattr(store_things, "_WHOLE_BYTES", 0)
    rows: list[Row] = []
    late: list[Row] = []
    for segment in range(rand.randint(3, 8)):
        some = []
        for _ in range(rand.randint(1, 12)):
            hour = max(segment * 40 + rand.randint(-30, 30), 0)
            stamp = datetime.fromtimestamp((T0 + hour * HOUR) / 1e6, UTC)
            some.append({"origin": rand.choice("abcdefgh"), "event_timestamp": stamp, "tandem_revision": rand.randint(0, 3)})
            some[-1] |= {"tandem_fingerprint": rand.choice([GRAPH, GRAPH, FORMER]), "created_timestamp": NOW}
        rows += some
        world.put(f"rows/{GROUP.name}/s{segment}.parquet", rows_table(some))
        slow = [{**r, "tandem_fingerprint": FORMER, "event_timestamp": r["event_timestamp"]} for r in some]
        world.put(f"rows/{OTHER.name}/s{segment}.parquet", rows_table(slow))
        notes = []
        for _ in range(rand.randint(0, 2)):
            at = datetime.fromtimestamp((T0 + (segment * 40 + rand.randint(-90, 9)) * HOUR) / 1e6, UTC)
            spot = {"_partition": rand.randint(0, 1), "_offset": segment * 10 + rand.randint(0, 9)}
            notes.append({"departed_at": at, **spot, "_group": rand.choice([None, GROUP.name])})
        late += notes
        if notes:
            world.put(f"late/{SOURCE.name}/s{segment}.parquet", late_table(notes))
    marks = [T0 + rand.randint(100, 400) * HOUR for _ in range(2)]
    needs = [{str(p): rand.randint(5, 60) for p in range(2)} for _ in range(2)]
    for shard in range(2):
        world.checkpoint(shard, point({GROUP.name: marks[shard], OTHER.name: T0 + 500 * HOUR}, needs[shard], shard, 2))
    if not world.bucket:  # a power loss may bring this one back
        needs.append({"0": 3, "1": 7})
        marks.append(T0 + 90 * HOUR)
        world.checkpoint(0, point({GROUP.name: marks[2], OTHER.name: T0 + 500 * HOUR}, needs[2], 0, 2), "checkpoints/durable")
    begun = runs.begin(world.data, "stream", {"n": 1}, NOW)  # a stream is live: it does not hinder
    told = vacuum(world.repo, NOW, DAY, 0, ("stream",), dry_run=True)
    assert vacuum(world.repo, NOW, DAY, 0, ("stream",)) == told
    assert vacuum(world.repo, NOW, DAY, 0, ("stream",)) == []
    begun.save(status="complete")
    left_rows, left_late = read(world)
    taken = taken_of(world.stream)
    newest: dict[str, datetime] = {}
    for row in rows:
        if row["tandem_fingerprint"] == GRAPH:
            newest[row["origin"]] = max(newest.get(row["origin"], row["event_timestamp"]), row["event_timestamp"])
    horizon = min(marks) - max(6 * HOUR, 48 * HOUR)
    gone = [r for r in rows if r not in left_rows]
    for row in gone:
        assert us(row["event_timestamp"]) <= horizon, "verify compares it"
        assert row["tandem_fingerprint"] != GRAPH or row["event_timestamp"] < newest[row["origin"]], "a restore writes it"
        assert us(row["event_timestamp"]) <= taken.rows[GROUP.name], "verify would call it missing"
    for note in late:
        if note in [{n: each[n] for n in note} for each in left_late]:
            continue
        least = min(need[str(note["_partition"])] for need in needs)
        assert note["_offset"] < least, "a start reads it"
        assert note["_offset"] < taken.late[SOURCE.name][note["_partition"]]
        for group, longest in ((GROUP, 6), (OTHER, 24)):
            assert us(note["departed_at"]) + longest * HOUR <= taken.rows[group.name], "a row that verify compares is without this event"
    names = {each["name"] for each in told}
    assert len(names) == len(told) and all(n.startswith("stream/main/") for n in names)
    went.append((bool(gone), any("/late/" in n for n in names), not {*names} >= {f"stream/main/rows/{GROUP.name}/s0.parquet"}))


went: list[tuple[bool, bool, bool]] = []


def test_the_trials_before_took_rows_and_late_events_and_spared_some() -> None:
    if len(went) == 32:  # all of them ran in this process
        assert all(any(each) for each in zip(*went, strict=True)), went


def test_a_late_file_and_rows_that_are_young_stay_whatever_their_files_age(world: Any) -> None:
    """Event time decides, as a replay of old events has old rows in young windows, and a young file may hold old ones."""
    at = datetime.fromtimestamp(T0 / 1e6, UTC)
    row = {"origin": "a", "event_timestamp": at, "tandem_revision": 1, "tandem_fingerprint": GRAPH, "created_timestamp": at}
    later = {**row, "event_timestamp": at + timedelta(hours=5)}
    world.put(f"rows/{GROUP.name}/old.parquet", rows_table([row]))
    world.put(f"rows/{GROUP.name}/new.parquet", rows_table([later]))
    world.put(f"late/{SOURCE.name}/l.parquet", late_table([{"departed_at": at, "_partition": 0, "_offset": 7, "_group": GROUP.name}]))
    world.checkpoint(0, point({GROUP.name: T0 + 6 * HOUR, OTHER.name: None}, {"0": 7}))
    assert vacuum(world.repo, NOW, DAY, 0, ("stream",)) == []
    world.checkpoint(0, point({GROUP.name: T0 + 99 * HOUR, OTHER.name: None}, {"0": 8}))
    assert {e["name"] for e in vacuum(world.repo, NOW, DAY, 0, ("stream",))} == {f"stream/main/rows/{GROUP.name}/old.parquet"}
    world.repo.groups = {GROUP.name: GROUP}
    assert vacuum(world.repo, NOW, DAY, 0, ("stream",)) == [], "the late event touches rows up to six hours after it"
    world.put(f"rows/{GROUP.name}/mid.parquet", rows_table([{**row, "event_timestamp": at + timedelta(hours=9)}]))
    world.put(f"rows/{GROUP.name}/end.parquet", rows_table([{**row, "event_timestamp": at + timedelta(hours=11)}]))
    names = {e["name"].removeprefix("stream/main/") for e in vacuum(world.repo, NOW, DAY, 0, ("stream",))}
    assert names == {f"rows/{GROUP.name}/new.parquet", f"rows/{GROUP.name}/mid.parquet", f"late/{SOURCE.name}/l.parquet"}


def test_a_stream_that_begins_anew_leaves_what_may_go_and_no_word_of_what_went(world: Any) -> None:
    at = datetime.fromtimestamp(T0 / 1e6, UTC)
    row = {"origin": "a", "event_timestamp": at, "tandem_revision": 1, "tandem_fingerprint": GRAPH, "created_timestamp": at}
    for hour in range(2):
        world.put(f"rows/{GROUP.name}/{hour}.parquet", rows_table([{**row, "event_timestamp": at + timedelta(hours=hour)}]))
    assert len(vacuum(world.repo, NOW, DAY, 0, ("stream",))) == 1
    assert taken_of(world.stream).rows == {GROUP.name: T0}
    world.here()
    JobState(world.stream).clear_checkpoints()
    assert taken_of(world.stream) == Taken()
    (each,) = vacuum(world.repo, NOW, DAY, 0, ("stream",))
    assert each["kind"] == "stream/main/before" and each["bytes"] > 0
    assert vacuum(world.repo, NOW, DAY, 0, ("stream",)) == []
    assert not list(world.stream.glob("before/*/**/*.parquet")) or world.bucket


def test_a_segment_that_cannot_be_read_is_said_and_nothing_goes(world: Any) -> None:
    at = datetime.fromtimestamp(T0 / 1e6, UTC)
    row = {"origin": "a", "event_timestamp": at, "tandem_revision": 1, "tandem_fingerprint": GRAPH, "created_timestamp": at}
    for hour in range(2):
        world.put(f"rows/{GROUP.name}/{hour}.parquet", rows_table([{**row, "event_timestamp": at + timedelta(hours=hour)}]))
    name = f"stream/main/rows/{GROUP.name}/1.parquet"
    if world.bucket:
        network(world.data).put(name, b"PAR1 torn")
    else:
        (world.data / name).write_bytes(b"PAR1 torn")
        os.utime(world.data / name, (T0 / 1e6,) * 2)
    with pytest.raises(DataError, match=r"nothing is removed: .*1\.parquet cannot be read"):
        vacuum(world.repo, NOW, DAY, 0, ("stream",))
    assert taken_of(world.stream) == Taken()


@pytest.mark.parametrize("whole_bytes", [0, 1 << 20])
def test_a_segment_that_is_gone_meanwhile_is_passed_over(world: Any, whole_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    at = datetime.fromtimestamp(T0 / 1e6, UTC)
    row = {"origin": "a", "event_timestamp": at, "tandem_revision": 1, "tandem_fingerprint": GRAPH, "created_timestamp": at}
    for hour in range(4):
        world.put(f"rows/{GROUP.name}/{hour}.parquet", rows_table([{**row, "event_timestamp": at + timedelta(hours=hour)}]))
    monkeypatch.setattr(store_things, "_WHOLE_BYTES", whole_bytes)
    real = stream_segments.spared_segments

    def meanwhile(*given: Any) -> Any:
        for hour in (1, 3):
            name = f"stream/main/rows/{GROUP.name}/{hour}.parquet"
            network(world.data).delete(name) if world.bucket else (world.data / name).unlink()
        return real(*given)

    with monkeypatch.context() as patch:
        patch.setattr("pipelines.forgetting.vacuum.spared_segments", meanwhile)
        vacuum(world.repo, NOW, DAY, 0, ("stream",))
    rows, _ = read(world)
    assert [r["event_timestamp"] for r in rows] == [at + timedelta(hours=2)], "the newest of those that are there"
    assert taken_of(world.stream).rows == {GROUP.name: T0}


@pytest.mark.parametrize("world", ["bucket"], indirect=True)
def test_of_a_store_the_columns_that_matter_are_read_and_none_where_all_is_young(world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments of 12,000 rows with forty features each; of the log's bytes a small part is asked for."""
    rng, n, asked = np.random.default_rng(1), 12_000, 0
    for segment in range(4):
        stamps = pa.array(T0 + segment * HOUR + np.arange(n) % 60, pa.timestamp("us", "UTC"))
        columns = {"origin": [f"o{i}" for i in range(n)], "event_timestamp": stamps, "tandem_fingerprint": [GRAPH] * n}
        columns |= {f"f{i}": rng.random(n) for i in range(40)}
        world.put(f"rows/{GROUP.name}/{segment}.parquet", pa.table(columns))
    store = network(world.data)
    size = sum(head.size for head in store.list("stream/"))

    def counted(real: Callable[..., Any], length: Callable[[Any], int]) -> Callable[..., Any]:
        def read(key: str, *given: Any) -> Any:
            nonlocal asked
            found = real(key, *given)
            asked += length(found) if key.endswith(".parquet") else 0
            return found

        return read

    monkeypatch.setattr(store, "read", counted(store.read, lambda found: len(found.content)))
    monkeypatch.setattr(store, "read_range", counted(store.read_range, len))
    assert [e["name"][-9:] for e in vacuum(world.repo, NOW, DAY, 0, ("stream",), dry_run=True)] == [f"{i}.parquet" for i in range(3)]
    assert 0 < asked < size / 8
    first, asked = asked, 0
    world.checkpoint(0, point({GROUP.name: T0}, {"0": 0}))  # all of them are compared still: what the others hold is no question
    assert vacuum(world.repo, NOW, DAY, 3, ("stream",), dry_run=True) == []
    assert 0 < asked < first / 3


def test_a_writer_at_work_beside_loses_nothing_of_what_it_appends(tmp_path: Path) -> None:
    apply_graph(tmp_path, GROUP.name, GRAPH)
    settings = SimpleNamespace(request_log=lambda path: None)
    repo: Any = SimpleNamespace(path=tmp_path, data=tmp_path, settings=settings, groups=GROUPS)
    log = RowLog(layout.stream(tmp_path, "main"), seal_bytes=1)
    for hour in range(40):
        stamp = datetime.fromtimestamp((T0 + hour * HOUR) / 1e6, UTC)
        row = {
            "origin": "ab"[hour == 3],
            "event_timestamp": stamp,
            "tandem_revision": 1,
            "tandem_fingerprint": GRAPH,
            "created_timestamp": NOW,
        }
        log.append(f"rows/{GROUP.name}", 0, rows_table([row]).to_batches()[0])
        if hour % 9 == 0:
            vacuum(repo, NOW + 9 * DAY, DAY, 0, ("stream",))
    log.sync(0)
    log.close()
    vacuum(repo, NOW + 9 * DAY, DAY, 0, ("stream",))
    found = {(r["origin"], us(r["event_timestamp"])) for r in read_rows(log.folder, GROUP.name).to_pylist()}
    assert found == {("a", T0 + 39 * HOUR), ("b", T0 + 3 * HOUR)}, "the newest of each key, and no more"


# ------------------------------------------------------------------------------------------------------------------------------ verify


def world_of_rows(n: int = 60) -> tuple[pa.Table, pa.Table]:
    """Events in the order of a partition, one of them too late, and the rows that batch makes of all."""
    made = []
    for i in range(n):
        at = T0 + i * HOUR // 2 - (9 * HOUR if i == 30 else 0)
        event = {"departed_at": at, "origin": "ab"[i % 2], "gate": 1, "serial": i, "flight": f"f{i}"}
        made.append({**event, "x": 1.0, "s": "u"})
    events = pa.Table.from_batches([to_batch(made, SOURCE)])
    events = events.append_column("_partition", pa.array([0] * n, pa.int32())).append_column("_offset", pa.array(range(n), pa.int64()))
    return events, rows_of(events)


def rows_of(events: pa.Table) -> pa.Table:
    batches = events.select(SOURCE.arrow_schema.names).cast(SOURCE.arrow_schema).combine_chunks().to_batches()
    rows = rows_between(merge([tile(b, GROUP) for b in batches], GROUP), GROUP, T0 - 1, T0 + 40 * HOUR)
    extra = {
        "tandem_fingerprint": pa.array([GRAPH] * rows.num_rows),
        "created_timestamp": pa.nulls(rows.num_rows, pa.timestamp("us", "UTC")),
    }
    return pa.Table.from_arrays([*rows.columns, *extra.values()], names=[*rows.schema.names, *extra])


class Plain:
    """A graph without outputs."""

    def apply(self, rows: pa.RecordBatch) -> pa.RecordBatch:
        return pa.RecordBatch.from_arrays([], [])


def proof_of(events: pa.Table, batch: pa.Table, rows: pa.Table, late: pa.Table, taken: Taken) -> Proof:
    position = Position(np.full(1, 2**60, np.int64), {0: np.full(1, events.num_rows, np.int64)})
    record = StreamRecord("main", {GROUP.name: position}, {GROUP.name: rows}, {SOURCE.name: late}, taken=lambda: taken)
    found: Any = lambda fingerprint: (Plain(), True)  # noqa: E731
    return prove(record, {GROUP.name: GROUP}, {GROUP.name: batch}, {SOURCE.name: events}, {GROUP.name: GRAPH}, lambda name: found, T0 - 1)


def missing(proof: Proof) -> dict[str, int]:
    found: GroupProof = proof.groups[GROUP.name]
    return dict(found.rows()["missing"])


def test_verify_says_that_rows_were_vacuumed_and_not_that_they_are_missing() -> None:
    events, batch = world_of_rows()
    streamed = rows_of(events.filter(pa.array([i != 30 for i in range(events.num_rows)])))  # as a stream that found the 30th too late
    stamps = np.sort(np.unique(streamed.column("event_timestamp").cast(pa.int64()).to_numpy()))
    mark = int(stamps[len(stamps) * 3 // 4])
    left = streamed.filter(pa.array(streamed.column("event_timestamp").cast(pa.int64()).to_numpy() > mark))
    late = events.slice(30, 1).append_column("_group", pa.array([None], pa.string()))
    none = late.slice(0, 0)
    assert proof_of(events, batch, streamed, late, Taken()).unexplained == 0
    assert proof_of(events, batch, left, none, Taken()).unexplained > 0, "without the word, they are missing"
    told = proof_of(events, batch, left, none, Taken({GROUP.name: mark}, {SOURCE.name: {0: 31}}))
    assert told.unexplained == 0 and told.problems() == []
    assert set(missing(told)) == {"vacuumed"} and missing(told)["vacuumed"] > 0
    cause = told.groups[GROUP.name].cause
    assert (told.groups[GROUP.name].comparison.event_us[cause == VACUUMED] <= mark).all()
    # What is younger than that is missed as ever, and so is a note of a late event that lies further on.
    holes = proof_of(events, batch, left.slice(2), none, Taken({GROUP.name: mark}, {SOURCE.name: {0: 31}}))
    assert holes.unexplained == 2
    assert proof_of(events, batch, left, none, Taken({GROUP.name: mark}, {SOURCE.name: {0: 30}})).unexplained == 1


def test_an_extra_row_and_other_values_of_a_vacuumed_time_are_no_less_wrong() -> None:
    events, batch = world_of_rows(20)
    whole = Taken({GROUP.name: 2**61})
    assert proof_of(events, batch, batch, events.slice(0, 0), whole).unexplained == 0
    assert proof_of(events, batch.slice(1), batch, events.slice(0, 0), whole).unexplained == 1
    at = batch.schema.get_field_index("count_6h")
    wrong = batch.set_column(
        at, batch.schema.field(at), pa.array([n + 1 for n in batch.column(at).to_pylist()], batch.schema.field(at).type)
    )
    assert proof_of(events, batch, wrong, events.slice(0, 0), whole).unexplained == batch.num_rows


def test_the_group_that_nobody_defines_any_more_has_no_needs(world: Any) -> None:
    at = datetime.fromtimestamp(T0 / 1e6, UTC)
    row = {"origin": "a", "event_timestamp": at, "tandem_revision": 1, "tandem_fingerprint": GRAPH, "created_timestamp": at}
    world.put("rows/gone/a.parquet", rows_table([row]))
    world.checkpoint(0, point({GROUP.name: T0, OTHER.name: T0}, {"0": 0}))
    assert {e["name"] for e in vacuum(world.repo, NOW, DAY, 0, ("stream",))} == {"stream/main/rows/gone/a.parquet"}
