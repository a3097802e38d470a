"""Several event types in one topic: the stream of those that ``where`` takes is that over a log without the others; computed fields."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipelines.batch.steps import ReadEvents
from pipelines.sources.event_files import inventory
from pipelines.streaming.state.row_log import read_rows
from pipelines.streaming.status import Tracker, line
from pipelines.streaming.stream_job import run_stream
from pipelines.streaming.stream_metrics import StreamMetrics
from pipelines.streaming.stream_options import StreamOptions
from tests.integration.stream_world import FEATURES, SECOND, T0, StreamWorld, make_stream_world
from tests.oracle import rows as oracle_rows
from tests.oracle.compare import differences, to_dicts
from transforms.definitions import REVISION


def order(n: int) -> dict[str, Any]:
    return {"type": "order", "at": T0 + n * 40 * SECOND, "trip": f"t{n}", "zone": f"z{n % 3}", "amount": n, "parts": 8}


def other(n: int) -> dict[str, Any]:
    """Of another shape: its time is a text that is no time, or far ahead, and it has no key."""
    return {"type": "click", "at": "soon" if n % 2 else T0 + 10**14, "page": n, "zone": 5}


COMPUTED = (
    FEATURES.replace("Count, CountDistinct", "col, Count, CountDistinct")
    .replace(
        'Field("fare", "float64")',
        'Field("type", "string"), Field("amount", "float64"), Field("parts", "int64"),'
        ' Field("fare", "float64", value=col("amount") / col("parts"))',
    )
    .replace('Mean("fare",', 'Count(where=col("amount") > col("parts"), over=hours(1), name="large"), Mean("fare",')
)
FILTERED = COMPUTED.replace("    event_time=", '    where=col("type") == "order",\n    event_time=')


def streamed(folder: Path, log: list[dict[str, Any]], features: str, **stream: Any) -> StreamWorld:
    world = make_stream_world(folder, partitions=1, features=features, **stream)
    world.produce([json.dumps(e).encode() for e in log])
    run_stream(world.repo(), StreamOptions(runner="direct", until="latest"), lambda line: None)
    return world


def rows_of(world: StreamWorld) -> dict[str, list[dict[str, Any]]]:
    """Group -> the newest revision of each row."""
    out = {}
    for name, group in world.repo().groups.items():
        newest: dict[Any, dict[str, Any]] = {}
        for row in to_dicts(read_rows(world.stream, group).select(group.row_schema.names).combine_chunks()):
            key = tuple(row[k] for k in (*group.entity.keys, "event_timestamp"))
            if key not in newest or row[REVISION] >= newest[key][REVISION]:
                newest[key] = row
        out[name] = [newest[key] for key in sorted(newest)]
    return out


def test_other_events_are_as_if_they_were_not_in_the_log(tmp_path: Path) -> None:
    orders = [order(n) for n in range(300)]
    mixed = [event for n, each in enumerate(orders) for event in (other(n), each, other(n))] + [other(n) for n in range(50)]
    alone, among = streamed(tmp_path / "alone", orders, COMPUTED), streamed(tmp_path / "among", mixed, FILTERED)
    rows, want = rows_of(among), rows_of(alone)
    assert all(want.values()) and rows == want
    among.assert_right()
    # By hand: what a stream is to compute of these events.
    for name, group in among.repo().groups.items():
        events = [{**e, "fare": e["amount"] / e["parts"]} for e in orders]
        upto = max(row["event_timestamp"] for row in rows[name]) - group.delay_us
        assert not differences(rows[name], oracle_rows(events, group, 0, upto))
    status = Tracker(among.control).look()
    assert status.filtered == {"trips": 650} and status.read == {"trips": 950} and not status.rejected
    assert "650 filtered" in line(status)
    counters = {s.name: s.value for family in StreamMetrics(lambda: status).collect() for s in family.samples}
    assert counters["tandem_stream_filtered_total"] == 650


def test_a_batch_counts_them_beside_those_that_it_reads(tmp_path: Path) -> None:
    world = make_stream_world(tmp_path, partitions=1, features=FILTERED)
    source = next(iter(world.repo().sources.values()))
    folder = tmp_path / "events"
    folder.mkdir()
    log = [event for n in range(100) for event in (order(n), other(n))] + [order(100) | {"parts": 0}]
    (folder / "a.jsonl").write_text("".join(json.dumps(e) + "\n" for e in log))
    found = inventory(tmp_path, replace(source, files="events"), None, None).files
    given: list[Any] = [x for file in found for x in ReadEvents(source, 0, 10**16, 10**16, 0).process(file)]
    stats = dict(x.value for x in given if getattr(x, "tag", "") == "stats")
    assert stats == {
        "read/trips": 101, "filtered/trips": 100, "rejected/trips/infinite": 1, "rejected_fields/trips/infinite/fare": 1,
    }  # fmt: skip
    assert sum(x.num_rows for x in given if not hasattr(x, "tag")) == 100
