"""The columnar encoders give the bytes of protobuf and of Feast's key serialization, value for value."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import BoolList, DoubleList, FloatList, Int64List, StringList, Value
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from serving.online_store.encoding import encode_column, encode_columns, encode_keys, encode_timestamps
from tests.oracle import strategies as make
from transforms.errors import DataError

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
STAMP = pa.timestamp("us", tz="UTC")
INTS = make.values("int64") | st.sampled_from([2**k + d for k in range(0, 63, 7) for d in (-1, 0, 1)])
SCALARS: dict[str, tuple[pa.DataType, Any]] = {
    "double_val": (pa.float64(), make.values("float64") | st.just(float("inf"))),
    "float_val": (pa.float32(), st.floats(width=32, allow_nan=False)),
    "int64_val": (pa.int64(), INTS),
    "int32_val": (pa.int32(), st.integers(-(2**31), 2**31 - 1)),
    "string_val": (pa.string(), make.values("string") | st.text(st.characters(codec="utf-8"), min_size=120, max_size=400)),
    "bool_val": (pa.bool_(), st.booleans()),
    "unix_timestamp_val": (STAMP, st.integers(-(10**15), 10**16)),
}
LISTS = {
    "double_list_val": ("double_val", DoubleList),
    "float_list_val": ("float_val", FloatList),
    "int64_list_val": ("int64_val", Int64List),
    "string_list_val": ("string_val", StringList),
    "bool_list_val": ("bool_val", BoolList),
    "unix_timestamp_list_val": ("unix_timestamp_val", Int64List),
}


def shapes(values: list[Any], kind: pa.DataType) -> list[Any]:
    """The same values as an array, a slice of a longer one, and in chunks."""
    whole, n = pa.array([*values, *values, *values], kind), len(values)
    return [
        pa.array(values, kind),
        whole.slice(n, n),
        pa.chunked_array([whole.slice(0, n // 2), whole.slice(n + n // 2, n - n // 2)], kind),
    ]


@pytest.mark.parametrize("slot", SCALARS)
@given(data=st.data())
def test_scalars(slot: str, data: Any) -> None:
    kind, each = SCALARS[slot]
    values = data.draw(st.lists(st.none() | each, max_size=12))
    made = [None if v is None else v // 1_000_000 if slot.startswith("unix") else v for v in values]
    expected = [Value(**({} if v is None else {slot: v})).SerializeToString() for v in made]
    for column in shapes(values, kind):
        assert encode_column(column).to_pylist() == expected


@pytest.mark.parametrize("slot", LISTS)
@given(data=st.data())
def test_lists(slot: str, data: Any) -> None:
    scalar, message = LISTS[slot]
    kind, each = SCALARS[scalar]
    values = data.draw(st.lists(st.none() | st.lists(each, max_size=40), max_size=8))
    made = [None if v is None else [x // 1_000_000 for x in v] if slot.startswith("unix") else v for v in values]
    expected = [Value(**({} if v is None else {slot: message(val=v)})).SerializeToString() for v in made]
    for column in [*shapes(values, pa.list_(kind)), pa.array(values, pa.large_list(kind))]:
        assert encode_column(column).to_pylist() == expected


@pytest.mark.parametrize("n", [0, 1, 3000, 20_000])
def test_columns_that_are_encoded_together_are_as_each_by_itself(n: int) -> None:
    r = np.random.default_rng(n)
    numbers = [pa.array(r.normal(size=n), mask=r.random(n) < nulls) for nulls in (0.0, 0.2, 1.0, 0.0, 0.0, 0.0, 0.0)]
    counts = [pa.array(r.integers(-(2**bits), 2**bits, n)) for bits in (1, 7, 40, 62)]
    texts = [pa.array([f"{x:.{k}f}" for x in r.normal(size=n)], pa.string()) for k in (0, 9)]
    lists = [pa.array([[x] * (k % 3) for k, x in enumerate(r.normal(size=n).tolist())], pa.list_(pa.float64()))]
    times, truths = pa.array(r.integers(-(10**15), 10**15, n)).cast(STAMP), pa.array(r.random(n) < 0.5)
    parts = pa.chunked_array([counts[2].slice(0, n // 3), counts[2].slice(n // 3)], pa.int64())
    columns = [*numbers[:3], counts[0], texts[0], times, *counts[1:], truths, *lists, texts[1], parts, *numbers[3:]]
    assert [made.to_pylist() for made in encode_columns(columns)] == [encode_column(column).to_pylist() for column in columns]
    assert encode_columns([]) == []


@given(rows=st.lists(st.tuples(make.values("string"), INTS), min_size=1, max_size=10))
def test_keys(rows: list[tuple[str, int]]) -> None:
    names, columns = ["origin", "gate"], [pa.array([r[0] for r in rows]), pa.array([r[1] for r in rows], pa.int64())]
    protos = [EntityKey(join_keys=names, entity_values=[Value(string_val=s), Value(int64_val=n)]) for s, n in rows]
    expected = [serialize_entity_key(p, entity_key_serialization_version=3) + b"project" for p in protos]
    assert encode_keys(names, columns, b"project").to_pylist() == expected
    assert encode_keys(names[::-1], [columns[1], columns[0].dictionary_encode()], b"project").to_pylist() == expected


@given(times=st.lists(st.sampled_from([0, 1, -1, 10**6, -(10**6), 1_700_000_000_000_000]) | st.integers(-(10**15), 10**16), max_size=10))
def test_timestamps(times: list[int]) -> None:
    expected = []
    for us in times:
        proto = Timestamp()
        proto.FromDatetime(EPOCH + timedelta(microseconds=us))
        expected.append(proto.SerializeToString())
    assert encode_timestamps(np.array(times, np.int64)).to_pylist() == expected


def test_what_cannot_be_stored_is_one_clear_line() -> None:
    for column in (pa.array([b"x"]), pa.array([[b"x"]]), pa.array([[1.0, None]])):
        with pytest.raises(DataError, match="cannot be stored online"):
            encode_column(column)
    with pytest.raises(DataError, match="key 'k' of Arrow type double"):
        encode_keys(["k"], [pa.array([1.0])], b"")
