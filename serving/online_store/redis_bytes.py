"""Rows as bytes of Redis' protocol, columns at a time. Values of one length in all rows are put into place together, as the bytes before
a value depend on nothing but its length; others are joined row by row.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from serving.online_store.encoding import binary, join

__all__ = ["PackedBytes", "pack"]

_SHORT = 1024


class PackedBytes:
    """The bytes of rows, one behind the other; sliced by rows."""

    def __init__(self, array: pa.Array) -> None:
        _, ends, data = array.buffers()
        self._data, self._ends = memoryview(data), np.frombuffer(ends, np.int32)[array.offset : array.offset + len(array) + 1]

    def __getitem__(self, rows: slice, /) -> memoryview:
        return self._data[self._ends[rows.start] : self._ends[rows.stop]]


def pack(pieces: Sequence[tuple[bytes, pa.Array | None]], last: bytes = b"") -> PackedBytes:
    """Of each row, piece by piece, the bytes that stand before a value, its header and the value; then ``last``. Values that are of one
    length in all rows are put together without a look at each."""
    parts: list[Any] = []
    alike: list[tuple[bytes, npt.NDArray[np.uint8]]] = []
    for before, column in pieces:
        if column is None:
            last = before + last
        elif (cells := _of_one_length(column)) is not None:
            alike.append((before + b"\r\n$%d\r\n" % cells.shape[1], cells))
        else:
            parts += [*_block(alike), *([pa.scalar(before, pa.binary())] if before else []), _headers(column), column]
            alike = []
    return PackedBytes(join(*parts, *_block(alike), *([pa.scalar(last, pa.binary())] if last else [])))


def _of_one_length(column: pa.Array) -> npt.NDArray[np.uint8] | None:
    """The bytes of N values of a binary column, shape [N, length]; None where they differ in length."""
    _, offsets, data = column.buffers()
    ends = np.frombuffer(offsets, np.int32)[column.offset : column.offset + len(column) + 1]
    lengths = np.diff(ends)
    if not len(lengths) or (lengths != lengths[0]).any():
        return None
    whole = np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8)
    return whole[ends[0] : ends[-1]].reshape(len(column), int(lengths[0]))


def _block(columns: Sequence[tuple[bytes, npt.NDArray[np.uint8]]]) -> list[pa.Array]:
    """The columns of values of one length each, with what stands before each, as one; none of none."""
    if not columns:
        return []
    row = b"".join(head + bytes(cells.shape[1]) for head, cells in columns)
    made = np.empty((len(columns[0][1]), len(row)), np.uint8)
    made.view(f"V{len(row)}")[:] = np.void(row)
    end = 0
    for head, cells in columns:
        end += len(head) + cells.shape[1]
        if cells.shape[1]:
            place = made[:, end - cells.shape[1] : end].view(f"V{cells.shape[1]}")
            place[:] = cells.view(f"V{cells.shape[1]}")
    return [binary(made, np.full(len(made), len(row)))]


@cache
def _short_headers() -> pa.Array:
    return pa.array([b"\r\n$%d\r\n" % n for n in range(_SHORT)], pa.binary())


def _headers(column: pa.Array) -> pa.Array:
    """What stands before each value in Redis' protocol."""
    lengths = pc.binary_length(column)
    if len(column) and pc.max(lengths).as_py() < _SHORT:
        return _short_headers().take(lengths)
    return pa.array([b"\r\n$%d\r\n" % n for n in lengths.to_pylist()], pa.binary())
