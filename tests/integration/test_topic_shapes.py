"""Topics as people have them, from records to proven rows: archived, in batch, in the stream, compared by ``tandem verify``."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
import struct
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from fastavro import parse_schema, schemaless_writer
from typer.testing import CliRunner

from pipelines import workflow
from pipelines.cli.root import app
from pipelines.project.repository import Repo, load_repo
from pipelines.reports.terminal import Steps
from pipelines.sources.memory import MemoryBroker
from pipelines.streaming.stream_job import run_stream
from pipelines.streaming.stream_options import StreamOptions
from tests.protobuf_types import classes, descriptor_set, file_of
from tests.schema_registry import schema_registry
from transforms.instants import micros_of

T0 = datetime(2024, 5, 1, 20, tzinfo=UTC)
SECOND = 1_000_000
Record = tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]], int]
"""Key, value, headers, the record's time."""

HEAD = """
from tandem.pipelines.feature_store.views import feast_views
from tandem.transforms.definitions import (
    Count, CountDistinct, Entity, EventSource, FeatureGroup, Field, Header, Last, Mean, RecordKey, RecordTimestamp, TopK, days,
    hours, minutes,
)
"""
CLICKS = """
clicks = EventSource(
    name="clicks", topic="shop.clicks", files="events/clicks",
    fields=[
        Field("click_id", "string", required=True, path="clickId"),
        Field("user", "string", required=True, path="user.userId"),
        Field("country", "string", path="user.country"),
        Field("dwell_ms", "int64", path="dwellMs", min=0),
        Field("kind", "string", domain=["VIEW", "BUY"]),
        Field("campaign", "string", path="labels.utmCampaign"),
        Field("tenant", "string", path=Header("x-tenant")),
        Field("device", "int64", path=RecordKey()),
        Field("sent_at", "timestamp", path=RecordTimestamp()),
    ],
    event_time=Field("at", "timestamp", path="occurredAt"), tie_breaker="click_id",
    out_of_orderness=minutes(1), allowed_lateness=hours(1),
)
users = FeatureGroup(
    name="users", source=clicks, entity=Entity("user"), hop=minutes(5), ttl=days(36500),
    aggregates=[
        Count(over=hours(1)), Mean("dwell_ms", over=[hours(1), hours(2)]), Last("country", over=hours(2)), TopK("kind", k=2, over=hours(1)),
        CountDistinct("campaign", over=hours(2)), Count(where=Field("tenant").eq("acme"), over=hours(1), name="acme"),
    ],
)
devices = FeatureGroup(
    name="devices", source=clicks, entity=Entity("device"), hop=minutes(10), ttl=days(36500), null_keys="drop",
    aggregates=[Count(over=hours(1)), Last("user", over=hours(1))],
)
feast_views(__name__)
"""
HITS = """
from tandem.transforms.definitions import BigEndian, Decimal, Epoch

hits = EventSource(
    name="hits", topic="web.hits", files="events/hits",
    fields=[
        Field("hit", "string", required=True, path="hitId"),
        Field("user", "string", required=True, path="user_pseudo_id"),
        Field("page", "string", path="event_params.page_location.string_value"),
        Field("session", "int64", path="event_params.ga_session_id.int_value"),
        Field("cents", "int64", path="after.amount", parse=Decimal(scale=2, unscaled=True)),
        Field("attempt", "int64", path=Header("attempt"), parse=BigEndian()),
    ],
    event_time=Field("at", "timestamp", path="ts", parse=Epoch("s", text=True)), tie_breaker="hit",
    out_of_orderness=minutes(1), allowed_lateness=hours(1),
)
visitors = FeatureGroup(
    name="visitors", source=hits, entity=Entity("user"), hop=minutes(5), ttl=days(36500),
    aggregates=[
        Count(over=hours(1)), Mean("cents", over=[hours(1), hours(2)]), Last("page", over=hours(2)),
        CountDistinct("session", over=hours(2)), Mean("attempt", over=hours(2)),
    ],
)
feast_views(__name__)
"""
READINGS = """
readings = EventSource(
    name="readings", topic="iot.readings", files="events/readings",
    fields=[
        Field("seq", "int64", required=True, path="seqNo"), Field("sensor", "string", required=True, path=RecordKey()),
        Field("value", "float64", path="payload.value"),
    ],
    event_time="at", tie_breaker="seq", out_of_orderness=minutes(1), allowed_lateness=hours(1),
)
sensors = FeatureGroup(
    name="sensors", source=readings, entity=Entity("sensor"), hop=minutes(5), ttl=days(36500),
    aggregates=[Count(over=hours(1)), Mean("value", over=hours(2))],
)
feast_views(__name__)
"""
CHANGES = """
from tandem.transforms.definitions import Decimal, Epoch, IsoTime, col, seconds_between

changes = EventSource(
    name="changes", topic="shop.orders", files="events/changes",
    fields=[
        Field("order_id", "int64", required=True, path=RecordKey("order_id")),
        Field("shop", "string", path=RecordKey("shop.code")),
        Field("cents", "int64", path="after.amount", parse=Decimal(scale=2, unscaled=True)),
        Field("placed", "timestamp", path="after.placed", parse=IsoTime("Europe/Paris", ambiguous="earlier")),
        Field("channel", "string", path='after.tags["shop.channel"]'),
        Field("position", "int64", required=True, path="source.pos"),
        Field("op", "string", required=True),
        Field("age", "float64", value=seconds_between(col("placed"), col("at"))),
    ],
    where=col("op").isin(["c", "r", "u"]),
    event_time=Field("at", "timestamp", path="source.ts_us", parse=Epoch("us")), tie_breaker="position",
    out_of_orderness=minutes(1), allowed_lateness=hours(1),
)
orders = FeatureGroup(
    name="orders", source=changes, entity=Entity("order_id"), hop=minutes(5), ttl=days(36500),
    aggregates=[Count(over=hours(1)), Mean("cents", over=[hours(1), hours(2)]), Last("channel", over=hours(2)), Mean("age", over=hours(2))],
)
shops = FeatureGroup(
    name="shops", source=changes, entity=Entity("shop"), hop=minutes(10), ttl=days(36500), null_keys="drop",
    aggregates=[Count(over=hours(1))],
)
feast_views(__name__)
"""


