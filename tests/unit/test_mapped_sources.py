"""Sources that say where fields stand and how they are read: the same verdicts record by record, by columns, and as rows of Arrow."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.sources.broker import REPLAYED_TIME, FetchResult, KeptRecords
from tests.examples import examples
from tests.unit.judged import NOW, as_rows, judged
from transforms import contract
from transforms.contract import Origin, check, check_json, encode_json, field_of
from transforms.definitions import (
    BigEndian,
    Decimal,
    ElementIndex,
    Enum,
    Epoch,
    EventSource,
    Field,
    Header,
    Number,
    RecordKey,
    RecordTimestamp,
    TimeFormat,
)
from transforms.json_shapes import whole

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
    as_rows([*records, ORDER], ORDERS)  # Arrow makes one type of a column: verdicts may only differ where that changed a value
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
