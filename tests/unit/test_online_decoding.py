"""Columns from stored bytes are what protobuf makes of them, whatever the bytes are."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pytest
from feast.protos.feast.types.Value_pb2 import DoubleList, FloatList, Int64List, StringList, Value
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.online_store.decoding import Cell, decode_column, decode_list, decode_times, python_value
from tests.examples import examples

INT64 = st.integers(-(2**63), 2**63 - 1)
TEXTS = st.text(max_size=5) | st.sampled_from(["naïve ✈ \x00", "x" * 200])
KINDS: dict[str, tuple[pa.DataType, Any]] = {
    "double": (pa.float64(), st.floats().map(lambda v: Value(double_val=v))),
    "float": (pa.float32(), st.floats(width=32).map(lambda v: Value(float_val=v))),
    "int64": (pa.int64(), INT64.map(lambda v: Value(int64_val=v))),
    "int32": (pa.int32(), st.integers(-(2**31), 2**31 - 1).map(lambda v: Value(int32_val=v))),
    "bool": (pa.bool_(), st.booleans().map(lambda v: Value(bool_val=v))),
    "time": (pa.timestamp("us", tz="UTC"), st.integers(-(10**11), 10**11).map(lambda v: Value(unix_timestamp_val=v))),
    "string": (pa.string(), TEXTS.map(lambda v: Value(string_val=v))),
    "bytes": (pa.binary(), st.binary(max_size=200).map(lambda v: Value(bytes_val=v))),
    "doubles": (pa.list_(pa.float64()), st.lists(st.floats()).map(lambda v: Value(double_list_val=DoubleList(val=v)))),
    "floats": (pa.list_(pa.float32()), st.lists(st.floats(width=32)).map(lambda v: Value(float_list_val=FloatList(val=v)))),
    "int64s": (pa.list_(pa.int64()), st.lists(INT64).map(lambda v: Value(int64_list_val=Int64List(val=v)))),
    "times": (
        pa.list_(pa.timestamp("us", tz="UTC")),
        st.lists(st.integers(-(10**10), 10**10)).map(lambda v: Value(unix_timestamp_list_val=Int64List(val=v))),
    ),
    "strings": (pa.list_(pa.string()), st.lists(TEXTS).map(lambda v: Value(string_list_val=StringList(val=v)))),
}


def by_protobuf(cells: Sequence[Cell], kind: pa.DataType) -> tuple[pa.Array, list[bool]]:
    """The column, and which values are stored as null: a message per value."""
    protos = [Value.FromString(c) if isinstance(c, bytes) else c for c in cells]
    values = [None if p is None else python_value(p) for p in protos]
    if pa.types.is_timestamp(kind):
        values = [None if v is None else v * 1_000_000 for v in values]
    if pa.types.is_list(kind) and pa.types.is_timestamp(kind.value_type):  # FAULTS 13: seconds were taken for microseconds
        values = [None if v is None else [each * 1_000_000 for each in v] for v in values]
    return pa.array(values, kind), [v is None and c is not None for v, c in zip(values, cells)]


def assert_same(cells: Sequence[Cell], kind: pa.DataType) -> None:
    try:
        column, stored_null = by_protobuf(cells, kind)
    except (ValueError, TypeError, OverflowError, DecodeError) as error:
        with pytest.raises(type(error)):
            decode_column(cells, kind)
        return
    got, nulls = decode_column(cells, kind)
    assert got.type == kind
    assert _bits(got) == _bits(column)
    assert (nulls.tolist() if nulls is not None else [False] * len(cells)) == stored_null


def _bits(column: pa.Array) -> list[Any]:
    """The values, with floats as bits: NaN equals NaN, and 0.0 is not -0.0."""

    def of(v: Any) -> Any:
        if isinstance(v, list):
            return [of(x) for x in v]
        return "nan" if isinstance(v, float) and math.isnan(v) else struct.pack("<d", v) if isinstance(v, float) else v

    return [of(v) for v in (column.view(pa.int64()) if pa.types.is_timestamp(column.type) else column).to_pylist()]


@pytest.mark.parametrize("name", list(KINDS))
@pytest.mark.parametrize("most", [6, 80], ids=["few", "many"])
@settings(max_examples=examples(40))
@given(data=st.data())
def test_each_type_with_nulls_and_missing_values(name: str, most: int, data: Any) -> None:
    kind, values = KINDS[name]
    null = st.sampled_from([None, b"", b"\x98\x01\x00"])
    cell = values.map(lambda v: v.SerializeToString())
    some = data.draw(st.lists(cell | null, max_size=most) | st.lists(cell, min_size=most // 2, max_size=most))
    assert_same(some, kind)
    assert_same([c if c is None else Value.FromString(c) for c in some], kind)
    if name in ("int64", "string"):
        assert decode_list(some) == by_protobuf(some, kind)[0].to_pylist()


@pytest.mark.parametrize("most", [3, 60], ids=["few", "many"])
@settings(max_examples=examples(40))
@given(data=st.data())
def test_bytes_of_another_shape_are_protobuf_s_to_read(most: int, data: Any) -> None:
    """Other types' values, two fields in one message, cut, overlong varints, and no message at all."""
    kind = data.draw(st.sampled_from([k for k, _ in KINDS.values()]))
    right = data.draw(st.sampled_from([v for k, v in KINDS.values() if k == kind])).map(lambda v: v.SerializeToString())
    any_value = st.one_of([v for _, v in KINDS.values()]).map(lambda v: v.SerializeToString())
    odd = st.one_of(
        any_value,
        st.tuples(any_value, any_value).map(b"".join),
        st.tuples(any_value, st.integers(0, 9)).map(lambda cut: cut[0][: cut[1]]),
        st.binary(max_size=12),
        st.sampled_from([b"\x20\x80\x00", b"\x20" + b"\xff" * 9 + b"\x7f", b"\x12\x81\x00a", b"\x38\x02", b"\x40" + b"\xff" * 9 + b"\x01"]),
    )
    cells = data.draw(st.lists(right, min_size=most // 2, max_size=most))
    cells.insert(data.draw(st.integers(0, len(cells))), data.draw(odd))
    assert_same(cells, kind)


@settings(max_examples=examples(40))
@given(st.lists(st.none() | st.tuples(st.integers(-(10**10), 10**10), st.integers(0, 999_999_999)), max_size=60))
def test_times(times: list[tuple[int, int] | None]) -> None:
    cells = [None if t is None else Timestamp(seconds=t[0], nanos=t[1]).SerializeToString() for t in times]
    got, there = decode_times(cells)
    assert got.tolist() == [0 if t is None else t[0] * 1_000_000 + t[1] // 1000 for t in times]
    assert there.tolist() == [t is not None for t in times]
