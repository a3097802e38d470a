"""Clocks that run ahead, record times that lie, shares of rejects and of late events: streams in this process over a broker in memory."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import apache_beam as beam
import pyarrow as pa
import pytest

from pipelines.batch.beam_options import options as beam_options
from pipelines.project.config import KafkaSettings, StreamSettings
from pipelines.sources.letters import Letter
from pipelines.sources.memory import MemoryBroker
from pipelines.streaming.stages.fold_shard import FoldShard
from pipelines.streaming.stages.part_reports import PartReports
from pipelines.streaming.stages.poll import Partitions, Poll
from pipelines.streaming.state.row_log import read_rows
from pipelines.streaming.status import Tracker
from pipelines.streaming.stream_control import resume_stream, stream_status
from pipelines.streaming.stream_job import run_stream
from pipelines.streaming.stream_options import StreamOptions
from pipelines.streaming.supervisor import paused_at
from pipelines.verify.verification import VerifyOptions, run_verify
from tests.checkpoints import least_boundary
from tests.integration.kafka_world import drain
from tests.integration.stages_world import Collect, World, payment, payments
from tests.integration.stream_world import SECOND, T0, StreamWorld, make_stream_world
from tests.oracle import rows as oracle_rows
from tests.oracle.compare import differences

MINUTE, HOUR = 60 * SECOND, 3600 * SECOND


def trip(number: int, at: int, **more: Any) -> bytes:
    return json.dumps({"at": at, "trip": f"t{number}", "zone": f"z{number % 3}", "fare": number / 8, **more}).encode()


def world_of(folder: Path, partitions: int = 1, **stream: Any) -> StreamWorld:
    """As a user has it who set nothing about time."""
    return make_stream_world(folder / "world", partitions=partitions, **{"max_future_hours": 0.1, **stream})


def put(world: StreamWorld, records: list[bytes], stamps: list[int] | None = None) -> None:
    MemoryBroker.named(world.bootstrap.removeprefix("memory://")).append(world.topic, 0, records, timestamps_us=stamps)
    world.sent.setdefault(0, []).extend(records)


def run(world: StreamWorld) -> tuple[dict[str, Any], list[str]]:
    said: list[str] = []
    manifest = run_stream(world.repo(), StreamOptions(runner="direct", until="latest"), said.append)
    return manifest, said


def letters(world: StreamWorld) -> list[Letter]:
    reader = MemoryBroker.named(world.bootstrap.removeprefix("memory://")).open_reader()
    return [Letter.read(record, 0) for record in drain(reader, f"{world.topic}.dead")]


WRONG = {
    "one": {10: 9},
    "the first": {0: 9},
    "each tenth": dict.fromkeys(range(3, 200, 10), 9),
    "the last": {199: 9},
    "half an hour": {10: 0.5},
}


@pytest.mark.parametrize("stamps", ["true", "of the events", "now"])
@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_a_clock_hours_ahead_costs_its_own_events_alone(tmp_path: Path, wrong: dict[int, float], stamps: str) -> None:
    """FAULTS 2: by record times that tell, that lie with the event, and that say nothing of it."""
    broker = MemoryBroker()
    broker.create_topic("payments")
    world = World(tmp_path, broker, payments("payments"), kafka=KafkaSettings(dead_letters="payments.dead"))
    right = [T0 + k * MINUTE for k in range(200)]
    times = [t + round(wrong.get(k, 0) * HOUR) for k, t in enumerate(right)]
    records = [payment(k, t) for k, t in enumerate(times)]
    broker.append("payments", 0, records, timestamps_us={"true": right, "of the events": times, "now": None}[stamps])
    world.run(replace(world.spec(), stream=StreamSettings(shards=2, max_reject_share=0.2)))
    counts, dead = world.report()["counts"], wrong if stamps == "true" else {}
    assert counts.get("late", 0) == 0 and counts.get("rejected/future_timestamp", 0) == len(dead)
    reached = least_boundary(world.control.load_checkpoints().values(), "accounts")
    assert T0 + 190 * MINUTE < reached <= T0 + 199 * MINUTE + (HOUR // 2 if 0.5 in wrong.values() else 0)
    events = [json.loads(r) for k, r in enumerate(records) if k not in dead]
    want = sorted(oracle_rows(events, world.group, -1, reached), key=lambda r: (r["account"], r["event_timestamp"]))
    assert differences(micros(world.rows()), want) == []
    if dead:
        reader = broker.open_reader()
        found = [Letter.read(record, 0) for record in drain(reader, "payments.dead")]
        assert {letter.offset for letter in found} == set(dead)
        assert "ahead of its record's own time, 2023-11-1" in found[0].detail and "; 6 min at most" in found[0].detail


def micros(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """With times in microseconds, as the oracle has them."""
    return [{**r, "event_timestamp": pa.scalar(r["event_timestamp"], pa.timestamp("us", tz="UTC")).cast(pa.int64()).as_py()} for r in rows]


def test_the_case_of_the_report(tmp_path: Path) -> None:
    """FAULTS 2, through the online store: record times are the events', one is nine hours ahead."""
    world = world_of(tmp_path)
    times = [T0 + k * MINUTE + (9 * HOUR if k == 10 else 0) for k in range(200)]
    put(world, [trip(k, t) for k, t in enumerate(times)], times)
    manifest, _ = run(world)
    assert manifest["code"] == 0 and manifest["summary"]["rejected"] == {} and sum(manifest["summary"]["late"].values()) == 0
    assert max(manifest["summary"]["output_watermark"].values()) <= T0 + 199 * MINUTE
    world.assert_right()
    report = run_verify(world.repo(), VerifyOptions())
    assert report.verdict == "proven", report.problems


