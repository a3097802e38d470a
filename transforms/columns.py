"""Columns of any Arrow type, and values of JSON, as the types of a source's fields: what of the contract needs no rule but a type.

A value that has no form in its field's type becomes null, with a reason beside it. What each type accepts stands in
:mod:`transforms.contract`.
"""

from __future__ import annotations

import math
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from transforms.definitions import ARROW_TYPES, EventSource
from transforms.fields import FIELD_TYPES
from transforms.instants import BeyondCalendar, micros_of, micros_of_text
from transforms.json_payload import Refused
from transforms.reasons import CODE, INFINITE, INVALID_UTF8, NAN, OK, OVERFLOW, WRONG_TYPE
from transforms.time_texts import utc_texts

__all__ = [
    "CODE",
    "Codes",
    "Column",
    "EXACT",
    "MAX_INT64",
    "within_int64",
    "OK",
    "all_ok",
    "as_bytes",
    "column_us",
    "convert",
    "float64_values",
    "from_values",
    "int64_values",
    "is_text",
    "is_valid",
    "json_values",
    "mark",
    "raw_value",
    "target_type",
    "texts_of",
    "typed_fields",
    "value_as",
]

MAX_INT64, EXACT = 2**63 - 1, 2**53
"""The greatest int64; the greatest integer up to which a float64 holds every one."""
_EXACT_OF = {"halffloat": 2**11, "float": 2**24, "double": EXACT}
"""The same of each Arrow float: from there on a value may stand for a neighbour of the integer that was meant."""

# The Python types of JSON values that Arrow converts as the contract wants it.
_CLEAN: dict[str, set[type]] = {"string": {str}, "int64": {int}, "float64": {float, int}, "bool": {bool}, "timestamp": {int}}

Codes = npt.NDArray[np.uint8]
Int = npt.NDArray[np.int64]
Column = tuple[pa.Array, Codes]
"""A column converted to its field's type, and a code per row: ``OK`` or the index of a reason."""


def within_int64(us: int) -> int:
    """Microseconds as an int64 that has a negative; what is beyond is the last of them."""
    return max(-MAX_INT64, min(MAX_INT64, us))


def column_us(table: pa.Table | pa.RecordBatch, name: str) -> Int:
    """A column of timestamps (or integers) without nulls, as int64 [N]: microseconds, where its unit is that."""
    column = table.column(name).cast(pa.int64())
    out: Int = column.to_numpy() if isinstance(column, pa.ChunkedArray) else column.to_numpy(zero_copy_only=False)
    return out


def typed_fields(source: EventSource) -> list[tuple[str, str]]:
    return [(source.event_time, "timestamp")] + [(f.name, f.dtype or "") for f in source.fields]


