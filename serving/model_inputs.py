"""From columns to a model's input tensors: the one place where nulls are encoded, for training and serving."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from serving.answer_columns import Columns as AnswerColumns
from serving.request_errors import ModelInputError

__all__ = ["INPUT_DTYPES", "Columns", "encoded"]

INPUT_DTYPES = ("float32", "string", "int64")
Array = npt.NDArray[Any]
Columns: TypeAlias = Mapping[str, pa.Array] | pa.Table
"""A table, or arrays of one length by their names."""


def encoded(batches: Sequence[Columns], inputs: Sequence[tuple[str, str]], rows: int | None = None) -> dict[str, Array]:
    """The tensors of ``inputs``, pairs of (column, dtype), for the rows of all ``batches``, one below the other: each of shape [n, 1]; with
    ``rows`` of shape [rows, 1], the last row repeated.

    * ``float32``: from integer, float or bool columns; null becomes NaN.
    * ``string``: UTF-8 bytes (an object array); null becomes b"".
    * ``int64``: from integer or timestamp (microseconds) columns; null becomes -1.

    Raises ModelInputError where a column is missing or of another type.
    """
    floats = [name for name, dtype in inputs if dtype == "float32"]
    numbers = [[_numbers(columns, name) for columns in batches] for name in floats]
    others = {name: [_others(columns, name, dtype) for columns in batches] for name, dtype in inputs if dtype != "float32"}
    n = sum(map(len, numbers[0] if numbers else next(iter(others.values()), [])))
    rows = n if rows is None else rows
    wide = np.empty((len(floats), rows))
    for k, parts in enumerate(numbers):
        at = 0
        for part in parts:
            wide[k, at : at + len(part)] = part
            at += len(part)
    wide[:, n:] = wide[:, n - 1 : n]
    with np.errstate(over="ignore"):
        # By way of float64: the rounding to float32 is then one and the same for every source type.
        narrow = wide.astype(np.float32)
    out = dict(zip(floats, narrow.reshape(len(floats), rows, 1), strict=True))
    for name, arrays in others.items():
        if rows > n:
            arrays.append(arrays[-1][-1:].repeat(rows - n))
        out[name] = (arrays[0] if len(arrays) == 1 else np.concatenate(arrays)).reshape(rows, 1)
    return {name: out[name] for name, _ in inputs}


def _column(columns: Columns, name: str) -> pa.Array:
    if isinstance(columns, pa.Table):
        index = columns.schema.get_field_index(name)
        column = columns.column(index) if index >= 0 else None
    else:
        column = columns.get(name)
    if column is None:
        raise ModelInputError(f"model input {name!r}: no such column in the features; give one column of that name")
    if isinstance(column, pa.ChunkedArray):
        chunks = column.chunks or [pa.array([], column.type)]
        column = chunks[0] if len(chunks) == 1 else pa.concat_arrays(chunks)
    return column.dictionary_decode() if pa.types.is_dictionary(column.type) else column


def _numbers(columns: Columns, name: str) -> Array | list[Any]:
    """The values of a ``float32`` input before they are rounded; those of an answer as they came, as a model may have a thousand inputs."""
    if isinstance(columns, AnswerColumns):
        if (came := columns.list_of(name)) is not None and _is_number(came[1]):
            return [np.nan if v is None else v for v in came[0]]
        if (numbers := columns.numbers_of(name)) is not None and _is_number(numbers[2]):
            values, nulls, kind = numbers
            return values if nulls is None or pa.types.is_floating(kind) else np.where(nulls, np.nan, values)
    return _float64(name, _column(columns, name))


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind))


def _others(columns: Columns, name: str, dtype: str) -> Array:
    column = _column(columns, name)
    return _texts(name, column) if dtype == "string" else _whole(name, column)


def _float64(name: str, column: pa.Array) -> Array:
    kind = column.type
    if pa.types.is_float64(kind) or pa.types.is_float32(kind) or (pa.types.is_int64(kind) and not column.null_count):
        return np.asarray(column.to_numpy(zero_copy_only=False))
    if pa.types.is_null(kind):
        return np.full(len(column), np.nan)
    if not _is_number(kind):
        raise _unfit(name, kind, "float32")
    if not pa.types.is_floating(kind):
        column = column.cast(pa.int64())
    return np.asarray(column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False))


def _texts(name: str, column: pa.Array) -> Array:
    kind = column.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)):
        raise _unfit(name, kind, "string")
    values = np.empty(len(column), dtype=object)
    values[:] = [v or b"" for v in column.cast(pa.binary()).to_pylist()]
    return values


def _whole(name: str, column: pa.Array) -> Array:
    kind = column.type
    if pa.types.is_null(kind):
        column = column.cast(pa.int64())
    elif pa.types.is_timestamp(kind):
        column = column.cast(pa.timestamp("us", tz=kind.tz)).cast(pa.int64())
    elif pa.types.is_integer(kind):
        column = column.cast(pa.int64())
    else:
        raise _unfit(name, kind, "int64")
    return np.asarray((column.fill_null(-1) if column.null_count else column).to_numpy(zero_copy_only=False))


def _unfit(name: str, kind: pa.DataType, dtype: str) -> ModelInputError:
    return ModelInputError(f"model input {name!r}: a column of {kind} cannot be fed as {dtype}; change the model's inputs")
