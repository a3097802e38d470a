"""Columns to what online stores hold, without Python per value: serialized ValueProtos, Timestamps and entity keys as binary arrays.

Every function gives exactly the bytes that protobuf (or Feast's key serialization) makes of each value. A null value is an empty
ValueProto, which has no bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from feast.protos.feast.types.Value_pb2 import ValueType

from serving.online_store.keys import key_head
from transforms.errors import DataError

__all__ = ["as_array", "binary", "encode_column", "encode_columns", "encode_keys", "encode_timestamps", "join", "once_each"]

Ints = npt.NDArray[np.int64]

_EMPTY = pa.scalar(b"", pa.binary())
_TOGETHER = 16_384
"""Values that are encoded in one call. A call costs what some hundred values do; more values than these leave the processor's cache."""


# ------------------------------------------------------------------------------------------------------- binary arrays


def as_array(column: Any) -> pa.Array:
    """One array of a column, chunks put together and dictionaries decoded."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
        if isinstance(column, pa.ChunkedArray):  # newer Arrow gives one chunk, older ones none for none
            column = column.chunk(0) if column.num_chunks else pa.array([], column.type)
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def binary(data: npt.NDArray[Any], lengths: npt.NDArray[Any]) -> pa.Array:
    """A binary array of values that stand one behind the other in ``data``."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    if offsets[-1] > 2**31 - 1:
        raise DataError("a batch for the online store holds more than 2 GB; write fewer rows at a time")
    buffers = [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(np.ascontiguousarray(data))]
    return pa.Array.from_buffers(pa.binary(), len(lengths), buffers)


def _parts(array: pa.Array) -> tuple[npt.NDArray[np.uint8], Ints]:
    """(the bytes of the values, the length of each) of a binary or string array without nulls."""
    _, offsets_buffer, data = array.buffers()
    offsets = np.frombuffer(offsets_buffer, np.int32)[array.offset : array.offset + len(array) + 1] if len(array) else np.zeros(1, np.int32)
    whole = np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8)
    return whole[offsets[0] : offsets[-1]], np.diff(offsets).astype(np.int64)


def join(*columns: pa.Array | pa.Scalar) -> pa.Array:
    """Row by row, the values one behind the other. None of them is null."""
    return pc.binary_join_element_wise(*columns, _EMPTY)


def _by_length(make: Callable[[int], bytes], lengths: Ints) -> pa.Array:
    """``make(length)`` for each length, made once per distinct one."""
    distinct, place = np.unique(lengths, return_inverse=True)
    return pa.array([make(int(n)) for n in distinct], pa.binary()).take(pa.array(place))


def _spread(dense: pa.Array, valid: npt.NDArray[np.bool_]) -> pa.Array:
    """``dense`` where ``valid`` is true, in order, and no bytes elsewhere."""
    data, some = _parts(dense)
    lengths = np.zeros(len(valid), np.int64)
    lengths[valid] = some
    return binary(data, lengths)


# --------------------------------------------------------------------------------------------------------- protobuf


@lru_cache(maxsize=4096)
def _varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def _varints(values: Ints, tag: bytes = b"") -> pa.Array:
    """Each number as a varint (negative ones as two's complement of 64 bits) behind ``tag``."""
    bits = np.ascontiguousarray(values, np.int64).view(np.uint64)
    lengths = np.ones(len(bits), np.int64)
    for k in range(1, 10):
        more = bits >= np.uint64(1 << 7 * k)
        if not more.any():
            break
        lengths += more
    width, t = int(lengths.max(initial=1)), len(tag)
    places = np.arange(width)
    made = np.empty((len(bits), t + width), np.uint8)
    made[:, :t] = np.frombuffer(tag, np.uint8)
    digits = (bits[:, None] >> (7 * places).astype(np.uint64)).astype(np.uint8) & 127
    made[:, t:] = digits | ((places < lengths[:, None] - 1).astype(np.uint8) << 7)
    keep = np.concatenate([np.ones((len(bits), t), bool), places < lengths[:, None]], axis=1)
    return binary(made.ravel() if keep.all() else made[keep], lengths + t)


