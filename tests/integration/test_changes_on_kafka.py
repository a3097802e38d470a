"""Changes of rows as programs write them that follow a database's log, in topics of a real broker, the whole way: ``tandem infer`` of each
topic, the stream on Flink, the archive, a batch over it, ``tandem verify`` of both.

The topics are as such topics are: compacted, with a tombstone behind each delete; in each of Kafka's codecs; written in transactions, of
which some are aborted; with headers of one name; stamped by the broker; one record of a few megabytes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pipelines import workflow
from pipelines.reports.terminal import Steps
from pipelines.services.kafka_broker import Broker
from pipelines.sources.event_files import events, list_files
from pipelines.streaming.stream_job import run_stream
from pipelines.streaming.stream_options import StreamOptions
from tests.integration.kafka_world import KafkaTopics
from tests.integration.test_topic_shapes import Record, World, make_world
from tests.unit.test_infer_changes import (
    N,
    at,
    change,
    ms,
    of_canal,
    of_dynamo,
    of_golden_gate,
    of_maxwell,
    of_mongo,
    of_wal2json,
)
from transforms.instants import micros_of

pytestmark = pytest.mark.timeout(280)


def of_debezium(n: int) -> tuple[dict[str, Any], bool]:
    """With Connect's schema around it."""
    made = change(n, nested=True)
    return made, made["payload"]["op"] != "d"


def of_clicks(n: int) -> tuple[dict[str, Any], bool]:
    """No change of rows: events whose times are the broker's."""
    return {"id": n, "who": f"w{n % 20}", "page": "/a"}, True


COMPACTED = {"cleanup_policy": "compact"}
"""None of these is written in transactions: the time of their markers closes a segment of 2024, which is then compacted at any time."""
CHANGES: dict[str, tuple[Callable[[int], tuple[dict[str, Any], bool]], dict[str, str]]] = {
    "debezium": (of_debezium, {**COMPACTED, "compression_type": "zstd"}),
    "maxwell": (of_maxwell, {"compression_type": "lz4"}),
    "mongo": (of_mongo, {**COMPACTED, "compression_type": "snappy"}),
    "golden": (of_golden_gate, {"compression_type": "gzip"}),
    "dynamo": (of_dynamo, {"max_message_bytes": "8000000"}),
    "canal": (of_canal, {"compression_type": "zstd"}),
    "wal": (of_wal2json, {**COMPACTED, "compression_type": "lz4"}),
    "stamped": (of_clicks, {"message_timestamp_type": "LogAppendTime", "compression_type": "snappy"}),
}
DELETED = {"debezium": lambda record: record["payload"]["op"] == "d", "mongo": lambda record: record["operationType"] == "delete",
           "wal": lambda record: record["action"] == "D"}  # fmt: skip
"""Of topics that have tombstones, the records that one comes behind."""


TENANT = 'Field("tenant", "string", path=Header("x-tenant")),'


@dataclass
class Gone:
    world: World
    summary: dict[str, Any]
    archived: dict[str, Any]
    reports: dict[str, Any]
    since: datetime


def _records(name: str) -> list[Record]:
    make, config = CHANGES[name]
    out: list[Record] = []
    for n in range(N):
        record, _ = make(n)
        if name == "dynamo" and n == 7:
            record["dynamodb"]["NewImage"]["blob"] = {"S": "x" * 3_000_000}  # which no field reads
        key = None if n % 7 == 0 and "cleanup_policy" not in config else json.dumps({"row": n % 50}).encode()
        headers: list[tuple[str, bytes | None]] = [("x-tenant", b"none"), ("x-tenant", f"t{n % 3}".encode())]
        out.append((key, json.dumps(record).encode(), headers, micros_of(at(n))))
        if name in DELETED and DELETED[name](record):
            out.append((key, None, [], micros_of(at(n))))
    return out


