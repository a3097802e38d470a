"""``tandem infer TOPIC`` in each record format: the definition that it writes takes every record that it was written from."""

from __future__ import annotations

import base64
import io
import json
import struct
from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pyarrow as pa
import pytest

from pipelines.inference.infer_source import infer_files, infer_topic
from pipelines.project.config import KafkaSettings
from pipelines.sources.formats.record_format import record_format
from pipelines.sources.memory import MemoryBroker
from tests.protobuf_types import classes, descriptor_set, file_of
from tests.schema_registry import SchemaRegistry, schema_registry
from transforms.contract import check_json
from transforms.definitions import EventSource
from transforms.errors import ConfigError, DataError
from transforms.instants import micros_of

T0 = datetime(2024, 5, 1, tzinfo=UTC)
NOW = micros_of(T0) + 86_400_000_000
N = 400
AVRO = {
    "type": "record", "name": "Order", "fields": [
        {"name": "orderId", "type": "string"}, {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "sent", "type": ["null", {"type": "long", "logicalType": "local-timestamp-micros"}]},
        {"name": "total", "type": {"type": "bytes", "logicalType": "decimal", "precision": 10, "scale": 2}},
        {"name": "state", "type": {"type": "enum", "name": "State", "symbols": ["NEW", "PAID"]}},
        {"name": "user", "type": {"type": "record", "name": "User", "fields": [
            {"name": "id", "type": "long"}, {"name": "since", "type": {"type": "int", "logicalType": "date"}},
            {"name": "seen", "type": {"type": "long", "logicalType": "timestamp-millis"}}]}},
        {"name": "tags", "type": {"type": "array", "items": "string"}},
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def registry() -> Iterator[SchemaRegistry]:
    with schema_registry() as running:
        yield running


def times() -> list[datetime]:
    return [T0 + timedelta(seconds=int(s)) for s in np.random.default_rng(1).integers(0, 50_000, N)]


def inferred(payloads: list[bytes], kafka: KafkaSettings, **more: Any) -> tuple[str, EventSource]:
    broker = MemoryBroker()
    broker.create_topic("shop.orders", 2)
    for partition in (0, 1):
        part = payloads[partition::2]
        broker.append("shop.orders", partition, part, [None] * len(part), [[]] * len(part), [0] * len(part))
    text = infer_topic(broker.open_reader(), "shop.orders", kafka=kafka, **more).text
    values: dict[str, Any] = {}
    exec(compile(text, "orders.py", "exec"), values)
    return text, values["orders"]


def takes_all(source: EventSource, kafka: KafkaSettings, payloads: list[bytes]) -> list[dict[str, Any]]:
    checked = record_format(source, kafka).decode(pa.array(payloads, pa.binary()), NOW, 0)
    assert checked.details.drop_null().to_pylist() == []
    return checked.valid.to_pylist()


def test_avro_by_a_registry(registry: SchemaRegistry) -> None:
    number = registry.register("shop.orders-value", json.dumps(AVRO), "AVRO")
    schema, payloads = fastavro.parse_schema(AVRO), []
    for n, at in enumerate(times()):
        user = {"id": n % 9, "since": at.date(), "seen": at}
        order = {"orderId": f"o{n}", "at": at, "sent": at.replace(tzinfo=None) if n % 3 else None, "total": Decimal(n).scaleb(-2),
                 "state": ["NEW", "PAID"][n % 2], "user": user, "tags": ["a"] * (n % 3)}  # fmt: skip
        out = io.BytesIO()
        fastavro.schemaless_writer(out, schema, order)
        payloads.append(struct.pack(">bI", 0, number) + out.getvalue())
    kafka = KafkaSettings(schema_registry=registry.url)
    text, source = inferred(payloads, kafka)
    assert "kafka: {formats: {orders: avro}}" in text and 'domain=["NEW", "PAID"]' in text and 'path="user.since", parse=Date()' in text
    events = takes_all(source, KafkaSettings(schema_registry=registry.url, formats={"orders": "avro"}), payloads)
    assert [e["at"] for e in events] == times() and [e["total"] for e in events] == [n / 100 for n in range(N)]
    with pytest.raises(ConfigError, match=r"set kafka\.schema_registry"):
        inferred(payloads, KafkaSettings())


def test_debeziums_names_in_avro(registry: SchemaRegistry) -> None:
    """Days and moments, which its Avro has as numbers with a name beside them."""
    moment = {"type": "long", "connect.name": "io.debezium.time.MicroTimestamp"}
    row = {"type": "record", "name": "Value", "fields": [
        {"name": "id", "type": "long"}, {"name": "placed", "type": moment}, {"name": "paid", "type": ["null", moment]},
        {"name": "due", "type": ["null", {"type": "int", "connect.name": "io.debezium.time.Date"}]},
    ]}  # fmt: skip
    source = {"type": "record", "name": "Source", "fields": [{"name": "ts_ms", "type": "long"}, {"name": "lsn", "type": ["null", "long"]}]}
    envelope = {"type": "record", "name": "Envelope", "fields": [
        {"name": "before", "type": ["null", row]}, {"name": "after", "type": ["null", "Value"]}, {"name": "source", "type": source},
        {"name": "op", "type": "string"}, {"name": "ts_ms", "type": ["null", "long"]},
    ]}  # fmt: skip
    number, schema, payloads = registry.register("shop.orders-value", json.dumps(envelope)), fastavro.parse_schema(envelope), []
    for n, at in enumerate(times()):
        us = (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
        after = {"id": n, "placed": us, "paid": us if n % 2 else None, "due": 19_844 + n % 9}
        out = io.BytesIO()
        fastavro.schemaless_writer(
            out, schema, {"before": None, "after": after, "source": {"ts_ms": us // 1_000, "lsn": n}, "op": "c", "ts_ms": us // 1_000}
        )
        payloads.append(struct.pack(">bI", 0, number) + out.getvalue())
    text, found = inferred(payloads, KafkaSettings(schema_registry=registry.url))
    assert 'path="after.due", parse=Date()' in text and text.count('parse=Epoch("us")') == 2, text
    events = takes_all(found, KafkaSettings(schema_registry=registry.url, formats={"orders": "avro"}), payloads)
    assert [e["placed"] for e in events] == times() and events[3]["due"] == datetime(2024, 5, 4, tzinfo=UTC)


@pytest.mark.parametrize("framed", [False, True])
def test_protobuf_by_a_descriptor_or_a_registry(registry: SchemaRegistry, tmp_path: Path, framed: bool) -> None:
    fields = {
        "orderId": "string", "at": ".google.protobuf.Timestamp", "user": ".shop.Order.User", "cents": "int64", "kind": "enum .shop.Kind",
        "note": ".google.protobuf.StringValue", "tags": "repeated string", "labels": "map string string",
        "items": "repeated .shop.Order.Item",
    }  # fmt: skip
    imports = ("google/protobuf/timestamp.proto", "google/protobuf/wrappers.proto")
    nested = {"Order.User": {"userId": "string", "country": "optional string"}, "Order.Item": {"sku": "string"}}
    file = file_of("order.proto", {"Order": fields, **nested}, enums={"Kind": ["UNKNOWN", "VIEW", "BUY"]}, imports=imports)
    payloads = []
    for n, at in enumerate(times()):
        order = classes(file)["shop.Order"](orderId=f"o{n}", cents=n, kind=n % 2 + 1, tags=["a"] * (n % 3), items=[{"sku": "s"}])
        order.at.FromDatetime(at.replace(tzinfo=None))
        order.user.userId = f"u{n % 7}"
        if n % 2:
            order.user.country, order.note.value = "NO", "n"
        payloads.append(order.SerializeToString())
    kafka = KafkaSettings(format_options={"orders": {"descriptor": str(tmp_path / "o.desc"), "message": "shop.Order"}})
    (tmp_path / "o.desc").write_bytes(descriptor_set(file))
    if framed:
        number = registry.register("shop.orders-value", base64.b64encode(file.SerializeToString()).decode(), "PROTOBUF")
        payloads, kafka = [struct.pack(">bI", 0, number) + b"\0" + p for p in payloads], KafkaSettings(schema_registry=registry.url)
    text, source = inferred(payloads, kafka)
    assert 'domain=["UNKNOWN", "VIEW", "BUY"]' in text and 'path="user.country"' in text and "items: a list of objects" in text
    events = takes_all(source, kafka.model_copy(update={"formats": {"orders": "protobuf"}}), payloads)
    assert [e["at"] for e in events] == times() and events[1]["user_user_id"] == "u1"


def test_maps_and_structs_of_protobuf(tmp_path: Path) -> None:
    """No schema tells their keys; the records do."""
    fields = {
        "orderId": "string", "at": ".google.protobuf.Timestamp", "labels": "map string string", "kinds": "map int32 enum .shop.Kind",
        "extra": ".google.protobuf.Struct", "card": ".shop.Order.Card",
    }  # fmt: skip
    imports = ("google/protobuf/timestamp.proto", "google/protobuf/struct.proto")
    nested = {"Order.Card": {"last": "string", "checks": "map string bool"}}
    file = file_of("order.proto", {"Order": fields, **nested}, enums={"Kind": ["UNKNOWN", "VIEW", "BUY"]}, imports=imports)
    payloads = []
    for n, at in enumerate(times()):
        order = classes(file)["shop.Order"](orderId=f"o{n}", labels={"campaign": f"c{n % 3}"}, kinds={7: n % 3}, card={"last": f"x{n}"})
        order.at.FromDatetime(at.replace(tzinfo=None))
        order.extra["page"] = f"p{n % 2}"
        if n % 2:
            order.card.checks["cvc"] = True
        payloads.append(order.SerializeToString())
    (tmp_path / "o.desc").write_bytes(descriptor_set(file))
    kafka = KafkaSettings(format_options={"orders": {"descriptor": str(tmp_path / "o.desc"), "message": "shop.Order"}})
    text, source = inferred(payloads, kafka)
    for path in ("labels.campaign", "kinds.7", "extra.page", "card.checks.cvc", "card.last"):
        assert f'path="{path}"' in text, text
    events = takes_all(source, kafka.model_copy(update={"formats": {"orders": "protobuf"}}), payloads)
    assert [(e["labels_campaign"], e["kinds_7"], e["extra_page"], e["checks_cvc"]) for e in events] == [
        (f"c{n % 3}", ["UNKNOWN", "VIEW", "BUY"][n % 3], f"p{n % 2}", True if n % 2 else None) for n in range(N)
    ]


def test_lines_and_json_behind_a_schema(registry: SchemaRegistry) -> None:
    lines = [f"o{n};{at:%d.%m.%Y %H:%M:%S};{n},5;u{n % 7}".encode() for n, at in enumerate(times())]
    text, source = inferred(lines, KafkaSettings(), zone="Europe/Paris")
    assert 'TimeFormat("%d.%m.%Y %H:%M:%S", zone="Europe/Paris")' in text and "kafka: {formats: {orders: csv}}" in text
    events = takes_all(source, KafkaSettings(formats={"orders": "csv"}), lines)
    assert [e["column_3"] for e in events] == [n + 0.5 for n in range(N)]
    number = registry.register("shop.orders-value", json.dumps({"type": "object"}), "JSON")
    kafka = KafkaSettings(schema_registry=registry.url)
    framed = [struct.pack(">bI", 0, number) + json.dumps({"id": n, "at": micros_of(at)}).encode() for n, at in enumerate(times())]
    text, source = inferred(framed, kafka)
    assert len(takes_all(source, kafka.model_copy(update={"formats": {"orders": "json_schema"}}), framed)) == N


def test_what_cannot_be_told_is_one_line() -> None:
    with pytest.raises(DataError, match="none of the 2 records is a JSON object or a line of text; say --format"):
        inferred([b"\xff\xfe\x01", b"\x08\x96"], KafkaSettings())
    with pytest.raises(ConfigError, match="'xml' is not a known record format; known: avro"):
        inferred([b"x"], KafkaSettings(), form="xml")


SIDES = {"type": "enum", "name": "Side", "symbols": ["BUY", "SELL", "SHORT", "COVER"]}
TRADE = {
    "type": "record", "name": "Trade", "fields": [
        {"name": "id", "type": "string"}, {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "side", "type": SIDES}, {"name": "back", "type": ["null", "Side"], "default": None},
        {"name": "legs", "type": {"type": "array", "items": {
            "type": "record", "name": "Leg", "fields": [{"name": "side", "type": "Side"}]}}},
        {"name": "opened", "type": {"type": "int", "logicalType": "time-millis"}},
    ],
}  # fmt: skip


def trades() -> list[dict[str, Any]]:
    return [{"id": f"t{n}", "at": at, "side": ["BUY", "SELL"][n % 2], "back": None if n % 3 else "BUY", "legs": [{"side": "BUY"}],
             "opened": time(9, n % 60)} for n, at in enumerate(times())]  # fmt: skip


def test_an_enum_has_the_words_of_its_schema_and_not_those_seen(registry: SchemaRegistry, tmp_path: Path) -> None:
    number, older = (
        registry.register("shop.orders-value", json.dumps(TRADE), "AVRO"),
        json.loads(json.dumps(TRADE).replace("COVER", "SWAP")),
    )
    other = registry.register("shop.orders-value", json.dumps(older), "AVRO")
    payloads = []
    for n, trade in enumerate(trades()):
        out = io.BytesIO()
        fastavro.schemaless_writer(out, fastavro.parse_schema([TRADE, older][n % 2]), trade)
        payloads.append(struct.pack(">bI", 0, [number, other][n % 2]) + out.getvalue())
    kafka = KafkaSettings(schema_registry=registry.url, formats={"orders": "avro"})
    text, source = inferred(payloads, kafka)
    assert source.field("side").domain == source.field("back").domain == ("BUY", "SELL", "SHORT", "COVER", "SWAP")
    assert "2 of 5 words seen" in text
    assert [e["opened"] for e in takes_all(source, kafka, payloads)] == [(9 * 60 + n % 60) * 60_000_000 for n in range(N)]
    _, source = inferred(payloads, kafka, explode="legs")
    assert source.field("side").domain == source.field("legs_side").domain == ("BUY", "SELL", "SHORT", "COVER", "SWAP")
    folder = tmp_path / "trades"
    folder.mkdir()
    with open(folder / "a.avro", "wb") as f:
        fastavro.writer(f, fastavro.parse_schema(TRADE), trades())
    text = infer_files(folder, name="trades").text
    assert (
        text.count('domain=["BUY", "SELL", "SHORT", "COVER"]') == 2 and 'Field("opened", "int64", required=True, parse=TimeOfDay())' in text
    )


def test_an_enum_of_a_json_schema(registry: SchemaRegistry) -> None:
    schema = {
        "$defs": {"state": {"enum": ["NEW", "PAID", "GONE"]}},
        "properties": {"state": {"$ref": "#/$defs/state"}, "was": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/state"}]}, "free": {}},
    }
    number = registry.register("shop.orders-value", json.dumps(schema), "JSON")
    records = [{"id": f"o{n}", "at": f"{at:%Y-%m-%dT%H:%M:%SZ}", "state": "NEW", "was": None if n % 2 else "PAID", "free": "NEW"}
               for n, at in enumerate(times())]  # fmt: skip
    payloads = [struct.pack(">bI", 0, number) + json.dumps(r).encode() for r in records]
    kafka = KafkaSettings(schema_registry=registry.url, formats={"orders": "json_schema"})
    _, source = inferred(payloads, kafka)
    assert source.field("state").domain == source.field("was").domain == ("NEW", "PAID", "GONE")
    assert source.field("free").domain in (None, ("NEW",))
    assert len(takes_all(source, kafka, payloads)) == N


def test_records_without_a_time_have_that_of_their_topic() -> None:
    broker = MemoryBroker()
    broker.create_topic("sales", 1)
    payloads = [json.dumps({"sale": f"s{n}", "shop": f"shop-{n % 7}", "amount": n / 4}).encode() for n in range(99)]
    broker.append("sales", 0, payloads, [None] * 99, [[]] * 99, [1_714_557_660_000_000 + n * 1_000_000 for n in range(99)])
    text = infer_topic(broker.open_reader(), "sales", group=True).text
    assert 'event_time=Field("recorded_at", "timestamp", path=RecordTimestamp()),' in text and "QUESTION: no record holds a time" in text
    values: dict[str, Any] = {}
    exec(compile("\n".join(line for line in text.splitlines() if "feast_views" not in line), "sales.py", "exec"), values)
    fetched = broker.open_reader().poll("sales", 0, 0, 99, 0)
    found = check_json(fetched.payloads, values["sales"], 2 * 10**15, 0, fetched.origin(values["sales"]))
    assert micros_of(found.valid.column("recorded_at")[98].as_py()) == 1_714_557_758_000_000 and found.valid.num_rows == 99


def test_lines_are_read_as_their_settings_say() -> None:
    """The columns, delimiter and encoding of ``kafka.format_options``: the definition is one that the stream's format takes."""
    broker, at = MemoryBroker(), 1_714_557_660
    broker.create_topic("sales", 1)
    for n in range(N):
        broker.append("sales", 0, [f"{n};s{n % 9};{n},5;{at + n};Größe".encode("cp1252")])
    options: dict[str, Any] = {"delimiter": ";", "columns": ["nr", "shop", "amount", "sold_at", "what"], "encoding": "cp1252"}
    kafka = KafkaSettings(formats={"sales": "csv"}, format_options={"sales": options})
    text = infer_topic(broker.open_reader(), "sales", kafka=kafka).text
    values: dict[str, Any] = {}
    exec(text, values)
    source = values["sales"]
    assert [f.name for f in source.fields] == ["nr", "shop", "amount", "what"] and source.event_time == "sold_at"
    valid = record_format(source, kafka, "csv").decode(pa.array([f"7;s1;2,5;{at};Größe".encode("cp1252")]), 2 * 10**15, 0).valid
    assert valid.to_pylist()[0] | {"sold_at": None} == {"sold_at": None, "nr": 7, "shop": "s1", "amount": 2.5, "what": "Größe"}
    bad = KafkaSettings(formats={"sales": "csv"}, format_options={"sales": {"delimiter": "|"}})
    with pytest.raises(DataError, match=r"says delimiter '\|'; say its columns, too"):
        infer_topic(broker.open_reader(), "sales", kafka=bad)
