"""What the stream does with what a topic holds: every kind of bad record, pauses, lost and foreign offsets, idle and new partitions."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines.project.config import KafkaSettings, StreamSettings
from pipelines.sources.letters import Letter
from pipelines.sources.memory import MemoryBroker
from tests.integration.kafka_world import drain
from tests.integration.stages_world import HOUR, T0, World, payment, payments
from tests.oracle import rows as oracle_rows
from transforms.definitions import col
from transforms.reasons import REASONS

MINUTE = HOUR // 60


@pytest.fixture
def world(tmp_path: Path, request: pytest.FixtureRequest) -> World:
    broker = MemoryBroker()
    broker.create_topic("payments", getattr(request, "param", 1))
    return World(tmp_path, broker, payments("payments"), kafka=KafkaSettings(dead_letters="payments.dead"))


def send(world: World, records: Sequence[bytes | None], partition: int = 0) -> None:
    world.send(records, partition)


def letters(world: World) -> list[Letter]:
    reader = world.broker.open_reader()
    try:
        return [Letter.read(record, 0) for record in drain(reader, world.kafka.dead_letters)]
    finally:
        reader.close()


def expected(world: World, payloads: list[bytes], upto: int, after: int = -1) -> list[dict[str, Any]]:
    """The oracle's rows of these payloads."""
    events = [json.loads(p) for p in payloads]
    found = oracle_rows(events, world.group, after, upto)
    return sorted(found, key=lambda r: (r["account"], r["event_timestamp"]))


