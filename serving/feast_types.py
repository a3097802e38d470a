"""Arrow types of Feast's: one table for the offline join, the catalog of the server and what is answered."""

from __future__ import annotations

import base64
from typing import Any

import pyarrow as pa
from feast.types import Array, Bool, Bytes, Float32, Float64, Int32, Int64, String, UnixTimestamp

__all__ = ["arrow_type", "to_json"]

_ARROW: dict[Any, pa.DataType] = {
    String: pa.string(),
    Bytes: pa.binary(),
    Int64: pa.int64(),
    Int32: pa.int32(),
    Float64: pa.float64(),
    Float32: pa.float32(),
    Bool: pa.bool_(),
    UnixTimestamp: pa.timestamp("us", tz="UTC"),
}


def arrow_type(kind: Any) -> pa.DataType | None:
    """The Arrow type of a Feast type (a list of ``Array``); None for one whose values are taken as they come."""
    if isinstance(kind, Array):
        return pa.list_(inner) if (inner := arrow_type(kind.base_type)) is not None else None
    return _ARROW.get(kind)


def to_json(column: pa.Array) -> list[Any]:
    """The values of a column as an answer holds them: bytes in base64, as protobuf's JSON has them."""
    values = column.to_pylist()
    kind = column.type.value_type if pa.types.is_list(column.type) else column.type
    return [_text(v) for v in values] if pa.types.is_binary(kind) else values


def _text(value: Any) -> Any:
    if isinstance(value, list):
        return [_text(v) for v in value]
    return None if value is None else base64.b64encode(value).decode()