def test_no_row_is_made_ahead_of_the_clock(tmp_path: Path) -> None:
    """FAULTS 2: what lies within the limit counts, and waits for the clock."""
    world = world_of(tmp_path)
    now = time.time_ns() // 1000
    times = [now - HOUR + k * MINUTE for k in range(65)]
    put(world, [trip(k, t) for k, t in enumerate(times)])
    manifest, _ = run(world)
    assert manifest["summary"]["rejected"] == {} and manifest["summary"]["refused"] == 0
    rows = read_rows(world.stream, world.repo().groups["zones"])
    stamps = rows.column("event_timestamp").cast(pa.int64()).to_pylist()
    after = time.time_ns() // 1000
    assert stamps and max(stamps) <= after and max(stamps) > now - 10 * MINUTE


def test_many_late_events_are_said_and_can_pause(tmp_path: Path) -> None:
    """FAULTS 2: here a limit of a day lets one clock make all others late, as before; that is told, in status and metric."""
    world = world_of(tmp_path, max_future_hours=24)
    times = [T0 + k * MINUTE + (9 * HOUR if k == 10 else 0) for k in range(200)]
    put(world, [trip(k, t) for k, t in enumerate(times)])
    manifest, said = run(world)
    assert manifest["code"] == 1 and "trips/0: 189 of the last 200 records were too late" in manifest["error"]
    assert manifest["summary"]["late"] == {"trips": 189} and manifest["summary"]["late_share"] == {"trips/0": 0.945}
    assert any("189 of the last 200 records were too late; check for a producer whose clock is ahead" in line for line in said)
    assert "too late among the last records: trips/0 (94%)" in said[-1]
    assert stream_status(world.data, "main").counts()["many_late"] == ["trips/0 (94%)"]
    again = world_of(tmp_path / "again", max_future_hours=24, pause_when_late=True)
    put(again, [trip(k, t) for k, t in enumerate(times)])
    manifest, said = run(again)
    assert manifest["code"] == 1 and "paused at offset 0: 189 of the last 200 records were too late" in manifest["error"]
    assert resume_stream(again.data, "main") == ["trips-0"]
    assert run(again)[0]["code"] == 0


LYING = {
    "15 of 200": (200, range(20, 35)),
    "15 of 60, when few records are there yet": (60, range(20, 35)),
    "30 of 2,000, an hour before time is where it was again": (2000, range(300, 330)),
    "a device's first hundred": (400, range(100)),
}