@pytest.fixture(scope="module")
def gone(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Gone:
    topics = KafkaTopics(broker.bootstrap, aborted=frozenset({"t.maxwell", "t.golden", "t.stamped"}))
    world = make_world(tmp_path_factory.mktemp("changes") / "world", "unused", "", broker=topics)
    since = datetime.fromtimestamp(time.time(), UTC)
    for name, (_, config) in CHANGES.items():
        topics.create_topic(f"t.{name}", 2, **config)
    world.topic, stamped = "t.stamped", _records("stamped")
    world.send(stamped[: N // 2])
    for name in CHANGES:
        if name != "stamped":
            world.topic = f"t.{name}"
            world.send(_records(name))
    world.topic = "t.stamped"  # by now the broker's clock is some seconds further
    world.send(stamped[N // 2 :])
    for name in CHANGES:
        module = world.path / f"{name}.py"
        world.tandem_text("infer", f"t.{name}", "--with-group", "--name", name, "--output", str(module))
        text = module.read_text().replace("    fields=[\n", f"    fields=[\n        {TENANT}\n", 1)
        text = text.replace("\nfrom tandem", "\nfrom tandem.transforms.definitions import Header, seconds\nfrom tandem", 1)
        if name == "stamped":  # that rows are due within these seconds
            text = text.replace("hop=minutes(15)", "hop=seconds(1)").replace("out_of_orderness=minutes(1)", "out_of_orderness=seconds(1)")
        module.write_text(text)
    (world.path / "features.py").write_text("\n".join(f"from {name} import *" for name in CHANGES))
    workflow.apply(world.repo(), None, Steps())
    done = run_stream(world.repo(), StreamOptions(until="latest"), lambda line: None)
    assert done["code"] == 0
    reports = {"own": world.tandem("verify")}
    archived = {each["source"]: each for each in world.tandem("archive")["sources"]}
    begin = at(0).replace(hour=0, minute=0, second=0, microsecond=0)
    workflow.batch(world.repo(), begin, begin + timedelta(days=2), Steps(), pinned=True)
    reports["run"] = world.tandem("verify", "--against", "latest")
    return Gone(world, done["summary"], archived, reports, since)


@pytest.mark.slow
@pytest.mark.parametrize("name", CHANGES)
def test_every_change_is_an_event_once(gone: Gone, name: str) -> None:
    make, records = CHANGES[name][0], _records(name)
    wanted = [n for n in range(N) if make(n)[1]]
    assert gone.summary["rejected"] == {} and gone.summary["read"][name] == len(records), "nothing that was aborted"
    told = gone.archived[name]
    assert (told["events"], told["tombstones"], told["lag"]) == (len(wanted), len(records) - N, 0)
    source = gone.world.repo().sources[name]
    found = [b for f in list_files(gone.world.data, source, None, None) for b, _ in events(f.path, source, 2 * 10**15, 0)]
    rows = [row for batch in found for row in batch.to_pylist()]
    times = sorted(next(iter(row.values())) for row in rows)
    if name == "stamped":
        assert gone.since - timedelta(seconds=1) <= times[0] <= times[-1] <= gone.since + timedelta(minutes=4)
    else:
        exact = {int(t.timestamp() * 1_000) for t in times}
        assert exact <= {ms(n) for n in wanted} | {ms(n) // 1_000 * 1_000 for n in wanted} and len(times) == len(wanted)
    assert sorted(row["tenant"] for row in rows) == sorted(f"t{n % 3}" for n in wanted), "of headers of one name the last"


@pytest.mark.slow
def test_stream_and_batch_are_proven_alike(gone: Gone) -> None:
    for kind, report in gone.reports.items():
        assert (report["verdict"], report["unexplained"], report["problems"]) == ("proven", 0, []), kind
    for name, group in gone.world.repo().groups.items():
        rows = gone.reports["own" if group.source.name == "stamped" else "run"]["groups"][name]["rows"]
        assert rows["equal"] == rows["compared"] > 0 and (rows["different"], rows["extra"]) == ({}, {}), name
        assert set(rows["missing"]) <= {"in flight"}
