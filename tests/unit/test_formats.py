"""Bytes of a topic to verdicts: JSON, and Avro by a registry over real HTTP."""

from __future__ import annotations

import decimal
import json
import math
import socket
import struct
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from fastavro import parse_schema, schemaless_writer
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.project.config import KafkaSettings
from pipelines.sources.formats.avro_resolution import filler, resolved
from pipelines.sources.formats.fault_injection import AVRO_KINDS, UNKNOWN_ID, break_avro
from pipelines.sources.formats.record_format import Decode, record_format
from pipelines.sources.formats.schema_registry import Registry, RegistryAway
from tests.schema_registry import SchemaRegistry, schema_registry
from transforms.contract import Checked, check_json, encode_json
from transforms.definitions import Date, Decimal, EventSource, Field
from transforms.errors import ConfigError
from transforms.instants import micros_of
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


@pytest.fixture
def registry() -> Iterator[SchemaRegistry]:
    with schema_registry() as running:
        yield running


def settings_of(registry: SchemaRegistry | None, **more: Any) -> KafkaSettings:
    return KafkaSettings(schema_registry=registry.url if registry else "", formats={"departures": "avro"}, **more)


@pytest.fixture
def judge(registry: SchemaRegistry) -> Decode:
    return record_format(SOURCE, settings_of(registry)).decode


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


# ---- JSON ----------------------------------------------------------------------------------------------------------------


def test_json_is_the_contracts() -> None:
    judge = record_format(SOURCE, KafkaSettings()).decode
    payloads = pa.array([json.dumps(GOOD).encode(), b"", None, b"\xff", json.dumps({**GOOD, "at": T + 7}).encode()], pa.binary())
    nows = np.array([T, T, T, T, T + 6])
    found, expected = judge(payloads, nows, 0), check_json(payloads, SOURCE, nows, 0)
    assert found.reasons.to_pylist() == [None, "malformed", "malformed", "invalid_utf8", "future_timestamp"] == expected.reasons.to_pylist()
    assert found.valid.equals(expected.valid)


def line(**changes: Any) -> bytes:
    return json.dumps({**GOOD, **changes}).encode()


