"""What ``tandem plan`` says of topics, by their registered schemas, is what a stream then does with their records."""

from __future__ import annotations

import io
import json
import struct
from datetime import timedelta
from pathlib import Path
from typing import Any

from fastavro import parse_schema, schemaless_writer
from typer.testing import CliRunner

from pipelines import workflow
from pipelines.cli.root import app
from pipelines.reports.terminal import Steps
from pipelines.sources.memory import MemoryBroker
from pipelines.streaming.stream_job import run_stream
from pipelines.streaming.stream_options import StreamOptions
from tests.integration.test_topic_shapes import T0, Record, World, make_world
from tests.schema_registry import schema_registry
from transforms.instants import micros_of

SOURCE = """
orders = EventSource(
    name="orders", topic="shop.orders", files="events/orders",
    fields=[Field("order_id", "string", required=True, path="id"), Field("cents", "int64", required=True, path="total")],
    event_time="at", tie_breaker="order_id", out_of_orderness=minutes(1), allowed_lateness=hours(1),
)
orders_by_id = FeatureGroup(
    name="orders_by_id", source=orders, entity=Entity("order_id"), hop=minutes(5), ttl=days(36500),
    aggregates=[Mean("cents", over=hours(1))],
)
feast_views(__name__)
"""
N = 40
AT = {"type": "long", "logicalType": "timestamp-micros"}
SCHEMA = {"type": "record", "name": "Order", "fields": [
    {"name": "id", "type": "string"}, {"name": "amount", "type": "long"}, {"name": "at", "type": AT},
]}  # fmt: skip
READER = {**SCHEMA, "fields": [*SCHEMA["fields"], {"name": "total", "aliases": ["amount"], "type": "long"}]}


def send(world: World, number: int, hours: int = 0) -> None:
    out: list[Record] = []
    for n in range(N):
        record = io.BytesIO()
        at = T0 + timedelta(hours=hours, seconds=30 * n)
        schemaless_writer(record, parse_schema(SCHEMA), {"id": f"o{n}", "amount": n, "at": at})
        out.append((None, struct.pack(">bI", 0, number) + record.getvalue(), [], micros_of(at)))
    world.send(out)


def configured(world: World, **kafka: Any) -> None:
    path = world.path / "tandem.yaml"
    settings = json.loads(path.read_text())
    settings["kafka"] |= kafka
    path.write_text(json.dumps(settings))


def rejected(world: World, **options: Any) -> tuple[dict[str, int], int]:
    """What a stream made of the records that came since: its rejects, and the rows of all time."""
    done = run_stream(world.repo(), StreamOptions(runner="direct", until="latest", **options), lambda line: None)
    assert done["code"] == 0
    return done["summary"]["rejected"], sum(done["summary"]["rows_of"].values())