def convert(column: pa.Array, dtype: str) -> Column:
    """A column of any Arrow type as ``dtype``; timestamps as int64 microseconds, saturated at the ends of int64."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    t, n = column.type, len(column)
    texts = is_text(t)
    if pa.types.is_null(t):
        return pa.nulls(n, target_type(dtype)), all_ok(n)
    if dtype == "string" and texts:
        return _strings(column)
    if dtype == "bool" and pa.types.is_boolean(t):
        return column, all_ok(n)
    if dtype == "int64" and (pa.types.is_integer(t) or pa.types.is_floating(t)):
        return _integers(column)
    if dtype == "float64" and (pa.types.is_integer(t) or pa.types.is_floating(t)):
        return _floats(column)
    if dtype == "timestamp" and (pa.types.is_timestamp(t) or pa.types.is_integer(t)):
        return _timestamps(column), all_ok(n)
    if dtype == "timestamp" and texts:
        return _moments(column)
    codes = all_ok(n)
    codes[is_valid(column)] = CODE[WRONG_TYPE]
    return pa.nulls(n, target_type(dtype)), codes


def _strings(column: pa.Array) -> Column:
    codes = all_ok(len(column))
    binary = column.cast(pa.large_binary() if _is_large(column.type) else pa.binary())
    try:
        return binary.cast(pa.string()), codes  # the cast looks at every byte
    except pa.ArrowInvalid:
        values = as_bytes(binary)
        for row in np.flatnonzero(~pc.fill_null(pc.string_is_ascii(_relabel(binary)), True).to_numpy(zero_copy_only=False)).tolist():
            try:
                values[row].decode()
            except UnicodeDecodeError:
                values[row], codes[row] = None, CODE[INVALID_UTF8]
        return pa.array(values, pa.binary()).cast(pa.string()), codes


def _integers(column: pa.Array) -> Column:
    codes, null = all_ok(len(column)), ~is_valid(column)
    if pa.types.is_uint64(column.type):
        big: npt.NDArray[np.uint64] = column.fill_null(0).to_numpy(zero_copy_only=False)
        mark(codes, big > np.uint64(MAX_INT64), OVERFLOW)
        return pa.array(np.where(codes == OK, big, 0).astype(np.int64), mask=null | (codes != OK)), codes
    if pa.types.is_integer(column.type):
        return column.cast(pa.int64()), codes
    values = float64_values(_doubles(column))
    mark(codes, np.isnan(values), NAN)
    mark(codes, np.isinf(values), INFINITE)
    mark(codes, values != np.floor(values), WRONG_TYPE)
    mark(codes, np.abs(values) >= _EXACT_OF[str(column.type)], OVERFLOW)  # it may stand for a neighbour of the number that was meant
    return pa.array(np.where(codes == OK, values, 0).astype(np.int64), mask=null | (codes != OK)), codes


def _floats(column: pa.Array) -> Column:
    if pa.types.is_integer(column.type):
        whole, codes = _integers(column)
        values = int64_values(whole)
        mark(codes, (values > EXACT) | (values < -EXACT), OVERFLOW)
        return pa.array(values.astype(np.float64), mask=~is_valid(whole) | (codes != OK)), codes
    real = float64_values(_doubles(column))
    return pa.array(real + 0.0, mask=~is_valid(column)), all_ok(len(column))


def _doubles(column: pa.Array) -> pa.Array:
    """Floats of any width as float64."""
    if not pa.types.is_float16(column.type):
        return column.cast(pa.float64())
    values = column.to_numpy(zero_copy_only=False).astype(np.float64)  # older Arrow has no cast of these; null is NaN here
    return pa.array(values, mask=~is_valid(column))


def _timestamps(column: pa.Array) -> pa.Array:
    null = ~is_valid(column)
    if pa.types.is_uint64(column.type):
        us = np.minimum(column.fill_null(0).to_numpy(zero_copy_only=False), np.uint64(MAX_INT64)).astype(np.int64)
    else:
        us = int64_values(column.cast(pa.int64()))
        factor = {"s": 1_000_000, "ms": 1_000}.get(column.type.unit if pa.types.is_timestamp(column.type) else "us", 1)
        if pa.types.is_timestamp(column.type) and column.type.unit == "ns":
            us = np.floor_divide(us, 1000)
        elif factor > 1:
            most = MAX_INT64 // factor
            us = np.where(us > most, MAX_INT64, np.where(us < -most, -MAX_INT64, np.clip(us, -most, most) * factor))
    return pa.array(us, mask=null)


def _moments(column: pa.Array) -> Column:
    us, sure = utc_texts(column)
    null, codes = ~is_valid(column), all_ok(len(column))
    rest = np.flatnonzero(~sure & ~null)
    if len(rest):
        odd, codes[rest] = _one_by_one(texts_of(column.take(pa.array(rest))), "timestamp")
        us[rest], null[rest] = int64_values(odd), ~is_valid(odd)
    return pa.array(us, mask=null), codes


def from_values(values: list[Any], dtype: str) -> Column:
    """Python values as a column: at once when their types are clean, one by one otherwise, with the same verdicts."""
    kinds = set(map(type, values)) - {type(None)}
    if kinds <= _CLEAN[dtype]:
        try:
            return convert(pa.array(values, pa.int64() if dtype == "timestamp" else ARROW_TYPES[dtype]), dtype)
        except (pa.ArrowInvalid, OverflowError, UnicodeEncodeError):
            pass  # some value is too large for its type or not UTF-8: look at each
    return _one_by_one(values, dtype)


def _one_by_one(values: list[Any], dtype: str) -> Column:
    converted, codes = [], all_ok(len(values))
    for row, value in enumerate(values):
        try:
            converted.append(None if value is None else value_as(value, dtype))
        except Refused as e:
            converted.append(None)
            codes[row] = CODE[e.reason]
    return pa.array(converted, target_type(dtype)), codes


def value_as(value: Any, dtype: str) -> Any:
    """One value as ``dtype``; raises Refused with the reason. NaN and infinity pass for float64: its rules see them."""
    kind = type(value)
    if dtype == "string" and kind is str:
        try:
            value.encode()
        except UnicodeEncodeError:
            raise Refused(INVALID_UTF8) from None
        return value
    if dtype == "string" and kind is bytes:
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise Refused(INVALID_UTF8) from None
    if dtype == "bool" and kind is bool:
        return value
    if dtype == "float64" and kind is float:
        return value + 0.0
    if dtype == "float64" and kind is int:
        if abs(value) > EXACT:
            raise Refused(OVERFLOW)
        return float(value)
    if dtype == "int64" and kind is float:
        if not math.isfinite(value):
            raise Refused(NAN if math.isnan(value) else INFINITE)
        if not value.is_integer():
            raise Refused(WRONG_TYPE)
        if abs(value) >= EXACT:  # it may stand for a neighbour of the number that was meant
            raise Refused(OVERFLOW)
        value, kind = int(value), int
    if dtype == "int64" and kind is int:
        if not -MAX_INT64 - 1 <= value <= MAX_INT64:
            raise Refused(OVERFLOW)
        return value
    if dtype == "timestamp" and kind is int:
        return within_int64(value)
    if dtype == "timestamp" and kind is datetime:
        return micros_of(value if value.tzinfo is not None else value.replace(tzinfo=UTC))
    if dtype == "timestamp" and kind is BeyondCalendar and value.kind in ("moment", "local"):
        return within_int64(value.us)
    if dtype == "timestamp" and kind is str and (us := micros_of_text(value)) is not None:
        return us
    raise Refused(WRONG_TYPE)


def json_values(column: pa.Array, dtype: str | None = None) -> list[Any]:
    """A column as values for JSON; text that is not UTF-8 with surrogate escapes.

    With the type of its field, none is accepted from JSON where the column's own value is not: a whole number that a narrow float may have
    taken from a neighbour, or a date for a text, is an object by its type's name.
    """
    if dtype is not None:
        values = json_values(column)
        for row in np.flatnonzero(convert(column, dtype)[1] != OK).tolist():
            with suppress(Refused):
                value_as(values[row] if isinstance(values[row], str | int | float | list | dict) else str(values[row]), dtype)
                values[row] = {str(column.type): values[row]}
        return values
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_float16(column.type):
        column = _doubles(column)
    t = column.type
    if is_text(t):
        return [None if b is None else b.decode("utf-8", "surrogateescape") for b in as_bytes(column)]
    if pa.types.is_timestamp(t):
        values = column.cast(pa.int64()).to_pylist()
        scale = {"s": 1_000_000, "ms": 1_000}.get(t.unit, 1)
        return [None if v is None else v // 1000 if t.unit == "ns" else v * scale for v in values]
    if pa.types.is_float64(t) or pa.types.is_int64(t):
        values = list((float64_values(column) if pa.types.is_float64(t) else int64_values(column)).tolist())
        for row in np.flatnonzero(~is_valid(column)).tolist():
            values[row] = None
        return values
    return [raw_value(column, row) for row in range(len(column))]


# ---- small tools -------------------------------------------------------------------------------------------------------


def all_ok(n: int) -> Codes:
    return np.full(n, OK)


def mark(codes: Codes, where: npt.NDArray[np.bool_], reason: str) -> None:
    """Give the rows of ``where`` that have no code yet this one."""
    codes[where & (codes == OK)] = CODE[reason]


def is_valid(array: pa.Array) -> npt.NDArray[np.bool_]:
    valid: npt.NDArray[np.bool_] = array.is_valid().to_numpy(zero_copy_only=False)
    return valid


def int64_values(array: pa.Array) -> npt.NDArray[np.int64]:
    """The values of an int64 array; 1 for null, which no rule of numbers minds."""
    values: npt.NDArray[np.int64] = (array.fill_null(1) if array.null_count else array).to_numpy(zero_copy_only=False)
    return values


def float64_values(array: pa.Array) -> npt.NDArray[np.float64]:
    values: npt.NDArray[np.float64] = (array.fill_null(1.0) if array.null_count else array).to_numpy(zero_copy_only=False)
    return values


def target_type(dtype: str) -> pa.DataType:
    return pa.int64() if dtype == "timestamp" else FIELD_TYPES[dtype]


def _is_large(t: pa.DataType) -> bool:
    return bool(pa.types.is_large_string(t) or pa.types.is_large_binary(t))


def is_text(t: pa.DataType) -> bool:
    return bool(pa.types.is_string(t) or pa.types.is_binary(t)) or _is_large(t)


def as_bytes(column: pa.Array) -> list[Any]:
    """Text of any kind as bytes or None, without a look at its encoding."""
    binary = column.cast(pa.large_binary() if _is_large(column.type) else pa.binary())
    values: list[Any] = binary.to_numpy(zero_copy_only=False).tolist()
    return values


def _relabel(binary: pa.Array) -> pa.Array:
    """A binary array as strings without a check of the encoding; its buffers are shared."""
    t = pa.large_string() if _is_large(binary.type) else pa.string()
    return pa.Array.from_buffers(t, len(binary), binary.buffers(), offset=binary.offset)


def texts_of(column: pa.Array) -> list[str | None]:
    return [None if b is None else b.decode("utf-8", "surrogateescape") for b in as_bytes(column)]


def raw_value(column: pa.Array, row: int) -> Any:
    """One value of a column of any type, as Python, for a detail or a payload; never raises for what it holds."""
    if pa.types.is_dictionary(column.type):
        column = column[row : row + 1].dictionary_decode() if len(column) else column
        row = 0
    if is_text(column.type) or pa.types.is_timestamp(column.type):
        return json_values(column[row : row + 1])[0]
    try:
        return column[row].as_py()
    except (ValueError, OverflowError, pa.ArrowException):
        if pa.types.is_duration(column.type):  # longer than Python's are
            number = column[row].value
            return BeyondCalendar(number, "time", number * {"s": 1_000_000, "ms": 1_000}.get(column.type.unit, 1))
        return _by_member(column, row)


def _by_member(column: pa.Array, row: int) -> Any:
    """A value of which Python cannot hold all: one member or element that it cannot spoils no other."""
    t = column.type
    if pa.types.is_struct(t):
        return {t[i].name: _member(inner, 0) for i, inner in enumerate(column[row : row + 1].flatten())}
    if pa.types.is_list(t) or pa.types.is_large_list(t) or pa.types.is_fixed_size_list(t):
        inner = column[row].values
        return [_member(inner, i) for i in range(len(inner))]
    if pa.types.is_map(t):
        keys, items = column[row].values.flatten()
        return [(_member(keys, i), _member(items, i)) for i in range(len(keys))]
    return f"a value of type {t}"


def _member(column: pa.Array, row: int) -> Any:
    if not pa.types.is_timestamp(column.type):
        return raw_value(column, row)
    try:
        return column[row].as_py()
    except (ValueError, OverflowError):
        us = json_values(column[row : row + 1])[0]
        return BeyondCalendar(us, "moment" if column.type.tz else "local", us)
