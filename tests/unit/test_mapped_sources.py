"""Sources that say where fields stand and how they are read: the same verdicts record by record, by columns, and as rows of Arrow."""

from __future__ import annotations

import decimal
import json
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipelines.sources.broker import REPLAYED_TIME, FetchResult, KeptRecords
from tests.examples import examples
from transforms import contract
from transforms.contract import Checked, Origin, check, check_json, check_records, encode_json, field_of
from transforms.definitions import (
    Base64,
    BigEndian,
    Decimal,
    ElementIndex,
    Enum,
    Epoch,
    EventSource,
    Field,
    Header,
    Hex,
    Number,
    RecordKey,
    RecordTimestamp,
    TimeFormat,
    TimeOfDay,
)
from transforms.json_shapes import whole

NOW = 1_800_000_000_000_000
T = 1_714_557_660_123

ORDERS = EventSource(
    "orders",
    [
        Field("order_id", "string", required=True, path="orderId"),
        Field("user", "string", path="user.id"),
        Field("sku", "string", path="items[].sku", required=True),
        Field("line", "int64", path=ElementIndex()),
        Field("cents", "int64", path="items[].price", parse=Decimal(2), min=0),
        Field("first_sku", "string", path="items[0].sku"),
        Field("last_sku", "string", path="items[-1].sku"),
        Field("shipped", "timestamp", path=["ship.date"], parse=TimeFormat("%d/%m/%Y %H:%M", "Europe/Paris")),
        Field("tags", "list<string>"),
    ],
    event_time=Field("at", "timestamp", path="ts", parse=Epoch("ms")),
    tie_breaker="order_id",
    explode="items",
)
ORDER: dict[str, Any] = {
    "orderId": "o1",
    "ts": T,
    "user": {"id": "u1", "name": "Ü"},
    "items": [{"sku": "a", "price": "1.10"}, {"sku": "b", "price": "2.50"}],
    "ship.date": "01/05/2024 12:00",
    "tags": ["x", "y"],
}


def verdicts(checked: Checked) -> Any:
    return (
        checked.valid.to_pylist(), checked.accepted.tolist(), checked.reasons.to_pylist(), checked.details.to_pylist(),
        checked.times.to_pylist(), checked.empty, checked.passed_over,
    )  # fmt: skip


def judged(records: list[Any], source: EventSource, origin: Origin | None = None) -> Checked:
    """The verdicts, which are the same for each record alone, for all at once, and by columns among others."""
    payloads = [r if isinstance(r, bytes) else json.dumps(r, ensure_ascii=False).encode() for r in records]
    together = check_json(payloads, source, NOW, 0, origin)
    many = pa.array(payloads * 20, pa.binary())
    rows = np.tile(np.arange(len(payloads)), 20)
    columnar = check_json(many, source, NOW, 0, None if origin is None else origin.take(rows))
    n, m = len(payloads), together.valid.num_rows
    assert columnar.reasons.to_pylist() == together.reasons.to_pylist() * 20
    assert columnar.details.to_pylist() == together.details.to_pylist() * 20
    assert columnar.times.to_pylist() == together.times.to_pylist() * 20
    assert columnar.valid.to_pylist() == together.valid.to_pylist() * 20
    assert columnar.accepted.tolist() == [k * n + a for k in range(20) for a in together.accepted.tolist()]
    assert columnar.empty == together.empty * 20 and len(columnar.accepted) == 20 * m
    for row, payload in enumerate(payloads):
        alone = check_json([payload], source, NOW, 0, None if origin is None else origin.take(np.array([row])))
        assert alone.reasons[0].as_py() == together.reasons[row].as_py() and alone.details[0].as_py() == together.details[row].as_py()
        assert alone.valid.to_pylist() == together.valid.filter(pa.array(together.accepted == row)).to_pylist()
    return together


def arrow_rows(records: list[dict[str, Any]]) -> pa.RecordBatch | None:
    names = list(dict.fromkeys(name for r in records for name in r))
    try:
        return pa.RecordBatch.from_arrays([pa.array([r.get(name) for r in records]) for name in names], names)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError):
        return None  # of no one type


def test_every_part_of_an_order_is_where_it_was_said_to_be() -> None:
    checked = judged([ORDER], ORDERS)
    assert checked.valid.to_pylist()[1] | {"at": None, "shipped": None} == {
        "at": None, "order_id": "o1", "user": "u1", "sku": "b", "line": 1, "cents": 250, "first_sku": "a", "last_sku": "b", "shipped": None,
        "tags": ["x", "y"],
    }  # fmt: skip
    row = checked.valid.to_pylist()[0]
    assert f"{row['at']:%F %T.%f}" == "2024-05-01 10:01:00.123000" and f"{row['shipped']:%F %T}" == "2024-05-01 10:00:00"
    assert checked.accepted.tolist() == [0, 0] and checked.rejected.tolist() == []


