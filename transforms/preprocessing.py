"""Arithmetic over aggregates for a ``preprocessing_fn``: a value that is not there stays not there.

A column that may be null is a ``SparseTensor`` in which a null is absent, and TensorFlow subtracts or divides two of these only where both
have values in the same rows. :func:`difference` and :func:`ratio` take any columns of one value per row, in any mixture: sparse or dense,
int64 or float32, or a number: a plain one, or one that an analyzer finds.
"""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral, Real
from typing import Any

import tensorflow as tf

from transforms.errors import DefinitionError

__all__ = ["difference", "ratio"]


def difference(a: Any, b: Any) -> Any:
    """``a - b`` per row: a ``SparseTensor`` of dense shape [rows, 1] in which a row is absent where either of both is, where the result is
    not finite, or, of int64, where it is beyond int64. int64 of two int64 columns, else float32. Raises DefinitionError for texts and
    columns of lists."""
    return _made("difference", a, b, lambda x, y: x - y, whole=True)


def ratio(a: Any, b: Any) -> Any:
    """``a / b`` per row, float32: a ``SparseTensor`` of dense shape [rows, 1] in which a row is absent where either of both is, where ``b``
    is 0 (also for 0 / 0), or where the result is not finite. Raises DefinitionError for texts and columns of lists."""
    return _made("ratio", a, b, lambda x, y: x / y, whole=False)


def _made(what: str, a: Any, b: Any, of: Callable[[Any, Any], Any], whole: bool) -> Any:
    columns = [_column(what, x) for x in (a, b)]
    rows = next((tf.shape(values, tf.int64)[0] for values, _ in columns if values.shape.rank), None)
    if rows is None:
        raise DefinitionError(f"{what}({a!r}, {b!r}): one of both must be a column, e.g. inputs['count_1h']")
    dtype = tf.int64 if whole and all(values.dtype == tf.int64 for values, _ in columns) else tf.float32
    (x, there), (y, also) = ((tf.cast(values, dtype), present) for values, present in columns)
    result = of(x, y)
    present = tf.logical_and(there, also)
    # x / 0 and 0 / 0 are not finite. TensorFlow's integers wrap around: only of a difference that did is the sign another.
    held = tf.math.is_finite(result) if dtype == tf.float32 else tf.equal(y >= 0, result <= x)
    present = tf.logical_and(present, held)
    row = tf.where(present)
    indices = tf.concat([row, tf.zeros_like(row)], axis=1)
    return tf.SparseTensor(indices, tf.boolean_mask(result, present), tf.stack([rows, tf.constant(1, tf.int64)]))


def _column(what: str, x: Any) -> tuple[Any, Any]:
    """The values of a column, [rows] or scalar, whatever stands where none is, and which are there."""
    if isinstance(x, Real):  # NumPy's too
        if isinstance(x, Integral) and not -(2**63) <= int(x) < 2**63:
            raise DefinitionError(f"{what}: {x} is beyond int64; write it as a float")
        values = tf.constant(x, tf.int64 if isinstance(x, Integral) else tf.float32)
        return values, tf.constant(True)
    if not isinstance(x, tf.Tensor | tf.SparseTensor):
        raise DefinitionError(f"{what}: {type(x).__name__} is no column of one value per row, and no number")
    if x.dtype == tf.string:
        raise DefinitionError(f"{what}: a column of texts is no number; take one of int64 or float64 fields")
    if x.shape.rank == 0:  # a number that the analysis finds: tft.mean and the like
        return x, tf.constant(True)
    width = x.shape[1] if x.shape.rank == 2 else 1
    if width not in (None, 1):
        raise DefinitionError(f"{what}: a column of lists of up to {width} values has not one value per row; take an aggregate that has")
    if not isinstance(x, tf.SparseTensor):
        values = tf.reshape(x, [-1])
        return values, tf.ones_like(values, tf.bool)
    place, rows = x.indices[:, :1], x.dense_shape[:1]
    values = tf.scatter_nd(place, x.values, rows)
    return values, tf.scatter_nd(place, tf.ones_like(x.values, tf.int32), rows) > 0
