"""Keys of records in a schema registry's framing, beside payloads of any format: whole, and members of them."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from io import BytesIO
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from fastavro import parse_schema, schemaless_writer

from pipelines.project.config import KafkaSettings
from pipelines.sources.formats.record_format import record_format
from pipelines.sources.formats.record_keys import RecordKeys
from pipelines.sources.formats.schema_registry import RegistryAway
from tandem.testing.memory import grown
from tests.protobuf_types import classes, file_of
from tests.schema_registry import SchemaRegistry, schema_registry
from transforms.contract import Checked, Origin
from transforms.definitions import BigEndian, Decimal, Enum, EventSource, Field, Hex, RecordKey

NOW = 1_700_000_000_000_000
AT = NOW - 1_000_000
DEBEZIUM: Any = {
    "type": "record", "name": "Key", "namespace": "shop.orders",
    "fields": [
        {"name": "order_id", "type": "long"},
        {"name": "shop", "type": {"type": "record", "name": "Shop", "fields": [{"name": "code", "type": ["null", "string"]}]}},
        {"name": "day", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "part", "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}},
    ],
}  # fmt: skip
DAY = datetime(2024, 5, 1, 10, tzinfo=UTC)
KEY = {"order_id": 2**40, "shop": {"code": "Zürich"}, "day": DAY, "part": b"\x04\xd2"}


@pytest.fixture
def registry() -> Iterator[SchemaRegistry]:
    with schema_registry() as running:
        yield running


def avro(registry: SchemaRegistry, schema: Any, value: Any) -> bytes:
    out = BytesIO()
    out.write(struct.pack(">bI", 0, registry.register("orders-key", json.dumps(schema))))
    schemaless_writer(out, parse_schema(schema), value)
    return out.getvalue()


def judged(keys: Sequence[bytes | None], registry: SchemaRegistry | None, *fields: Field, form: str = "json", **options: Any) -> Checked:
    source = EventSource(
        "orders", [Field("id", "int64", required=True), *fields], event_time="at", tie_breaker="id", topic="orders"
    )  # fmt: skip
    kafka = KafkaSettings(schema_registry=registry.url if registry else "", formats={"orders": form}, format_options=options)
    payloads = pa.array([json.dumps({"id": n, "at": AT}).encode() for n in range(len(keys))], pa.binary())
    return record_format(source, kafka).judge(payloads, NOW, 0, Origin.of(keys, [[]] * len(keys), np.full(len(keys), AT)))


def values(checked: Checked) -> list[Any]:
    assert checked.reasons.null_count == len(checked.reasons), checked.details
    return [row[2:] if len(row) > 3 else row[2] for row in map(list, map(dict.values, checked.valid.to_pylist()))]


@pytest.mark.parametrize("copies", [1, 60])
def test_members_of_an_avro_record(registry: SchemaRegistry, copies: int) -> None:
    """One by one and by columns, and what an Avro payload's field of the same type would be."""
    fields = [
        Field("order", "int64", required=True, path=RecordKey("order_id")), Field("shop", "string", path=RecordKey("shop.code")),
        Field("day", "timestamp", path=RecordKey("day")), Field("cents", "int64", path=RecordKey("part"), parse=Decimal(scale=2)),
        Field("gone", "string", path=RecordKey("shop.other")),
    ]  # fmt: skip
    keys = [avro(registry, DEBEZIUM, KEY), avro(registry, DEBEZIUM, {**KEY, "shop": {"code": None}}), b'{"order_id": 7}']
    found = values(judged(keys * copies, registry, *fields))
    assert found == [[2**40, "Zürich", DAY, 1234, None], [2**40, None, DAY, 1234, None], [7, None, None, None, None]] * copies
    assert registry.requests.count("GET /schemas/ids/1") == 1, "a schema is asked for once"


@pytest.mark.parametrize(
    ("schema", "value", "dtype", "parse", "found"),
    [
        ("string", "Zürich", "string", None, "Zürich"),
        ("long", 2**40, "int64", None, 2**40),
        ("int", -7, "float64", None, -7.0),
        ({"type": "long", "logicalType": "timestamp-micros"}, DAY, "timestamp", None, DAY),
        ("string", "12.50", "int64", Decimal(scale=2), 1250),
        ({"type": "enum", "name": "E", "symbols": ["A", "B"]}, "B", "string", Enum({"B": "bee"}), "bee"),
        (["null", "string"], None, "string", None, None),
    ],
)  # fmt: skip
def test_a_key_that_is_one_value(registry: SchemaRegistry, schema: Any, value: Any, dtype: Any, parse: Any, found: Any) -> None:
    assert values(judged([avro(registry, schema, value)], registry, Field("k", dtype, path=RecordKey(), parse=parse))) == [found]


def test_plain_keys_beside_framed_ones(registry: SchemaRegistry) -> None:
    """As of a topic whose producers changed their serializer."""
    keys = [b"7", avro(registry, "long", 8), None, b"-9", b"x"]
    checked = judged(keys, registry, Field("k", "int64", path=RecordKey()))
    assert checked.reasons.to_pylist() == [None] * 4 + ["wrong_type"]
    assert checked.valid.column("k").to_pylist() == [7, 8, None, -9]


