"""A field that no event has is said once, by stream and batch, when there were events enough to tell; one that some event has is not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines.batch.batch_job import run_batch
from pipelines.project.config import StreamSettings
from pipelines.sources.memory import MemoryBroker
from pipelines.sources.null_fields import LEAST_EVENTS, NullFields, null_line
from pipelines.streaming.stages.poll import Poll
from pipelines.streaming.state.job_state import JobState
from pipelines.streaming.status import Tracker
from pipelines.streaming.stream_control import stream_status
from pipelines.streaming.stream_job import run_stream
from pipelines.streaming.stream_options import StreamOptions
from tests.integration.orders_world import Orders, order
from tests.integration.stages_world import World, payments
from tests.integration.stream_world import FEATURES, SECOND, T0, make_stream_world
from transforms.contract import check_json
from transforms.definitions import EventSource, Field, Header, RecordKey, col

WRONG = FEATURES.replace(
    'Field("fare", "float64")', 'Field("fare", "float64", path="payment.fare"), Field("tip", "float64", path="payment.tip")'
)
SAID = "source trips: field tip is null in all of "
N = LEAST_EVENTS


def trips(numbers: range, tip: float | None = None) -> list[bytes]:
    paid = {"fare": 2.5} if tip is None else {"fare": 2.5, "tip": tip}
    return [json.dumps({"at": T0 + n * SECOND, "trip": f"t{n}", "zone": f"z{n % 3}", "payment": paid}).encode() for n in numbers]


def streamed(folder: Path, parts: Sequence[list[bytes]]) -> tuple[list[str], dict[str, Any]]:
    """What a stream says of null fields, and what its status tells of them."""
    broker = MemoryBroker()
    world = make_stream_world(folder, broker.address, partitions=len(parts), features=WRONG)
    for partition, records in enumerate(parts):
        if records:
            broker.append(world.topic, partition, records)
    lines: list[str] = []
    assert run_stream(world.repo(), StreamOptions(runner="direct", until="latest"), lines.append)["code"] == 0
    return [line for line in lines if "is null in all" in line], stream_status(world.repo().data, StreamOptions().name).counts()[
        "null_fields"
    ]


def test_a_stream_says_it_once_over_all_partitions(tmp_path: Path) -> None:
    said, status = streamed(tmp_path, [trips(range(N - 10)), trips(range(N, N + 10)), []])
    assert len(said) == 1 and said[0].startswith(
        f"{SAID}{N:,} events read since the workers began: look whether anything stands at 'payment.tip'"
    )
    assert status == {"trips/tip": N}


def test_a_stream_does_not_where_one_partition_has_it_or_events_are_few(tmp_path: Path) -> None:
    assert streamed(tmp_path / "some", [trips(range(N - 1)), trips(range(N, N + 1), tip=1.0) + trips(range(N + 1, N + 9))]) == ([], {})
    assert streamed(tmp_path / "few", [trips(range(N - 1))]) == ([], {})


@pytest.mark.parametrize("seen", [True, False], ids=["one saw it", "none did"])
def test_instances_that_take_turns_at_a_partition_count_together(tmp_path: Path, seen: bool) -> None:
    """Where a job has several parts, now one and now another instance polls a partition: what one saw is no news for the other's report."""
    broker = MemoryBroker()
    broker.create_topic("payments")
    world = World(tmp_path, broker, payments("payments"), StreamSettings(shards=1, poll_records=N))

    def paid(number: int) -> bytes:
        amount = {"amount": 2.5} if seen and number == 3 else {}
        return json.dumps({"id": f"p{number}", "account": "a", "paid_at": T0 + number * SECOND, **amount}).encode()

    broker.append("payments", 0, [paid(number) for number in range(2 * N)])
    world.control.begin()
    one, other = polls = [Poll(replace(world.spec(), until=None, one_tick=False)) for _ in range(2)]
    for poll in polls:
        poll.setup()
    at, _, _ = one.once("payments/0", 1, None)
    assert Tracker(world.control).look().null_fields == ({} if seen else {"payments/amount": N})
    at, _, _ = other.once("payments/0", 1, at)
    assert at is not None and at.next == 2 * N
    assert Tracker(world.control).look().null_fields == ({} if seen else {"payments/amount": 2 * N})
    for poll in polls:
        poll.teardown()


