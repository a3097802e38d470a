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

__all__ = ["Cell", "decode_column", "decode_list", "decode_times", "decode_values", "python_value"]

Cell = bytes | ValueProto | None
"""A value as a store gives it: serialized or not; None where it holds none."""
Ints = npt.NDArray[np.int64]
_OF_BYTES = {bytes, type(None)}
_FEW = 200
"""Up to so many varints a loop is faster than numpy's calls."""
_DOUBLE, _FLOAT = struct.Struct("<xd").unpack, struct.Struct("<xf").unpack
_MOST_SECONDS = 2**63 // 1_000_000
_TAGS: dict[pa.DataType | None, tuple[int, int]] = {  # the tag of a type's field, and the length of what is fixed (0: a varint)
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
    values = decode_values(cells, kind)
    if values is not None:
        return pa.array(values, kind), np.array([c == b"" for c in cells], np.bool_) if b"" in cells else None
    if kind is not None and pa.types.is_list(kind) and set(map(type, cells)) == {bytes}:
        column = _lists(cells, kind)  # type: ignore[arg-type]
        if column is not None:
            return column, None
    values = [_python(c) for c in cells]
    if kind is not None and pa.types.is_timestamp(kind):
        values = [None if v is None else v * 1_000_000 for v in values]
    elif kind is not None and pa.types.is_list(kind) and pa.types.is_timestamp(kind.value_type):
        values = [None if v is None else [each * 1_000_000 for each in v] for v in values]
    nulls = np.fromiter((v is None and c is not None for v, c in zip(values, cells)), np.bool_, len(cells))
    return pa.array(values, type=kind), nulls if nulls.any() else None


def decode_values(cells: Sequence[Cell], kind: pa.DataType | None) -> list[Any] | None:
    """As :func:`decode_column` without Arrow: the N values, of the column's type or None, a timestamp's in microseconds. None if that
    function should be asked: for lists, and where a value has another shape than the column's own."""
    if kind is None or not set(map(type, cells)) <= _OF_BYTES:
        return None
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        return _texts(cells, 0x12 if pa.types.is_string(kind) else 0x0A)
    known = _TAGS.get(kind)
    if known is None:
        return None
    tag, size = known
    if size:
        return _floats(cells, tag, size)
    some: list[bytes] = list(filter(None, cells))
    values = _few_varints(some, tag) if len(some) <= _FEW else _many_varints(some, tag)
    values = None if values is None else _of_type(values, kind)
    if values is None or len(some) == len(cells):
        return values
    each = iter(values)
    return [next(each) if c else None for c in cells]


def _of_type(values: list[int], kind: pa.DataType) -> list[Any] | None:
    if pa.types.is_boolean(kind):
        return [v != 0 for v in values]
    if pa.types.is_timestamp(kind):
        fit = not values or -_MOST_SECONDS < min(values) <= max(values) < _MOST_SECONDS
        return [v * 1_000_000 for v in values] if fit else None
    return [(v + (1 << 31)) % (1 << 32) - (1 << 31) for v in values] if pa.types.is_int32(kind) else values


def _floats(cells: Sequence[bytes | None], tag: int, size: int) -> list[float | None] | None:
    if not set(map(len, filter(None, cells))) <= {size} or any(c and c[0] != tag for c in cells):
        return None
    of = _DOUBLE if size == 9 else _FLOAT
    return [of(c)[0] if c else None for c in cells]


def _texts(cells: Sequence[bytes | None], tag: int) -> list[Any] | None:
    known: dict[bytes | None, Any] = {}
    for cell in set(cells):
        known[cell] = made = _text(cell, tag) if cell else None
        if cell and made is None:
            return None
    return list(map(known.__getitem__, cells))


def _text(cell: bytes, tag: int) -> Any:
    """The text or the bytes that a cell holds; None if it has another shape."""
    size = _varint(cell, 1) if cell[0] == tag else None
    if size is None or size[0] + size[1] != len(cell):
        return None
    try:
        return cell[size[1] :].decode() if tag == 0x12 else cell[size[1] :]
    except UnicodeDecodeError:
        return None  # protobuf's to refuse


def _few_varints(cells: Sequence[bytes], tag: int) -> list[int] | None:
    out = []
    for cell in cells:
        found = _varint(cell, 1) if cell[0] == tag else None
        if found is None or found[1] != len(cell):
            return None
        out.append(found[0] - (1 << 64) if found[0] >> 63 else found[0])
    return out


def _many_varints(cells: Sequence[bytes], tag: int) -> list[int] | None:
    data, ends = _joined(cells)
    starts = ends - np.fromiter(map(len, cells), np.int64, len(cells))
    if (data[starts] != tag).any():
        return None
    values, at = _varints(data, starts + 1)
    return values.tolist() if (at == ends).all() else None


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


def _varint(data: bytes, at: int) -> tuple[int, int] | None:
    """(the varint that begins at ``at``, modulo 2^64; where it ends); None if it does not end."""
    value = shift = 0
    for place in range(at, min(len(data), at + 10)):
        value |= (data[place] & 127) << shift
        if data[place] < 128:
            return value & 0xFFFFFFFFFFFFFFFF, place + 1
        shift += 7
    return None


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
    """Of a Timestamp in bytes. One that holds a packed row (:mod:`serving.online_store.packed`) is one, too."""
    at = Timestamp.FromString(cell)
    return int(at.seconds) * 1_000_000 + int(at.nanos) // 1000
