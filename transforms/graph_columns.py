"""Columns of Arrow as the flat arrays and tensors of a transform graph's inputs, and a graph's outputs as columns again."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from transforms.errors import GraphError
from transforms.tensors import one_nan

__all__ = [
    "LANES", "GraphColumn", "every_row", "input_width", "nothing_of", "shape_of", "tensor_values", "to_arrow", "with_width",
]  # fmt: skip

Array = npt.NDArray[Any]
LANES = 16
"""Rows and values are padded to a multiple of this: no SIMD packet of float32 is wider on any CPU."""
_WIDTH = b"width"
_NO_PLACES = np.zeros((0, 2), np.int64)
_PLAIN = {(pa.float32().id, np.dtype(np.float32)), (pa.int64().id, np.dtype(np.int64))}
"""Types whose arrays are Arrow's buffers as they are."""
_KEPT = 64
"""Batches of up to so many rows use indices that are made once."""


def with_width(field: pa.Field, width: int) -> pa.Field:
    """The list field, declared to hold at most ``width`` values per row."""
    return field.with_metadata({_WIDTH: str(width).encode()})


def input_width(field: pa.Field) -> int:
    """The second dimension of the field's sparse tensor: 1 for a scalar, the declared width for a list (0: not declared)."""
    if not pa.types.is_list(field.type):
        return 1
    return int((field.metadata or {}).get(_WIDTH, b"0"))


def tensor_values(values: pa.Array) -> Array:
    """The values of an array without nulls as the graph sees them: float32, int64 or bytes objects, shape [N]."""
    with np.errstate(over="ignore"):
        return _tensor_values(values)


def _tensor_values(values: pa.Array) -> Array:
    kind = values.type
    if pa.types.is_floating(kind):
        return np.asarray(values.to_numpy(zero_copy_only=False)).astype(np.float32)
    if not pa.types.is_int64(kind):
        values = values.cast(pa.binary() if pa.types.is_string(kind) else pa.int64())
    return np.asarray(values.to_numpy(zero_copy_only=False))


class GraphColumn:
    """Turns one Arrow column into the flat arrays of one input of a graph."""

    def __init__(self, field: pa.Field, spec: Any, tf: Any) -> None:
        self.name, self.kind = field.name, field.type
        self.is_list = pa.types.is_list(field.type)
        self.sparse = isinstance(spec, tf.SparseTensorSpec)
        self.rank = 2 if self.sparse else len(spec.shape)
        self.width = input_width(field)
        self._nothing = nothing_of(field.type.value_type if self.is_list else field.type)
        want = {tf.float32: "float32", tf.int64: "int64", tf.string: "string"}.get(spec.dtype)
        inner = field.type.value_type if self.is_list else field.type
        have = "float32" if pa.types.is_floating(inner) else "string" if pa.types.is_string(inner) else "int64"
        if want != have or not (self.sparse or isinstance(spec, tf.TensorSpec)):
            raise GraphError(f"input {field.name!r} of type {field.type} does not fit the graph's {spec}; build the graph from this schema")

    def arrays(self, column: pa.Array, rows: int) -> list[Array]:
        """The flat arrays of the column of N values, padded to ``rows`` rows (a multiple of LANES, N + LANES at least): [values], or
        [indices, values, dense shape] of a sparse one. Texts are objects (bytes). Some are shared between calls: do not write to them."""
        n = len(column)
        if not self.sparse:
            if column.null_count:
                raise GraphError(f"column {self.name!r} has nulls but the graph takes none; declare it nullable and build again")
            return [_padded(column, rows - n).reshape((rows, 1) if self.rank == 2 else (rows,))]
        width = self.width
        if self.is_list:
            lengths = np.diff(column.offsets.to_numpy()) if not column.null_count else column.value_lengths().fill_null(0).to_numpy()
            flat = column.flatten()
            if flat.null_count:
                raise GraphError(f"column {self.name!r} has nulls inside its lists; leave them out")
            width = width or int(lengths.max(initial=1))
            if lengths.max(initial=0) > width:
                raise GraphError(f"column {self.name!r} has lists longer than its width of {width}; declare the greater width")
            where = np.repeat(np.arange(n), lengths)
            place = np.arange(len(where)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        elif not column.null_count:
            return [every_row(n), _padded(column, -n % LANES), shape_of(rows, 1)]
        elif column.null_count == n:  # the one row of a request about an entity without events: no Arrow function is asked
            return [_NO_PLACES, self._nothing, shape_of(rows, 1)]
        else:
            flat = column.drop_null()
            where = np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False))
            place = np.zeros(len(where), np.int64)
        pad = -len(flat) % LANES
        if pad:
            where = np.concatenate([where, np.arange(n, n + pad)])
            place = np.concatenate([place, np.zeros(pad, np.int64)])
        return [np.stack([where, place], axis=1), _padded(flat, pad), shape_of(rows, width)]


