"""Topics into event files: all of it, once, whatever is killed between."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from pipelines.lake.files import write_json as real_write
from pipelines.project.config import KafkaSettings
from pipelines.replay import topic_archive
from pipelines.replay.topic_archive import Archived, archive_topic
from pipelines.sources.broker import DamagedLog, PartitionReader
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
    assert archived(reader, tmp_path, anew=True).events == 25
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
    with pytest.raises(DataError, match="is not the one that was archived before; --anew begins again"):
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
