"""Rows against rows, cell by cell and bit by bit; pure, columnar, without an opinion on why something differs.

A row is named by (keys, event timestamp). Of several rows of one name the *newest* counts: that of the greatest revision, and of
those the one that came last, as in the online store.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from transforms.definitions import EVENT_TIMESTAMP, FINGERPRINT, REVISION
from transforms.errors import DataError

__all__ = ["Comparison", "Newest", "codes", "common_codes", "compare", "locate", "newest", "same", "table_of"]

Int = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]


def table_of(rows: pa.RecordBatch | pa.Table) -> pa.Table:
    """The rows as a table of one chunk per column."""
    table = pa.Table.from_batches([rows]) if isinstance(rows, pa.RecordBatch) else rows
    return pa.table([_chunk(c) for c in table.columns], schema=table.schema)


def _chunk(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    if isinstance(column, pa.Array):
        return column
    return (
        column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    )


def _bits(array: pa.Array) -> pa.Array:
    widths = {pa.float64(): pa.int64(), pa.float32(): pa.int32(), pa.float16(): pa.int16()}
    return array.view(widths[array.type]) if array.type in widths else array


def same(a: pa.Array | pa.ChunkedArray, b: pa.Array | pa.ChunkedArray) -> Bool:
    """Which of N pairs of values are the same: bool [N]. Null equals null; floats are compared by their bits (-0.0 is not 0.0, a NaN
    equals itself), lists by their content in order. Values of different types are never the same, nulls apart."""
    a, b = _chunk(a), _chunk(b)
    missing: Bool = a.is_null().to_numpy(zero_copy_only=False) & b.is_null().to_numpy(zero_copy_only=False)
    if a.type != b.type or pa.types.is_null(a.type):
        return missing
    if pa.types.is_list(a.type) or pa.types.is_large_list(a.type):
        return missing | _same_lists(a, b)
    equal: Bool = pc.fill_null(pc.equal(_bits(a), _bits(b)), False).to_numpy(zero_copy_only=False)
    return missing | equal


def _same_lists(a: pa.ListArray, b: pa.ListArray) -> Bool:
    sizes = [pc.fill_null(pc.list_value_length(x), 0).to_numpy(zero_copy_only=False).astype(np.int64) for x in (a, b)]
    alike: Bool = (sizes[0] == sizes[1]) & ~(a.is_null().to_numpy(zero_copy_only=False) | b.is_null().to_numpy(zero_copy_only=False))
    picked = pa.array(np.flatnonzero(alike))
    inner = ~same(a.take(picked).flatten(), b.take(picked).flatten())
    # Differing elements up to the end of each list, less those up to its beginning.
    wrong = np.concatenate([[0], np.cumsum(inner)])
    ends = np.cumsum(sizes[0][alike])
    alike[alike] = wrong[ends] == wrong[ends - sizes[0][alike]]
    return alike


def codes(columns: Sequence[pa.Array | pa.ChunkedArray]) -> Int:
    """A number for each of N rows, the same exactly for equal values in all the columns (floats by their bits): int64 [N]."""
    code = np.zeros(len(columns[0]), np.int64)
    for column in columns:
        encoded = _bits(_chunk(column)).dictionary_encode(null_encoding="encode")
        size = max(len(encoded.dictionary), 1)
        # Ranks anew after each column keep the product far below 2^63.
        _, code = np.unique(code * size + encoded.indices.to_numpy(zero_copy_only=False), return_inverse=True)
    return code.astype(np.int64).reshape(-1)


def common_codes(tables: Sequence[pa.Table], names: Sequence[str]) -> list[Int]:
    """:func:`codes` of the columns ``names`` over several tables in common: one array each."""
    code = codes([pa.concat_arrays([_chunk(t.column(n)) for t in tables]) for n in names])
    return np.split(code, np.cumsum([t.num_rows for t in tables])[:-1])


def locate(wanted: pa.Table, rows: pa.Table, names: Sequence[str]) -> Int:
    """Where each of N ``wanted`` rows stands in ``rows`` by the values of the columns ``names``: int64 [N], -1 where it is not there.
    Of several, the last one."""
    mine, theirs = common_codes([wanted, rows], names)
    place = np.full(int(max(mine.max(initial=-1), theirs.max(initial=-1))) + 1, -1, np.int64)
    place[theirs] = np.arange(len(theirs))
    return place[mine]


@dataclass(frozen=True)
class Newest:
    """The newest row of each name among D delivered ones."""

    rows: pa.Table
    deliveries: Int
    """[N] how often a row of the name was delivered, repeats included."""
    revisions: Int
    """[N] how many different revisions of it."""
    conflicts: Int
    """[N] how many deliveries have the newest revision and fingerprint, but other bits: the same events gave two values."""


def newest(delivered: pa.Table, keys: Sequence[str]) -> Newest:
    """The newest of the delivered rows by (``keys``, event timestamp). Needs the columns ``event_timestamp`` and ``tandem_revision``."""
    delivered = table_of(delivered)
    n = delivered.num_rows
    code = codes([delivered.column(k) for k in (*keys, EVENT_TIMESTAMP)])
    revision = delivered.column(REVISION).to_numpy()
    order = np.lexsort((np.arange(n), revision, code))
    ends = np.flatnonzero(np.append(code[order][1:] != code[order][:-1], True)) if n else np.zeros(0, np.int64)
    last = order[ends]
    winner = np.zeros(len(ends), np.int64)
    winner[code[last]] = last
    mine = pa.array(winner[code])
    wrong = np.zeros(n, np.bool_)
    for name in (c for c in delivered.schema.names if c in _compared(delivered.schema.names, keys)):
        wrong |= ~same(delivered.column(name), delivered.column(name).take(mine))
    wrong &= revision == revision[winner[code]]
    if FINGERPRINT in delivered.schema.names:
        wrong &= same(delivered.column(FINGERPRINT), delivered.column(FINGERPRINT).take(mine))
    size = len(ends)
    first = np.ones(n, np.bool_)
    first[1:] = (code[order][1:] != code[order][:-1]) | (revision[order][1:] != revision[order][:-1])
    place = np.sort(last)  # in the order of the log
    at = code[place]
    return Newest(
        table_of(delivered.take(pa.array(place))),
        np.bincount(code, minlength=size)[at],
        np.bincount(code[order][first], minlength=size)[at],
        np.bincount(code[wrong], minlength=size)[at],
    )


NOT_VALUES = (EVENT_TIMESTAMP, FINGERPRINT, "created_timestamp")


def _compared(names: Sequence[str], keys: Sequence[str]) -> list[str]:
    return [n for n in names if n not in keys and n not in NOT_VALUES]


@dataclass(frozen=True)
class Comparison:
    """Two sets of rows of one group, joined by name: R names, in the order of the batch rows and then of those that only the stream has."""

    group: str
    keys: tuple[str, ...]
    batch: pa.Table
    stream: pa.Table
    batch_at: Int
    """[R] the row's place in ``batch``, -1 where it is not there."""
    stream_at: Int
    unequal: dict[str, Bool]
    """Per compared column, [R]: both rows are there, and this value differs."""

    @property
    def both(self) -> Bool:
        """[R] both have the row."""
        return (self.batch_at >= 0) & (self.stream_at >= 0)

    @property
    def missing(self) -> Bool:
        """[R] batch has the row, the stream does not."""
        return self.stream_at < 0

    @property
    def extra(self) -> Bool:
        """[R] the stream has the row, batch does not."""
        return self.batch_at < 0

    @cached_property
    def different(self) -> Bool:
        """[R] both have the row, and some value differs."""
        out = np.zeros(len(self.batch_at), np.bool_)
        for column in self.unequal.values():
            out |= column
        return out

    @property
    def odd(self) -> Bool:
        """[R] different, missing or extra."""
        return self.different | self.missing | self.extra

    @cached_property
    def names(self) -> pa.Table:
        """The R names: keys and event timestamp."""
        columns = [*self.keys, EVENT_TIMESTAMP]
        extra = pa.array(self.stream_at[self.extra])
        return table_of(
            pa.concat_tables([self.batch.select(columns), self.stream.select(columns).take(extra).cast(self.batch.select(columns).schema)])
        )

    @cached_property
    def event_us(self) -> Int:
        """[R] event timestamps, microseconds."""
        out: Int = self.names.column(EVENT_TIMESTAMP).cast(pa.int64()).to_numpy()
        return out