def nothing_of(kind: pa.DataType) -> Array:
    """No values of an Arrow type, as a graph sees them."""
    return tensor_values(pa.array([], kind))


def _padded(values: pa.Array, pad: int) -> Array:
    """The values with the last one ``pad`` times more."""
    numbers = _tensor_values(values)
    n = len(numbers)
    out = np.empty(n + pad, numbers.dtype)
    out[:n] = numbers
    if pad:
        out[n:] = numbers[-1:]
    return out


@lru_cache(4096)
def shape_of(rows: int, width: int) -> Array:
    """A dense shape. Shared: do not write to it."""
    return np.array([rows, width], np.int64)


def every_row(n: int) -> Array:
    """The indices of a column of ``n`` rows without nulls, and of its padding. Shared: do not write to them."""
    return _kept_rows(n) if n <= _KEPT else _rows(n)


def _rows(n: int) -> Array:
    """The indices of a column that has one value in each row, and of its padding."""
    out = np.zeros((n + -n % LANES, 2), np.int64)
    out[:, 0] = np.arange(len(out))
    return out


_kept_rows = lru_cache(_KEPT + 1)(_rows)


def to_arrow(name: str, parts: list[np.ndarray[Any, Any]], n: int, kind: pa.DataType) -> pa.Array:
    """The first ``n`` rows of an output as an Arrow array of type ``kind``; ``parts`` is [dense], or [indices, values, dense shape]."""
    wide = pa.types.is_list(kind)
    if len(parts) == 1:
        data = parts[0][:n]
        if not wide:
            return _typed(name, data.reshape(n), kind)
        offsets = np.arange(n + 1, dtype=np.int32) * np.int32(data.shape[1])
        return pa.ListArray.from_arrays(offsets, _typed(name, data.reshape(-1), kind.value_type))
    if not wide and parts[0] is every_row(n):
        return _typed(name, parts[1][:n], kind)
    rows, places, data = parts[0][:, 0], parts[0][:, 1], parts[1]
    keep = rows < n
    if not wide:
        rows, data = rows[keep], data[keep]
        if len(rows) == n and (rows[1:] > rows[:-1]).all():
            return _typed(name, data, kind)
        full = np.zeros(n, data.dtype)
        null = np.ones(n, bool)
        full[rows] = data
        null[rows] = False
        return _typed(name, full, kind, null)
    rows, places, data = rows[keep], places[keep], data[keep]
    order = np.lexsort((places, rows))
    offsets = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=n))]).astype(np.int32)
    return pa.ListArray.from_arrays(offsets, _typed(name, data[order], kind.value_type))


def _typed(name: str, data: np.ndarray[Any, Any], kind: pa.DataType, null: np.ndarray[Any, Any] | None = None) -> pa.Array:
    if not pa.types.is_string(kind):
        data = one_nan(data)
        if null is None and (kind.id, data.dtype) in _PLAIN and data.flags.c_contiguous:
            return pa.Array.from_buffers(kind, len(data), [None, pa.py_buffer(data)])
        return pa.array(data, kind, mask=null)
    try:
        return pa.array(data, pa.binary(), mask=null).cast(pa.string())
    except pa.ArrowInvalid:
        raise GraphError(f"output {name!r} holds bytes that are no UTF-8; return text or numbers") from None