BAD_JSON = {
    "empty value": b"",
    "tombstone": None,
    "truncated": line()[:-9],
    "invalid utf-8": line().replace(b"EWR", b"E\xffR"),
    "random bytes": bytes(range(256)),
    "a schema id": b"\0\0\0\0\1" + line(),
    "wrong type": line(legs="3"),
    "missing field": json.dumps({"at": T, "flight": "x"}).encode(),
    "overflow": line(legs=2**63),
    "nan": line(delay=math.nan),
    "huge value": line(flight="x" * 10_000_000),
    "deep nesting": b'{"x":' * 100_000,
    "duplicate keys": line()[:-1] + b',"flight":"other"}',
    "seconds": line(at=T // 10**6),
    "milliseconds": line(at=T // 10**3),
    "far future": line(at=T + 10**15),
}


@pytest.mark.parametrize("copies", [1, 50])
def test_a_batch_of_nothing_but_bad_json(copies: int) -> None:
    judge = record_format(SOURCE, KafkaSettings()).decode
    kinds = {name: payload for name, payload in BAD_JSON.items() if copies == 1 or name != "huge value"}
    checked = judge(pa.array(list(kinds.values()) * copies, pa.binary()), NOW, AHEAD)
    assert checked.valid.num_rows == 0
    expected = {
        "invalid utf-8": "invalid_utf8", "random bytes": "invalid_utf8", "wrong type": "wrong_type", "missing field": "missing_field",
        "overflow": "overflow", "nan": "nan", "huge value": "too_long", "seconds": "wrong_unit_timestamp",
        "milliseconds": "wrong_unit_timestamp", "far future": "future_timestamp",
    }  # fmt: skip
    assert checked.reasons.to_pylist() == [expected.get(name, "malformed") for name in kinds] * copies
    assert all(0 < len(d) < 250 for d in checked.details.to_pylist())


# ---- Avro ----------------------------------------------------------------------------------------------------------------


def test_what_the_encoder_writes_the_checker_reads_exactly(registry: SchemaRegistry, judge: Decode) -> None:
    rows = [GOOD, {**GOOD, "delay": None, "legs": None, "diverted": None, "landed_at": None}, {**GOOD, "legs": -(2**63), "delay": 5e-324}]
    batch = pa.RecordBatch.from_arrays(
        [pa.array([r[f.name] for r in rows], f.type) for f in SOURCE.arrow_schema], schema=SOURCE.arrow_schema
    )
    payloads = pa.concat_arrays([encode_json(batch), pa.array([b'{"at":3}'])])
    writer = record_format(SOURCE, settings_of(registry))
    sent = writer.from_log(check_json(payloads, SOURCE, NOW, AHEAD), payloads)
    assert [p[:5].hex() for p in sent.to_pylist()[:3]] == ["0000000001"] * 3
    checked = judge(sent, NOW, AHEAD)
    assert checked.valid.equals(batch)
    assert checked.reasons.to_pylist() == [None] * 3 + ["malformed"]  # what the contract refuses stays JSON, and is refused again
    assert registry.requests == ["POST /subjects/departures-value/versions", "GET /schemas/ids/1"]
    other = EventSource(name="other", fields=SOURCE.fields, event_time="at", tie_breaker="flight", topic="other")
    plain = record_format(other, settings_of(registry))
    assert plain.from_log(check_json(payloads, other, NOW, AHEAD), payloads) is payloads


@pytest.mark.parametrize(
    ("payload", "reason", "says"),
    [
        (b"", "malformed", "empty"),
        (None, "malformed", "no payload"),
        (b"\0", "malformed", "not a Confluent message"),
        (b"\0\0\0\0", "malformed", "not a Confluent message"),
        (b'{"at":1}', "malformed", "0x7b22617422"),
        (bytes(range(1, 200)), "malformed", "not a Confluent message"),
        (b"\xff" * 50, "malformed", "not a Confluent message"),
        (b"\0\0\0\0\7", "unknown_schema", "schema 7 is not known"),
        (struct.pack(">bI", 0, UNKNOWN_ID) + b"xyz", "unknown_schema", "not known"),
        (b"\0\xff\xff\xff\xff", "unknown_schema", "schema 4294967295 is not known"),
        (b"\0\0\0\0\1", "malformed", "schema 1: EOFError"),
        (b"\0\0\0\0\1" + b"\xff" * 40, "malformed", "schema 1"),
    ],
)
def test_bad_framing(registry: SchemaRegistry, judge: Decode, payload: bytes | None, reason: str, says: str) -> None:
    good = message(registry.register("departures-value", OWN), OWN, GOOD)
    found = verdict(judge, good, payload, good)
    assert [r for r, _ in found] == [None, reason, None]
    assert says in (found[1][1] or "")
    assert verdict(judge, payload) == [found[1]]


def test_every_broken_avro_copy_is_refused(registry: SchemaRegistry, judge: Decode) -> None:
    good = message(registry.register("departures-value", OWN), OWN, GOOD)
    for kind in AVRO_KINDS:
        broken = [break_avro(kind, good, "Fé".encode(), dice) for dice in range(60)]
        found = verdict(judge, *broken)
        assert all(r for r, _ in found), (kind, found)
        assert len(set(found)) <= len(set(broken))
    assert verdict(judge, break_avro("invalid_utf8", good, "Fé".encode(), 0))[0][0] == "invalid_utf8"
    assert break_avro("truncated", b"{}", b"", 0)  # what is no Avro becomes noise


def test_values_are_judged_as_json_is(registry: SchemaRegistry, judge: Decode) -> None:
    cases: list[tuple[dict[str, Any], str | None]] = [
        ({}, None), ({"delay": math.nan}, "nan"), ({"delay": -math.inf}, "infinite"), ({"delay": 3001.0}, "out_of_range"),
        ({"origin": "LGA"}, "not_in_domain"), ({"at": 0}, "nonpositive_timestamp"), ({"at": T // 10**6}, "wrong_unit_timestamp"),
        ({"at": T // 1000}, "wrong_unit_timestamp"), ({"at": T + 10**15}, "future_timestamp"), ({"flight": "x" * 10_000_000}, "too_long"),
        ({"landed_at": 2**62}, "out_of_range"), ({"delay": None}, None),
    ]  # fmt: skip
    for changes, reason in cases:
        assert written(registry, judge, OWN, **changes).reasons.to_pylist() == [reason], changes


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
    ({"type": "record", "name": "x"}, "AVRO", "no Avro schema"),
    ({"type": "record", "name": "x", "fields": [{"name": "a", "type": "nonsense"}]}, "AVRO", "no Avro schema"),
    ({"type": "record", "name": "x", "fields": [3]}, "AVRO", "no Avro schema"),
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


any_message = st.one_of(
    st.binary(max_size=30),
    st.binary(max_size=60).map(lambda b: b"\0\0\0\0\1" + b),
    st.tuples(st.integers(5, 70), st.integers(0, 255)).map(lambda change: (*change,)),
)


@settings(max_examples=60, deadline=None)  # over real HTTP, and the first example imports the format
@given(st.lists(st.one_of(any_message, st.none(), st.just(b"\0\0\0\0\1")), min_size=1, max_size=12), st.integers(0, 12))
def test_the_verdict_on_avro_is_that_of_any_split(items: list[Any], cut: int) -> None:
    good = bytearray(message(1, OWN, GOOD))
    payloads: list[bytes | None] = []
    for item in items:
        if isinstance(item, tuple):  # a byte of a good record changed
            at, byte = item
            changed = bytearray(good)
            changed[at % len(good)] = byte
            payloads.append(bytes(changed))
        else:
            payloads.append(item)
    judge = record_format(SOURCE, settings_of(SHARED)).decode
    whole = verdict(judge, *payloads)
    assert whole == [v for p in payloads for v in verdict(judge, p)]
    assert whole == verdict(judge, *payloads[:cut]) + verdict(judge, *payloads[cut:])


@pytest.fixture(scope="module", autouse=True)
def _shared() -> Iterator[None]:
    """One registry for the property test, whose examples cannot each have their own."""
    with schema_registry() as running:
        running.register("departures-value", OWN)
        global SHARED
        SHARED = running
        yield


SHARED: SchemaRegistry


# ---- the registry --------------------------------------------------------------------------------------------------------


def test_a_registry_that_is_away_is_no_verdict(registry: SchemaRegistry, judge: Decode) -> None:
    good = message(registry.register("departures-value", OWN), OWN, GOOD)
    registry.stop()
    for _ in range(2):
        with pytest.raises(RegistryAway, match=f"the schema registry at {registry.url} does not answer"):
            verdict(judge, good)
    registry.start()
    assert verdict(judge, good) == [(None, None)]
    registry.stop()
    assert verdict(judge, good) == [(None, None)]  # what is known needs no registry
    assert verdict(judge, b"{}")[0][0] == "malformed"
    registry.start()
    assert verdict(judge, message(registry.register("x", fields(legs="int")), fields(legs="int"), GOOD)) == [
        (None, None)
    ]  # a kept connection


@pytest.mark.parametrize("status", [500, 502, 503, 429])
def test_a_registry_that_fails_is_no_verdict(registry: SchemaRegistry, judge: Decode, status: int) -> None:
    good = message(registry.register("departures-value", OWN), OWN, GOOD)
    registry.broken = status
    with pytest.raises(RegistryAway, match=str(status)):
        verdict(judge, good)
    registry.broken = 0
    assert verdict(judge, good) == [(None, None)]


def test_a_registry_that_never_answers(registry: SchemaRegistry) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = Registry(f"http://127.0.0.1:{silent.getsockname()[1]}", answer_seconds=0.1)
        with pytest.raises(RegistryAway, match="timed out"):
            client.schema(1)


def test_a_server_that_is_no_registry_is_no_verdict() -> None:
    """Its 404 says nothing about a schema."""

    def serve(server: socket.socket, answer: bytes) -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(answer)

    page = b"<html>nothing here</html>"
    answers = [
        b"HTTP/1.1 404 Not Found\r\nContent-Length: %d\r\n\r\n%s" % (len(page), page),
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(page), page),
        b'HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n{"a":1}',
        b'HTTP/1.1 404 Not Found\r\nContent-Length: 19\r\n\r\n{"error_code": 404}',
    ]
    for answer in answers:
        with socket.create_server(("127.0.0.1", 0)) as server:
            thread = threading.Thread(target=serve, args=(server, answer))
            thread.start()
            url = f"http://127.0.0.1:{server.getsockname()[1]}"
            with pytest.raises(ConfigError, match="does not answer"):
                Registry(url).schema(1)
            thread.join()


def test_basic_authentication() -> None:
    with schema_registry(username="me", password="se:cret") as registry:
        good = message(registry.register("departures-value", OWN), OWN, GOOD)
        for more in ({}, {"schema_registry_username": "me", "schema_registry_password": "wrong"}):
            with pytest.raises(ConfigError, match="refuses us") as error:
                verdict(record_format(SOURCE, settings_of(registry, **more)).decode, good)
            assert "wrong" not in str(error.value)
        allowed = settings_of(registry, schema_registry_username="me", schema_registry_password="se:cret")
        assert "se:cret" not in repr(allowed)
        assert verdict(record_format(SOURCE, allowed).decode, good) == [(None, None)]


def test_ids_are_asked_for_once(registry: SchemaRegistry, judge: Decode) -> None:
    good = message(registry.register("departures-value", OWN), OWN, GOOD)
    unknown = b"\0\0\0\0\x63rest"
    for _ in range(3):
        assert [r for r, _ in verdict(judge, good, unknown, good, unknown)] == [None, "unknown_schema"] * 2
    assert registry.requests == ["GET /schemas/ids/1", "GET /schemas/ids/99"]


def test_an_unknown_id_is_asked_for_again_later(registry: SchemaRegistry) -> None:
    now = [0.0]
    client = Registry(registry.url, clock=lambda: now[0])
    assert client.schema(1) is None
    registry.register("s", OWN)
    now[0] = 29.0
    assert client.schema(1) is None
    now[0] = 31.0
    found = client.schema(1)
    assert found is not None and json.loads(found.text) == OWN
    assert client.schema(2**31) is None and client.schema(2**32 - 1) is None
    assert len(registry.requests) == 2
    client.close()


def test_versions_and_registering(registry: SchemaRegistry) -> None:
    client = Registry(registry.url + "/")
    assert client.version("departures-value") is None
    first = client.register("departures-value", OWN)
    assert client.register("departures-value", OWN) == first
    second = client.register("departures-value", fields(legs="int"))
    assert second != first
    latest, one = client.version("departures-value"), client.version("departures-value", 1)
    assert latest == client.schema(second) and one == client.schema(first)
    assert client.version("departures-value", 9) is None
    with pytest.raises(ConfigError, match="refuses the schema for departures-value: Invalid schema"):
        client.register("departures-value", {"type": "nonsense"})
    client.close()


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "is missing"),
        ("127.0.0.1:8081", "http://host:port"),
        ("ftp://x", "http://host"),
        ("http://me:pw@host", "user and password belong"),
    ],
)
def test_wrong_addresses(url: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as error:
        record_format(SOURCE, KafkaSettings(schema_registry=url, formats={"departures": "avro"}))
    assert "pw" not in str(error.value)


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
