"""Plain values as bytes and back, for what crosses a process border in a stream: no pickle, so foreign bytes run nothing here.

A value is made of None, bool, int (64 bits), float, str, bytes, list, tuple, dict, one-dimensional numpy arrays, Arrow record batches, and
the classes of :data:`CLASSES` (dataclasses and named tuples, by their fields). A head in JSON tells the form, the bytes follow it.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from pipelines.lake.arrow_bytes import from_ipc, ipc_buffer
from pipelines.streaming.stages.position import Position
from transforms.errors import DataError
from transforms.fold import OffsetRange, PartitionState, Segment

__all__ = ["CLASSES", "dumps", "loads"]

CLASSES: dict[str, type[Any]] = {c.__name__: c for c in (OffsetRange, PartitionState, Position, Segment)}
"""What may be made of bytes, beside plain values."""
_MAGIC = b"TDM1"
_LENGTH = struct.Struct("<I")
_ARRAYS = ("i", "u", "f", "b")
_PLAIN = frozenset({int, str, bool, type(None)})


def dumps(value: Any) -> bytes:
    """The value as bytes; :func:`loads` is the inverse. Raises TypeError for what is no plain value."""
    parts: list[bytes | memoryview] = []
    head = orjson.dumps(_form(value, parts))
    return b"".join((_MAGIC, _LENGTH.pack(len(head)), head, *(piece for part in parts for piece in (_LENGTH.pack(len(part)), part))))


def loads(data: bytes) -> Any:
    """The value. Raises DataError for bytes that :func:`dumps` did not make."""
    try:
        if data[:4] != _MAGIC:
            raise ValueError("they begin otherwise")
        head, *parts = _pieces(memoryview(data)[4:])
        return _value(orjson.loads(head), parts)
    except DataError:
        raise
    except Exception as error:  # bytes of anybody: whatever they make the parsers raise
        raise DataError(f"{len(data)} bytes are no value of a stream ({error}); they were damaged or come from another program") from None


def _pieces(data: memoryview) -> Iterator[memoryview]:
    at = 0
    while at < len(data):
        (size,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size + size
        if at > len(data):
            raise ValueError("they end too early")
        yield data[at - size : at]


def _blob(parts: list[bytes | memoryview], data: bytes | memoryview) -> int:
    parts.append(data)
    return len(parts) - 1


@cache
def _fields_of(name: str) -> tuple[str, ...]:
    kind: Any = CLASSES[name]
    return tuple(f.name for f in dataclasses.fields(kind)) if dataclasses.is_dataclass(kind) else tuple(kind._fields)


def _form(value: Any, parts: list[bytes | memoryview]) -> Any:
    if type(value) in _PLAIN:  # what most values are, asked first
        return value
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return {"float": float(value).hex()}
    if isinstance(value, bytes):
        return {"bytes": _blob(parts, value)}
    name = type(value).__name__
    if CLASSES.get(name) is type(value):
        return {"class": [name, {key: _form(getattr(value, key), parts) for key in _fields_of(name)}]}
    if type(value) is list:
        return [_form(each, parts) for each in value]
    if type(value) is tuple:
        return {"tuple": [_form(each, parts) for each in value]}
    if type(value) is dict:
        return {"dict": [[_form(key, parts), _form(each, parts)] for key, each in value.items()]}
    if isinstance(value, np.ndarray) and value.ndim == 1 and value.dtype.kind in _ARRAYS:
        return {"array": [value.dtype.str, _blob(parts, value.tobytes())]}
    if isinstance(value, pa.RecordBatch):
        return {"batch": _blob(parts, memoryview(ipc_buffer(value)))}
    raise TypeError(f"{type(value).__name__} is no plain value; make it one, or add its class to CLASSES")


def _value(form: Any, parts: list[memoryview]) -> Any:
    if isinstance(form, list):
        return [_value(each, parts) for each in form]
    if not isinstance(form, dict):
        return form
    ((kind, what),) = form.items()
    if kind == "class":
        name, fields = what
        return CLASSES[name](**{key: _value(each, parts) for key, each in fields.items()})
    if kind == "tuple":
        return tuple(_value(each, parts) for each in what)
    if kind == "dict":
        return {_value(key, parts): _value(each, parts) for key, each in what}
    if kind == "bytes":
        return bytes(parts[what])
    if kind == "batch":
        return from_ipc(bytes(parts[what]))
    if kind == "array":
        dtype = np.dtype(str(what[0]))
        if dtype.kind not in _ARRAYS:
            raise ValueError(f"array of {dtype}")
        return np.frombuffer(parts[what[1]], dtype).copy()
    if kind == "float":
        return float.fromhex(what)
    raise ValueError(f"a value of kind {kind!r}")
