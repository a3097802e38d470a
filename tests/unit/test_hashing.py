"""The stable hash against a plain reading of its definition, value by value."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from transforms.errors import DataError
from transforms.hashing import hash64, shard_of

MASK = 2**64 - 1


def plain_mix(x: int) -> int:
    z = (x + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def plain_hash(value: Any) -> int:
    if isinstance(value, str):
        b = value.encode()
    elif isinstance(value, float):
        b = struct.pack("<d", 0.0 if value == 0 else value)
    else:
        b = struct.pack("<q", value)
    h = plain_mix(len(b))
    for at in range(0, len(b), 8):
        h = plain_mix(h ^ int.from_bytes(b[at : at + 8].ljust(8, b"\0"), "little"))
    return h


texts = st.lists(st.text(max_size=40), max_size=30)
ints = st.lists(st.integers(-(2**63), 2**63 - 1), max_size=30)
floats = st.lists(st.floats(allow_nan=False), max_size=30)


@given(texts, st.integers(0, 5), st.integers(0, 5))
def test_strings_in_every_layout(values: list[str], drop: int, tail: int) -> None:
    whole = pa.array(values, type=pa.string())
    part = whole[drop : max(drop, len(values) - tail)]
    expected = [plain_hash(v) for v in part.to_pylist()]
    assert hash64(part).tolist() == expected
    assert hash64(part.cast(pa.large_string())).tolist() == expected
    assert hash64(part.dictionary_encode()).tolist() == expected


@given(ints, floats, st.integers(0, 5))
def test_numbers(whole: list[int], real: list[float], drop: int) -> None:
    assert hash64(pa.array(whole, type=pa.int64())[drop:]).tolist() == [plain_hash(v) for v in whole[drop:]]
    assert hash64(pa.array(real, type=pa.float64())[drop:]).tolist() == [plain_hash(v) for v in real[drop:]]


def test_known_values_never_change() -> None:
    """Tiles and sketches on disk hold these hashes: a changed one is a broken history."""
    assert hash64(pa.array(["", "EWR", "12345678", "123456789"])).tolist() == [plain_hash(v) for v in ("", "EWR", "12345678", "123456789")]
    assert hash64(pa.array([""])).tolist() == [0xE220A8397B1DCDAF]  # the first output of splitmix64 seeded with 0
    assert len(set(hash64(pa.array(["a", "a\0", "a\0\0"])).tolist())) == 3


def test_signed_zero_is_one_value() -> None:
    a, b = hash64(pa.array([0.0, -0.0])).tolist()
    assert a == b


def test_slice_of_a_dictionary_and_of_an_array_with_nulls_elsewhere() -> None:
    coded = pa.DictionaryArray.from_arrays(pa.array([1, 1, 0], type=pa.int8()), pa.array([None, "b"]))
    assert hash64(coded[:2]).tolist() == [plain_hash("b")] * 2
    with pytest.raises(DataError, match="null"):
        hash64(coded)
    assert hash64(pa.array([None, "x", "y"])[1:]).tolist() == [plain_hash("x"), plain_hash("y")]


@pytest.mark.parametrize("array", [pa.array(["a", None]), pa.array([1, None]), pa.array([1.5, None]), pa.array([1], pa.int32())])
def test_nulls_and_other_types_are_refused(array: pa.Array) -> None:
    with pytest.raises(DataError, match="hash"):
        hash64(array)


@given(st.lists(st.tuples(st.text(max_size=12), st.integers(-(2**63), 2**63 - 1)), max_size=30), st.integers(1, 64))
def test_shards_of_composite_keys(keys: list[tuple[str, int]], shards: int) -> None:
    columns = [pa.array([k[0] for k in keys], type=pa.string()), pa.array([k[1] for k in keys], type=pa.int64())]
    got = shard_of(columns, shards)
    assert got.dtype == np.int32
    assert got.tolist() == [plain_mix(plain_mix(plain_hash(a)) ^ plain_hash(b)) % shards for a, b in keys]


def test_shards_are_even_and_order_of_keys_matters() -> None:
    names = pa.array([f"N{i}" for i in range(20_000)])
    counts = np.bincount(shard_of([names], 16), minlength=16)
    assert counts.min() > 1_100
    assert counts.max() < 1_400
    a, b = pa.array(["EWR"]), pa.array(["LAX"])
    assert hash64(a) != hash64(b)
    assert shard_of([a, b], 2**31 - 1) != shard_of([b, a], 2**31 - 1)


@pytest.mark.parametrize("shards", [0, -1, 2**31])
def test_bad_shard_counts(shards: int) -> None:
    with pytest.raises(DataError, match="shards"):
        shard_of([pa.array(["a"])], shards)


def test_no_key_columns() -> None:
    with pytest.raises(DataError, match="key column"):
        shard_of([], 4)