def test_what_a_worker_of_another_process_saw_stays_seen(tmp_path: Path) -> None:
    control = JobState(tmp_path / "main")
    tracker = Tracker(control)

    def look(*null: str, valid: int = N, partition: int = 0) -> dict[str, int]:
        part = {"source": "trips", "partition": partition, "next": 10, "end": 10, "valid": valid, "null_fields": null}
        control.report(f"poll-trips-{partition}", part)
        return tracker.look().null_fields

    assert look(valid=0) == {}, "who has read nothing has seen nothing"
    assert look("channel", "fare", "tip", valid=N - 1) == {}
    assert look("fare", "tip", valid=5) == {}, "another one saw a channel"
    assert look("channel", "fare", "tip", valid=N + 5) == {"trips/fare": N + 5, "trips/tip": N + 5}
    assert look("channel", "tip", valid=7, partition=1) == {"trips/tip": N + 12}
    assert look("channel", "fare", "tip", valid=N + 8, partition=1) == {"trips/tip": 2 * N + 13}
    assert look(valid=0, partition=1) == {"trips/tip": N + 5}, "a worker that has just begun"


def test_whoever_asks_for_the_same_while_somebody_holds_it_has_the_same() -> None:
    source = EventSource("things", [Field("id", "string", required=True), Field("own", "int64")], "at", "id")
    held = NullFields.of(source, ("here", "a", "things/0"))
    assert NullFields.of(source, ("here", "a", "things/0")) is held
    assert NullFields.of(source, ("here", "b", "things/0")) is not held is not NullFields.of(source, ("here", "a", "things/1"))
    held.events = 3
    del held
    assert NullFields.of(source, ("here", "a", "things/0")).events == 0


@pytest.mark.parametrize(("more", "said"), [([], True), ([{"channel": "web"}], False)], ids=["nowhere", "in one event"])
def test_a_batch_says_it_over_all_files(tmp_path: Path, more: list[dict[str, Any]], said: bool) -> None:
    world = Orders(tmp_path)
    world.define(channel=', path="meta.channel"')
    start = datetime(2024, 5, 1, tzinfo=UTC)
    at = [f"{start + timedelta(seconds=40 * n):%Y-%m-%dT%H:%M:%SZ}" for n in range(N + 1)]
    world.log([order(f"o{n}", at[n]) for n in range(N - 5)], "a")
    world.log([order(f"o{n}", at[n], sent=at[n]) for n in range(N - 5, N)] + [order("bad", at[0], amount="much")], "b")  # type: ignore[arg-type]
    if more:
        world.log([order("last", at[N], meta=more[0])], "c")
    lines: list[str] = []
    made = run_batch(world.repo(), start, start + timedelta(days=1), now=start + timedelta(days=9), progress=lines.append).run
    found = [line for line in lines if "is null in all" in line]
    manifest = json.loads((made.folder / "manifest.json").read_text())
    assert manifest["null_fields"] == ({"orders/channel": N} if said else {})
    assert [line.partition("; 'tandem")[0] for line in found] == [
        f"source orders: field channel is null in all of {N:,} events read: look whether anything stands at 'meta.channel', and correct"
        " path= or drop the field"
    ] * said


def test_which_fields_are_looked_at_and_where_they_are_looked_for() -> None:
    fields = [
        Field("id", "string", required=True), Field("own", "int64"), Field("deep", "string", path="a[0].b"),
        Field("tenant", "string", path=Header("x-tenant")), Field("key", "string", path=RecordKey()),
        Field("part", "int64", path=RecordKey("order.id")), Field("twice", "int64", value=col("own") * 2),
    ]  # fmt: skip
    source = EventSource("things", fields, "at", "id")
    nulls = NullFields(source)

    def see(*records: dict[str, Any]) -> list[str]:
        payloads = pa.array([json.dumps({"id": "x", "at": T0, **r}).encode() for r in records], pa.binary())
        nulls.see(check_json(payloads, source, 2 * T0, 0).valid)
        return nulls.names

    assert see() == ["own", "deep", "tenant", "key", "part"], "neither required ones nor computed ones"
    assert see({}, {"a": []}) == ["own", "deep", "tenant", "key", "part"]
    assert see({}, {"own": 3}) == ["deep", "tenant", "key", "part"]
    assert see({"own": None}, {"a": [{"b": "x"}]}) == ["tenant", "key", "part"] and nulls.events == 6
    ends = [null_line(source, name, 5).partition("look whether anything stands ")[2].partition(", and")[0] for name in nulls.names]
    assert ends == ["in header 'x-tenant'", "in records' keys", "at 'order.id' in records' keys"]
    assert null_line(source, "own", 5).startswith(
        "source things: field own is null in all of 5 events read: look whether anything stands at 'own'"
    )


def test_what_several_have_seen() -> None:
    together = NullFields.together
    assert together([]) == together([(0, ["a"])]) == (0, set())
    assert together([(3, ["a", "b"]), (0, []), (4, ["b", "c"])]) == (7, {"b"})
    assert together([(3, ["a"]), (4, [])]) == (7, set())
