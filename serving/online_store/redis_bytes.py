"""Rows as bytes of Redis' protocol, columns at a time: what stands before each value depends on nothing but the value's length, so rows
whose values have the same lengths differ in their values alone, and those are put into copies of one row.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from serving.online_store.encoding import binary, join

__all__ = ["Column", "Field", "PackedBytes", "Piece", "pack", "shapes"]

Ints = npt.NDArray[np.int64]
Cells = npt.NDArray[np.void]
_SHORT = 1024
_MOST_PLACES = 1 << 16


class PackedBytes:
    """The bytes of rows, one behind the other; sliced by rows."""

    def __init__(self, array: pa.Array) -> None:
        _, _, data = array.buffers()
        self._data, self._ends = memoryview(data), _ends(array)

    def __getitem__(self, rows: slice, /) -> memoryview:
        return self._data[self._ends[rows.start] : self._ends[rows.stop]]


class Column:
    """A binary column of N values (one at least), and where each of them lies."""

    def __init__(self, array: pa.Array) -> None:
        self.array, self.ends = array, _ends(array)
        lengths = np.diff(self.ends)
        self.low, self.high = int(lengths.min()), int(lengths.max())
        self.lengths = lengths.astype(np.int64) if self.low < self.high else None
        """None where all are of one length."""

    def cells(self, at: Ints | slice) -> bytes | Cells | None:
        """The values at these places, of one length all; no bytes where they have none; None where they differ in length."""
        size = self.low
        if self.lengths is not None:
            some = self.lengths[at]
            size = int(some[0])
            if (some != size).any():
                return None
        if not size:
            return b""
        whole = np.frombuffer(self.array.buffers()[2], np.uint8)
        if self.lengths is None:
            return whole[self.ends[0] : self.ends[-1]].view(f"V{size}")[at]
        windows: npt.NDArray[Any] = np.ndarray((len(whole) - size + 1,), f"V{size}", whole.data, strides=(1,))
        cells: Cells = windows[self.ends[:-1][at]]
        return cells


Piece = bytes | Column
Field = tuple[bytes, Sequence[Piece]]
"""What stands before a value and its header, and the pieces of the value: bytes that all rows have, or a column."""


def shapes(columns: Sequence[Column], most: int) -> Ints:
    """A number for each of N rows, at most ``most`` of them: rows of one number have values of the same lengths in each column whose
    lengths are of few kinds."""
    code, kinds = np.zeros(len(columns[0].array), np.int64), 1
    for column in columns:
        span = column.high - column.low + 1
        if column.lengths is None or kinds * span > _MOST_PLACES:
            continue
        mixed = code * span + (column.lengths - column.low)
        there = np.bincount(mixed, minlength=kinds * span) > 0
        if (count := int(there.sum())) <= most:
            code, kinds = (np.cumsum(there) - 1)[mixed], count
    return code


def pack(fields: Sequence[Field], last: bytes, at: Ints, shape: Ints) -> PackedBytes:
    """Of each row ``at`` a place of the columns, its fields one behind the other, each value behind its header, then ``last``. ``shape``
    of each as :func:`shapes` told: those of one number lie together, their places ascending."""
    edges = [0, *(np.flatnonzero(shape[1:] != shape[:-1]) + 1).tolist(), len(at)]
    runs = [_pack_alike(fields, last, at[a:b]) for a, b in pairwise(edges)]
    return PackedBytes(runs[0] if len(runs) == 1 else pa.concat_arrays(runs))


def _pack_alike(fields: Sequence[Field], last: bytes, at: Ints) -> pa.Array:
    """The same of rows that are nearly alike: only fields whose lengths differ are put together row by row."""
    parts: list[Any] = []
    block: list[bytes | Cells] = []
    first, end = int(at[0]), int(at[-1]) + 1
    where = slice(first, end) if end - first == len(at) else at
    for before, pieces in fields:
        cells = [piece if isinstance(piece, bytes) else piece.cells(where) for piece in pieces]
        known = [each for each in cells if each is not None]
        if len(known) == len(cells):
            size = sum(len(each) if isinstance(each, bytes) else each.itemsize for each in known)
            block += [before + b"\r\n$%d\r\n" % size, *known]
        else:
            place = pa.array(at)
            values = join(*(pa.scalar(each, pa.binary()) if isinstance(each, bytes) else each.array.take(place) for each in pieces))
            parts += [*_block([*block, before], len(at)), _headers(values), values]
            block = []
    parts += _block([*block, last], len(at))
    return parts[0] if len(parts) == 1 else join(*parts)


def _ends(column: pa.Array) -> npt.NDArray[np.int32]:
    """Where N values of a binary column begin, and where the last one ends: shape [N + 1]."""
    _, offsets, _ = column.buffers()
    return np.frombuffer(offsets, np.int32)[column.offset : column.offset + len(column) + 1]


def _block(pieces: Sequence[bytes | Cells], n: int) -> list[pa.Array]:
    """N rows of these pieces, as one column; none of no bytes."""
    kinds = [len(piece) if isinstance(piece, bytes) else piece.itemsize for piece in pieces]
    row = b"".join(piece if isinstance(piece, bytes) else bytes(size) for piece, size in zip(pieces, kinds))
    if not row:
        return []
    made = np.empty(n, [(f"p{i}", f"V{size}") for i, size in enumerate(kinds) if size])
    made.view(f"V{len(row)}")[:] = np.void(row)
    for i, piece in enumerate(pieces):
        if not isinstance(piece, bytes):
            made[f"p{i}"] = piece
    return [binary(made.view(np.uint8), np.full(n, len(row)))]


@cache
def _short_headers() -> pa.Array:
    return pa.array([b"\r\n$%d\r\n" % n for n in range(_SHORT)], pa.binary())


def _headers(column: pa.Array) -> pa.Array:
    """What stands before each value in Redis' protocol."""
    lengths = pc.binary_length(column)
    if len(column) and pc.max(lengths).as_py() < _SHORT:
        return _short_headers().take(lengths)
    return pa.array([b"\r\n$%d\r\n" % n for n in lengths.to_pylist()], pa.binary())