@pytest.mark.parametrize("case", LYING.values(), ids=LYING)
@pytest.mark.parametrize("poll_records", [50, 10_000])
def test_clocks_and_record_times_that_lie_together_are_a_failed_replay(tmp_path: Path, case: tuple[int, range], poll_records: int) -> None:
    """FAULTS 2: more than ten in a row are believed, as nothing in the log tells them from a topic in which nothing happened; what that
    costs is told at the end as a failure. All that was not too late is in its rows; nothing new is no failure."""
    count, lying = case
    world = world_of(tmp_path, poll_records=poll_records)
    times = [T0 + k * MINUTE + (9 * HOUR if k in lying else 0) for k in range(count)]
    put(world, [trip(k, t) for k, t in enumerate(times)], times)
    manifest, said = run(world)
    late = manifest["summary"]["late"]["trips"]
    assert late >= 10 and manifest["code"] == 1 and manifest["summary"]["lag"] == {"trips/0": 0}
    assert (
        manifest["error"].startswith("all records are delivered, but too many are in no row: trips/0: ") and "\n" not in manifest["error"]
    )
    assert "records were too late; check for a producer whose clock is ahead" in manifest["error"] and manifest["error"] in said[-1]
    assert "\n" not in manifest["error"]
    assert run(world)[0]["code"] == 0


def test_a_few_late_events_are_no_failure(tmp_path: Path) -> None:
    """Ten of a hundred, and nine of twelve, which may be chance."""
    for n, late in ((100, range(60, 70)), (12, range(3, 12))):
        world = world_of(tmp_path / str(n))
        times = [T0 + 5 * HOUR + (k * MINUTE if k not in late else k - 4 * HOUR) for k in range(n)]
        put(world, [trip(k, t) for k, t in enumerate(times)], times)
        manifest, _ = run(world)
        assert manifest["code"] == 0 and manifest["summary"]["late"] == {"trips": len(late)}


def test_a_restart_does_not_judge_again(tmp_path: Path) -> None:
    """FAULTS 17."""
    world = world_of(tmp_path)
    put(world, [trip(k, T0 + k * MINUTE) if k % 43 else b"{}" for k in range(520)])
    assert run(world)[0]["code"] == 0
    week = T0 + 7 * 24 * HOUR
    put(world, [trip(k, week + k * MINUTE) if k % 10 else b"{}" for k in range(120)])
    for _ in range(3):
        manifest, said = run(world)
        assert manifest["code"] == 0 and not any("paused" in line for line in said)
    points = world.control.load_checkpoints()
    assert {tuple(p["partitions"]["trips"]["0"]["judged"]) for p in points.values()} == {(640, 25, 0)}
    put(world, [b"{}"] * 20)
    manifest, _ = run(world)
    assert manifest["code"] == 1 and "paused at offset 640: 45 of the last 660 records were rejected" in manifest["error"]


def test_an_end_that_is_not_reached_is_an_error(tmp_path: Path) -> None:
    """FAULTS 9: every second record of another event type."""
    world = world_of(tmp_path)
    put(world, [trip(k, T0 + k * MINUTE) if k % 2 else b'{"other": 1}' for k in range(200)])
    manifest, said = run(world)
    assert manifest["code"] == 1 and manifest["restarts"] == 0
    assert (
        manifest["error"].startswith("trips/0 is paused at offset 0: 100 of the last 200 records were rejected")
        and "\n" not in manifest["error"]
    )
    assert "200 behind; 0 rows, 0/s; paused: trips/0" in said[-1]
    assert Tracker(world.control).look().lag == {("trips", 0): 200} and len(paused_at(PartReports.of(world.control.reports()))) == 1
    assert resume_stream(world.data, "main") == ["trips-0"]
    manifest, said = run(world)
    assert manifest["code"] == 0 and manifest["summary"]["lag"] == {"trips/0": 0} and len(letters(world)) == 100
    world.sent[0] = [r for r in world.sent[0] if b"other" not in r]


