"""Messages of a topic for the tests of formats: a source, its schema, records written by any schema, and the verdicts on them."""

from __future__ import annotations

import struct
from io import BytesIO
from typing import Any

import pyarrow as pa
from fastavro import parse_schema, schemaless_writer

from pipelines.project.config import KafkaSettings
from pipelines.sources.formats.record_format import Decode
from tests.schema_registry import SchemaRegistry
from transforms.contract import Checked
from transforms.definitions import EventSource, Field
from transforms.schemas import avro_schema

NOW = 1_700_000_000_000_000
T = NOW - 1_000_000
AHEAD = 3_600_000_000
SOURCE = EventSource(
    name="departures",
    fields=[
        Field("flight", "string", required=True),
        Field("origin", "string", required=True, domain=["EWR", "JFK"]),
        Field("delay", "float64", min=-120, max=3000),
        Field("legs", "int64"),
        Field("diverted", "bool"),
        Field("landed_at", "timestamp"),
    ],
    event_time="at",
    tie_breaker="flight",
    topic="departures",
)
GOOD: dict[str, Any] = {"at": T, "flight": "Fé", "origin": "EWR", "delay": 1.5, "legs": 3, "diverted": False, "landed_at": T + 5}
OWN = avro_schema(SOURCE)


def settings_of(registry: SchemaRegistry | None, **more: Any) -> KafkaSettings:
    return KafkaSettings(schema_registry=registry.url if registry else "", formats={"departures": "avro"}, **more)


def message(number: int, schema: Any, record: Any) -> bytes:
    out = BytesIO()
    out.write(struct.pack(">bI", 0, number))
    schemaless_writer(out, parse_schema(schema), record)
    return out.getvalue()


def fields(**types: Any) -> dict[str, Any]:
    """A writer's schema: the source's own with other types; ... leaves a field out."""
    kept = {f["name"]: f["type"] for f in OWN["fields"]} | types
    return {"type": "record", "name": "Flight", "fields": [{"name": n, "type": t} for n, t in kept.items() if t is not ...]}


def verdict(judge: Decode, *payloads: bytes | None) -> list[tuple[str | None, str | None]]:
    checked = judge(pa.array(payloads, pa.binary()), NOW, AHEAD)
    assert checked.valid.schema.equals(SOURCE.arrow_schema)
    return list(zip(checked.reasons.to_pylist(), checked.details.to_pylist(), strict=True))


def written(registry: SchemaRegistry, judge: Decode, schema: Any, **changes: Any) -> Checked:
    """The verdict on one record of GOOD with changes, written by this schema."""
    record = {k: v for k, v in {**GOOD, **changes}.items() if v is not ...}
    return judge(pa.array([message(registry.register("departures-value", schema), schema, record)], pa.binary()), NOW, AHEAD)
