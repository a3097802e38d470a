"""Avro's dates and times as files and as topics carry them: one verdict, whatever the calendar has and the unions beside them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import fastavro
import pyarrow as pa
import pytest

from pipelines.sources.event_files import events
from pipelines.sources.formats.record_format import record_format
from tests.schema_registry import SchemaRegistry
from tests.unit.format_messages import NOW, T, message, settings_of
from transforms.definitions import Date, Epoch, EventSource, Field

DAY = 86_400_000_000
FAR = "out_of_range"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
KINDS: dict[str, tuple[str, str, list[int], int | None]] = {
    # its type, its logical type, numbers within the calendar and beyond; a moment's unit in microseconds (0: less than one)
    "date": ("int", "date", [19_000, -719_162, 2_932_896, 2_932_897, 2**31 - 1, -(2**31)], None),
    "millis of a day": ("int", "time-millis", [0, 86_399_999, 86_400_000, -1, 2**31 - 1], None),
    "micros of a day": ("long", "time-micros", [0, 86_399_999_999, 86_400_000_000, -1, 2**63 - 1], None),
    "millis": ("long", "timestamp-millis", [T // 1000, 253_402_300_800_000, 2**63 - 1, -(2**63)], 1_000),
    "micros": ("long", "timestamp-micros", [T, 253_402_300_800_000_000, 2**63 - 1, -(2**63)], 1),
    "local millis": ("long", "local-timestamp-millis", [T // 1000, 253_402_300_800_000, 2**63 - 1], 1_000),
    "nanos": ("long", "timestamp-nanos", [T * 1000 + 999, 2**63 - 1], 0),
}
IN = {"type": "record", "name": "In", "fields": [{"name": "v", "type": None}]}
OTHER = {"type": "record", "name": "Other", "fields": [{"name": "inner", "type": "int"}]}
SHAPES: dict[str, tuple[Any, str]] = {
    # how a type stands in the record, and the path to it; None where the type goes
    "alone": (None, "t"),
    "or null": (["null", None], "t"),
    "one of several": (["null", "string", None], "t"),
    "within": ({"type": "record", "name": "In", "fields": [{"name": "v", "type": ["null", None]}]}, "t.v"),
    "within one of several": (["null", IN, OTHER], "t.v"),
    "in a list": ({"type": "array", "items": None}, "t[0]"),
    "in a list of several": ({"type": "array", "items": ["string", None]}, "t[0]"),
}


def put(shape: Any, kind: Any) -> Any:
    """A shape with the type in its place."""
    if isinstance(shape, list):
        return [put(each, kind) for each in shape]
    return {name: put(inner, kind) for name, inner in shape.items()} if isinstance(shape, dict) else shape or kind


def wrapped(shape: Any, value: Any) -> Any:
    """A value as it stands in a record of a shape."""
    if isinstance(shape, list):
        return wrapped(next(each for each in shape if each is None or isinstance(each, dict)), value)
    if isinstance(shape, dict):
        return {"v": value} if shape["type"] == "record" else [value]
    return value


def judged(registry: SchemaRegistry, folder: Path, schema: Any, sent: list[dict[str, Any]], field: Field | None) -> list[tuple[Any, Any]]:
    """Of each record the reason and the field's value, which are the same in a topic and in a file, alone and together."""
    source = EventSource(
        name="departures", topic="departures", event_time="at", tie_breaker="id", files="events",
        fields=[Field("id", "string", required=True), *([field] if field else [])],
    )  # fmt: skip
    plain = json.loads(json.dumps(schema).replace('"logicalType"', '"doc"'))  # write the numbers as they stand
    number = registry.register("departures-value", schema)
    form = record_format(source, settings_of(registry))
    found = form.decode(pa.array([message(number, plain, record) for record in sent], pa.binary()), NOW, 0)
    values = iter(found.valid.to_pylist())
    name = field.name if field else "id"
    of_topic = [(reason, None if reason else next(values)[name]) for reason in found.reasons.to_pylist()]

    path = folder / "a.avro"
    with path.open("wb") as out:
        fastavro.writer(out, fastavro.parse_schema(schema), sent)
    good, bad = dict[str, Any](), dict[str, str]()
    for valid, letters in events(path, source, NOW, 0):
        good |= {row["id"]: row[name] for row in valid.to_pylist()}
        bad |= {json.loads(row["payload"])["id"]: row["reason"] for row in letters.to_pylist()}
    assert [(bad.get(r["id"]), good.get(r["id"])) for r in sent] == of_topic
    return of_topic


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("what", KINDS)
def test_a_date_or_time_is_the_same_in_a_file_and_in_a_topic(registry: SchemaRegistry, tmp_path: Path, what: str, shape: str) -> None:
    kind, logical, numbers, unit = KINDS[what]
    form, path = SHAPES[shape]
    schema = {
        "type": "record", "name": "Flight",
        "fields": [
            {"name": "id", "type": "string"}, {"name": "at", "type": "long"},
            {"name": "t", "type": put(form, {"type": kind, "logicalType": logical})},
        ],
    }  # fmt: skip
    sent = [{"id": f"i{n}", "at": T, "t": wrapped(form, number)} for n, number in enumerate(numbers)]
    n = len(sent)

    def of(dtype: Any = None, parse: Any = None) -> list[tuple[Any, Any]]:
        return judged(registry, tmp_path, schema, sent, Field("x", dtype, path=path, parse=parse) if dtype else None)

    assert of() == [(None, r["id"]) for r in sent], "what nobody asks for takes no record away"
    for dtype in ("int64", "string", "float64"):
        assert [reason for reason, _ in of(dtype)] == ["wrong_type"] * n
    moments, dates = of("timestamp"), of("timestamp", parse=Date())
    assert of("timestamp", parse=Epoch("s")) == (moments if unit is not None else [("wrong_type", None)] * n)
    if unit is None:
        assert moments == [("wrong_type", None)] * n
    if logical.startswith("time-"):
        assert dates == moments
        return
    us = [number * DAY if unit is None else number * unit if unit else number // 1000 for number in numbers]
    most = 253_402_300_800_000_000
    want = [(None, each) if -62_135_596_800_000_000 <= each < most else (FAR, None) for each in us]
    assert [(reason, value and (value - EPOCH) // timedelta(microseconds=1)) for reason, value in dates] == want
    assert unit is None or moments == dates