ITEMS = [{"sku": "a"}, {"price": "1"}]


@pytest.mark.parametrize(
    ("change", "reason", "detail", "field"),
    [
        ({"items": []}, None, None, None),
        ({"items": None}, None, None, None),
        ({"user": None}, None, None, None),
        ({"user": {}}, None, None, None),
        ({"items": ITEMS}, "missing_field", "sku is missing or null (element 1 of items)", "sku"),
        ({"items": 5}, "wrong_type", "5 at items is no list, of which the source's events are the elements", None),
        ({"items": {"sku": 1}}, "wrong_type", "an object at items is no list, of which the source's events are the elements", None),
        ({"items": [3]}, "wrong_type", "sku=3 at items[] is not an object, as the path items[].sku needs (element 0 of items)", "sku"),
        ({"user": 7}, "wrong_type", "user=7 at user is not an object, as the path user.id needs", "user"),
        ({"user": [1]}, "wrong_type", "user (a list) at user is not an object, as the path user.id needs", "user"),
        ({"user": {"id": 7}}, "wrong_type", "user=7 is no string; the field's parse=Text() reads it", "user"),
        ({"ts": "x"}, "wrong_type_timestamp", "at='x' is not an Epoch('ms') value; send a number of ms since 1970", "at"),
        ({"ts": None}, "missing_timestamp", "at is missing or null", "at"),
        ({"ts": T // 1000}, "wrong_unit_timestamp", None, "at"),
        ({"tags": ["a", None]}, "wrong_type", "tags (a list) is no list<string>: element 1 is 'None'", "tags"),
        ({"tags": "a"}, "wrong_type", "tags='a' is no list<string>", "tags"),
        ({"ship.date": "31/03/2024 02:30"}, "wrong_type", None, "shipped"),
        ({"items": [{"sku": "a", "price": "1.105"}]}, "overflow",
         "cents='1.105' has more than 2 digits after the decimal point (element 0 of items)", "cents"),
        ({"items": [{"sku": "a", "price": "-1"}]}, "out_of_range", "cents='-1' is outside of 0 to any (element 0 of items)", "cents"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(change: dict[str, Any], reason: str | None, detail: str | None, field: str | None) -> None:
    checked = judged([ORDER, {**ORDER, **change}, ORDER], ORDERS)
    assert checked.reasons.to_pylist() == [None, reason, None]
    if detail is not None or reason is None:
        assert checked.details.to_pylist()[1] == detail
    assert field_of(checked.details.to_pylist()[1]) == field
    if reason is not None or not {**ORDER, **change}["items"]:
        assert set(checked.accepted.tolist()) == {0, 2}
    assert checked.empty == (not {**ORDER, **change}["items"])


scalars = st.one_of(st.none(), st.booleans(), st.integers(-5, 10**19), st.floats(), st.sampled_from(["", "a", "1.10", "01/05/2024 12:00"]))
values = st.recursive(scalars, lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["id", "sku"]), inner)))
orders = st.fixed_dictionaries(
    {},
    optional={
        "orderId": st.one_of(st.just("o"), values),
        "ts": st.one_of(st.just(T), values),
        "user": st.one_of(st.just({"id": "u"}), values),
        "items": st.one_of(
            st.lists(
                st.one_of(
                    st.fixed_dictionaries({"sku": st.just("s"), "price": st.one_of(st.just("1.1"), st.just(2.5), scalars)}),
                    st.just({"sku": "s"}),
                    values,
                ),
                max_size=3,
            ),
            values,
        ),
        "ship.date": st.one_of(st.just("01/05/2024 12:00"), values),
        "tags": st.one_of(st.lists(st.text(max_size=2), max_size=2), values),
        "other": values,
    },
)


@given(st.lists(orders, min_size=1, max_size=5))
@settings(max_examples=examples(60))
def test_batch_and_stream_say_the_same_of_any_record(records: list[dict[str, Any]]) -> None:
    together = judged([*records, ORDER], ORDERS)
    rows = arrow_rows([*records, ORDER])
    if rows is not None:
        # Arrow makes one type of a column, and what has no type there is none: verdicts may only differ where that changed a value.
        checked, plain = check(rows, ORDERS, NOW, 0), check_records(rows.to_pylist(), {}, ORDERS, NOW, 0)
        assert checked.reasons.to_pylist() == plain.reasons.to_pylist()
        assert checked.valid.to_pylist() == plain.valid.to_pylist() and checked.empty == plain.empty
        if "nan" not in str(checked.details):
            assert checked.details.to_pylist() == plain.details.to_pylist()
    assert together.reasons[len(records)].as_py() is None


@given(st.lists(orders, min_size=1, max_size=5))
@settings(max_examples=examples(25))
def test_events_that_were_read_come_back_as_they_are(records: list[dict[str, Any]]) -> None:
    """A valid batch, as rows of a file of its own schema or as payloads, is read as what it is and not mapped once more."""
    valid = judged([ORDER, *records], ORDERS).valid
    assert check(valid, ORDERS, NOW, 0).valid.equals(valid)
    payloads = encode_json(valid)
    again = check_json([*payloads.to_pylist(), json.dumps(ORDER).encode()], ORDERS, NOW, 0)
    assert again.valid.slice(0, len(valid)).equals(valid) and again.valid.num_rows == len(valid) + 2
    assert check_json(pa.array(payloads.to_pylist() * 70, pa.binary()), ORDERS, NOW, 0).valid.num_rows == 70 * len(valid)


BESIDE = EventSource(
    "readings",
    [
        Field("device", "int64", required=True, path=RecordKey(), parse=BigEndian()),
        Field("tenant", "string", path=Header("x-tenant")),
        Field("attempt", "int64", path=Header("attempt")),
        Field("value", "float64", parse=Number()),
        Field("kind", "string", parse=Enum({0: "temperature", 1: "humidity"})),
    ],
    event_time=Field("at", "timestamp", path=RecordTimestamp()),
    tie_breaker="device",
)


def test_what_stands_beside_the_payload() -> None:
    keys = [(7).to_bytes(8, "big"), (-1).to_bytes(4, "big", signed=True), None, b"abc"]
    headers = [[("x-tenant", b"a"), ("x-tenant", "ü".encode())], [("attempt", b"3")], [], [("attempt", b"x"), ("x-tenant", b"\xff")]]
    origin = Origin.of(keys, headers, np.array([T * 1000, T * 1000 + 1, T * 1000, T * 1000]))
    checked = judged([{"value": "1.5", "kind": 1}, {"value": 2}, {}, {"kind": 9}], BESIDE, origin)
    assert [list(row.values())[1:] for row in checked.valid.to_pylist()] == [[7, "ü", None, 1.5, "humidity"], [-1, None, 3, 2.0, None]]
    assert checked.reasons.to_pylist() == [None, None, "missing_field", "invalid_utf8"]
    assert checked.times.cast(pa.int64()).to_pylist() == [T * 1000, T * 1000 + 1, T * 1000, T * 1000]
    # Files of events that somebody made of records have columns of these names.
    rows = pa.RecordBatch.from_pylist([{"at": T * 1000, "device": 7, "tenant": "a", "value": "2"}])
    assert check(rows, BESIDE, NOW, 0).valid.to_pylist()[0]["device"] == 7


def test_members_of_a_key_that_is_json() -> None:
    device = Field("device", "int64", required=True, path=RecordKey("id.n"))
    source = replace(BESIDE, fields=[device, *BESIDE.fields[1:]])
    origin = Origin.of([b'{"id": {"n": 5}}', b"5", b'{"id": 5}', b"{"], [[]] * 4, np.full(4, T * 1000))
    checked = judged([{}] * 4, source, origin)
    assert checked.valid.column(1).to_pylist() == [5] and checked.reasons.to_pylist() == [None] + ["wrong_type"] * 3


def test_what_reads_bytes_beside_the_payload_is_told() -> None:
    """Kafka Connect's Avro keys, and headers that hold numbers in binary."""
    source = replace(
        BESIDE, fields=[Field("device", "int64", required=True, path=RecordKey("id")), Field("attempt", "int64", path=Header("attempt"))]
    )
    keys = [b"\0\0\0\0\5\x0e", *[b'{"id": 7}'] * 3]
    headers = [[("attempt", b"3")], [("attempt", b"\0\0\0\3")], [("attempt", b"three")], [("attempt", b"\xff\xff")]]
    checked = judged([{}] * 4, source, Origin.of(keys, headers, np.full(4, T * 1000)))
    assert checked.details.to_pylist() == [
        "device=b'\\x00\\x00\\x00\\x00\\x05\\x0e' is in a schema registry's framing; set kafka.schema_registry, which says how it is read",
        "attempt=b'\\x00\\x00\\x00\\x03' is not the text of an int64; parse=BigEndian() reads numbers in binary",
        "attempt=b'three' is not the text of an int64",
        "attempt=b'\\xff\\xff' is not the text of an int64; parse=BigEndian() reads numbers in binary",
    ]


def test_arrow_s_structs_lists_and_maps() -> None:
    source = replace(ORDERS, explode=None, fields=[
        Field("order_id", "string", required=True, path="o.id"), Field("second", "int64", path="n[1]"),
        Field("last", "int64", path="n[-1]"), Field("colour", "string", path="m.colour"), Field("e", "list<float>"),
    ], event_time="at", event_time_field=None)  # fmt: skip
    n = 4
    for kind in (pa.list_(pa.int32()), pa.large_list(pa.int64())):
        columns = {
            "at": pa.array([T * 1000] * n),
            "o": pa.array([{"id": "a"}, None, {"id": "b"}, {"id": "c"}]),
            "n": pa.array([[1], [1, 2], None, [5, 6, 7]], kind),
            "m": pa.array([[("colour", "red"), ("x", "y")], None, [], [("colour", "blue")]], pa.map_(pa.string(), pa.string())),
            "e": pa.array([[1.5, 2.5], [], None, [3.0, 4.0]]),
        }
        batch = pa.RecordBatch.from_arrays(list(columns.values()), list(columns))
        for first in range(n):
            got = check(batch.slice(first), source, NOW, 0)
            want = [["a", None, 1, "red", [1.5, 2.5]], ["b", None, None, None, None], ["c", 6, 7, "blue", [3.0, 4.0]]]
            assert [list(r.values())[1:] for r in got.valid.to_pylist()] == want[-got.valid.num_rows :]
    fixed = pa.RecordBatch.from_arrays(
        [
            pa.array([T * 1000] * 2),
            pa.array([{"id": "a"}] * 2),
            pa.FixedSizeListArray.from_arrays(pa.array([1.0, 2.0, 3.0, float("nan")]), 2),
        ],
        ["at", "o", "e"],
    )
    got = check(fixed, source, NOW, 0)
    assert got.valid.column(5).to_pylist() == [[1.0, 2.0]] and got.reasons.to_pylist() == [None, "nan"]
    assert got.details.to_pylist()[1] == "e (a list) is not a list of finite numbers: element 1 is nan"


PARAMS = EventSource(
    "visits",
    [
        Field("visit", "string", required=True), Field("page", "string", path="params.page.text"),
        Field("session", "int64", path="params.session.number"), Field("label", "string", path="labels.team"),
        Field("first", "string", path="params[0].key"), Field("dotted", "string", path=["labels", "a.b"]),
    ],
    event_time=Field("at", "timestamp", parse=Epoch("ms")),
    tie_breaker="visit",
)  # fmt: skip
entry_values = st.one_of(st.none(), st.fixed_dictionaries({}, optional={"text": st.text(max_size=2), "number": st.integers(-3, 3)}))
entries = st.lists(
    st.one_of(
        st.none(), st.fixed_dictionaries({}, optional={"key": st.sampled_from(["page", "session", "other", None]), "value": entry_values})
    ),
    max_size=4,
)
labels = st.one_of(
    st.none(),
    st.lists(st.fixed_dictionaries({"key": st.sampled_from(["team", "a.b", ""]), "value": st.sampled_from(["x", "y", None])}), max_size=3),
    st.dictionaries(st.sampled_from(["team", "a.b"]), st.text(max_size=2)),
    st.lists(st.one_of(st.integers(), st.just({"key": 5, "value": "x"}), st.just({"key": "team", "value": "x", "more": 1})), max_size=2),
)
visits = st.fixed_dictionaries(
    {"visit": st.just("v"), "at": st.just(T)}, optional={"params": st.one_of(st.none(), entries), "labels": labels}
)


@given(st.lists(visits, min_size=1, max_size=5))
@settings(max_examples=examples(80))
@example([{"visit": "v", "at": T, "labels": [0]}, {"visit": "v", "at": T, "labels": []}])
@example(
    [{"visit": "v", "at": T, "labels": [{"key": 5, "value": "x"}]}, {"visit": "v", "at": T, "labels": [{"key": None, "value": "x"}, None]}]
)
def test_maps_that_stand_as_lists_of_entries(records: list[dict[str, Any]]) -> None:
    """GA4's event_params: a list of objects with a key and a value is the map that it is, as JSON, as rows and among others."""
    together = judged(records, PARAMS)
    for row, record in enumerate(records):
        of = {e["key"]: e.get("value") or {} for e in record.get("params") or () if e is not None and e.get("key")}
        if together.reasons[row].as_py() is None:
            (got,) = together.valid.filter(pa.array(together.accepted == row)).to_pylist()
            assert (got["page"], got["session"]) == (of.get("page", {}).get("text"), of.get("session", {}).get("number"))
    rows = arrow_rows(records)
    if rows is not None:
        checked, plain = check(rows, PARAMS, NOW, 0), check_records(rows.to_pylist(), {}, PARAMS, NOW, 0)
        assert checked.reasons.to_pylist() == plain.reasons.to_pylist() and checked.valid.to_pylist() == plain.valid.to_pylist()


OTHERS = EventSource(
    "changes",
    [
        Field("id", "int64", required=True, path="columns.id"), Field("who", "string", path="columns.name"),
        Field("env", "string", path="Tags.env"),
        Field("note", "string", path="notes.gift"),
    ],
    event_time=Field("at", "timestamp", parse=Epoch("ms")),
    tie_breaker="id",
)  # fmt: skip
column = st.one_of(
    st.none(),
    st.fixed_dictionaries({"name": st.just("id"), "value": st.integers(0, 9)}, optional={"type": st.just("bigint")}),
    st.fixed_dictionaries({"name": st.just("name"), "type": st.just("text")}, optional={"value": st.sampled_from(["a", None])}),
)
tag = st.fixed_dictionaries({}, optional={"Key": st.sampled_from(["env", "x", None]), "Value": st.sampled_from(["prod", None])})
note = st.one_of(
    st.fixed_dictionaries({}, optional={"name": st.sampled_from(["gift", "x", None]), "value": st.sampled_from(["y", None])}),
    st.sampled_from([{"name": 5, "value": "y"}, {"name": "gift", "value": "y", "price": 1}, {"key": "gift", "value": "y"}, 7]),
)
changes = st.fixed_dictionaries(
    {"at": st.just(T), "columns": st.lists(column, max_size=4)},
    optional={"Tags": st.lists(tag, max_size=3), "notes": st.lists(note, max_size=2)},
)


@given(st.lists(changes, min_size=1, max_size=4))
@settings(max_examples=examples(60))
@example([{"at": T, "columns": [{"name": "id", "value": 1}], "notes": [{"name": "gift", "value": "y"}, {"key": "gift", "value": "z"}]}])
@example([{"at": T, "columns": [{"name": "id", "value": 1, "type": "bigint"}], "Tags": [{"Key": "env", "Value": "prod"}]}] * 4)
def test_entries_as_others_write_them(records: list[dict[str, Any]]) -> None:
    """The columns of wal2json, tags of AWS, notes and headers with a name: the same as JSON, as rows and among others."""
    together = judged(records, OTHERS)
    for row, record in enumerate(records):
        if together.reasons[row].as_py() is None:
            (got,) = together.valid.filter(pa.array(together.accepted == row)).to_pylist()
            of = {e["name"]: e.get("value") for e in record["columns"] if e}
            env = {e["Key"]: e.get("Value") for e in record.get("Tags", ()) if e.get("Key")}.get("env")
            note = {e["name"]: e.get("value") for e in record.get("notes", ()) if e.get("name")}.get("gift")
            assert (got["id"], got["who"], got["env"], got["note"]) == (of.get("id"), of.get("name"), env, note)
    rows = arrow_rows(records)
    if rows is not None:
        checked, plain = check(rows, OTHERS, NOW, 0), check_records(rows.to_pylist(), {}, OTHERS, NOW, 0)
        assert checked.reasons.to_pylist() == plain.reasons.to_pylist() and checked.valid.to_pylist() == plain.valid.to_pylist()


@pytest.mark.parametrize("kind", [pa.int8(), pa.int64(), pa.uint64(), pa.date32()])
def test_maps_by_numbers_and_days(kind: pa.DataType) -> None:
    """Keys are the texts that they are, as the same rows have them as JSON, which a replay sends."""
    days = pa.types.is_date32(kind)
    keys: list[Any] = [date(2024, 5, 1), date(1969, 12, 31)] if days else [1, 2**63 + 5 if pa.types.is_uint64(kind) else -7]
    pairs = pa.map_(kind, pa.string())
    column = pa.array([[(keys[0], "a"), (keys[1], "b"), (keys[0], "c")], None, [], [(keys[1], None)]], pairs)
    source = EventSource(
        "days", [Field("id", "int64", required=True), *(Field(n, "string", path=["m", str(k)]) for n, k in zip("xy", keys, strict=True))],
        event_time=Field("at", "timestamp", parse=Epoch("ms")), tie_breaker="id",
    )  # fmt: skip
    batch = pa.RecordBatch.from_arrays([pa.array([T] * 4), pa.array(range(4)), column], ["at", "id", "m"])
    wanted = [("c", "b"), (None, None), (None, None), (None, None)]
    for first in range(4):
        valid = check(batch.slice(first), source, NOW, 0).valid
        assert list(zip(valid["x"].to_pylist(), valid["y"].to_pylist(), strict=True)) == wanted[first:]
    again = check_json(encode_json(batch, source), source, NOW, 0).valid
    assert list(zip(again["x"].to_pylist(), again["y"].to_pylist(), strict=True)) == wanted
    wrong = replace(source, fields=[source.fields[0], Field("x", "int64", path=["m", str(keys[0])])])
    assert check(batch, wrong, NOW, 0).details.to_pylist()[0] == "x='c' is no int64"


def test_entries_of_lists_of_every_type_and_slice() -> None:
    kind = pa.struct([("key", pa.large_string()), ("value", pa.struct([("text", pa.string())]))])
    given = [
        [{"key": "page", "value": {"text": "a"}}, {"key": "page", "value": {"text": "b"}}],
        None,
        [],
        [{"key": "x", "value": None}, None],
    ]
    source = replace(PARAMS, fields=PARAMS.fields[:2])
    for made in (pa.list_(kind), pa.large_list(kind)):
        batch = pa.RecordBatch.from_arrays(
            [pa.array([T] * 5), pa.array(list("uvwxy")), pa.array([*given, [{"key": "page", "value": {"text": "c"}}]], made)],
            ["at", "visit", "params"],
        )
        for first in range(5):
            got = check(batch.slice(first), source, NOW, 0)
            assert got.valid.column("page").to_pylist() == ["b", None, None, None, "c"][first:]


@pytest.mark.parametrize("index", [pa.int8(), pa.int32()])
def test_keys_of_maps_and_entries_may_be_words_of_a_dictionary(index: pa.DataType) -> None:
    """As the same rows are as JSON, which a replay sends."""
    words = pa.DictionaryArray.from_arrays(pa.array([0, 1, None, 0], index), pa.array(["page", "other"]))
    texts = pa.StructArray.from_arrays([pa.array(["a", "b", "c", "d"])], ["text"])
    ends, source = pa.array([0, 2, 3, 4], pa.int32()), replace(PARAMS, fields=PARAMS.fields[:2])
    entries_column = pa.ListArray.from_arrays(ends, pa.StructArray.from_arrays([words, texts], ["key", "value"]))
    made = [entries_column]
    with suppress(pa.ArrowException, TypeError):  # a null key, which no map has
        made.append(pa.MapArray.from_arrays(ends, words.fill_null("other"), texts))
    for params in made:
        batch = pa.RecordBatch.from_arrays([pa.array([T] * 3), pa.array(list("uvw")), params], ["at", "visit", "params"])
        for first in range(3):
            got = check(batch.slice(first), source, NOW, 0)
            assert got.reasons.to_pylist() == [None] * (3 - first)
            assert got.valid.column("page").to_pylist() == ["a", None, "d"][first:]


@pytest.mark.parametrize("form", ["list", "map"])
def test_slices_look_at_their_own_entries_alone(form: str) -> None:
    """A table that is read in slices costs what it costs in one piece."""
    n = 64
    value = pa.struct([("text", pa.string())])
    kind = pa.map_(pa.string(), value) if form == "map" else pa.list_(pa.struct([("key", pa.string()), ("value", value)]))
    rows = [[("page", {"text": "a"})] if form == "map" else [{"key": "page", "value": {"text": "a"}}]] * n
    batch = pa.RecordBatch.from_arrays([pa.array([T] * n), pa.array(["v"] * n), pa.array(rows, kind)], ["at", "visit", "params"])
    source = replace(PARAMS, fields=PARAMS.fields[:2])
    with mock.patch.object(pc, "equal", wraps=pc.equal) as equal:
        for first in range(n):
            assert check(batch.slice(first, 1), source, NOW, 0).valid.column("page").to_pylist() == ["a"]
    assert sum(len(call.args[0]) for call in equal.call_args_list) == n


def test_entries_are_read_by_columns() -> None:
    record = {"visit": "v", "at": T, "params": [{"key": "page", "value": {"text": "a"}}, {"key": "session", "value": {"number": 7}}]}
    payloads = pa.array([json.dumps({**record, "at": T + n}).encode() for n in range(200)], pa.binary())
    with mock.patch.object(contract, "parse_json", side_effect=AssertionError):
        found = check_json(payloads, PARAMS, NOW, 0).valid
    assert found.num_rows == 200 and found.column("page").to_pylist()[0] == "a" and found.column("session").to_pylist()[0] == 7


def test_rows_of_files_are_the_same_events_as_payloads() -> None:
    """A row of Arrow and its JSON, as a replay sends it, are one event: a column with a unit of its own is not read in another."""
    source = replace(ORDERS, explode=None, fields=[
        Field("order_id", "string", required=True, path="orderId"), Field("shipped", "timestamp", path="s", parse=Epoch("ns")),
        Field("price", "int64", parse=Decimal(2)),
    ])  # fmt: skip
    at = datetime(2024, 5, 1, 10, 1, 0, 123456, tzinfo=UTC)
    for unit in ("ms", "us", "ns"):
        kind = pa.timestamp(unit, "UTC")
        rows = pa.RecordBatch.from_arrays(
            [pa.array(["a"]), *[pa.array([at]).cast(kind, safe=False)] * 2, pa.array([decimal.Decimal("1.10")])],
            ["orderId", "ts", "s", "price"],
        )
        by_row = check(rows, source, NOW, 0)
        assert by_row.valid.num_rows == 1 and check_json(encode_json(rows, source), source, NOW, 0).valid.equals(by_row.valid)


PARIS = TimeFormat("%Y-%m-%d %H:%M:%S", zone="Europe/Paris")
NOON = datetime(2024, 5, 1, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (pa.binary(), b"x\xff"), (pa.string(), b"\xff\xfe"), (pa.timestamp("us"), 10**18), (pa.timestamp("s", "UTC"), -(10**12)),
        (pa.date32(), 2**31 - 1), (pa.duration("s"), 10**15), (pa.list_(pa.binary()), [b"\xff", None]),
        (pa.map_(pa.string(), pa.binary()), [("q", b"\xff")]), (pa.struct([("t", pa.timestamp("us"))]), {"t": 10**18}),
    ],
)  # fmt: skip
def test_what_no_field_reads_spoils_no_record(kind: pa.DataType, value: Any) -> None:
    """Beside a member that one reads, and as a column of its own, of sources that map what they read and that do not; a value that is read
    is refused as it was."""
    blob = pa.array([value], pa.binary()).view(pa.string()) if kind == pa.string() else pa.array([value], kind)
    both = pa.StructArray.from_arrays([pa.array(["a"]), blob], ["k", "b"])
    inner = pa.ListArray.from_arrays([0, 1], both)
    own = [pa.array([NOON]), pa.array(["a"])]
    for path, columns in {
        "o.k": {"o": both}, "o[0].k": {"o": inner}, "o.o.k": {"o": pa.StructArray.from_arrays([both, blob], ["o", "z"])},
        "o": {"o": pa.array(["a"]), "b": blob}, None: {"v": pa.array(["a"]), "b": blob},
    }.items():  # fmt: skip
        source = EventSource("s", [Field("k", "string", required=True), Field("v", "string", path=path)], event_time="at", tie_breaker="k")
        rows = pa.RecordBatch.from_arrays([*own, *columns.values()], ["at", "k", *columns])
        by_row, by_payload = (check(rows, source, NOW, 0), check_json(encode_json(rows, source), source, NOW, 0))
        assert by_row.valid.column("v").to_pylist() == ["a"], by_row.details.to_pylist()
        assert by_payload.valid.equals(by_row.valid), (path, encode_json(rows, source), by_payload.details.to_pylist())
    if kind in (pa.binary(), pa.string()):
        source = EventSource("s", [Field("k", "string", required=True), Field("v", "string", path="o.b")], event_time="at", tie_breaker="k")
        rows = pa.RecordBatch.from_arrays([*own, both], ["at", "k", "o"])
        assert [c.valid.num_rows for c in (check(rows, source, NOW, 0), check_json(encode_json(rows, source), source, NOW, 0))] == [0, 0]


@pytest.mark.parametrize("parse", [None, Epoch("ns"), Epoch("ms"), PARIS])
def test_a_moment_beyond_the_calendar_is_another_ones_in_no_unit(parse: Any) -> None:
    source = EventSource(
        "s", [Field("k", "string", required=True), Field("v", "timestamp", path="o.b", parse=parse)], event_time="at", tie_breaker="k"
    )
    for kind in (pa.timestamp("us"), pa.timestamp("us", "UTC")):
        both = pa.StructArray.from_arrays([pa.array(["a"]), pa.array([10**18], kind)], ["k", "b"])
        rows = pa.RecordBatch.from_arrays([pa.array([NOON]), pa.array(["a"]), both], ["at", "k", "o"])
        assert [c.valid.num_rows for c in (check(rows, source, NOW, 0), check_json(encode_json(rows, source), source, NOW, 0))] == [0, 0]


@pytest.mark.parametrize(
    ("kind", "value", "dtype", "parse"),
    [
        *((pa.timestamp(unit, zone), NOON if zone else NOON.replace(tzinfo=None), "timestamp", parse)
          for unit in ("s", "ns") for zone in (None, "UTC", "Europe/Paris") for parse in (None, Epoch("ms"), PARIS)),
        (pa.binary(), b"\x01\xff", "string", Hex()), (pa.large_binary(), b"\x01\xff", "string", Base64()),
        (pa.binary(), b"ab", "string", None),
        (pa.binary(2), b"\x01\xff", "int64", Decimal(2, unscaled=True)), (pa.duration("us"), timedelta(hours=25), "int64", TimeOfDay()),
        (pa.time64("us"), time(10, 15), "int64", TimeOfDay()), (pa.map_(pa.string(), pa.int64()), [("q", 5)], "int64", None),
    ],
)  # fmt: skip
def test_what_stands_within_a_column_of_a_file_is_the_same_in_its_payload(kind: pa.DataType, value: Any, dtype: Any, parse: Any) -> None:
    """As a replay sends it, and as a dead letter keeps it: in a struct, a list, a map, and alone."""
    end = ".q" if pa.types.is_map(kind) else ""
    for path, column in {
        f"o{end}": pa.array([value, None], kind),
        f"o.x{end}": pa.array([{"x": value}, None], pa.struct([("x", kind)])),
        f"o[1]{end}": pa.array([[None, value], None], pa.list_(kind)),
        f"o.m{end}": pa.array([[("m", value)], None], pa.map_(pa.string(), kind)),
    }.items():
        fields = [Field("k", "string", required=True), Field("v", dtype, path=path, parse=parse)]
        source = EventSource("s", fields, event_time="at", tie_breaker="k")
        rows = pa.RecordBatch.from_arrays([pa.array([NOON] * 2), pa.array(["a", "b"]), column], ["at", "k", "o"])
        by_row, by_payload = (check(rows, source, NOW, 0), check_json(encode_json(rows, source), source, NOW, 0))
        assert by_row.valid.column("v").null_count == 1 and by_row.valid.num_rows == 2, (path, by_row.details.to_pylist())
        assert by_payload.valid.equals(by_row.valid) and by_payload.reasons.equals(by_row.reasons)


json_texts = st.one_of(
    orders.map(lambda order: json.dumps(order, ensure_ascii=False)),
    st.text('{}[]":,a1 \\', max_size=12),
    st.sampled_from(
        ['{"a":1}{"b":2}', '{"a":"}"}', '{"a":"{"}', '{"a":[}', '{"a":1]', '{"a":{"a":1,"a":2}}', "{}", '{"a":"\\""}', '{"a":"', '"}']
    ),
)


@given(st.lists(json_texts, max_size=8), st.integers(1, 5))
@settings(max_examples=examples(100))
def test_which_payloads_are_one_object_whatever_stands_beside_them(texts: list[str], depth: int) -> None:
    payloads = pa.array([None, *(t.encode() for t in texts)], pa.binary())
    got = whole(payloads, depth).tolist()
    assert got == [False, *(bool(whole(pa.array([t.encode()], pa.binary()), depth)[0]) for t in texts)]
    assert whole(payloads.slice(1), depth).tolist() == got[1:]
    for text, one in zip(texts, got[1:], strict=True):
        levels, level, inside = [], 0, False
        for c in text:
            inside ^= c == '"'
            level += 0 if inside else (c in "[{") - (c in "]}")
            levels.append(level)
        want = text[:1] == "{" and text[-1] == "}" and not inside and level == 0 and min(levels[:-1]) > 0 and max(levels) <= depth
        assert one == (len(text) >= 2 and want and not any(c == "\\" or c < " " for c in text))


def test_nested_payloads_are_read_by_columns() -> None:
    """The common case does not fall onto the way record by record: every payload is read at once."""
    payloads = pa.array([json.dumps({**ORDER, "ts": T + n}, ensure_ascii=False).encode() for n in range(200)], pa.binary())
    with mock.patch.object(contract, "parse_json", side_effect=AssertionError):
        assert check_json(payloads, ORDERS, NOW, 0).valid.num_rows == 400


def test_a_replayed_records_time_is_no_later_than_the_record() -> None:
    """Nobody's header makes a record younger, and what is no time says nothing."""
    said = [b"5", b"9999999999999", b"x", b"", b"-5", None, b"\xd9\xa5", b"9" * 40]
    records = KeptRecords([(None, None, [("h", b"1")] if s is None else [(REPLAYED_TIME, s)]) for s in said])
    n = len(said)
    times = np.full(n, 7_000_000)
    fetched = FetchResult(pa.nulls(n, pa.binary()), np.arange(n), times, n, n, True, columns=records)
    at = Field("at", "timestamp", path=RecordTimestamp())
    source = EventSource(name="s", fields=[Field("k", "string", required=True)], event_time=at, tie_breaker="k", topic="t")
    origin = fetched.origin(source)
    assert origin is not None and origin.timestamps_us is not None
    assert origin.timestamps_us.to_pylist() == [5_000, *[7_000_000] * (n - 1)]
