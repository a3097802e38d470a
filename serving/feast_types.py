"""Arrow types of Feast's: one table for the offline join, the catalog of the server and what is answered."""

from __future__ import annotations

import base64
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from feast.types import Array, Bool, Bytes, Float32, Float64, Int32, Int64, String, UnixTimestamp

__all__ = ["arrow_type", "not_finite", "to_json"]

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


def not_finite(column: pa.Array) -> list[int]:
    """The rows of a column whose value, or some value of whose list, is NaN or infinite: JSON has no form for these, and says null."""
    lists = pa.types.is_list(column.type)
    values = column.flatten() if lists else column
    if not pa.types.is_floating(values.type):
        return []
    odd = pc.invert(pc.fill_null(pc.is_finite(values), True))
    rows = pc.list_parent_indices(column).filter(odd).unique() if lists else pc.indices_nonzero(odd)
    found: list[int] = rows.to_pylist()
    return found


def _text(value: Any) -> Any:
    if isinstance(value, list):
        return [_text(v) for v in value]
    return None if value is None else base64.b64encode(value).decode()
