"""A digest of rows, whatever order they come in: by columns, so that to know rows again costs little more than to read them."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from transforms.hashing import hash64, mix

__all__ = ["RowsDigest"]

U64 = npt.NDArray[np.uint64]
_SEEDS = (np.uint64(0x51ED_270B_9F1A_2C45), np.uint64(0xB492_B66F_BE98_F273))


class RowsDigest:
    """Equal for the same rows under the same columns, as often each, in any order and in batches of any size: each row has a hash of twice
    64 bits over its values, and those of all are added. It tells rows apart that differ by chance, not what somebody made to look the
    same."""

    def __init__(self) -> None:
        self.rows = 0
        self._sums = [0, 0]
        self._schema: list[str] = []

    def add(self, rows: pa.RecordBatch | pa.Table) -> None:
        """Take rows in; those of one digest have the same columns. Types of Parquet alone: no views."""
        self._schema = [f"{f.name} {f.type}" for f in rows.schema]
        self.rows += rows.num_rows
        if not rows.num_rows:
            return
        columns = [_hashes(c.combine_chunks() if isinstance(c, pa.ChunkedArray) else c) for c in rows.columns]
        for lane, seed in enumerate(_SEEDS):
            row = np.full(rows.num_rows, seed)
            for column in columns:
                row = mix(row ^ column)
            self._sums[lane] = (self._sums[lane] + int(row.sum(dtype=np.uint64))) % 2**64

    def hexdigest(self) -> str:
        """SHA-256 over the columns, the number of rows and the sums of their hashes."""
        return hashlib.sha256(repr((self._schema, self.rows, self._sums)).encode()).hexdigest()


def _hashes(column: pa.Array) -> U64:
    """The hashes of N values of any type; of nulls zero."""
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks)
    out = np.zeros(len(column), np.uint64)
    there = column.is_valid().to_numpy(zero_copy_only=False)
    if pa.types.is_decimal(column.type) and column.type.bit_width >= 64:
        words = np.frombuffer(column.buffers()[1], np.uint64).reshape(-1, column.type.bit_width // 64)
        for word in words[column.offset : column.offset + len(column)].T:
            out = mix(out ^ word)
        return np.where(there, out, np.uint64(0))
    out[there] = hash64(_hashable(column if there.all() else column.drop_null()))
    return out


def _hashable(column: pa.Array) -> pa.Array:
    """The values as a type that has hashes, no two of which are the same there."""
    kind: Any = column.type
    if pa.types.is_dictionary(kind):
        return _hashable(column.dictionary_decode())
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_boolean(kind) or pa.types.is_int64(kind):
        return column
    if pa.types.is_float64(kind) or pa.types.is_timestamp(kind):
        return column.cast(pa.int64()) if pa.types.is_timestamp(kind) else column
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return column.view(pa.string() if pa.types.is_binary(kind) else pa.large_string())
    if pa.types.is_floating(kind):
        return column.cast(pa.float64())
    if pa.types.is_temporal(kind) and not pa.types.is_interval(kind):
        return column.cast(pa.int32()).cast(pa.int64()) if kind.bit_width == 32 else column.cast(pa.int64())
    if pa.types.is_integer(kind) and not pa.types.is_uint64(kind):
        return column.cast(pa.int64())
    if pa.types.is_uint64(kind):
        return column.view(pa.int64())
    return pa.array([None if v is None else repr(v) for v in column.to_pylist()], pa.string())  # lists, structs, maps: seldom in databases