class Topics(Protocol):
    """What a broker is asked for here."""

    @property
    def address(self) -> str: ...

    def create_topic(self, name: str, partitions: int) -> Any: ...

    def append(self, topic: str, partition: int, values: Any, keys: Any, headers: Any, timestamps: Any, /) -> Any: ...


@dataclass
class World:
    """A repository beside a broker."""

    folder: Path
    broker: Topics
    topic: str

    @property
    def path(self) -> Path:
        return self.folder / "repo"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def repo(self) -> Repo:
        return load_repo(self.path)

    def send(self, records: Sequence[Record]) -> None:
        """Each to the partition of its place."""
        for partition in range(2):
            if columns := list(zip(*records[partition::2], strict=True)):
                keys, values, headers, stamps = columns
                self.broker.append(self.topic, partition, values, keys, headers, stamps)

    def tandem(self, *words: str) -> Any:
        """A command with --json, in this process, where the broker is."""
        return json.loads(self.tandem_text(*words, "--json"))

    def tandem_text(self, *words: str) -> str:
        """A command in this process, and what it prints."""
        done = CliRunner().invoke(app, [*words, "--repo", str(self.path)])
        assert done.exit_code == 0, done.output
        return done.stdout


def make_world(folder: Path, topic: str, features: str, broker: Topics | None = None, **kafka: Any) -> World:
    """``broker``: where the topics are; None for one in memory."""
    broker = broker or MemoryBroker()
    world = World(folder, broker, topic)
    broker.create_topic(topic, 2)
    world.path.mkdir(parents=True)
    (world.path / "features.py").write_text(HEAD + features)
    (world.path / "feature_store.yaml").write_text(
        "project: shapes\nregistry: ../data/registry.db\nprovider: local\nentity_key_serialization_version: 3\n"
        "offline_store: {type: serving.offline_store.AsofOfflineStore}\n"
        "online_store: {type: serving.online_store.sqlite.OrderedSqliteOnlineStore, path: ../data/online.db}\n"
    )
    settings = {
        "data": "../data", "definitions": "features", "stream": {"clock": "replay", "idle_seconds": 3600, "max_reject_share": 1.0},
        "kafka": {"bootstrap_servers": broker.address, "dead_letters": "dead", **kafka},
    }  # fmt: skip
    (world.path / "tandem.yaml").write_text(json.dumps(settings))
    return world


def goes_all_ways(world: World, records: Sequence[Record], source: str, bad: dict[str, int], passed: int = 0) -> None:
    """Stream and verify; archive, batch over the archive, and the same rows once more. ``passed`` records are of no event."""
    world.send(records)
    workflow.apply(world.repo(), None, Steps())
    assert run_stream(world.repo(), StreamOptions(runner="direct", until="latest"), lambda line: None)["code"] == 0
    good = len(records) - sum(bad.values()) - passed
    first = world.tandem("verify")
    assert first["verdict"] == "proven" and first["problems"] == [] and set(first["values"]["different"]) <= {"too late"}
    assert first["values"]["equal"] > 500 and first["sources"][source]["events"] == good
    (done,) = world.tandem("archive")["sources"]
    assert (done["records"], done["events"], done["lag"]) == (len(records), good, 0) and done["rejected"] == bad
    assert done["tombstones"] == sum(key is not None and value is None for key, value, _, _ in records)
    begin = (T0 - timedelta(days=1)).replace(hour=0)
    workflow.batch(world.repo(), begin, begin + timedelta(days=4), Steps(), pinned=True)
    against = world.tandem("verify", "--against", "latest")
    assert against["verdict"] == "proven" and against["problems"] == [] and set(against["values"]["different"]) <= {"too late"}
    assert against["values"]["equal"] > 500