@pytest.mark.parametrize("factor", [0, 1, 1_000])
def test_record_times_that_are_no_times_judge_nobody(tmp_path: Path, factor: int) -> None:
    """FAULTS 8: record times in seconds where milliseconds are meant, none at all, and microseconds for milliseconds."""
    world = world_of(tmp_path)
    good = [trip(k, T0 + k * MINUTE) for k in range(40)]
    stamps = [-1000 if not factor else (T0 + k * MINUTE) // 1000 if factor == 1 else (T0 + k * MINUTE) * 1000 for k in range(40)]
    put(world, [*good, trip(99, 9_000_000_000_000_000)], [*stamps, stamps[-1]])
    manifest, _ = run(world)
    assert manifest["code"] == 0 and manifest["summary"]["rejected"] == {"trips/future_timestamp": 1}
    (letter,) = letters(world)
    assert letter.offset == 40 and "ahead of the clock, 20" in letter.detail and "is no time to judge by; 24 h at most" in letter.detail
    world.sent[0] = good
    world.assert_right()


class FileClock:
    """Now, as a file tells it to every worker."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self) -> int:
        return int(self.path.read_text())


def test_a_clock_set_an_hour_back_and_on_costs_time_and_no_event(tmp_path: Path) -> None:
    """FAULTS 2: the stream's own clock. Event times and record times are true; rows come once the clock has come back."""
    broker = MemoryBroker()
    broker.create_topic("payments")
    world = World(tmp_path, broker, payments("payments"), StreamSettings(shards=2, idle_seconds=3600))
    clock, sent = FileClock(tmp_path / "clock"), list[bytes]()

    def go_on(minutes: range, clock_at: int) -> int:
        """Records of these minutes, read while the clock says so; the boundary up to which rows are out then."""
        records = [payment(k, T0 + k * MINUTE) for k in minutes]
        broker.append("payments", 0, records, timestamps_us=[T0 + k * MINUTE for k in minutes])
        sent.extend(records)
        clock.path.write_text(str(clock_at))
        spec = replace(world.spec(), until=None, one_tick=False)
        with beam.Pipeline(options=beam_options("direct", [])) as pipeline:
            _ = (
                pipeline
                | beam.Create([b""] * 3)
                | beam.ParDo(Partitions(spec)).with_output_types(tuple[str, int])
                | beam.ParDo(Poll(spec, clock)).with_output_types(tuple[int, bytes])
                | beam.ParDo(FoldShard(spec)).with_output_types(Any)
                | beam.ParDo(Collect(tmp_path))
            )
        assert world.control.failure() is None
        assert not {k for k in world.report()["counts"] if k == "late" or k.startswith("rejected")}
        return least_boundary(world.control.load_checkpoints().values(), "accounts")

    assert go_on(range(60), T0 + 60 * MINUTE) == T0 + 55 * MINUTE
    assert go_on(range(60, 90), T0 + 30 * MINUTE) == T0 + 55 * MINUTE, "an hour back: rows wait"
    assert go_on(range(90, 92), T0 + 61 * MINUTE) == T0 + 60 * MINUTE, "no row ahead of the clock"
    assert go_on(range(92, 120), T0 + 180 * MINUTE) == T0 + 115 * MINUTE, "an hour on: no event is lost by it"
    assert go_on(range(120, 180), T0 + 180 * MINUTE) == T0 + 175 * MINUTE
    rows = oracle_rows([json.loads(r) for r in sent], world.group, -1, T0 + 175 * MINUTE)
    want = sorted(rows, key=lambda r: (r["account"], r["event_timestamp"]))
    assert differences(micros(world.rows()), want) == []


def test_rows_that_the_clock_let_out_are_in_the_checkpoint_once_it_is_there(tmp_path: Path) -> None:
    """They were out, and the checkpoint, and the metric made of it, said so with the next record: a restart made them again."""
    broker = MemoryBroker()
    broker.create_topic("payments")
    world = World(tmp_path, broker, payments("payments"), StreamSettings(shards=2, idle_seconds=3600))
    broker.append("payments", 0, [payment(k, T0 + k * MINUTE) for k in range(10)], timestamps_us=[T0 + k * MINUTE for k in range(10)])
    now, key = [T0], f"{world.group.source.name}/0"
    poll = Poll(replace(world.spec(), until=None, one_tick=False), lambda: now[0])
    poll.setup()
    at, said = None, []
    for minute in (0, 0, 0, 2, 4, 30, 30, 30):
        now[0] = T0 + minute * MINUTE
        at, elements, _ = poll.once(key, 1, at)
        said.append([element.flush for _, element in elements])
    poll.teardown()
    held, saved = [False, False], [True, True]
    assert said == [held, saved, [], held, held, held, saved, []], "records; saved; the clock is not there; it goes on thrice; saved"
