"""Columns while an expression is computed: numpy's arrays for what numpy holds, Arrow's for texts and lists."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from transforms.reasons import CODE, INFINITE, NAN, OK

__all__ = [
    "Bools",
    "Codes",
    "Column",
    "Values",
    "arrow_of",
    "bits",
    "literal_values",
    "marked",
    "null_values",
    "read",
    "strict",
    "texts_of",
]

Bools = npt.NDArray[np.bool_]
Codes = npt.NDArray[np.uint8]
Column = tuple[pa.Array, Codes | None]
"""An Arrow array, and the code of each row: ``OK`` or that of a reason; None: all are ``OK``."""


class Values(NamedTuple):
    """N values of one type: what stands where ``null`` is True means nothing. ``bad`` says why a row has none; there it is null too."""

    data: Any
    null: Bools | None = None
    bad: Codes | None = None


def bits(array: pa.Array, of: int) -> Bools:
    """The bits of an array's validity (``of`` 0), or of the values of an array of booleans (1), as numpy has them: shape [N]."""
    buffer, begin, n = array.buffers()[of], array.offset, len(array)
    if buffer is None or not n:
        return np.ones(n, bool)
    return np.unpackbits(np.frombuffer(buffer, np.uint8), count=begin + n, bitorder="little")[begin:].view(np.bool_)


def strict(*args: Values) -> tuple[Bools | None, Codes | None]:
    """The nulls and codes of what is null where any of ``args`` is; the first one's code counts."""
    null: Bools | None = None
    bad: Codes | None = None
    for a in args:
        if a.null is not None:
            null = a.null if null is None else null | a.null
        if a.bad is not None:
            bad = a.bad if bad is None else np.where(bad == OK, a.bad, bad)
    return null, bad


def marked(made: Values, where: Bools, reason: str) -> Values:
    """``made``, but rows of ``where`` that have a value have none, for this reason."""
    where = where if made.null is None else where & ~made.null
    if not where.any():
        return made
    bad = np.full(len(where), OK) if made.bad is None else made.bad
    return Values(made.data, where if made.null is None else made.null | where, np.where(where, CODE[reason], bad))


def read(column: Column, dtype: str) -> Values:
    """A field as values. NaN and infinity are no values: the row's code says so."""
    array, codes = column
    bad = None if codes is None or not (codes != OK).any() else codes
    null: Bools | None = None
    if array.null_count:
        null = np.ones(len(array), bool) if pa.types.is_null(array.type) else ~bits(array, 0)
    if bad is not None:
        null = (bad != OK) if null is None else null | (bad != OK)
    if dtype == "null":
        return Values(np.zeros(len(array), np.int64), np.ones(len(array), bool), bad)
    if dtype == "string" or dtype.startswith("list<"):
        return Values(array, null, bad)
    if dtype == "timestamp" and pa.types.is_timestamp(array.type):
        array = array.cast(pa.int64())
    if array.null_count:
        array = array.fill_null(False if dtype == "bool" else 1)
    data = array.to_numpy(zero_copy_only=False)
    if dtype != "float64":
        return Values(data, null, bad)
    data = data + 0.0  # -0.0 is 0.0
    finite = np.isfinite(data)
    if finite.all():
        return Values(data, null, bad)
    return marked(marked(Values(data, null, bad), np.isnan(data), NAN), np.isinf(data), INFINITE)


_KINDS: dict[str, Any] = {"bool": np.bool_, "float64": np.float64}


def null_values(dtype: str, rows: int) -> Values:
    """Null in every row."""
    return Values(np.zeros(rows, _KINDS.get(dtype, np.int64)), np.ones(rows, bool))


def literal_values(value: Any, dtype: str, rows: int) -> Values:
    """The same value in every row."""
    if value is None:
        return null_values(dtype, rows)
    if dtype == "string":
        return Values(pa.scalar(value, pa.string()))
    return Values(np.broadcast_to(np.array(value, _KINDS.get(dtype, np.int64)), (rows,)))


def texts_of(values: Values, rows: int) -> pa.Array:
    """Texts as an array of length N, null where ``values`` are."""
    data = values.data
    if isinstance(data, pa.Scalar):
        data = pa.array([data.as_py()], pa.string()).take(pa.array(np.zeros(rows, np.int64)))
    elif isinstance(data, np.ndarray):  # a null without a type
        data = pa.nulls(rows, pa.string())
    return data if values.null is None else pc.if_else(pa.array(values.null), pa.scalar(None, data.type), data)


def arrow_of(values: Values, dtype: str, rows: int) -> Column:
    """Values as an Arrow column of ``dtype``, timestamps as int64 microseconds."""
    if dtype == "string":
        made = texts_of(values, rows)
    elif dtype.startswith("list<"):
        made = values.data if values.null is None else values.data.take(pa.array(np.arange(rows), mask=values.null))
    else:
        made = pa.array(np.ascontiguousarray(values.data), mask=values.null)
    return made, values.bad