def test_bytes_that_a_field_reads_itself_are_left_to_it(registry: SchemaRegistry) -> None:
    """A Long of eight bytes begins with a zero byte, too."""
    number = struct.pack(">q", 42)
    assert values(judged([number], registry, Field("k", "int64", path=RecordKey(), parse=BigEndian()))) == [42]
    assert values(judged([number], registry, Field("k", "string", path=RecordKey(), parse=Hex()))) == [number.hex()]
    assert registry.requests == []


def test_a_message_of_protobuf(registry: SchemaRegistry) -> None:
    file = file_of("shop/key.proto", {"Other": {"x": "int32"}, "Key": {"id": "int64", "of": ".shop.Shop", "state": "enum .shop.State"},
                                      "Shop": {"code": "string"}}, enums={"State": ["NEW", "PAID"]})  # fmt: skip
    number = registry.register("orders-key", base64.b64encode(file.SerializeToString()).decode(), "PROTOBUF")
    made = classes(file)["shop.Key"](id=5, of={"code": "a"}, state=1).SerializeToString()
    key = struct.pack(">bI", 0, number) + b"\x02\x02" + made  # one index, which is 1
    fields = [
        Field("k", "int64", path=RecordKey("id")), Field("code", "string", path=RecordKey("of.code")),
        Field("state", "string", path=RecordKey("state")),
    ]  # fmt: skip
    for form in ("json", "json_schema"):
        assert values(judged([key] * 3, registry, *fields, form=form)) == [[5, "a", "PAID"]] * 3
    checked = judged([key[:-1], struct.pack(">bI", 0, number) + b"\x02\x0a"], registry, fields[0])
    assert checked.reasons.to_pylist() == ["wrong_type", "unknown_schema"]


def test_json_schema(registry: SchemaRegistry) -> None:
    number = registry.register("orders-key", json.dumps({"type": "object"}), "JSON")
    head = struct.pack(">bI", 0, number)
    key = head + b'{"id": {"n": 5}}'
    for known in (registry, None):  # as with payloads, ids are not looked at without a registry
        assert values(judged([key], known, Field("k", "int64", path=RecordKey("id.n")))) == [5]
        assert values(judged([head + b'"a"'], known, Field("k", "string", path=RecordKey()))) == ["a"]


def test_what_cannot_be_read_is_said(registry: SchemaRegistry) -> None:
    good = avro(registry, DEBEZIUM, KEY)
    member, whole = Field("k", "int64", path=RecordKey("order_id")), Field("k", "string", path=RecordKey())
    told = {
        "unknown": ([b"\0\0\0\0\x63abc"], registry, member, "unknown_schema", "is of schema 99, which is not known to the registry"),
        "cut": ([good[:-1]], registry, member, "wrong_type", "is nothing of Avro schema 1"),
        "longer": ([good + b"x"], registry, member, "wrong_type", "1 bytes are left over"),
        "an object": ([good], registry, whole, "wrong_type", "is an object; write path=RecordKey('order_id') of a member of it"),
        "no registry": ([good], None, member, "unknown_schema", "set kafka.schema_registry, which says how it is read"),
        "no registry, whole": ([good], None, whole, "unknown_schema", "set kafka.schema_registry, which says how it is read"),
        "another form": ([good], registry, Field("k", "int64", path=RecordKey("order_id.x")), "wrong_type", "order_id"),
    }  # fmt: skip
    for name, (keys, known, field, reason, says) in told.items():
        checked = judged(keys, known, field)
        assert checked.reasons.to_pylist() == [reason], name
        assert says in checked.details[0].as_py(), (name, checked.details[0])


def test_a_registry_that_is_away_is_waited_for(registry: SchemaRegistry) -> None:
    key = avro(registry, DEBEZIUM, KEY)
    registry.broken = 503
    with pytest.raises(RegistryAway):
        judged([key], registry, Field("k", "int64", path=RecordKey("order_id")))


@pytest.mark.parametrize("form", ["json", "avro"])
def test_long_keys_fill_no_memory(registry: SchemaRegistry, form: str) -> None:
    """Keys that come again are kept, by their number: 300 of a megabyte were 574 MB of a worker, by anybody who writes to the topic."""
    source = EventSource("orders", [Field("id", "int64", required=True)], event_time="at", tie_breaker="id", topic="orders")
    keys = RecordKeys(source, KafkaSettings(schema_registry=registry.url if form == "avro" else ""))
    with grown() as peak:
        for n in range(300):
            text = f"{n:0{1 << 20}}"
            assert keys.opened(avro(registry, "string", text) if form == "avro" else b"\0\0\0\0\1" + json.dumps(text).encode()) == text
    assert peak() < 100 << 20


def test_short_keys_that_come_again_are_read_once(registry: SchemaRegistry) -> None:
    source = EventSource("orders", [Field("id", "int64", required=True)], event_time="at", tie_breaker="id", topic="orders")
    keys = RecordKeys(source, KafkaSettings(schema_registry=registry.url))
    key = avro(registry, DEBEZIUM, KEY)
    assert keys.opened(key) is keys.opened(bytes(bytearray(key)))
