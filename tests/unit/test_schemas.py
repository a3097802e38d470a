"""Schemas for producers accept what the contract accepts, as the real validators see it."""

import importlib
import io
import json
from datetime import UTC, datetime

import fastavro
import pyarrow as pa
import pytest
from tensorflow_metadata.proto.v0 import schema_pb2

from transforms.contract import check_json, encode_json
from transforms.definitions import Count, Entity, EventSource, FeatureGroup, Field, LastN, Mean, hours, minutes
from transforms.schemas import avro_schema, group_schema, json_schema, source_schema, tfmd_schema

DEPARTURES = EventSource(
    name="departures",
    description="One event per departure.",
    fields=[
        Field("flight_id", "string", required=True),
        Field("origin", "string", required=True, domain=["EWR", "JFK", "LGA"]),
        Field("dep_delay", "float64", unit="min", min=-120, max=3000, description="Minutes late."),
        Field("seats", "int64", min=0.5),
        Field("cancelled", "bool"),
        Field("planned_at", "timestamp"),
    ],
    event_time="departed_at",
    tie_breaker="flight_id",
)
NOW = 1_370_000_000_000_000
EVENTS = [
    {"departed_at": NOW, "flight_id": "a", "origin": "JFK", "dep_delay": 1.5, "seats": 150, "cancelled": False, "planned_at": NOW - 5},
    {"departed_at": NOW + 1, "flight_id": "bé", "origin": "LGA", "dep_delay": None, "seats": None, "cancelled": None, "planned_at": None},
]
WRONG = [
    {"origin": "BOS"},
    {"origin": None},
    {"dep_delay": 3001},
    {"dep_delay": -121},
    {"dep_delay": "1"},
    {"seats": 0},
    {"seats": 2**63},
    {"seats": 1.5},
    {"cancelled": 1},
    {"departed_at": 0},
    {"departed_at": None},
    {"departed_at": "soon"},
    {"flight_id": 7},
]


@pytest.fixture
def jsonschema():
    """Compiles grammars of addresses when it is imported, for a second: of every process that collects tests."""
    return importlib.import_module("jsonschema")


def judged(events):
    return check_json([json.dumps(e).encode() for e in events], DEPARTURES, NOW + 10, 1_000_000)


def test_json_schema_accepts_what_the_contract_accepts(jsonschema):
    schema = json_schema(DEPARTURES)
    jsonschema.Draft202012Validator.check_schema(schema)
    valid = judged(EVENTS).valid
    assert valid.num_rows == 2
    for payload in encode_json(valid).to_pylist():
        jsonschema.validate(json.loads(payload), schema)
    bare = {"departed_at": "2013-05-31T11:00:00Z", "flight_id": "c", "origin": "EWR", "more": [1]}
    jsonschema.validate(bare, schema)
    assert judged([bare]).valid.num_rows == 1


@pytest.mark.parametrize("change", WRONG, ids=json.dumps)
def test_json_schema_refuses_what_the_contract_refuses(jsonschema, change):
    event = EVENTS[0] | change
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(event, json_schema(DEPARTURES))
    assert judged([event]).valid.num_rows == 0


def test_avro_round_trip_gives_the_same_valid_events():
    schema = fastavro.parse_schema(avro_schema(DEPARTURES))
    rows = judged(EVENTS).valid.to_pylist()
    file = io.BytesIO()
    fastavro.writer(file, schema, rows, strict=True, validator=True)
    file.seek(0)
    assert list(fastavro.reader(file)) == rows
    least = {"departed_at": datetime(2013, 5, 31, tzinfo=UTC), "flight_id": "c", "origin": "EWR"}
    assert fastavro.validate(least, schema)
    assert not fastavro.validate(least | {"origin": None}, schema, raise_errors=False)
    assert not fastavro.validate(least | {"dep_delay": "1"}, schema, raise_errors=False)


def test_source_schema_has_ranges_and_domains():
    by_name = {f.name: f for f in source_schema(DEPARTURES).feature}
    assert list(by_name) == DEPARTURES.arrow_schema.names
    assert list(by_name["origin"].string_domain.value) == ["EWR", "JFK", "LGA"]
    assert (by_name["dep_delay"].float_domain.min, by_name["dep_delay"].float_domain.max) == (-120.0, 3000.0)
    assert by_name["seats"].int_domain.min == 1
    assert by_name["seats"].int_domain.max == 2**63 - 1
    assert by_name["departed_at"].type == schema_pb2.INT
    assert by_name["cancelled"].HasField("bool_domain")


def test_group_schema_knows_what_is_never_null():
    group = FeatureGroup(
        name="traffic",
        source=DEPARTURES,
        entity=Entity("origin"),
        hop=minutes(5),
        ttl=hours(1),
        aggregates=[Count(over=hours(1)), Mean("dep_delay", over=hours(1)), LastN("dep_delay", over=hours(1), n=2)],
    )
    count, mean, last = group_schema(group).feature
    assert (count.name, count.type, count.presence.min_fraction, count.shape.dim[0].size) == ("count_1h", schema_pb2.INT, 1.0, 1)
    assert (mean.type, mean.value_count.max, mean.HasField("shape")) == (schema_pb2.FLOAT, 1, False)
    assert (last.type, last.value_count.max) == (schema_pb2.FLOAT, 0)


def test_a_column_that_tfmd_does_not_know_is_an_error():
    with pytest.raises(TypeError, match="no TFMD type"):
        tfmd_schema(pa.schema([pa.field("x", pa.struct([]))]))
