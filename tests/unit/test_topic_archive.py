"""Topics into event files: all of it, once, whatever is killed between."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.lake.data_files import write_json as real_write
from pipelines.project.config import KafkaSettings
from pipelines.replay import archive_merge, topic_archive
from pipelines.replay.topic_archive import Archived, archive_topic
from pipelines.sources.archived_files import ArchivedFile, covered
from pipelines.sources.broker import DamagedLog, PartitionReader, TopicReplaced
from pipelines.sources.event_files import events, list_files
from pipelines.sources.memory import MemoryBroker
from transforms.definitions import EventSource, Field, hours, minutes
from transforms.errors import ConfigError, DataError
from transforms.instants import micros_of

T0 = datetime(2024, 5, 1, 22, tzinfo=UTC)
NOW = micros_of(datetime(2024, 6, 1, tzinfo=UTC))
ORDERS = EventSource(
    name="orders",
    fields=[Field("order_id", "string", required=True), Field("amount", "float64", max=100)],
    event_time="at",
    tie_breaker="order_id",
    out_of_orderness=minutes(1),
    allowed_lateness=hours(1),
    files="events/orders",
    topic="orders",
)


@pytest.fixture
def broker() -> MemoryBroker:
    made = MemoryBroker("archive", clock=lambda: NOW)
    made.create_topic("orders", partitions=2)
    return made


@pytest.fixture
def reader(broker: MemoryBroker) -> Iterator[PartitionReader]:
    made = broker.open_reader()
    yield made
    made.close()


def send(broker: MemoryBroker, numbers: range, amount: float = 1.0) -> None:
    for i in numbers:
        event = {"order_id": f"o{i}", "amount": amount, "at": (T0 + timedelta(minutes=10 * i)).isoformat()}
        broker.append("orders", i % 2, [json.dumps(event).encode()])


def archived(reader: PartitionReader, data: Path, source: EventSource = ORDERS, **more: Any) -> Archived:
    return archive_topic(reader, source, KafkaSettings(), data, clock=lambda: NOW, **more)


def stored(data: Path) -> list[str]:
    """The order ids that a batch run would read, each as often as it stands there."""
    found: list[str] = []
    for file in list_files(data, ORDERS, None, None, hashes=False):
        for valid, letters in events(file.path, ORDERS, NOW, 0, partitions=file.partitions):
            assert letters.num_rows == 0
            day = pc.strftime(valid.column(0), "%Y-%m-%d").unique().to_pylist()
            assert day == [str(file.date)]
            found += valid.column(valid.schema.get_field_index("order_id")).to_pylist()
    return sorted(found, key=lambda o: int(o[1:]))


def test_a_topic_becomes_event_files_once(broker: MemoryBroker, reader: PartitionReader, tmp_path: Path) -> None:
    """FAULTS 34: what came since the last time is added, under the day of each event; what the contract refuses is counted."""
    send(broker, range(20))
    broker.append("orders", 0, [b"{broken", json.dumps({"order_id": "x", "amount": 500, "at": T0.isoformat()}).encode()])
    done = archived(reader, tmp_path)
    assert (done.records, done.events, done.rejected) == (22, 20, {"malformed": 1, "out_of_range": 1})
    assert stored(tmp_path) == [f"o{i}" for i in range(20)]
    assert {p.parent.name for p in (tmp_path / "events/orders").rglob("*.parquet")} == {"date=2024-05-01", "date=2024-05-02"}
    again = archived(reader, tmp_path)
    assert (again.records, again.files) == (0, 0)
    send(broker, range(20, 25))
    assert archived(reader, tmp_path).events == 5
    assert stored(tmp_path) == [f"o{i}" for i in range(25)]
    assert archived(reader, tmp_path, overwrite=True).events == 25
    assert stored(tmp_path) == [f"o{i}" for i in range(25)]


class _Hurt:
    """What lies at offset 1 of partition 0 cannot be read, and what is at offset 3 is too large for the reader."""

    def __init__(self, reader: PartitionReader) -> None:
        self.reader = reader

    def __getattr__(self, name: str) -> Any:
        return getattr(self.reader, name)

    def poll(self, topic: str, partition: int, offset: int, *how: Any) -> Any:
        if partition == 0 and offset == 1:
            raise DamagedLog("orders/0 at offset 1: its checksum is wrong", 1, 2)
        found = self.reader.poll(topic, partition, offset, *how)
        if partition:
            return found
        return replace(found.before(1) if offset < 1 else found, refused={3: "the record is too large"})


def test_what_no_stream_can_read_is_left_out_and_what_it_refused_is_no_event(
    broker: MemoryBroker, reader: PartitionReader, tmp_path: Path
) -> None:
    """FAULTS 34, SECURITY H1: a damaged batch that `tandem stream skip` left out ended the archive for good."""
    send(broker, range(10))
    with pytest.raises(DamagedLog):
        archived(_Hurt(reader), tmp_path)  # type: ignore[arg-type]
    done = archived(_Hurt(reader), tmp_path, skip={0: frozenset({1})})  # type: ignore[arg-type]
    assert done.rejected == {"too_long": 1}
    assert stored(tmp_path) == [f"o{i}" for i in range(10) if i not in (2, 6)]


@pytest.mark.parametrize("dies", range(6))
def test_killed_anywhere_nothing_is_written_twice(
    broker: MemoryBroker, reader: PartitionReader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dies: int
) -> None:
    send(broker, range(40))
    monkeypatch.setattr(topic_archive, "ROWS", 5)
    calls: list[Any] = []

    def failing(*args: Any, **more: Any) -> None:
        calls.append(args)
        if len(calls) == dies + 1:
            raise KeyboardInterrupt
        real_write(*args, **more)

    monkeypatch.setattr(topic_archive, "write_json", failing)
    for _ in range(2):
        try:
            archived(reader, tmp_path)
        except KeyboardInterrupt:
            send(broker, range(40, 43))  # and more comes before the next try
    assert stored(tmp_path)[:40] == [f"o{i}" for i in range(40)]
    assert len(stored(tmp_path)) == len(set(stored(tmp_path)))


def test_what_is_there_already_is_not_counted_twice(broker: MemoryBroker, reader: PartitionReader, tmp_path: Path) -> None:
    folder = tmp_path / "events" / "orders"
    folder.mkdir(parents=True)
    (folder / "history.jsonl").write_text('{"order_id": "o0", "amount": 1, "at": "2024-05-01T22:00:00Z"}\n')
    send(broker, range(20))
    with pytest.raises(DataError, match=r"holds 1 files that were not archived from topic 'orders' .* say with --since"):
        archived(reader, tmp_path)
    done = archived(reader, tmp_path, begin=micros_of(T0) + 1)
    assert (done.events, done.left_out) == (19, 1)
    send(broker, range(20, 22))
    assert archived(reader, tmp_path).events == 2  # begun, it goes on


def test_a_topic_that_was_made_anew_is_said(broker: MemoryBroker, reader: PartitionReader, tmp_path: Path) -> None:
    send(broker, range(4))
    archived(reader, tmp_path)
    broker.delete_topic("orders")
    broker.create_topic("orders", partitions=2)
    fresh = broker.open_reader()
    with pytest.raises(DataError, match="is not the topic that was archived before"):
        archived(fresh, tmp_path)
    fresh.close()
    no_files = EventSource(
        name="live", fields=ORDERS.fields, event_time="at", tie_breaker="order_id", out_of_orderness=minutes(1),
        allowed_lateness=hours(1), topic="orders",
    )  # fmt: skip
    with pytest.raises(ConfigError, match="source 'live' has no files"):
        archived(reader, tmp_path, no_files)


def test_types_survive(broker: MemoryBroker, reader: PartitionReader, tmp_path: Path) -> None:
    send(broker, range(3))
    archived(reader, tmp_path)
    (file, *_) = list_files(tmp_path, ORDERS, None, None, hashes=False)
    ((valid, _),) = events(file.path, ORDERS, NOW, 0)
    assert valid.schema == ORDERS.arrow_schema and pa.types.is_timestamp(valid.schema.field("at").type)


# ---- files that are merged, gaps, and kills at every step -------------------------------------------------------------------


class Killed(BaseException):
    """What a kill is within one process: nothing catches it."""


def test_small_files_are_merged_and_counted_once_at_every_moment(
    broker: MemoryBroker, reader: PartitionReader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(20):
        send(broker, range(2 * n, 2 * n + 2))
        done = archived(reader, tmp_path)
        assert stored(tmp_path) == [f"o{i}" for i in range(2 * n + 2)]
    folder = tmp_path / "events" / "orders"
    live = list_files(tmp_path, ORDERS, None, None, hashes=False)
    assert len(live) < 2 * 2 * archive_merge.MERGE_FROM, "of two days and two partitions"
    assert done.lag == 0
    monkeypatch.setattr(archive_merge, "KEEP_SECONDS", 0.0)
    for day in folder.glob("date=*"):
        archive_merge.remove_covered(day, 0.0)
    assert sorted(str(p) for p in folder.rglob("*.parquet")) == sorted(
        f.path for f in list_files(tmp_path, ORDERS, None, None, hashes=False)
    )
    assert stored(tmp_path) == [f"o{i}" for i in range(40)]
    offsets = sorted(
        (p, o) for f in folder.rglob("*.parquet") for p, o in zip(*pq.read_table(f).select(["_partition", "_offset"]).to_pydict().values())
    )
    assert offsets == [(p, o) for p in (0, 1) for o in range(20)]


@pytest.mark.parametrize("step", ["replace", "unlink", "fsync"])
def test_killed_at_each_step_each_event_is_there_once(
    broker: MemoryBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Before and after each file that is placed, each deletion and write to disk: readers see nothing twice, in the end everything."""
    monkeypatch.setattr(topic_archive, "ROWS", 4)
    monkeypatch.setattr(archive_merge, "MERGE_FROM", 3)
    monkeypatch.setattr(archive_merge, "remove_covered", partial(archive_merge.remove_covered, keep_seconds=0.0))
    monkeypatch.setattr(topic_archive, "remove_covered", archive_merge.remove_covered)
    real, calls, at, kills = getattr(os, step), 0, 0, 0

    def dying(*args: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at and at % 2:
            raise Killed
        made = real(*args, **more)
        if calls == at:
            raise Killed
        return made

    monkeypatch.setattr(os, step, dying)
    sent = 0
    for at in range(1, 24):
        send(broker, range(sent, sent + 4))
        sent, calls = sent + 4, 0
        fresh = broker.open_reader()
        try:
            archived(fresh, tmp_path)
        except Killed:
            kills += 1
        finally:
            fresh.close()
        found = stored(tmp_path)
        assert len(found) == len(set(found)), f"{step} {at}: {Counter(found).most_common(3)}"
    at = 0
    fresh = broker.open_reader()
    archived(fresh, tmp_path)
    fresh.close()
    assert stored(tmp_path) == [f"o{i}" for i in range(sent)]
    assert kills or step == "unlink"


def test_what_retention_took_is_named(broker: MemoryBroker, reader: PartitionReader, tmp_path: Path) -> None:
    """Loudly, and nothing is archived behind a gap before somebody says so; what was said stays in the archive's state."""
    send(broker, range(20))
    archived(reader, tmp_path)
    send(broker, range(20, 60))
    broker.truncate("orders", 0, 25)
    line = r"15 records were deleted by retention before they were archived: orders/0 from offset 10 to before 25; .*--accept-missing"
    for _ in range(2):
        with pytest.raises(DataError, match=line):
            archived(reader, tmp_path)
    said: list[str] = []
    done = archived(reader, tmp_path, accept_missing=True, say=said.append)
    assert done.missing == [(0, 10, 25)] and "15 records were deleted" in said[0] and done.events == 25
    state = json.loads((tmp_path / "archive" / "orders.json").read_text())
    assert state["missing"] == [[0, 10, 25]] and state["next"] == {"0": 30, "1": 30}
    assert archived(reader, tmp_path).missing == []
    assert stored(tmp_path) == [f"o{i}" for i in range(60) if i % 2 or i < 20 or i >= 50]


def test_a_topic_made_anew_while_it_is_archived_ends_it(
    broker: MemoryBroker, reader: PartitionReader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topic_archive, "ROWS", 2)
    send(broker, range(20))

    def meanwhile(done: int, total: int) -> None:
        broker.delete_topic("orders")
        broker.create_topic("orders", partitions=2)
        send(broker, range(100, 120))

    with pytest.raises(TopicReplaced):
        archived(reader, tmp_path, progress=meanwhile)
    assert all(int(o[1:]) < 20 for o in stored(tmp_path))
    fresh = broker.open_reader()
    with pytest.raises(DataError, match="is not the topic that was archived before"):
        archived(fresh, tmp_path)
    assert archived(fresh, tmp_path, overwrite=True).events == 20
    fresh.close()
    assert stored(tmp_path) == [f"o{i}" for i in range(100, 120)]


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 30), st.integers(1, 9)), max_size=20))
def test_what_is_covered_lies_within_another(spans: list[tuple[int, int, int]]) -> None:
    files = {ArchivedFile(p, first, first + n) for p, first, n in spans}
    gone = covered([f.name for f in files] + ["a.parquet", "topic-x.parquet"])
    for file in files:
        assert (file.name in gone) == any(other.covers(file) for other in files)
