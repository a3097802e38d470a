"""SECURITY H2 and the low findings on Avro: what a record's bytes may cost, counted and not timed.

Parsers in C cannot be counted from outside; what is ours around them is: comparisons of keys, and the values that a schema lets a
byte become.
"""

from __future__ import annotations

import json
import struct
from decimal import Decimal
from io import BytesIO
from typing import Any

import pyarrow as pa
import pytest
from fastavro import parse_schema, schemaless_writer
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.sources.file_formats.avro_file import container
from pipelines.sources.formats.avro_format import decoder
from pipelines.sources.formats.avro_times import MOST_DECIMAL_BYTES, with_times
from pipelines.sources.formats.avro_weight import MOST_FREE_VALUES, VALUES_PER_BYTE, UnusableSchema
from pipelines.sources.formats.schema_registry import RegisteredSchema
from tests.examples import examples
from transforms import json_payload
from transforms.contract import check_json
from transforms.definitions import EventSource, Field
from transforms.json_flat import MAX_PAYLOAD_BYTES

NOW = 1_700_000_000_000_000
SOURCE = EventSource(name="s", fields=[Field("id", "string", required=True)], event_time="at", tie_breaker="id")
GOOD = json.dumps({"id": "a", "at": NOW - 1}).encode()


class Counted(str):
    """A key that counts how often it is compared or hashed."""

    __slots__ = ()
    uses = 0

    def __eq__(self, other: object) -> bool:
        Counted.uses += 1
        return str.__eq__(self, other)

    def __hash__(self) -> int:
        Counted.uses += 1
        return str.__hash__(self)


def uses(n: int, twice: int) -> int:
    """Comparisons and hashes for n keys of which number ``twice`` comes again at the end."""
    names = [Counted(f"k{i}") for i in range(n)] + [Counted(f"k{twice}")]
    Counted.uses = 0
    with pytest.raises(json_payload.Refused) as refused:
        json_payload._object([(name, 1) for name in names])
    assert refused.value.detail == f"the key 'k{twice}' is there more than once"
    return Counted.uses