def compare(group: str, keys: Sequence[str], batch: pa.Table, stream: pa.Table) -> Comparison:
    """Join rows by (``keys``, event timestamp) and compare every other column but fingerprint and creation time.

    Each side has at most one row of a name (DataError otherwise: take :func:`newest` first). A column that one side lacks differs in
    every row where the other has a value.
    """
    batch, stream = table_of(batch), table_of(stream)
    name = [*keys, EVENT_TIMESTAMP]
    mine, theirs = common_codes([batch, stream], name)
    for side, code in (("batch", mine), ("stream", theirs)):
        if len(np.unique(code)) != len(code):
            raise DataError(f"group {group!r}: two {side} rows have the same keys and event timestamp; compare the newest of each only")
    size = int(max(mine.max(initial=-1), theirs.max(initial=-1))) + 1
    batch_of, stream_of = np.full(size, -1, np.int64), np.full(size, -1, np.int64)
    batch_of[mine], stream_of[theirs] = np.arange(len(mine)), np.arange(len(theirs))
    only = theirs[batch_of[theirs] < 0]
    rows = np.concatenate([mine, only])
    batch_at, stream_at = batch_of[rows], stream_of[rows]
    both = np.flatnonzero((batch_at >= 0) & (stream_at >= 0))
    take_b, take_s = pa.array(batch_at[both]), pa.array(stream_at[both])
    columns = _compared(list(dict.fromkeys([*batch.schema.names, *stream.schema.names])), keys)
    unequal = {}
    for column in columns:
        wrong = np.zeros(len(rows), np.bool_)
        wrong[both] = ~same(_values(batch, column).take(take_b), _values(stream, column).take(take_s))
        unequal[column] = wrong
    return Comparison(group, tuple(keys), batch, stream, batch_at, stream_at, unequal)


def _values(table: pa.Table, column: str) -> pa.Array:
    return _chunk(table.column(column)) if column in table.schema.names else pa.nulls(table.num_rows)
