"""A record whose list to explode has no element is no event and no reject: counted, in batch and stream, and nothing else."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipelines.batch.steps import ReadEvents
from pipelines.project.config import StreamSettings
from pipelines.sources.event_files import inventory
from pipelines.sources.memory import MemoryBroker
from pipelines.streaming.status import Tracker, line
from pipelines.streaming.stream_metrics import StreamMetrics
from tests.integration.stages_world import World, payments
from tests.integration.test_stream_stages import END, GOOD, expected, plain
from transforms.definitions import FeatureGroup, Field

NOTHING: list[dict[str, Any]] = [{"payments": []}, {"payments": None}, {}]


def exploded(topic: str = "payments") -> FeatureGroup:
    group = payments(topic)
    fields = [
        Field("id", "string", path="payments[].id", required=True),
        Field("account", "string", path="payments[].account", required=True),
    ]
    fields += [Field("amount", "float64", path="payments[].amount", max=1e6)]
    at: Any = Field("paid_at", "timestamp", path="payments[].paid_at")
    return replace(group, source=replace(group.source, explode="payments", fields=fields, event_time=at, files="events"))


def in_records(payloads: list[bytes]) -> list[bytes]:
    """Two payments in a record, and a record of none behind each."""
    out = []
    for n in range(0, len(payloads), 2):
        out.append(json.dumps({"payments": [json.loads(p) for p in payloads[n : n + 2]]}).encode())
        out.append(json.dumps(NOTHING[n // 2 % 3]).encode())
    return out


def test_a_stream_counts_them(tmp_path: Path) -> None:
    broker = MemoryBroker()
    broker.create_topic("payments", 1)
    world = World(tmp_path, broker, exploded())
    world.send(in_records(GOOD))
    world.run()
    assert plain(world.rows()) == expected(world, GOOD, END)
    status = Tracker(world.control).look()
    assert status.empty == {"payments": 120} and not status.rejected and not status.filtered
    assert "120 records of no event" in line(status)
    counters = {s.name: s.value for family in StreamMetrics(lambda: status).collect() for s in family.samples}
    assert counters["tandem_stream_empty_total"] == 120


def test_a_batch_counts_them_beside_the_events_that_it_reads(tmp_path: Path) -> None:
    (tmp_path / "events").mkdir()
    (tmp_path / "events" / "a.jsonl").write_bytes(b"\n".join(in_records(GOOD)) + b"\n")
    source = exploded().source
    (file,) = inventory(tmp_path, source, None, None).files
    given: list[Any] = list(ReadEvents(source, 0, 10**16, 10**16, 0).process(file))
    assert dict(x.value for x in given if getattr(x, "tag", "") == "stats") == {"read/payments": 240, "empty/payments": 120}


def test_a_partition_of_such_records_holds_nobody_back(tmp_path: Path) -> None:
    broker = MemoryBroker()
    broker.create_topic("payments", 2)
    world = World(tmp_path, broker, exploded(), StreamSettings(shards=2, clock="replay", idle_seconds=1e-9))
    world.send(in_records(GOOD))
    for tick in range(6):  # something comes at each poll
        world.send([json.dumps(NOTHING[tick % 3]).encode()], 1)
        world.run(replace(world.spec(), until=None, one_tick=False), ticks=2)
    assert world.report(1)["idle"] and world.report(1)["next"] == 6
    assert plain(world.rows()) == expected(world, GOOD, END)
