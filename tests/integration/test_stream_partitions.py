"""Many partitions, most of them idle, and new ones while the stream runs: what they cost, counted, and that they are found."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import apache_beam as beam
import pytest
from kafka import KafkaAdminClient, KafkaProducer

from pipelines.batch.beam_options import options as beam_options
from pipelines.project.config import KafkaSettings, StreamSettings
from pipelines.sources.broker import BrokerAway, FetchResult
from pipelines.sources.memory import MemoryBroker, MemoryPartitionReader
from pipelines.streaming.stages import ticks
from pipelines.streaming.stages.idle import MOST_BEATS, Idleness
from pipelines.streaming.stages.log_ends import LogEnds
from pipelines.streaming.stages.poll import Partitions, Poll
from pipelines.streaming.stages.poll_reports import PollReports
from pipelines.streaming.stages.position import Position
from pipelines.streaming.status import Tracker
from tests.integration.kafka_world import options_of
from tests.integration.stages_world import HOUR, T0, World, payment, payments
from tests.integration.stream_world import end, events, make_stream_world
from tests.waiting import until

MINUTE = HOUR // 60


class Counted(MemoryPartitionReader):
    """Counts what it is asked."""

    asked: ClassVar[Counter[str]] = Counter()

    def ends(self, topic: str, partitions: Any) -> dict[int, int]:
        self.asked["ends"] += 1
        return super().ends(topic, partitions)

    def poll(self, *args: Any) -> FetchResult:
        self.asked["poll"] += 1
        return super().poll(*args)


class Broker(MemoryBroker):
    def open_reader(self) -> Counted:
        return Counted(self)


def world_of(folder: Path, partitions: int) -> World:
    broker = Broker()
    broker.create_topic("payments", partitions)
    return World(folder, broker, payments("payments"), StreamSettings(shards=2), KafkaSettings())


def test_idle_partitions_are_asked_for_together(tmp_path: Path) -> None:
    """FAULTS 3: each idle partition waited 20 ms per tick, by a request of its own."""
    world = world_of(tmp_path, 100)
    for partition in (3, 70):
        world.send([payment(n, T0 + n * MINUTE) for n in range(50)], partition)
    Counted.asked.clear()
    world.stream = StreamSettings(shards=2, tick_ms=100_000, clock="replay")
    world.run(replace(world.spec(), until=None, one_tick=False), ticks=20)
    assert Counted.asked["poll"] == 2, "the two that have records"
    assert Counted.asked["ends"] <= 4, "once by what finds partitions, once by what polls them, each in two bundles at most"
    assert {world.report(p)["next"] for p in range(100)} == {0, 50}


def test_a_poll_that_reaches_the_end_is_reported_at_once(tmp_path: Path) -> None:
    """A stream that is to end there ends when its shards have delivered it: a report that waited for its time was not counted."""
    world = world_of(tmp_path, 1)
    world.send([payment(n, T0 + n * MINUTE) for n in range(25)])
    world.control.begin()
    poll = Poll(replace(world.spec(), one_tick=False, stream=StreamSettings(shards=2, poll_records=10, clock="replay")))
    poll.setup()
    at, seen = None, []
    for _ in range(3):
        at, _, _ = poll.once("payments/0", 1, at)
        seen.append(world.report(0)["next"])
        poll.reports.reported["payments/0"] = time.monotonic() + HOUR  # the next one is not due
    poll.teardown()
    assert seen == [10, 10, 25], "the last one at once"


def test_ends_are_asked_for_once_and_an_absent_broker_too() -> None:
    """FAULTS 3."""
    asked: list[list[int]] = []
    now, away = [0.0], [False]

    class Reader(MemoryPartitionReader):
        def __init__(self) -> None: ...

        def ends(self, topic: str, partitions: Any) -> dict[int, int]:
            asked.append(sorted(partitions))
            if away[0]:
                raise BrokerAway("nobody answers")
            return {p: 10 * p for p in partitions}

    ends = LogEnds(Reader(), 0.05, lambda: now[0])
    assert [ends.end("t", p, 2) for p in (0, 1, 0, 1)] == [0, 10, 0, 10] and asked == [[0, 1]]
    now[0] = 0.06
    assert [ends.end("t", p, 2) for p in (0, 1)] == [0, 10] and asked[1:] == [[0, 1]]
    assert ends.end("t", 2, 3) == 20 and asked[2:] == [[0, 1, 2]], "a new one at once"
    now[0], away[0] = 0.2, True
    for _ in range(50):
        with pytest.raises(BrokerAway):
            ends.end("t", 1, 3)
    assert len(asked) == 4
    now[0], away[0] = 0.5, False
    assert ends.end("t", 1, 3) == 10


def test_what_no_poll_has_read_is_lag(tmp_path: Path) -> None:
    """FAULTS 3: lag said 0 while new partitions were not read."""
    world = world_of(tmp_path, 2)
    world.send([payment(n, T0 + n * MINUTE) for n in range(50)])
    world.run()
    assert Tracker(world.control).look().lag == {("payments", 0): 0, ("payments", 1): 0}
    world.broker.add_partitions("payments", 4)
    world.send([payment(n, T0 + n * MINUTE) for n in range(7)], 3)
    with beam.Pipeline(options=beam_options("direct", [])) as pipeline:
        _ = pipeline | beam.Create([b""]) | beam.ParDo(Partitions(world.spec())).with_output_types(tuple[str, int])
    lag = Tracker(world.control).look().lag
    assert lag == {("payments", 0): 0, ("payments", 1): 0, ("payments", 2): 0, ("payments", 3): 7}


def test_ticks_that_waited_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """FAULTS 3: ticks queued up before a worker slower than they."""
    monkeypatch.setattr(ticks, "now_ms", lambda: 10_000)
    old, new = ticks.packed(100, 5_000), ticks.packed(100, 9_500)
    assert ticks.partitions_in(old) == ticks.partitions_in(new) == 100
    assert ticks.passed_over(old, 6_000), "a poll has begun since"
    assert not ticks.passed_over(old, 4_000) and not ticks.passed_over(old, None), "none has"
    assert not ticks.passed_over(new, 9_900), "it did not wait for long"
    assert not ticks.passed_over(3, 9_900), "a bare number says nothing of when"
    monkeypatch.setattr(ticks, "_HOST", ticks._HOST ^ 1)
    assert not ticks.passed_over(old, 6_000), "another machine's clock says nothing here"
    assert ticks.packed(65_535, 2**38) < 2**63


def test_beats_and_reports_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FAULTS 3: hundreds of idle partitions do not flood shards and files."""
    world = world_of(tmp_path, 1)
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    idle = Idleness(StreamSettings(idle_seconds=1), world.control, lambda: T0 + round(now[0] * 1e6))
    reports = PollReports(world.control)
    at = {f"payments/{n}": Position(0, 0, T0) for n in range(200)}
    beats = written = 0
    for _ in range(100):
        now[0] += 0.1
        for key, position in at.items():
            beats += idle.nothing_came(key, world.group.source, position)
            written += reports.due(key)
            reports.report(key, position, 0, True, False)
    assert beats <= 2 * 200 + 10 * MOST_BEATS and written <= 200 + 10 * 50


@pytest.mark.slow
def test_partitions_added_to_a_hundred_are_read_within_seconds(tmp_path: Path, broker: Any) -> None:
    """FAULTS 3, on the embedded Flink."""
    world = make_stream_world(tmp_path / "world", broker.bootstrap, partitions=100, topic="many", clock="live", max_future_hours=24)
    log = events(2000, 1)
    world.produce(log[:1000])
    driver = world.start()
    try:
        until(lambda: world.delivered() == world.total(), 180, process=driver)
        time.sleep(20)  # ticks pile up, if they do
        admin = KafkaAdminClient(**options_of(broker.bootstrap))
        admin.create_partitions({"many": 102})
        admin.close()
        begun = time.monotonic()
        with KafkaProducer(**options_of(broker.bootstrap)) as producer:
            for n, event in enumerate(log[1000:1100]):
                producer.send("many", event, partition=100 + n % 2)
        world.sent[100], world.sent[101] = log[1000:1100:2], log[1001:1100:2]
        until(lambda: world.delivered() == world.total(), 60, process=driver)
        print(f"found and delivered after {time.monotonic() - begun:.1f} s")
    finally:
        end(driver)
    world.assert_right(complete=False)
