"""Avro written by other schemas than the source's own: what is taken, what is refused, and what a reader's schema brings."""

from __future__ import annotations

import decimal
import json
import struct
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipelines.sources.formats.avro_resolution import filler, resolved
from pipelines.sources.formats.record_format import Decode, record_format
from tests.schema_registry import SchemaRegistry
from tests.unit.format_messages import AHEAD, GOOD, NOW, OWN, SOURCE, T, fields, message, settings_of, verdict, written
from transforms.definitions import Date, Decimal, EventSource, Field
from transforms.errors import ConfigError
from transforms.instants import micros_of

WRITERS: list[tuple[str, Any, dict[str, Any], str | None, str, Any]] = [
    # what the writer did, its schema, its record, the reason, a field, its value
    ("adds a field", fields(note="string", inner={"type": "record", "name": "I", "fields": [{"name": "x", "type": "int"}]}),
     {"note": "x", "inner": {"x": 1}}, None, "legs", 3),
    ("leaves an optional field out", fields(legs=..., landed_at=...), {}, None, "legs", None),
    ("leaves a required field out", fields(origin=...), {}, "missing_field", "origin", None),
    ("leaves the event time out", fields(at=...), {}, "missing_timestamp", "at", None),
    ("makes a required field optional", fields(origin=["null", "string"]), {}, None, "origin", "EWR"),
    ("has no value for it", fields(origin=["null", "string"]), {"origin": None}, "missing_field", "origin", None),
    ("another order", {"type": "record", "name": "x.y.Z", "fields": OWN["fields"][::-1]}, {}, None, "flight", "Fé"),
    ("int for long", fields(legs="int"), {}, None, "legs", 3),
    ("int for double", fields(delay="int"), {"delay": -7}, None, "delay", -7.0),
    ("float for double", fields(delay="float"), {"delay": 0.5}, None, "delay", 0.5),
    ("long for double, exact", fields(delay=["null", "long"]), {"delay": 3000}, None, "delay", 3000.0),
    ("long for double, too large", fields(delay="long"), {"delay": 2**53 + 1}, "overflow", "delay", None),
    ("double for long, whole", fields(legs="double"), {"legs": 4.0}, None, "legs", 4),
    ("double for long, not whole", fields(legs="double"), {"legs": 4.5}, "wrong_type", "legs", None),
    ("string for long", fields(legs="string"), {"legs": "3"}, "wrong_type", "legs", None),
    ("long for string", fields(flight="long"), {"flight": 3}, "wrong_type", "flight", None),
    ("boolean for long", fields(legs="boolean"), {"legs": True}, "wrong_type", "legs", None),
    ("a record for a string", fields(flight={"type": "record", "name": "F", "fields": []}), {"flight": {}}, "wrong_type", "flight", None),
    ("an array for a long", fields(legs={"type": "array", "items": "long"}), {"legs": [1]}, "wrong_type", "legs", None),
    ("an enum for a string", fields(origin={"type": "enum", "name": "O", "symbols": ["JFK", "EWR"]}), {}, None, "origin", "EWR"),
    ("bytes for a string", fields(flight="bytes"), {"flight": "Fé".encode()}, None, "flight", "Fé"),
    ("bytes that are no text", fields(flight="bytes"), {"flight": b"\xff"}, "invalid_utf8", "flight", None),
    ("a uuid for a string", fields(flight={"type": "string", "logicalType": "uuid"}),
     {"flight": "a6d8b1d6-4f1a-4f5e-9f60-2f3f7f1f0a55"}, None, "flight", "a6d8b1d6-4f1a-4f5e-9f60-2f3f7f1f0a55"),
    ("a decimal for a double", fields(delay={"type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 1}),
     {"delay": b"\x0f"}, "wrong_type", "delay", None),
    ("a date for a timestamp", fields(landed_at={"type": "int", "logicalType": "date"}), {"landed_at": 19000}, "wrong_type",
     "landed_at", None),
    ("a union of many", fields(legs=["null", "string", "long"]), {"legs": 9}, None, "legs", 9),
    ("a union's other branch", fields(legs=["null", "string", "long"]), {"legs": "9"}, "wrong_type", "legs", None),
    ("milliseconds", fields(at={"type": "long", "logicalType": "timestamp-millis"}), {"at": T // 1000}, None, "at", T // 1000 * 1000),
    ("milliseconds or null", fields(landed_at=["null", {"type": "long", "logicalType": "timestamp-millis"}]), {"landed_at": -1}, None,
     "landed_at", -1000),
    ("milliseconds beyond all", fields(at={"type": "long", "logicalType": "timestamp-millis"}), {"at": 2**63 - 1}, "future_timestamp",
     "at", None),
    ("local milliseconds", fields(at={"type": "long", "logicalType": "local-timestamp-millis"}), {"at": T // 1000}, None, "at", T),
    ("nanoseconds", fields(at={"type": "long", "logicalType": "timestamp-nanos"}), {"at": T * 1000 + 999}, None, "at", T),
    ("a plain long of microseconds", fields(at="long"), {}, None, "at", T),
    ("text for a timestamp", fields(at="string"), {"at": "2023-11-14T22:13:19Z"}, None, "at", T),
]  # fmt: skip


@pytest.mark.parametrize(("what", "schema", "changes", "reason", "name", "value"), WRITERS, ids=[w[0] for w in WRITERS])
def test_schemas_of_other_writers(
    registry: SchemaRegistry, judge: Decode, what: str, schema: Any, changes: dict[str, Any], reason: str | None, name: str, value: Any
) -> None:
    schema = json.loads(json.dumps(schema))
    plain = json.loads(json.dumps(schema).replace('"logicalType"', '"doc"'))  # write the numbers as they stand
    number = registry.register("departures-value", schema)
    record = {f["name"]: {**GOOD, **changes}[f["name"]] for f in schema["fields"]}
    checked = judge(pa.array([message(number, plain, record), message(registry.register("s", OWN), OWN, GOOD)], pa.binary()), NOW, AHEAD)
    assert checked.reasons.to_pylist() == [reason, None], checked.details
    if reason is None:
        column = checked.valid.column(checked.valid.schema.get_field_index(name))
        assert (column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column)[0].as_py() == value
    else:
        assert name in checked.details[0].as_py()


def nested(inner: Any) -> dict[str, Any]:
    return fields(more=inner)


UNUSABLE: list[tuple[Any, str, str]] = [
    ("string", "AVRO", "not the schema of a record"),
    (["null", OWN], "AVRO", "not the schema of a record"),
    ({"type": "record", "name": "x"}, "AVRO", "not an Avro schema"),
    ({"type": "record", "name": "x", "fields": [{"name": "a", "type": "nonsense"}]}, "AVRO", "not an Avro schema"),
    ({"type": "record", "name": "x", "fields": [3]}, "AVRO", "not an Avro schema"),
    ("{", "AVRO", "not JSON"),
    ("[" * 100_000, "AVRO", "not JSON"),
    ({"type": "object"}, "JSON", "it is JSON, not Avro"),
    ('syntax = "proto3";', "PROTOBUF", "it is PROTOBUF, not Avro"),
    (nested({"type": "record", "name": "L", "fields": [{"name": "next", "type": ["null", "L"]}]}), "AVRO", "L holds itself"),
    (nested({"type": "array", "items": "null"}), "AVRO", "take no bytes"),
    (
        nested({"type": "array", "items": {"type": "record", "name": "E", "fields": [{"name": "n", "type": "null"}]}}),
        "AVRO",
        "take no bytes",
    ),
    (nested({"type": "map", "values": {"type": "array", "items": {"type": "fixed", "name": "Z", "size": 0}}}), "AVRO", "take no bytes"),
]


@pytest.mark.parametrize(("schema", "kind", "says"), UNUSABLE)
def test_schemas_that_no_event_can_have(registry: SchemaRegistry, judge: Decode, schema: Any, kind: str, says: str) -> None:
    text = schema if isinstance(schema, str) and schema[0] in "{[s" and schema != "string" else json.dumps(schema)
    number = registry.register("s", text, kind)
    [(reason, detail)] = verdict(judge, struct.pack(">bI", 0, number) + b"anything")
    assert reason == "unknown_schema"
    assert says in (detail or "")


def test_records_within_records_that_end_are_fine(registry: SchemaRegistry, judge: Decode) -> None:
    point = {"type": "record", "name": "P", "fields": [{"name": "x", "type": "double"}]}
    schema = fields(one=point, two="P", many={"type": "array", "items": "P"}, by={"type": "map", "values": ["null", "P"]})
    more = {"one": {"x": 1.0}, "two": {"x": 2.0}, "many": [{"x": 3.0}] * 3, "by": {"a": None, "b": {"x": 4.0}}}
    assert written(registry, judge, schema, **more).reasons.to_pylist() == [None]


def test_references_to_other_schemas(registry: SchemaRegistry, judge: Decode) -> None:
    place = {"type": "record", "name": "Place", "namespace": "geo", "fields": [{"name": "code", "type": "string"}]}
    leg = {"type": "record", "name": "Leg", "fields": [{"name": "to", "type": "geo.Place"}]}
    registry.register("place", place)
    refers = [{"name": "geo.Place", "subject": "place", "version": 1}]
    registry.register("leg", leg, references=refers)
    both = [*refers, {"name": "Leg", "subject": "leg", "version": 1}]
    number = registry.register("departures-value", fields(leg="Leg", place="geo.Place"), references=both)
    inline = fields(leg={**leg, "fields": [{"name": "to", "type": place}]}, place="geo.Place")
    good = message(number, inline, {**GOOD, "leg": {"to": {"code": "a"}}, "place": {"code": "b"}})
    assert verdict(judge, good) == [(None, None)]
    lost = registry.register("departures-value", fields(leg="Leg"), references=[{"name": "Leg", "subject": "gone", "version": 4}])
    [(reason, detail)] = verdict(judge, struct.pack(">bI", 0, lost))
    assert reason == "unknown_schema" and "version 4 of gone" in (detail or "")


def test_the_readers_schema_brings_aliases_and_defaults(registry: SchemaRegistry, tmp_path: Path) -> None:
    """Of the newest version of the subject, or of a file; what neither knows stays, and nothing is rounded on the way."""
    old = {
        "type": "record", "name": "Old",
        "fields": [
            {"name": "number", "type": "string"}, {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
            {"name": "delay", "type": "long"}, {"name": "origin", "type": "string"},
        ],
    }  # fmt: skip
    reader = {
        "type": "record", "name": "New",
        "fields": [
            {"name": "flight", "type": "string", "aliases": ["nummer", "number"]},
            {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
            {"name": "delay", "type": "double"}, {"name": "legs", "type": ["long", "null"], "default": 7},
            {"name": "landed_at", "type": {"type": "long", "logicalType": "timestamp-millis"}, "default": T // 1000},
            {"name": "diverted", "type": ["null", "boolean"], "default": None},
        ],
    }  # fmt: skip
    number = registry.register("departures-value", old)
    registry.register("departures-value", reader)
    (tmp_path / "new.avsc").write_text(json.dumps(reader))
    sent = [
        message(number, old, {"number": "F1", "at": T // 1000, "delay": 3, "origin": "EWR"}),
        message(number, old, {"number": "F2", "at": T // 1000, "delay": 2**53 + 1, "origin": "EWR"}),
    ]
    for place in ("latest", "new.avsc"):
        kafka = settings_of(registry, format_options={"departures": {"reader": place}})
        kafka.within(tmp_path)
        checked = record_format(SOURCE, kafka).decode(pa.array(sent, pa.binary()), NOW, AHEAD)
        assert checked.reasons.to_pylist() == [None, "overflow"]
        (event,) = checked.valid.to_pylist()
        assert (event["flight"], event["delay"], event["origin"], event["legs"], event["diverted"]) == ("F1", 3.0, "EWR", 7, None)
        assert checked.valid.column("landed_at").cast(pa.int64()).to_pylist() == [T // 1000 * 1000]
    plain = record_format(SOURCE, settings_of(registry)).decode(pa.array(sent[:1], pa.binary()), NOW, AHEAD)
    assert plain.reasons.to_pylist() == ["missing_field"]
    for place, words in (("none.avsc", "cannot be read: No such file"), ("latest", "the registry has no subject departures-value")):
        kafka = settings_of(registry, format_options={"departures": {"reader": place}})
        registry.subjects.clear()
        with pytest.raises(ConfigError, match=words):
            record_format(SOURCE, kafka).decode(pa.array(sent, pa.binary()), NOW, AHEAD)


def test_defaults_and_aliases_of_records_within_records() -> None:
    item = {"type": "record", "name": "I", "fields": [{"name": "n", "type": "int"}]}
    writer = {
        "type": "record", "name": "W",
        "fields": [
            {"name": "who", "type": ["null", {"type": "record", "name": "U", "fields": [{"name": "uid", "type": "string"}]}]},
            {"name": "items", "type": {"type": "array", "items": item}},
            {"name": "tags", "type": {"type": "map", "values": "U"}},
        ],
    }  # fmt: skip
    user = {"type": "record", "name": "User", "fields": [
        {"name": "id", "type": "string", "aliases": ["uid"]}, {"name": "land", "type": "string", "default": "NO"},
        {"name": "raw", "type": "bytes", "default": "\u00ff"}, {"name": "path", "type": {"type": "array", "items": "int"}, "default": []},
    ]}  # fmt: skip
    reader = {
        "type": "record", "name": "R",
        "fields": [
            {"name": "user", "aliases": ["who"], "type": ["null", user]},
            {"name": "items", "type": {"type": "array", "items": {"type": "record", "name": "J", "fields": [
                {"name": "n", "type": "long"}, {"name": "by", "type": ["null", "User"], "default": None}]}}},
        ],
    }  # fmt: skip
    fill = filler(resolved(writer, reader, {}))
    assert fill is not None
    record: dict[str, Any] = {"user": {"id": "a"}, "items": [{"n": 1}, {"n": 2}], "tags": {}}
    fill(record)
    assert record["user"] == {"id": "a", "land": "NO", "raw": b"\xff", "path": []}
    assert record["items"] == [{"n": 1, "by": None}, {"n": 2, "by": None}]
    none: dict[str, Any] = {"user": None, "items": [], "tags": {}}
    fill(none)
    assert none == {"user": None, "items": [], "tags": {}}
    assert [f["name"] for f in writer["fields"]] == ["user", "items", "tags"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("kind", "default", "found"),
    [
        ({"type": "long", "logicalType": "timestamp-millis"}, 1_714_557_600_123, datetime(2024, 5, 1, 10, 0, 0, 123_000, UTC)),
        ({"type": "long", "logicalType": "timestamp-micros"}, 1_714_557_600_000_001, datetime(2024, 5, 1, 10, 0, 0, 1, UTC)),
        ({"type": "long", "logicalType": "timestamp-nanos"}, 1_714_557_600_000_001_999, datetime(2024, 5, 1, 10, 0, 0, 1, UTC)),
        ({"type": "long", "logicalType": "local-timestamp-nanos"}, -1, datetime(1969, 12, 31, 23, 59, 59, 999_999)),
        ({"type": "int", "logicalType": "date"}, 19_844, date(2024, 5, 1)),
        ([{"type": "int", "logicalType": "time-millis"}, "null"], 1_500, time(0, 0, 1, 500_000)),
        ("long", 7, 7),
    ],
)
def test_a_default_is_what_a_written_value_of_its_type_is(kind: Any, default: int, found: Any) -> None:
    """Of every unit: a date that nobody wrote is a date, and no number of microseconds."""
    reader = {"type": "record", "name": "R", "fields": [{"name": "at", "type": kind, "default": default}]}
    fill = filler(resolved({"type": "record", "name": "W", "fields": []}, reader, {}))
    record: dict[str, Any] = {}
    assert fill is not None
    fill(record)
    assert record == {"at": found} and type(record["at"]) is type(found)


def test_words_that_the_readers_enum_does_not_know_are_its_default() -> None:
    """As Avro's resolution says it; alone, within a union, a list, a map and a record, and where the enum is named a second time."""
    color = {"type": "enum", "name": "Color", "symbols": ["RED", "BLUE", "GREEN"]}
    fields = [
        ("one", color), ("maybe", ["null", "Color"]), ("list", {"type": "array", "items": "Color"}),
        ("map", {"type": "map", "values": "Color"}),
        ("within", {"type": "record", "name": "In", "fields": [{"name": "c", "type": "Color"}]}), ("text", "string"),
        ("strict", {"type": "enum", "name": "Strict", "symbols": ["A", "B"]}),
    ]  # fmt: skip
    writer = {"type": "record", "name": "W", "fields": [{"name": name, "type": kind} for name, kind in fields]}
    reader = json.loads(json.dumps(writer))
    reader["fields"][0]["type"] |= {"symbols": ["RED", "OTHER"], "default": "OTHER"}
    reader["fields"][6]["type"]["symbols"] = ["A"]
    fill = filler(resolved(writer, reader, {}))
    assert fill is not None
    record: dict[str, Any] = {
        "one": "GREEN", "maybe": "BLUE", "list": ["RED", "BLUE"], "map": {"a": "GREEN", "b": "RED"}, "within": {"c": "BLUE"},
        "text": "BLUE", "strict": "B",
    }  # fmt: skip
    fill(record)
    assert record == {
        "one": "OTHER", "maybe": "OTHER", "list": ["RED", "OTHER"], "map": {"a": "OTHER", "b": "RED"}, "within": {"c": "OTHER"},
        "text": "BLUE", "strict": "B",
    }, "what has no default is the contract's business"  # fmt: skip
    none: dict[str, Any] = {"one": "RED", "maybe": None, "list": [], "map": {}, "within": {"c": "RED"}, "text": "", "strict": "A"}
    fill(none)
    assert none["maybe"] is None and none["one"] == "RED"


def test_logical_types_where_paths_lead(registry: SchemaRegistry) -> None:
    """Timestamps and UUIDs within records, decimals, dates and unions of records: by what the fields declare."""
    moment = {"type": "long", "logicalType": "timestamp-millis"}
    local = {"type": "long", "logicalType": "local-timestamp-micros"}
    schema = {
        "type": "record", "name": "Order",
        "fields": [
            {"name": "orderId", "type": "string"},
            {"name": "meta", "type": {"type": "record", "name": "Meta", "fields": [
                {"name": "at", "type": moment}, {"name": "local", "type": ["null", local]},
                {"name": "id", "type": {"type": "string", "logicalType": "uuid"}}]}},
            {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 10, "scale": 2}},
            {"name": "day", "type": {"type": "int", "logicalType": "date"}},
            {"name": "who", "type": ["null", {"type": "record", "name": "A", "fields": [{"name": "x", "type": "int"}]},
                                     {"type": "record", "name": "B", "fields": [{"name": "y", "type": "string"}]}]},
        ],
    }  # fmt: skip
    source = EventSource(
        name="departures", topic="departures", tie_breaker="id", event_time=Field("at", "timestamp", path="meta.at"),
        fields=[
            Field("id", "string", required=True, path="orderId"), Field("local", "timestamp", path="meta.local"),
            Field("uid", "string", path="meta.id"), Field("cents", "int64", path="price", parse=Decimal(scale=2)),
            Field("day", "timestamp", parse=Date()), Field("x", "int64", path="who.x"), Field("y", "string", path="who.y"),
        ],
    )  # fmt: skip
    uid = "00000000-0000-0000-0000-000000000005"
    at = datetime.fromtimestamp(T / 1e6, UTC).replace(microsecond=123_000)
    number = registry.register("departures-value", schema)
    meta = {"at": at, "local": at.replace(tzinfo=None), "id": uid}
    sent = [
        {"orderId": f"o{n}", "meta": meta, "price": decimal.Decimal("12.34"), "day": at.date(), "who": who}
        for n, who in enumerate([None, {"x": 7}, {"y": "z"}])
    ]
    payloads = pa.array([message(number, schema, record) for record in sent], pa.binary())
    checked = record_format(source, settings_of(registry)).decode(payloads, NOW, AHEAD)
    assert checked.details.to_pylist() == [None] * 3
    us = micros_of(at)
    assert checked.times.cast(pa.int64()).to_pylist() == [us] * 3 == checked.valid.column("local").cast(pa.int64()).to_pylist()
    rows = [{k: row[k] for k in ("id", "uid", "cents", "x", "y")} for row in checked.valid.to_pylist()]
    assert rows == [
        {"id": f"o{n}", "uid": uid, "cents": 1234, "x": x, "y": y} for n, (x, y) in enumerate([(None, None), (7, None), (None, "z")])
    ]
    assert checked.valid.column("day").cast(pa.int64()).to_pylist() == [us // 86_400_000_000 * 86_400_000_000] * 3