def _times(n: int, seed: int) -> list[int]:
    """Event times in order of arrival over six hours, over midnight; some come late."""
    r = np.random.default_rng(seed)
    arrival = np.sort(r.integers(0, 6 * 3600, n))
    behind = np.where(r.random(n) < 0.1, r.integers(0, 1800, n), 0)
    return [int(t) for t in micros_of(T0) + np.maximum(arrival - behind, 0) * SECOND + r.integers(0, SECOND, n)]


@pytest.mark.slow
def test_camel_case_clicks_in_protobuf(tmp_path: Path) -> None:
    """Nested messages, an enum, a map, a header, the key and the record's time; two versions of the schema are in the topic."""
    fields = {
        "clickId": "string", "user": ".shop.Click.User", "occurredAt": ".google.protobuf.Timestamp", "dwellMs": "optional int64",
        "kind": "enum .shop.Kind", "labels": "map string string",
    }  # fmt: skip
    user = {"userId": "string", "country": "optional string"}
    enums, imports = {"Kind": ["UNKNOWN", "VIEW", "BUY"]}, ("google/protobuf/timestamp.proto",)
    old = file_of("click.proto", {"Click": fields, "Click.User": user}, enums=enums, imports=imports)
    new = file_of("click.proto", {"Click": {**fields, "sessionId": "string"}, "Click.User": user}, enums=enums, imports=imports)
    world = make_world(
        tmp_path / "world", "shop.clicks", CLICKS, formats={"clicks": "protobuf"}, format_options={"clicks": {"descriptor": "click.desc"}}
    )
    (world.path / "click.desc").write_bytes(descriptor_set(old))
    r = np.random.default_rng(1)
    made: list[Callable[..., Any]] = [classes(f)["shop.Click"] for f in (old, new)]
    records: list[Record] = []
    for n, at in enumerate(_times(600, 1)):
        click = made[n % 2](clickId=f"c{n}", kind=int(r.integers(1, 3)))
        click.user.userId = f"u{r.integers(0, 9)}"
        click.occurredAt.FromMicroseconds(at)
        if n % 3:
            click.dwellMs = int(r.integers(0, 60_000))
        if n % 4:
            click.user.country = ["NO", "SE"][n % 2]
            click.labels["utmCampaign"] = f"spring{n % 5}"
        key = None if n % 7 == 0 else b"%d" % (9_007_199_254_740_993 + n % 6)
        headers: list[tuple[str, bytes | None]] = [("x-tenant", b"none"), ("x-tenant", b"acme")] if n % 2 else [("trace", None)]
        records.append((key, click.SerializeToString(), headers, at + 5 * SECOND))
    records.insert(100, (b"1", b"\x0a\xff\xff\xff\xff\x07", [], records[99][3]))
    bare = made[0](clickId="unknown kind")
    bare.occurredAt.FromMicroseconds(records[200][3])
    bare.user.userId = "u1"
    records.insert(200, (b"1", bare.SerializeToString(), [], records[200][3]))
    goes_all_ways(world, records, "clicks", {"malformed": 1, "not_in_domain": 1})


@pytest.mark.slow
def test_a_key_that_stands_only_in_the_records_key(tmp_path: Path) -> None:
    """Null keys are events without a sensor, and a record of neither key nor value says nothing: dead letters, with what they carried. A
    tombstone is none."""
    world = make_world(tmp_path / "world", "iot.readings", READINGS)
    records: list[Record] = []
    for n, at in enumerate(_times(500, 2)):
        value = {"seqNo": n, "at": at, "payload": {"value": None if n % 9 == 0 else n / 7, "unit": "C"}}
        key = None if n % 50 == 0 else f"s{n % 11}".encode()
        records.append((key, json.dumps(value).encode(), [], at))
    records.insert(50, (b"s1", None, [], records[50][3]))
    records.insert(60, (None, None, [], records[60][3]))
    goes_all_ways(world, records, "readings", {"malformed": 1, "missing_field": 10}, passed=1)
    listed = world.tandem("dlq", "list")
    assert "missing_field" in json.dumps(listed)


