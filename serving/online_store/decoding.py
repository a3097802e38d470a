"""What online stores hold to columns, without a protobuf object per value: the inverse of :mod:`serving.online_store.encoding`.

Every function gives exactly what protobuf gives. Bytes of any other shape than the one that a column of its type has (a null as a message,
an int32 in an int64 column, fields in another order) are read by protobuf itself.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from feast.protos.feast.types.Value_pb2 import Value as ValueProto
from feast.type_map import feast_value_type_to_python_type
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

__all__ = ["Cell", "decode_column", "decode_list", "decode_times", "python_value"]

Cell = bytes | ValueProto | None
"""A value as a store gives it: serialized or not; None where it holds none."""
Ints = npt.NDArray[np.int64]
_OF_BYTES = {bytes, type(None)}
_FEW = 24
"""Up to so many values a loop is faster than numpy's calls."""
_DOUBLE, _FLOAT = struct.Struct("<xd").unpack, struct.Struct("<xf").unpack
_MOST_SECONDS = 2**63 // 1_000_000
_TAGS: dict[pa.DataType, tuple[int, int]] = {  # the tag of a type's field, and the length of what is fixed (0: a varint)
    pa.int32(): (0x18, 0),
    pa.int64(): (0x20, 0),
    pa.float64(): (0x29, 9),
    pa.float32(): (0x35, 5),
    pa.bool_(): (0x38, 0),
    pa.timestamp("us", tz="UTC"): (0x40, 0),
}


def decode_column(cells: Sequence[Cell], kind: pa.DataType | None) -> tuple[pa.Array, npt.NDArray[np.bool_] | None]:
    """(the N values as a column of type ``kind``, null where there is none; which of them are stored as null, None if none is).

    ``kind`` None: a type that Arrow has no equal of; values as they come. Raises pa.ArrowInvalid or pa.ArrowTypeError for a value
    that is none of the type, and google.protobuf's DecodeError for bytes that are no value.
    """
    types = set(map(type, cells))
    if kind is not None and types <= _OF_BYTES:
        blank = type(None) in types or b"" in cells
        some = list(filter(None, cells)) if blank else cells
        dense = _plain(some, kind) if some else pa.array([], kind)  # type: ignore[arg-type]
        if dense is not None:
            if not blank:
                return dense, None
            there = np.fromiter(map(bool, cells), np.bool_, len(cells))
            return _spread(dense, there), np.array([c == b"" for c in cells], np.bool_) if b"" in cells else None
    values = [_python(c) for c in cells]
    if kind is not None and pa.types.is_timestamp(kind):
        values = [None if v is None else v * 1_000_000 for v in values]
    nulls = np.fromiter((v is None and c is not None for v, c in zip(values, cells)), np.bool_, len(cells))
    return pa.array(values, type=kind), nulls if nulls.any() else None


def decode_list(cells: Sequence[Cell]) -> list[Any]:
    """The N values in Python's terms (:func:`python_value`), equal ones decoded once."""
    if not set(map(type, cells)) <= _OF_BYTES:
        return [_python(c) for c in cells]
    known = {cell: _quick(cell) for cell in set(cells)}
    return list(map(known.__getitem__, cells))


def _quick(cell: bytes | None) -> Any:
    if cell:
        at = _varint(cell, 1)
        if at is not None and cell[0] == 0x20 and at[1] == len(cell) and at[0] < 1 << 63:
            return at[0]
        if at is not None and cell[0] == 0x12 and at[0] + at[1] == len(cell) and cell.isascii():
            return cell[at[1] :].decode()
    return _python(cell)


def _python(cell: Cell) -> Any:
    return None if cell is None or cell == b"" else python_value(ValueProto.FromString(cell) if isinstance(cell, bytes) else cell)


def python_value(value: ValueProto) -> Any:
    """A value in Python's terms: None for null, seconds for a timestamp, a list for a list."""
    kind = value.WhichOneof("val")
    if kind is None or kind == "null_val":
        return None
    out = getattr(value, kind)
    if kind.endswith("_list_val"):
        return list(out.val)
    return feast_value_type_to_python_type(value) if isinstance(out, Message) else out