def plain(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """With times in microseconds, as the oracle has them."""
    out = []
    for row in found:
        at = row["event_timestamp"]
        us = at if isinstance(at, int) else int(pa.scalar(at, pa.timestamp("us", tz="UTC")).cast(pa.int64()).as_py())
        out.append({**row, "event_timestamp": us})
    return out


GOOD = [payment(n, T0 + n * MINUTE) for n in range(240)]
END = (T0 + 239 * MINUTE - MINUTE) // (5 * MINUTE) * (5 * MINUTE)

BAD: dict[str, bytes | None] = {
    "empty value": b"",
    "tombstone": None,
    "truncated": payment(1, T0)[:-7],
    "invalid utf-8": payment(1, T0)[:-1] + b',"note":"\xe9"}',
    "random bytes": bytes(range(128, 256)),
    "unknown schema id": b"\x00\x7f\xff\xff\xf0" + payment(1, T0),
    "wrong type": payment(1, T0, amount="much"),
    "missing field": json.dumps({"id": "p", "amount": 1.0, "paid_at": T0}).encode(),
    "overflow": payment(1, T0, amount=10**400),
    "nan": payment(1, T0, amount=float("nan")),
    "huge value": payment(1, T0, account="x" * 900_000),
    "deep nesting": payment(1, T0)[:-1] + b',"note":' + b"[" * 5000 + b"]" * 5000 + b"}",
    "duplicate keys": payment(1, T0)[:-1] + b',"id":"p2"}',
    "seconds for microseconds": payment(1, T0 // 10**6),
    "milliseconds for microseconds": payment(1, T0 // 1000),
    "far future": payment(1, T0 + 100 * 365 * 24 * HOUR),
}


def test_bad_records_become_dead_letters_and_the_rest_is_counted(world: World) -> None:
    world.stream = StreamSettings(shards=2, max_reject_share=0.2)
    mixed: list[bytes | None] = list(GOOD)
    for place, record in enumerate(BAD.values()):
        mixed.insert(place * 13 + 1, record)
    send(world, mixed)
    world.run()
    found = letters(world)
    assert [letter.value for letter in found] == list(BAD.values())
    assert [letter.offset for letter in found] == [n for n, record in enumerate(mixed) if record not in GOOD]
    assert all(letter.reason in REASONS and letter.detail for letter in found)
    assert {letter.topic for letter in found} == {world.group.source.topic}
    assert plain(world.rows()) == expected(world, GOOD, END)
    counts = world.report()["counts"]
    assert counts["events"] == len(mixed) and sum(n for k, n in counts.items() if k.startswith("rejected/")) == len(BAD)


def test_a_topic_of_bad_records_pauses_and_goes_on_when_told(world: World) -> None:
    send(world, GOOD[:50])
    world.run()
    send(world, [b"{}"] * 200)
    world.run()
    paused = world.report()
    # The windows need what came before, and that was saved.
    assert "paused at offset 50: 200 of the last 250 records were rejected" in paused["paused"] and paused["next"] == 50
    assert any("tandem stream resume" in line for line in world.control.said()[0])
    reader = world.broker.open_reader()
    with pytest.raises(Exception, match=r"no Kafka topic|there is no"):
        reader.end(world.kafka.dead_letters, 0)
    reader.close()
    send(world, GOOD[50:])
    world.stream = StreamSettings(shards=2, max_reject_share=1.0)
    world.run()
    assert len(letters(world)) == 200
    assert plain(world.rows()) == expected(world, GOOD, END)


def test_reading_goes_on_where_it_stopped_and_corrects_late_events(world: World) -> None:
    late = payment(900, T0 + 200 * MINUTE, "a1")
    too_late = payment(901, T0 + 10 * MINUTE, "a1")
    send(world, GOOD[:230])
    world.run()
    first = len(world.rows())
    send(world, [late, too_late, *GOOD[230:]])
    world.run()
    assert len(world.rows()) > first
    assert plain(world.rows()) == expected(world, [*GOOD, late], END)
    written = [e.late["payments"] for e in world.outputs() if e.late]
    assert [row["id"] for batch in written for row in batch.to_pylist()] == ["p901"]
    assert written[0].to_pylist()[0]["_offset"] == 231


def test_the_whole_log_again_changes_nothing(world: World) -> None:
    send(world, GOOD)
    world.run()
    before = world.rows()
    world.control.clear_checkpoints()
    world.run()
    assert world.rows() == before


@pytest.mark.parametrize("world", [3], indirect=True)
def test_an_empty_partition_holds_nobody_back(world: World) -> None:
    for partition in (0, 1):
        send(world, [p for n, p in enumerate(GOOD) if n % 2 == partition], partition)
    world.run()  # a partition that never had a record holds nobody back in a run to the end
    end = (T0 + 238 * MINUTE - MINUTE) // (5 * MINUTE) * (5 * MINUTE)
    assert plain(world.rows()) == expected(world, GOOD, end)


@pytest.mark.parametrize("world", [3], indirect=True)
def test_an_idle_partition_holds_back_until_it_is_known_to_be_idle(world: World) -> None:
    for partition in (0, 1):
        send(world, [p for n, p in enumerate(GOOD) if n % 2 == partition], partition)
    first, second = payment(900, T0 + 20 * MINUTE), payment(901, T0 + 20 * MINUTE)  # one alone begins no time
    send(world, [first, second], 2)
    world.run()
    assert plain(world.rows()) == expected(world, [*GOOD, first, second], T0 + 15 * MINUTE)
    world.stream = StreamSettings(shards=2, clock="replay", idle_seconds=1e-9)
    world.run(replace(world.spec(), until=None, one_tick=False), ticks=5)
    assert world.report(2)["idle"]
    assert plain(world.rows()) == expected(world, [*GOOD, first, second], (T0 + 238 * MINUTE - MINUTE) // (5 * MINUTE) * (5 * MINUTE))


def test_the_wall_clock_moves_idle_partitions_but_not_through_years(world: World) -> None:
    world.stream = StreamSettings(shards=2, idle_seconds=1e-9)
    send(world, GOOD)
    world.run(replace(world.spec(), until=None, one_tick=False), ticks=5)
    assert plain(world.rows()) == expected(world, GOOD, END)  # of 2023: nothing was emptied
    assert any("stream.clock: replay" in line for line in world.control.said()[0])
    now = time.time_ns() // 1000
    fresh = [payment(1000 + n, now - HOUR + n * MINUTE) for n in range(30)]
    send(world, fresh)
    world.run(replace(world.spec(), until=None, one_tick=False), ticks=5)
    newest = max(row["event_timestamp"] for row in plain(world.rows()))
    assert newest > now - 30 * MINUTE  # behind the last event, which no event after it could let go


def test_a_partition_added_later_is_read_from_its_beginning(world: World) -> None:
    send(world, GOOD[:100])
    world.run()
    world.broker.add_partitions(world.group.source.topic, 2)
    send(world, GOOD[100::2], 0)
    send(world, GOOD[101::2], 1)
    world.run()
    assert plain(world.rows()) == expected(world, GOOD, (T0 + 238 * MINUTE - MINUTE) // (5 * MINUTE) * (5 * MINUTE))


def test_a_topic_made_anew_stops_the_job(world: World) -> None:
    send(world, GOOD)
    world.run()
    world.broker.delete_topic(world.group.source.topic)
    world.broker.create_topic(world.group.source.topic)
    send(world, GOOD + GOOD)
    world.run(fails=True)
    assert "was recreated" in str(world.control.failure()) and "--from-run" in str(world.control.failure())


def test_offsets_out_of_retention_stop_the_job(world: World) -> None:
    send(world, GOOD[:100])
    world.run()
    send(world, GOOD[100:])
    world.broker.truncate(world.group.source.topic, 0, 150)
    world.run(fails=True)
    line = str(world.control.failure())
    assert world.group.source.topic in line and "150" in line
    assert len(line.splitlines()) == 1


def test_a_hole_between_the_batch_run_and_the_topic_stops_the_job(world: World) -> None:
    send(world, GOOD)
    world.broker.truncate(world.group.source.topic, 0, 30)
    world.begin = T0 + 10 * MINUTE
    world.run(fails=True)
    assert "what lies between may be gone" in str(world.control.failure())
    world.begin = T0 + 35 * MINUTE
    world.run()
    assert world.report()["counts"]["before"] == 5


def test_an_unknown_topic_stops_the_job(world: World) -> None:
    spec = world.spec()
    world.group = payments("nowhere")
    world.run(replace(spec, groups={"accounts": world.group}, topics={}), fails=True)
    assert "nowhere" in str(world.control.failure())


def test_dead_letters_that_cannot_be_written_stop_the_job(world: World) -> None:
    world.kafka = KafkaSettings(dead_letters="no such name!")
    send(world, [*GOOD[:50], b"{}", *GOOD[50:]])
    world.run(fails=True)
    line = str(world.control.failure())
    assert "dead letters" in line and "cannot be written" in line
    assert not world.control.load_checkpoints()


@pytest.mark.parametrize("world", [2], indirect=True)
def test_a_partition_of_which_nothing_is_taken_is_idle_however_much_comes(world: World) -> None:
    world.group = replace(world.group, source=replace(world.group.source, where=col("amount") >= 0))
    world.stream = StreamSettings(shards=2, clock="replay", idle_seconds=1e-9)
    send(world, GOOD)
    for tick in range(6):  # something comes at each poll
        send(world, [payment(2000 + tick, T0 + 10_000 * MINUTE, amount=-1.0), b'{"amount": -2.0, "paid_at": "soon"}'], 1)
        world.run(replace(world.spec(), until=None, one_tick=False), ticks=2)
    assert world.report(1)["idle"] and world.report(1)["next"] == 12 and world.report(1)["counts"]["filtered"] == 2  # of the last run
    assert plain(world.rows()) == expected(world, GOOD, (T0 + 238 * MINUTE - MINUTE) // (5 * MINUTE) * (5 * MINUTE))