def test_what_is_said_of_a_topic_is_what_a_stream_makes_of_it(tmp_path: Path) -> None:
    with schema_registry() as registry:
        world = make_world(tmp_path, "shop.orders", SOURCE, schema_registry=registry.url, formats={"orders": "avro"})
        number = registry.register("shop.orders-value", json.dumps(SCHEMA))
        workflow.apply(world.repo(), None, Steps())

        def topic() -> dict[str, Any]:
            (found,) = world.tandem("plan")["topics"]
            return dict(found)

        said = topic()
        assert (said["format"], said["subject"]) == ("avro", "shop.orders-value")
        assert "field 'cents' stands at total, where no record of the newest schema" in said["wrong"]
        assert said["wrong"].endswith("its records are dead letters (missing_field)")
        assert "1 topic cannot be read as defined." in world.tandem_text("plan")
        send(world, number)
        assert rejected(world) == ({"orders/missing_field": N}, 0)

        configured(world, formats={})
        wrong = topic()["wrong"]
        assert "is AVRO, and json is read: such records are dead letters (malformed or invalid_utf8)" in wrong
        assert wrong.endswith("; set kafka: {formats: {orders: avro}}")
        (stream,) = world.tandem("plan")["streams"]
        assert stream["what"] == (
            "was started with other settings (orders: kafka.formats avro -> json); after a restart it reads with those of now"
        )
        send(world, number)
        assert rejected(world) == ({"orders/invalid_utf8": N}, 0)

        (world.path / "order.avsc").write_text(json.dumps(READER))
        configured(world, formats={"orders": "avro"}, format_options={"orders": {"reader": "order.avsc"}})
        assert topic()["wrong"] is None
        assert "newest schema of shop.orders-value has its fields" in world.tandem_text("plan")
        send(world, number)
        found, rows = rejected(world)
        assert found == {} and rows > 0
        assert world.tandem("plan")["streams"][0]["what"] is None
        report = world.tandem("verify")
        assert (report["verdict"], report["unexplained"]) == ("proven", 0)
        assert any(f"{2 * N} records that were dead letters then are left out" in notice for notice in report["notices"])
        (world.path / "order.avsc").write_text(json.dumps({**READER, "doc": "another"}))
        assert "orders: kafka.format_options" in world.tandem("plan")["streams"][0]["what"]

        configured(world, format_options={"orders": {"reader": "gone.avsc"}})
        assert topic()["wrong"].endswith("write latest: the stream does not start")
    configured(world, format_options={})
    said = topic()
    assert said["wrong"] is None and "cannot be told" in said["notes"][0]


def test_verify_leaves_out_what_this_stream_refused_and_nothing_else(tmp_path: Path) -> None:
    with schema_registry() as registry:
        features = SOURCE.replace('path="total"', 'path="amount"')
        world = make_world(tmp_path, "shop.orders", features, schema_registry=registry.url)
        number = registry.register("shop.orders-value", json.dumps(SCHEMA))
        workflow.apply(world.repo(), None, Steps())

        def verified(*words: str) -> tuple[str, int, int, bool]:
            done = CliRunner().invoke(app, ["verify", "--repo", str(world.path), "--json", *words])
            report = json.loads(done.stdout)
            left_out = any("are left out" in notice for notice in report["notices"])
            return report["verdict"], report["unexplained"], report["sources"]["orders"]["events"], left_out

        send(world, number)
        assert rejected(world)[0] == {"orders/invalid_utf8": N}
        configured(world, formats={"orders": "avro"})
        assert rejected(world, reset=True)[0] == {}  # read again: the letters of before say nothing any more
        assert verified() == ("proven", 0, N, False)
        send(world, number, hours=3)
        assert rejected(world)[0] == {}
        assert verified() == ("proven", 0, 2 * N, False)

        configured(world, formats={}, format_options={})  # another stream refuses all, this one took it
        assert rejected(world, name="trial")[0] == {"orders/invalid_utf8": 2 * N}
        (world.path / "order.avsc").write_text(json.dumps(SCHEMA))
        configured(world, formats={"orders": "avro"}, format_options={"orders": {"reader": "order.avsc"}})
        assert verified() == ("proven", 0, 2 * N, True)
        send(world, number, hours=6)
        assert rejected(world)[0] == {}
        assert verified() == ("proven", 0, 3 * N, True)

        # What this one refused is left out by its own letters; without them it may as well have lost the records.
        configured(world, formats={}, format_options={})
        send(world, number, hours=9)
        assert rejected(world)[0] == {"orders/invalid_utf8": N}
        configured(world, formats={"orders": "avro"})
        send(world, number, hours=12)
        assert rejected(world)[0] == {}
        assert verified() == ("proven", 0, 4 * N, True)
        assert isinstance(world.broker, MemoryBroker)
        world.broker.delete_topic("dead")
        configured(world, formats={}, format_options={})
        assert rejected(world, name="other")[0] == {"orders/invalid_utf8": 5 * N}
        configured(world, formats={"orders": "avro"}, format_options={})
        verdict, unexplained, events, _ = verified()
        assert verdict != "proven" and unexplained > 0 and events == 5 * N
