"""What states have in common: list columns and their offsets, numbers without nulls, codes that sort as values do."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["Bool", "Int", "list_of", "list_parts", "nullable", "numbers", "offsets_of", "order_codes", "present"]

Int = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]


def offsets_of(lengths: Int) -> Int:
    """Where N lists of these lengths begin and end in their flat values: int64 of shape [N + 1], from 0 up."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])


def list_of(offsets: Int, values: pa.Array) -> pa.ListArray:
    """A list column of N lists without nulls; the inverse of :func:`list_parts`."""
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), values)


def list_parts(array: pa.ListArray) -> tuple[Int, pa.Array]:
    """(offsets from 0 up, flat values) of a list column, whatever slice it is."""
    offsets = array.offsets.to_numpy().astype(np.int64)
    return offsets - offsets[0], array.values.slice(offsets[0], offsets[-1] - offsets[0])


def nullable(values: npt.NDArray[Any], valid: Bool) -> pa.Array:
    """A column of int64 or float64 values, null where they are not valid; the inverse of :func:`numbers`. It keeps the memory of values."""
    if valid.all():
        return pa.array(values)
    nulls, kept = pa.py_buffer(np.packbits(valid, bitorder="little")), pa.py_buffer(np.ascontiguousarray(values))
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [nulls, kept])


def numbers(array: pa.Array) -> tuple[npt.NDArray[Any], Bool]:
    """(values with 0 where null, validity) of a numeric column; -0.0 becomes 0.0."""
    if array.null_count:
        valid = array.is_valid().to_numpy(zero_copy_only=False)
        values = pc.fill_null(array, 0).to_numpy(zero_copy_only=False)
    else:
        valid, values = np.ones(len(array), bool), array.to_numpy(zero_copy_only=False)
    return (values + 0.0 if values.dtype == np.float64 else values), valid


def present(array: pa.Array) -> tuple[pa.Array, Bool]:
    """(the values that are not null, which are) of a column of N values; -0.0 becomes 0.0."""
    valid = array.is_valid()
    values = array.filter(valid)
    if pa.types.is_floating(values.type):
        values = pc.add(values, 0.0)
    return values, valid.to_numpy(zero_copy_only=False)


def order_codes(array: pa.Array) -> npt.NDArray[Any]:
    """Numbers that sort as the values do (strings by their UTF-8 bytes, lists by their elements); shape [N]; nulls are not allowed."""
    if pa.types.is_string(array.type):
        encoded = array.dictionary_encode()
        rank = np.empty(len(encoded.dictionary), np.int64)
        rank[pc.sort_indices(encoded.dictionary).to_numpy()] = np.arange(len(rank))
        out: npt.NDArray[Any] = rank[encoded.indices.to_numpy(zero_copy_only=False)]
        return out
    if pa.types.is_list(array.type):
        lists = [tuple(v) for v in array.to_pylist()]
        ranks = {v: n for n, v in enumerate(sorted(set(lists)))}
        return np.array([ranks[v] for v in lists], np.int64)
    values: npt.NDArray[Any] = array.to_numpy(zero_copy_only=False)
    return values.astype(np.int8) if values.dtype == bool else values