@pytest.mark.parametrize("where", ["first", "middle", "last"])
def test_a_repeated_key_is_found_in_one_pass(where: str) -> None:
    """SECURITY H2: 40,000 keys and one repeated cost 22 s."""
    place = {"first": lambda n: 0, "middle": lambda n: n // 2, "last": lambda n: n - 1}[where]
    once, double = uses(4_000, place(4_000)), uses(8_000, place(8_000))
    assert double <= 2.1 * once
    assert once <= 6 * 4_000


def test_the_record_of_the_finding() -> None:
    """SECURITY H2: many keys are no fault, one of them twice is, beside others and alone."""
    many = b'{"id":"a","at":%d,' % (NOW - 1) + ",".join(f'"k{i}":1' for i in range(40_000)).encode()
    got = check_json(pa.array([many + b"}", many + b',"k39999":1}'], pa.binary()), SOURCE, NOW, 0)
    assert got.reasons.to_pylist() == [None, "malformed"]
    assert got.details[1].as_py() == "the key 'k39999' is there more than once"


@pytest.mark.parametrize("others", [0, 100])
def test_a_payload_has_a_limit(monkeypatch: pytest.MonkeyPatch, others: int) -> None:
    """SECURITY H2: the same verdict alone and among others, which are read by another way."""
    fits = GOOD[:-1] + b" " * (MAX_PAYLOAD_BYTES - len(GOOD)) + b"}"
    got = check_json(pa.array([fits, fits[:-1] + b" }", *[GOOD] * others], pa.binary()), SOURCE, NOW, 0)
    assert got.reasons.to_pylist() == [None, "malformed", *[None] * others]
    assert got.details[1].as_py() == f"the payload is {MAX_PAYLOAD_BYTES + 1} bytes long, above the limit of {MAX_PAYLOAD_BYTES}"


# ---- Avro ----------------------------------------------------------------------------------------------------------------


def decode(schema: Any, data: bytes) -> dict[str, Any]:
    registered = RegisteredSchema(json.dumps(schema), "AVRO", ())
    return decoder(registered, None, SOURCE)(struct.pack(">bI", 0, 1) + data)  # type: ignore[arg-type]


def doubling(levels: int, leaf: Any) -> dict[str, Any]:
    """A record of two records of two records ...: 2^levels leaves."""
    inner, again = leaf, leaf["name"] if isinstance(leaf, dict) else leaf
    for level in range(levels):
        inner = {"type": "record", "name": f"L{level}", "fields": [{"name": "a", "type": inner}, {"name": "b", "type": again}]}
        again = f"L{level}"
    return inner


def size(value: Any) -> int:
    """How many values there are in a value, itself included."""
    return 1 + (sum(map(size, value.values())) if isinstance(value, dict) else sum(map(size, value)) if isinstance(value, list) else 0)


@pytest.mark.parametrize("levels", [14, 20, 25, 60])
@pytest.mark.parametrize("leaf", ["null", {"type": "fixed", "name": "Z", "size": 0}])
def test_a_schema_that_doubles_per_level_is_refused(levels: int, leaf: Any) -> None:
    """SECURITY low (doubling schemas): 25 levels of two nulls each cost seconds for 5 bytes; to refuse them costs a look a level."""
    with pytest.raises(UnusableSchema, match="values that take no bytes"):
        decode(doubling(levels, leaf), b"")


def test_it_may_double_as_long_as_bytes_pay_for_it() -> None:
    """SECURITY low (doubling schemas): each leaf is a byte, so the work is that of the bytes; and little of nothing is fine."""
    assert size(decode(doubling(10, "boolean"), bytes(1024))) == 2047
    assert size(decode(doubling(8, "null"), b"")) == 511


def test_an_array_of_records_that_double_is_refused() -> None:
    """SECURITY low (doubling schemas): one byte an item, and thousands of values each."""
    item = {"type": "record", "name": "I", "fields": [{"name": "x", "type": "boolean"}, {"name": "y", "type": doubling(8, "null")}]}
    for many in ({"type": "array", "items": item}, {"type": "map", "values": item}):
        with pytest.raises(UnusableSchema, match="more than 16 values for each of their bytes"):
            decode({"type": "record", "name": "R", "fields": [{"name": "many", "type": many}]}, b"\0")


def _record(name: str, types: list[Any]) -> dict[str, Any]:
    return {"type": "record", "name": name, "fields": [{"name": f"f{i}", "type": t} for i, t in enumerate(types)]}


_names = st.integers(0, 10**9).map(lambda i: f"n{i}")
_schemas = st.recursive(
    st.sampled_from(["null", "boolean", "long", "string"]),
    lambda inner: st.one_of(
        st.builds(_record, _names, st.lists(inner, max_size=4)),
        st.builds(lambda t: {"type": "array", "items": t}, inner),
        st.builds(lambda t: {"type": "map", "values": t}, inner),
    ),
    max_leaves=30,
)  # fmt: skip


@settings(max_examples=examples(150))
@given(_schemas, st.binary(max_size=60))
def test_the_work_is_bounded_by_the_bytes(inner: Any, data: bytes) -> None:
    """SECURITY low (doubling schemas): whatever the schema, and whatever the bytes."""
    try:
        value = decode({"type": "record", "name": "top", "fields": [{"name": "x", "type": inner}]}, data)
    except (UnusableSchema, ValueError, EOFError, IndexError, KeyError, UnicodeDecodeError, OverflowError):
        return
    assert size(value) <= VALUES_PER_BYTE * len(data) + MOST_FREE_VALUES


CHOICES: dict[str, Any] = {
    "enum": {"type": "enum", "name": "E", "symbols": ["a", "b", "c"]},
    "union": ["null", "long", "string"],
    "enum in an array": {"type": "array", "items": {"type": "enum", "name": "E", "symbols": ["a", "b", "c"]}},
    "union in a map": {"type": "map", "values": ["null", "long"]},
    "named twice": {"type": "record", "name": "P", "fields": [
        {"name": "a", "type": {"type": "enum", "name": "E", "symbols": ["a", "b"]}}, {"name": "b", "type": "E"}]},
}  # fmt: skip
VALUES: dict[str, list[Any]] = {
    "enum": ["a", "c"],
    "union": [None, 7, "x"],
    "enum in an array": [["a", "c"]],
    "union in a map": [{"k": 5, "l": None}],
    "named twice": [{"a": "b", "b": "a"}],
}
NEGATIVE: dict[str, list[bytes]] = {
    "enum": [b"\x01", b"\x03", b"\x05", b"\x07", b"\xff\x01", b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", b"\x06"],
    "union": [b"\x01\x02x", b"\x03\x02", b"\x05", b"\x06"],
    "enum in an array": [b"\x02\x01\0", b"\x04\0\x03\0"],
    "union in a map": [b"\x02\x02k\x01\x02\0", b"\x02\x02k\x03\0"],
    "named twice": [b"\x01\0", b"\0\x01"],
}


@pytest.mark.parametrize("kind", CHOICES)
def test_an_index_from_0_up_chooses_and_no_other_does(kind: str) -> None:
    """SECURITY low (negative indices): -1 was the last symbol of an enum, or the last branch of a union."""
    schema = {"type": "record", "name": "R", "fields": [{"name": "x", "type": CHOICES[kind]}]}
    for value in VALUES[kind]:
        out = BytesIO()
        schemaless_writer(out, parse_schema(json.loads(json.dumps(schema))), {"x": value})
        assert decode(schema, out.getvalue()) == {"x": value}
    for data in NEGATIVE[kind]:
        with pytest.raises((IndexError, KeyError, OverflowError)):
            decode(schema, data)


@pytest.mark.parametrize("where", ["a field", "a list", "a union", "a fixed"])
@pytest.mark.parametrize("carried", ["topic", "file"])
def test_a_decimal_of_ever_so_many_bytes_is_none(where: str, carried: str) -> None:
    """SECURITY H2, by a decimal: to make a number of its bytes costs their square, 200,000 took 3.5 s and a megabyte, a message of 1 KB
    by zstd, a minute and a half. No number is made of them."""
    from fastavro._read_common import HEADER_SCHEMA

    most = MOST_DECIMAL_BYTES
    own = {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}

    def schema(size: int) -> dict[str, Any]:
        fixed = {"type": "fixed", "name": "F", "size": size, "logicalType": "decimal", "precision": 9, "scale": 2}
        kind = {"a field": own, "a list": {"type": "array", "items": own}, "a union": ["null", "string", own], "a fixed": fixed}[where]
        return {"type": "record", "name": "R", "fields": [{"name": "x", "type": kind}]}

    def read(size: int) -> Any:
        raw = b"\0" * (size - 1) + b"\x7b"
        plain = json.loads(json.dumps(schema(size)).replace('"logicalType": "decimal", ', ""))
        value = [raw] if where == "a list" else raw
        out = BytesIO()
        schemaless_writer(out, parse_schema(plain), {"x": value})
        if carried == "topic":
            return decode(schema(size), out.getvalue())["x"]
        file = BytesIO()
        meta = {"avro.schema": json.dumps(schema(size)).encode(), "avro.codec": b"null"}
        schemaless_writer(file, HEADER_SCHEMA, {"magic": b"Obj\x01", "meta": meta, "sync": b"s" * 16})
        for number in (1, len(out.getvalue())):
            schemaless_writer(file, "long", number)
        file.write(out.getvalue() + b"s" * 16)
        file.seek(0)
        return next(container(file, with_times)[2])["x"]

    right = [Decimal("1.23")] if where == "a list" else Decimal("1.23")
    assert read(5) == read(most) == right
    with pytest.raises(ValueError, match=f"a decimal of {most + 1:,} bytes, more than {most:,}"):
        read(most + 1)
