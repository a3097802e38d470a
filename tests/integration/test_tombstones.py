"""A record with a key and no value is no event and no fault: counted by all who read a topic, and nothing else."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipelines.project.config import KafkaSettings, StreamSettings
from pipelines.replay.topic_archive import archive_topic
from pipelines.sources.broker import FetchResult, KeptRecords, Original
from pipelines.sources.event_files import events, list_files
from pipelines.sources.formats.record_format import record_format
from pipelines.sources.memory import MemoryBroker
from pipelines.sources.record_verdicts import judge_records
from pipelines.streaming.status import Tracker, line
from pipelines.streaming.stream_metrics import StreamMetrics
from tests.integration.stages_world import HOUR, T0, World, payment, payments
from tests.integration.test_stream_stages import END, GOOD, expected, letters, plain
from transforms.contract import Checked
from transforms.definitions import EventSource, Field, RecordKey

NOW = T0 + 1000 * HOUR
SOURCE = payments("payments", files="events/payments").source
KEYED = replace(SOURCE, fields=[*SOURCE.fields, Field("key", "string", path=RecordKey())])
TOMBSTONE: Original = (b"k", None, [])


def among(payloads: Sequence[bytes], every: int = 7) -> list[Original]:
    """Records of these payloads, tombstones between them: first, last, and several in a row."""
    out: list[Original] = [TOMBSTONE]
    for n, payload in enumerate(payloads):
        out.append((b"k%d" % (n % 3), payload, []))
        out += [TOMBSTONE] * (n % 3) if n % every == 0 else []
    return [*out, TOMBSTONE]


def put(broker: MemoryBroker, records: Sequence[Original], partition: int = 0) -> None:
    keys, values, headers = zip(*records, strict=True)
    broker.append("payments", partition, values, keys, headers)


def world_of(tmp_path: Path, partitions: int = 1, **settings: Any) -> World:
    broker = MemoryBroker()
    broker.create_topic("payments", partitions)
    return World(tmp_path, broker, payments("payments"), StreamSettings(shards=2, **settings), KafkaSettings(dead_letters="dead"))


def polled(records: Sequence[Original], refused: dict[int, str] | None = None) -> FetchResult:
    n = len(records)
    payloads = pa.array([value for _, value, _ in records], pa.binary())
    return FetchResult(payloads, np.arange(n), np.full(n, NOW), n, n, True, "", KeptRecords(records), refused or {})


def verdicts(records: Sequence[Original], source: EventSource = SOURCE, refused: dict[int, str] | None = None) -> Checked:
    return judge_records(record_format(source, KafkaSettings()).judge, polled(records, refused), source, np.full(len(records), NOW), 0)


def test_a_stream_counts_them(tmp_path: Path) -> None:
    world = world_of(tmp_path)
    records = among(GOOD)
    put(world.broker, records)
    world.run()
    gone = len(records) - len(GOOD)
    assert gone > 30 and plain(world.rows()) == expected(world, GOOD, END)
    status = Tracker(world.control).look()
    assert (
        status.tombstones == {"payments": gone}
        and not status.rejected
        and not status.filtered
        and status.read == {"payments": len(records)}
    )
    assert f"{gone} tombstones" in line(status)
    counters = {s.name: s.value for family in StreamMetrics(lambda: status).collect() for s in family.samples}
    assert counters["tandem_stream_tombstones_total"] == gone


def test_more_of_them_than_events_pause_nothing(tmp_path: Path) -> None:
    world = world_of(tmp_path, max_reject_share=0.01)
    put(world.broker, [(b"k", None, [])] * 500 + among(GOOD))
    world.run()
    assert plain(world.rows()) == expected(world, GOOD, END) and not world.report()["paused"]


def test_a_partition_of_them_holds_nobody_back(tmp_path: Path) -> None:
    world = world_of(tmp_path, 2, clock="replay", idle_seconds=1e-9)
    put(world.broker, among(GOOD))
    for _ in range(6):  # something comes at each poll
        put(world.broker, [TOMBSTONE], 1)
        world.run(replace(world.spec(), until=None, one_tick=False), ticks=2)
    assert world.report(1)["idle"] and world.report(1)["next"] == 6
    assert plain(world.rows()) == expected(world, GOOD, END)


def test_a_record_of_neither_key_nor_value_is_a_dead_letter(tmp_path: Path) -> None:
    world = world_of(tmp_path, max_reject_share=0.5)
    put(world.broker, [*among(GOOD), (None, None, [("x", b"1")]), (b"", None, [])])
    world.run()
    (letter,) = letters(replace(world, kafka=KafkaSettings(dead_letters="dead")))
    assert (letter.reason, letter.key, letter.value) == ("malformed", None, None)
    assert world.report()["counts"]["tombstones"] == len(among(GOOD)) - len(GOOD) + 1, "an empty key is one"


@pytest.mark.parametrize("source", [SOURCE, KEYED], ids=["plain", "with the key as a field"])
def test_the_archive_has_the_events_that_the_stream_has(source: EventSource, tmp_path: Path) -> None:
    broker = MemoryBroker(clock=lambda: NOW)
    broker.create_topic("payments", 1)
    bad = payment(1, T0, amount="much")
    put(broker, among([*GOOD, bad]))
    reader = broker.open_reader()
    done = archive_topic(reader, source, KafkaSettings(), tmp_path, clock=lambda: NOW)
    again = archive_topic(reader, source, KafkaSettings(), tmp_path, clock=lambda: NOW)
    reader.close()
    assert (done.events, done.rejected, done.tombstones) == (len(GOOD), {"wrong_type": 1}, len(among([*GOOD, bad])) - len(GOOD) - 1)
    assert (again.records, again.tombstones) == (0, 0)
    read = [pair for f in list_files(tmp_path, source, None, None) for pair in events(f.path, source, NOW, 0, partitions=f.partitions)]
    assert not any(rejected.num_rows for _, rejected in read)
    found = sorted((e for batch, _ in read for e in batch.to_pylist()), key=lambda e: int(e["id"][1:]))
    assert [e["id"] for e in found] == [f"p{n}" for n in range(len(GOOD))]
    if source is KEYED:
        assert [e["key"] for e in found] == [f"k{n % 3}" for n in range(len(GOOD))]


@pytest.mark.parametrize("source", [SOURCE, KEYED], ids=["plain", "with the key as a field"])
@pytest.mark.parametrize("seed", range(4))
def test_a_verdict_does_not_depend_on_tombstones_beside_it(source: EventSource, seed: int) -> None:
    r = random.Random(seed)
    made: list[bytes | None] = [payment(n, T0 + n, amount=r.choice([None, 1.0, 1e9, "much"])) for n in range(150)]
    records: list[Original] = [(r.choice([b"a", b"b"]), v, []) for v in made] + [(None, None, [])] * 3
    r.shuffle(records)
    mixed = list(records)
    for _ in range(r.randrange(1, 90)):
        mixed.insert(r.randrange(len(mixed) + 1), TOMBSTONE)
    alone, beside = verdicts(records, source), verdicts(mixed, source)
    rows = [n for n, record in enumerate(mixed) if record is not TOMBSTONE]
    assert beside.valid.equals(alone.valid) and beside.accepted.tolist() == [rows[n] for n in alone.accepted.tolist()]
    assert beside.rejected.tolist() == [rows[n] for n in alone.rejected.tolist()]
    assert len(beside.reasons) == len(beside.details) == len(beside.times) == len(mixed)
    for mine, theirs in zip((beside.reasons, beside.details, beside.times), (alone.reasons, alone.details, alone.times), strict=True):
        assert [mine[n].as_py() for n in rows] == theirs.to_pylist()
    assert (beside.tombstones, alone.tombstones) == (len(mixed) - len(records), 0)


def test_nothing_but_tombstones_and_what_a_reader_does_not_hand_out() -> None:
    none = verdicts([TOMBSTONE] * 5)
    assert (none.valid.num_rows, len(none.reasons), none.accepted.tolist(), none.rejected.tolist(), none.tombstones) == (0, 5, [], [], 5)
    large = verdicts([TOMBSTONE, (b"k", None, []), (b"k", GOOD[0], []), TOMBSTONE], refused={1: "is larger than 8 MiB"})
    assert large.reasons.to_pylist() == [None, "too_long", None, None] and large.tombstones == 2
    assert large.accepted.tolist() == [2]