def _fixed(values: npt.NDArray[Any], tag: bytes = b"") -> pa.Array:
    """Each number in its own bytes, little-endian, behind ``tag``."""
    kind = values.dtype.newbyteorder("<")
    made = np.empty(len(values), dtype=[("tag", f"V{len(tag)}"), ("value", kind)] if tag else [("value", kind)])
    if tag:
        made["tag"] = np.void(tag)
    made["value"] = values
    return binary(made.view(np.uint8), np.full(len(values), made.itemsize))


def _texts(values: pa.Array, tag: bytes) -> pa.Array:
    """Each string behind ``tag`` and its length."""
    values = values.cast(pa.binary())
    _, lengths = _parts(values)
    return join(_by_length(lambda n: tag + _varint(n), lengths), values)


def _seconds(values: pa.Array) -> Ints:
    """Timestamps become whole seconds (rounded down): that is all that Feast's type holds."""
    us = values.cast(pa.timestamp("us", tz=values.type.tz)).cast(pa.int64()).to_numpy(zero_copy_only=False)
    return np.asarray(us // 1_000_000, np.int64)


def _numbers(values: pa.Array) -> Ints:
    return np.asarray(values.cast(pa.int64()).to_numpy(zero_copy_only=False), np.int64)


def _floats(values: pa.Array) -> npt.NDArray[Any]:
    return np.asarray(values.to_numpy(zero_copy_only=False))


# The fields of feast.types.Value are told by number, and by how a value is written behind its tag.
_VARINT, _BITS64, _BYTES, _BITS32 = 0, 1, 2, 5


def _tag(field: int, wire: int) -> bytes:
    return _varint(field << 3 | wire)


def _scalars(values: pa.Array) -> pa.Array:
    """The ValueProto of each value of a column without nulls."""
    kind = values.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _texts(values, _tag(2, _BYTES))
    if pa.types.is_int32(kind) or pa.types.is_int64(kind):
        return _varints(_numbers(values), _tag(3 if pa.types.is_int32(kind) else 4, _VARINT))
    if pa.types.is_float64(kind):
        return _fixed(_floats(values), _tag(5, _BITS64))
    if pa.types.is_float32(kind):
        return _fixed(_floats(values), _tag(6, _BITS32))
    if pa.types.is_boolean(kind):
        return _varints(_numbers(values), _tag(7, _VARINT))
    if pa.types.is_timestamp(kind):
        return _varints(_seconds(values), _tag(8, _VARINT))
    raise DataError(f"a column of Arrow type {kind} cannot be stored online; cast it to string, int64, float32, float64, bool or timestamp")


def _elements(flat: pa.Array) -> tuple[int, bool, pa.Array]:
    """(the field of a list of them, whether they are packed, each one's bytes) of the values of lists."""
    kind = flat.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return 12, False, _texts(flat, _tag(1, _BYTES))
    if pa.types.is_int64(kind):
        return 14, True, _varints(_numbers(flat))
    if pa.types.is_float64(kind):
        return 15, True, _fixed(_floats(flat))
    if pa.types.is_float32(kind):
        return 16, True, _fixed(_floats(flat))
    if pa.types.is_boolean(kind):
        return 17, True, _varints(_numbers(flat))
    if pa.types.is_timestamp(kind):
        return 18, True, _varints(_seconds(flat))
    raise DataError(
        f"a list of Arrow type {kind} cannot be stored online; make it a list of string, int64, float32, float64, bool or timestamp"
    )


def _lists(column: pa.Array) -> pa.Array:
    """The ValueProto of each list of a column without nulls."""
    flat = column.flatten()
    if flat.null_count:
        raise DataError(f"{flat.null_count} values inside lists are null, which cannot be stored online; leave them out")
    field, packed, inner = _elements(flat)
    data, lengths = _parts(inner)
    ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    last = np.cumsum(np.asarray(pc.list_value_length(column)))
    sizes = np.diff(ends[np.concatenate([np.zeros(1, np.int64), last])])

    def head(n: int) -> bytes:
        own = _tag(1, _BYTES) + _varint(n) if packed and n else b""
        return _tag(field, _BYTES) + _varint(len(own) + n) + own

    return join(_by_length(head, sizes), binary(data, sizes))


def encode_column(column: Any) -> pa.Array:
    """The serialized ValueProto of each of N values, as a binary array without nulls. Raises DataError for a type that has none."""
    column = as_array(column)
    dense = column.drop_null() if column.null_count else column
    wide = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
    made = _lists(dense) if wide else _scalars(dense)
    return _spread(made, column.is_valid().to_numpy(zero_copy_only=False)) if column.null_count else made


def encode_columns(columns: Sequence[Any]) -> list[pa.Array]:
    """:func:`encode_column` of each of some columns of N rows. Few rows make many columns of one width be encoded in one call."""
    arrays = [as_array(column) for column in columns]
    alike: dict[Any, list[int]] = {}
    for place, array in enumerate(arrays):
        alike.setdefault(array.type if pa.types.is_primitive(array.type) else place, []).append(place)
    made: dict[int, pa.Array] = {}
    for places in alike.values():
        n = len(arrays[places[0]])
        step = max(1, _TOGETHER // max(n, 1))
        for some in (places[at : at + step] for at in range(0, len(places), step)):
            whole = encode_column(pa.concat_arrays([arrays[place] for place in some]) if len(some) > 1 else arrays[some[0]])
            made |= {place: whole.slice(number * n, n) for number, place in enumerate(some)}
    return [made[place] for place in range(len(arrays))]


def encode_timestamps(us: Ints) -> pa.Array:
    """The serialized google.protobuf.Timestamp of each of N times in microseconds. A field that is zero is not written."""
    return once_each(us, _timestamps)


def once_each(us: Ints, encode: Callable[[Ints], pa.Array]) -> pa.Array:
    """``encode(us)``, of each time once: rows lie on boundaries of hops, and share few."""
    times = pa.array(us).dictionary_encode()
    return encode(times.dictionary.to_numpy(zero_copy_only=False)).take(times.indices)


def _timestamps(us: Ints) -> pa.Array:
    parts = []
    for tag, values in ((_tag(1, _VARINT), us // 1_000_000), (_tag(2, _VARINT), us % 1_000_000 * 1000)):
        there = values != 0
        parts.append(_varints(values, tag) if there.all() else _spread(_varints(values[there], tag), there))
    return join(*parts)


def encode_keys(names: Sequence[str], columns: Sequence[Any], suffix: bytes) -> pa.Array:
    """The entity key of each row in Feast's serialization of version 3, then ``suffix``. Keys are strings or integers."""
    order = sorted(range(len(names)), key=lambda i: names[i])
    parts: list[Any] = [pa.scalar(key_head(names), pa.binary())]
    for i in order:
        column = as_array(columns[i])
        kind = column.type
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            text = column.cast(pa.binary())
            parts += [_by_length(lambda n: struct.pack("<II", ValueType.STRING, n), _parts(text)[1]), text]
        elif pa.types.is_int64(kind):
            parts.append(_fixed(_numbers(column), struct.pack("<II", ValueType.INT64, 8)))
        elif pa.types.is_int32(kind):
            parts.append(_fixed(_numbers(column).astype(np.int32), struct.pack("<II", ValueType.INT32, 4)))
        else:
            raise DataError(f"key {names[i]!r} of Arrow type {kind} cannot be stored online; cast it to string or int64")
    return join(*parts, pa.scalar(suffix, pa.binary()))