def _spread(dense: pa.Array, there: npt.NDArray[np.bool_]) -> pa.Array:
    """The values of ``dense``, in order, where ``there`` is true, and nulls elsewhere."""
    places = np.cumsum(there) - 1
    return dense.take(pa.array(places, mask=~there))


# ------------------------------------------------------------------------------------------ values of a column's own shape


def _plain(cells: Sequence[bytes], kind: pa.DataType) -> pa.Array | None:
    """The column of N values that all have the shape of their type; None if one has another."""
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        return _texts(cells, kind)
    if pa.types.is_list(kind):
        return _lists(cells, kind)
    known = _TAGS.get(kind)
    if known is None:
        return None
    tag, size = known
    if size:
        return _floats(cells, kind, tag, size)
    values = _small_varints(cells, tag) if len(cells) <= _FEW else _many_varints(cells, tag)
    if values is None:
        return None
    if pa.types.is_timestamp(kind):
        if len(values) and not -_MOST_SECONDS < values.min() <= values.max() < _MOST_SECONDS:
            return None
        return pa.array(values * 1_000_000, pa.int64()).view(kind)
    if pa.types.is_boolean(kind):
        return pa.array(values != 0)
    return pa.array(values.astype(np.int32) if pa.types.is_int32(kind) else values)


def _floats(cells: Sequence[bytes], kind: pa.DataType, tag: int, size: int) -> pa.Array | None:
    if len(cells) <= _FEW:
        if any(len(c) != size or c[0] != tag for c in cells):
            return None
        of = _DOUBLE if size == 9 else _FLOAT
        return pa.array([of(c)[0] for c in cells], kind)
    if set(map(len, cells)) != {size}:
        return None
    table = np.frombuffer(b"".join(cells), np.uint8).reshape(-1, size)
    if (table[:, 0] != tag).any():
        return None
    return pa.array(np.ascontiguousarray(table[:, 1:]).view("<f8" if size == 9 else "<f4").ravel())


def _small_varints(cells: Sequence[bytes], tag: int) -> Ints | None:
    out = []
    for cell in cells:
        value = _varint(cell, 1) if cell[0] == tag else None
        if value is None or value[1] != len(cell):
            return None
        out.append(value[0])
    return np.array(out, np.uint64).view(np.int64)


def _varint(data: bytes, at: int) -> tuple[int, int] | None:
    """(the varint that begins at ``at``, modulo 2^64; where it ends); None if it does not end."""
    value = shift = 0
    for place in range(at, min(len(data), at + 10)):
        value |= (data[place] & 127) << shift
        if data[place] < 128:
            return value & 0xFFFFFFFFFFFFFFFF, place + 1
        shift += 7
    return None


def _many_varints(cells: Sequence[bytes], tag: int) -> Ints | None:
    data, ends = _joined(cells)
    starts = ends - np.fromiter(map(len, cells), np.int64, len(cells))
    if (data[starts] != tag).any():
        return None
    values, at = _varints(data, starts + 1)
    return values if (at == ends).all() else None


def _joined(cells: Iterable[bytes]) -> tuple[npt.NDArray[np.uint8], Ints]:
    """(the bytes of all, with ten more behind them so that nothing reads past their end; where each ends)."""
    cells = list(cells)
    return np.frombuffer(b"".join([*cells, bytes(11)]), np.uint8), np.cumsum(np.fromiter(map(len, cells), np.int64, len(cells)))


def _varints(data: npt.NDArray[np.uint8], at: Ints) -> tuple[Ints, Ints]:
    """(the varint at each place, modulo 2^64; where each ends). One that has not ended after ten bytes ends at -1."""
    byte = data[at]
    values, ends, going = (byte & 127).astype(np.uint64), np.where(byte < 128, at + 1, -1), np.flatnonzero(byte >= 128)
    last = len(data) - 1
    for k in range(1, 10):
        if not len(going):
            break
        byte = data[np.minimum(at[going] + k, last)]
        values[going] |= (byte & 127).astype(np.uint64) << np.uint64(7 * k)
        done = byte < 128
        ends[going[done]] = at[going[done]] + k + 1
        going = going[~done]
    return values.view(np.int64), ends


