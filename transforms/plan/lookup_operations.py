"""More of TensorFlow's operations in numpy: those that look up places, buckets and words. They join those of ``arrays``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from transforms.plan.array_operations import NUMPY, Array, Builder, Constants, built, dtype_of, filled, plain
from transforms.plan.nodes import Node, UnsupportedError

__all__ = ["OPERATIONS"]

OPERATIONS = NUMPY
"""All that numpy does, these among them."""


def _within(indices: Array, size: int) -> None:
    if indices.size and not (int(indices.min()) >= 0 and int(indices.max()) < size):
        raise IndexError


@built("GatherV2")
def _gather(node: Node, constants: Constants) -> Callable[..., Any]:
    if node.attr["batch_dims"].i or 2 not in constants:
        raise UnsupportedError("a gather by batches")
    axis = int(constants[2])

    def gather(table: Array, indices: Array, _: Array) -> Array:
        _within(indices, table.shape[axis])
        return table.take(indices, axis)

    return gather


@built("ResourceGather")
def _resource_gather(node: Node, constants: Constants) -> Callable[..., Any]:
    if node.attr["batch_dims"].i:
        raise UnsupportedError("a gather by batches")

    def gather(table: Array, indices: Array) -> Array:
        _within(indices, table.shape[0])
        return table.take(indices, 0)

    return gather


@built("OneHot")
def _one_hot(node: Node, constants: Constants) -> Callable[..., Any]:
    if node.attr["axis"].i != -1:
        raise UnsupportedError("one-hot on another axis than the last")
    return lambda indices, depth, on, off: np.where(indices[..., None] == np.arange(int(depth)), on, off)


@plain("Where")
def _where(condition: Array) -> Array:
    return np.argwhere(condition)


@plain("SparseToDense")
def _sparse_to_dense(indices: Array, dense_shape: Array, values: Array, default: Array) -> Array:
    shape = tuple(dense_shape.tolist())
    if indices.ndim != 2:
        raise UnsupportedError
    out: Array = filled(np.array(shape), default)
    for axis, size in enumerate(shape):
        _within(indices[:, axis], size)
    out[tuple(indices.T)] = values
    return out


@plain("ScatterNd")
def _scatter_nd(indices: Array, updates: Array, dense_shape: Array) -> Array:
    shape = tuple(dense_shape.tolist())
    out = np.zeros(shape, updates.dtype)
    for axis in range(indices.shape[-1]):
        _within(indices[..., axis], shape[axis])
    np.add.at(out, tuple(np.moveaxis(indices, -1, 0)), updates)
    return out


def _bounds(side: Any) -> Builder:
    def build(node: Node, constants: Constants) -> Callable[..., Any]:
        kind = dtype_of(node, "out_type")

        def find(sorted_rows: Array, values: Array) -> Array:
            if len(values) == len(sorted_rows) == 1:  # buckets are one row of boundaries; to stack it costs more than to search it
                rows: Array = np.searchsorted(sorted_rows[0], values[0], side).astype(kind)[None]
            else:
                rows = np.stack([np.searchsorted(s, v, side) for s, v in zip(sorted_rows, values, strict=True)]).astype(kind)
            if side == "left":
                rows[values != values] = 0  # no element is less than NaN; numpy sorts it behind all
            return rows

        return find

    return build


NUMPY["UpperBound"], NUMPY["LowerBound"] = _bounds("right"), _bounds("left")


@built("Bucketize")
def _bucketize(node: Node, constants: Constants) -> Callable[..., Any]:
    kind = dtype_of(node, "T")
    if kind.kind != "f":
        raise UnsupportedError("bucketize of whole numbers")
    boundaries = np.array(node.attr["boundaries"].list.f, np.float32).astype(kind)
    return lambda a: np.searchsorted(boundaries, a, "right").astype(np.int32)


@built("LookupTableFindV2")
def _lookup(node: Node, constants: Constants) -> Callable[..., Any]:
    kind = dtype_of(node, "Tout")

    def find(table: dict[Any, Any], keys: Array, default: Array) -> Array:
        absent, get = np.asarray(default).item(), table.get
        return np.array([get(k, absent) for k in keys.ravel().tolist()], kind).reshape(keys.shape)

    return find


@plain("LookupTableSizeV2")
def _table_size(table: dict[Any, Any]) -> Array:
    return np.array(len(table), np.int64)


@built("StringToHashBucketFast")
def _one_bucket(node: Node, constants: Constants) -> Callable[..., Any]:
    if node.attr["num_buckets"].i != 1:
        raise UnsupportedError("a hash of words")
    return lambda words: np.zeros(words.shape, np.int64)


@built("StringLength")
def _string_length(node: Node, constants: Constants) -> Callable[..., Any]:
    if node.attr["unit"].s not in (b"", b"BYTE"):
        raise UnsupportedError("lengths in characters")
    return _each(len, np.int32)


@built("StringLower", "StringUpper")
def _string_case(node: Node, constants: Constants) -> Callable[..., Any]:
    if node.attr["encoding"].s:
        raise UnsupportedError("letters beyond ASCII")
    return _each(bytes.lower if node.op == "StringLower" else bytes.upper, np.object_)


@built("StringStrip")
def _string_strip(node: Node, constants: Constants) -> Callable[..., Any]:
    return _each(bytes.strip, np.object_)


def _each(function: Callable[[Any], Any], kind: type[Any]) -> Callable[..., Any]:
    def every(words: Array) -> Array:
        out = np.empty(words.shape, kind)
        out.reshape(-1)[:] = [function(w) for w in words.ravel().tolist()]
        return out

    return every