@pytest.mark.slow
def test_maps_as_lists_of_entries_and_numbers_as_others_write_them(tmp_path: Path) -> None:
    """GA4's event_params, Debezium's decimals, seconds as the text of a float, a header that is a number in binary."""
    world = make_world(tmp_path / "world", "web.hits", HITS)
    records: list[Record] = []
    for n, at in enumerate(_times(500, 5)):
        params: list[Any] = [{"key": "ga_session_id", "value": {"int_value": n // 9}}]
        if n % 3:
            params.insert(n % 2, {"key": "page_location", "value": {"string_value": f"/p{n % 7}"}})
        cents = (n * 37 - 900).to_bytes(4, "big", signed=True)
        record = {
            "hitId": f"h{n}", "user_pseudo_id": f"u{n % 13}", "ts": f"{at / 1e6:.6f}", "event_params": params if n % 50 else None,
            "after": {"amount": base64.b64encode(cents).decode()} if n % 4 else None,
        }  # fmt: skip
        records.append((None, json.dumps(record).encode(), [("attempt", (n % 5).to_bytes(4, "big"))] if n % 6 else [], at))
    odd = {"hitId": "odd", "user_pseudo_id": "u1", "ts": "1714593600.5", "event_params": [{"key": "page_location", "at": 1}]}
    records.append((None, json.dumps(odd).encode(), [], records[-1][3]))
    goes_all_ways(world, records, "hits", {"wrong_type": 1})


@pytest.mark.slow
def test_changes_of_rows_whose_keys_are_avro(tmp_path: Path) -> None:
    """Debezium's envelopes in JSON beside keys in a registry's framing, of two versions of their schema; deletes are passed over, and so is
    the tombstone behind each."""
    code = {"name": "code", "type": ["null", "string"]}
    keys: list[Any] = [
        {"type": "record", "name": "Key", "fields": [{"name": "order_id", "type": "long"}, *more]}
        for more in ([], [{"name": "shop", "type": {"type": "record", "name": "Shop", "fields": [code]}}])
    ]
    with schema_registry() as registry:
        world = make_world(tmp_path / "world", "shop.orders", CHANGES, schema_registry=registry.url)
        numbers = [registry.register("shop.orders-key", json.dumps(schema)) for schema in keys]
        records: list[Record] = []
        for n, at in enumerate(_times(500, 7)):
            out = io.BytesIO()
            out.write(struct.pack(">bI", 0, numbers[n % 2]))
            schemaless_writer(
                out, parse_schema(keys[n % 2]), {"order_id": 2**40 + n % 13, "shop": {"code": None if n % 5 else f"s{n % 3}"}}
            )
            when = datetime.fromtimestamp(at // SECOND - n, UTC).astimezone(ZoneInfo("Europe/Paris")).replace(tzinfo=None)
            amount = base64.b64encode((n * 37 - 900).to_bytes(4, "big", signed=True)).decode()
            row = {"amount": amount, "placed": str(when) if n % 2 else f"{when:%Y-%m-%dT%H:%M:%S}.5", "tags": {"shop.channel": f"c{n % 4}"}}
            op = "d" if n % 10 == 9 else "u"
            change = {"op": op, "before": row, "after": None if op == "d" else row, "source": {"ts_us": at, "pos": n}}
            records.append((out.getvalue(), json.dumps(change).encode(), [], at))
            records += [(out.getvalue(), None, [], at)] if op == "d" else []
        records.append((b"\0\0\0\0\x63abc", records[0][1], [], records[-1][3]))
        goes_all_ways(world, records, "changes", {"unknown_schema": 1}, passed=100)


@pytest.mark.slow
def test_an_archive_without_end_goes_on_until_it_is_stopped(tmp_path: Path) -> None:
    world = make_world(tmp_path / "world", "iot.readings", READINGS)
    value: list[Record] = [(b"s", json.dumps({"seqNo": n, "at": t, "payload": {}}).encode(), [], t) for n, t in enumerate(_times(100, 3))]
    world.send(value[:60])
    state, before = world.data / "archive" / "readings.json", {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}

    def meanwhile() -> None:
        for wanted in (60, 100):  # its handlers are there before its first file is
            until = time.monotonic() + 120
            while time.monotonic() < until and (not state.is_file() or sum(json.loads(state.read_text())["next"].values()) < wanted):
                time.sleep(0.02)
            if wanted == 60:
                world.send(value[60:])
        os.kill(os.getpid(), signal.SIGTERM)

    other = threading.Thread(target=meanwhile)
    try:
        other.start()
        (done,) = world.tandem("archive", "--until", "stopped", "--every", "1s")["sources"]
    finally:
        other.join()
        for number, handler in before.items():
            signal.signal(number, handler)
    assert (done["records"], done["events"], done["lag"], done["missing"]) == (100, 100, 0, [])