def _texts(cells: Sequence[bytes], kind: pa.DataType) -> pa.Array | None:
    known: dict[bytes, Any] = {}
    tag = 0x12 if pa.types.is_string(kind) else 0x0A
    for cell in set(cells):
        size = _varint(cell, 1) if cell[0] == tag else None
        if size is None or size[0] + size[1] != len(cell):
            return None
        known[cell] = cell[size[1] :]
    if tag == 0x12:
        try:
            for cell, text in known.items():
                known[cell] = text.decode()
        except UnicodeDecodeError:
            return None  # protobuf's to refuse
    return pa.array(list(map(known.__getitem__, cells)), kind)


_PACKED: dict[pa.DataType, tuple[bytes, str]] = {  # lists of fixed numbers, such as embeddings
    pa.float64(): (b"\x7a", "<f8"),
    pa.float32(): (b"\x82\x01", "<f4"),
}


def _lists(cells: Sequence[bytes], kind: pa.DataType) -> pa.Array | None:
    if (known := _PACKED.get(kind.value_type)) is None:
        return None
    (head, dtype), parts = known, []
    for cell in cells:
        part = _packed(cell, head)
        if part is None or len(part) % int(dtype[2]):
            return None
        parts.append(part)
    ends = np.cumsum([0, *(len(p) // int(dtype[2]) for p in parts)])
    return pa.ListArray.from_arrays(pa.array(ends, pa.int32()), pa.array(np.frombuffer(b"".join(parts), dtype)))


def _packed(cell: bytes, head: bytes) -> bytes | None:
    """The numbers of a list whose message holds them in one piece, or none."""
    outer = _varint(cell, len(head)) if cell.startswith(head) else None
    if outer is None or outer[0] + outer[1] != len(cell):
        return None
    if outer[1] == len(cell):
        return b""
    inner = _varint(cell, outer[1] + 1) if cell[outer[1]] == 0x0A else None
    return cell[inner[1] :] if inner is not None and inner[0] + inner[1] == len(cell) else None


# -------------------------------------------------------------------------------------------------------------- timestamps


def decode_times(cells: Sequence[bytes | None]) -> tuple[Ints, npt.NDArray[np.bool_]]:
    """(the microseconds of N serialized google.protobuf.Timestamps, 0 for None; which of them are there)."""
    n = len(cells)
    if n <= _FEW:
        times = [0 if c is None else _time(c) for c in cells]
        return np.array(times, np.int64), np.array([c is not None for c in cells], np.bool_)
    some = list(filter(None, cells))
    there = np.ones(n, np.bool_) if len(some) == n else np.fromiter((c is not None for c in cells), np.bool_, n)
    times_us = np.zeros(n, np.int64)
    if some and len(some) == there.sum():
        data, ends = _joined(some)
        starts = np.concatenate([np.zeros(1, np.int64), ends[:-1]])
        seconds, at = _varints(data, starts + 1)
        more = (at != ends) & (at > 0)
        nanos = np.zeros(len(some), np.int64)
        bad = (data[starts] != 0x08) | (at < 0)
        if more.any() and not bad.any():
            nanos[more], end = _varints(data, at[more] + 1)
            bad[more] |= (data[at[more]] != 0x10) | (end != ends[more])
        if not bad.any():
            times_us[there] = seconds * 1_000_000 + nanos // 1000
            return times_us, there
    times_us[:] = [0 if c is None else _time(c) for c in cells]
    return times_us, there


def _time(cell: bytes) -> int:
    at = Timestamp.FromString(cell)
    return int(at.seconds) * 1_000_000 + int(at.nanos) // 1000
