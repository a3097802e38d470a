"""Parquet, in every physical shape that its writers choose.

A file is used whole or not at all: Parquet has no checksum of the whole, and damage may lie behind rows that read well. Damage that still
decodes cannot be noticed here; the run's manifest holds each file's hash. A file of 0 bytes is damaged; a proper file of 0 rows is fine.
A column of a pickled Python type makes a file unreadable: to read it would be to run it (CVE-2023-47248). INT96 timestamps are read as
microseconds; one that does not fit is the last int64 can hold, and one before 1970 that Arrow wrote is what was written. A row group that
takes more than 2 GiB when decoded makes a file unreadable, too: a few kilobytes may say a text or a number a billion times. Texts in lists
that are told by what they share with the one before (DELTA_BYTE_ARRAY) are not measured.
"""

from __future__ import annotations

import base64
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.sources.file_formats.file_format import (
    FileFormat,
    FileRange,
    Look,
    Opened,
    RawBatch,
    UnreadableFileError,
    check_not_empty,
    looked,
    native,
    one_line,
    packed,
    whole,
)
from pipelines.sources.file_formats.physical import PICKLED, RUNS_CODE, pickled, plain_columns
from pipelines.sources.file_formats.sizes import check_sizes

__all__ = ["ParquetFile"]

ROWS = 65_536
"""In batches that are looked at and not used."""
_FAULTS = (pa.ArrowException, ValueError, MemoryError, RuntimeError)


class ParquetFile(FileFormat):
    """Memory is bounded by a row group. Files are divided between row groups."""

    title: ClassVar[str] = "Parquet"
    packed: ClassVar[bool] = False
    divided: ClassVar[bool] = True

    def read(self, opened: Opened, batch_rows: int, given: Mapping[str, Any]) -> Iterator[RawBatch]:
        """See the base class."""
        with opened() as f:
            try:
                check_not_empty(f)
                parquet = _Parquet(f)
            except OSError as e:
                if e.errno is not None:  # the disk's error; those of the format carry no number
                    raise
                raise UnreadableFileError(one_line(e)) from e
            except _FAULTS as e:
                if PICKLED.decode() in str(e):  # as pyarrow_hotfix says it, with a listing of the code
                    e = ValueError(RUNS_CODE)
                raise UnreadableFileError(one_line(e)) from None
            yield from whole(lambda: parquet.decode(batch_rows), _FAULTS)

    def parts(self, opened: Opened, most: int) -> list[FileRange]:
        """Between row groups, by what they take in the file."""
        try:
            with opened() as f:
                metadata = _Parquet(f).file.metadata
                sizes = [_bytes(metadata.row_group(i)) for i in range(metadata.num_row_groups)]
        except OSError as e:
            if e.errno is not None:
                raise
            return []
        except _FAULTS:
            return []
        return packed(sizes, most)

    def look(self, opened: Opened, part: FileRange) -> Look:
        """Each row group is decoded."""
        with opened() as f:
            return looked(_Parquet(f, sizes=False).decode(ROWS, part), _FAULTS)

    def read_part(self, opened: Opened, part: FileRange, first: int, batch_rows: int, given: Mapping[str, Any]) -> Iterator[RawBatch]:
        """See the base class."""
        with opened() as f:
            for batch in _Parquet(f, sizes=False).decode(batch_rows, part):
                yield RawBatch(pa.array(np.arange(first, first + batch.num_rows, dtype=np.int64)), rows=batch)
                first += batch.num_rows


def _bytes(group: Any) -> int:
    return sum(group.column(i).total_compressed_size for i in range(group.num_columns))


class _Parquet:
    """A Parquet file whose row groups are decoded; INT96 timestamps as microseconds."""

    def __init__(self, f: BinaryIO, sizes: bool = True) -> None:
        source = native(f)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # pyarrow 14 to 20 warn of such a type instead of loading it
            self.file = pq.ParquetFile(source, coerce_int96_timestamp_unit="us")
            unsafe = any(pickled(each) for each in self.file.schema_arrow)
        if unsafe:
            raise ValueError(RUNS_CODE)
        if sizes:
            check_sizes(self.file, source)
        columns = [self.file.schema.column(i) for i in range(len(self.file.schema))]
        self.int96 = [c.path for c in columns if c.physical_type == "INT96" and c.path == c.name]
        # Of 12 bytes not all fit into an int64 of microseconds; as milliseconds all do, and tell which those are.
        self.coarse = pq.ParquetFile(source, coerce_int96_timestamp_unit="ms") if self.int96 else None
        self.units = _arrow_units(self.file, self.int96)
        self.finest = pq.ParquetFile(source, coerce_int96_timestamp_unit="ns") if self.units else None

    def decode(self, batch_rows: int, groups: FileRange | None = None) -> Iterator[pa.RecordBatch]:
        """All rows, in order; of some row groups alone."""
        # Not iter_batches: in pyarrow 10 that crashes on damaged columns of unequal length, where this raises.
        for group in range(*(groups or (0, self.file.num_row_groups))):
            table = self.file.read_row_group(group)
            if self.coarse is not None:
                coarse = self.coarse.read_row_group(group, columns=self.int96)
                for name in self.int96:
                    at = table.schema.get_field_index(name)
                    table = table.set_column(at, table.schema.field(at), _fitting(table.column(at), coarse.column(name)))
            if self.finest is not None:
                finest = self.finest.read_row_group(group, columns=list(self.units))
                for name, unit in self.units.items():
                    at = table.schema.get_field_index(name)
                    table = table.set_column(at, table.schema.field(at), _as_written(table.column(at), finest.column(name), unit))
            yield from plain_columns(table).to_batches(batch_rows)


def _arrow_units(file: Any, names: Sequence[str]) -> dict[str, str]:
    """The units of the timestamps that Arrow wrote as INT96, by column; of other writers' files none."""
    kept = (file.metadata.metadata or {}).get(b"ARROW:schema")
    if kept is None or not names:
        return {}
    written = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(kept)))
    types = {name: written.field(name).type for name in names if written.get_field_index(name) >= 0}
    return {name: of.unit for name, of in types.items() if pa.types.is_timestamp(of)}


def _as_written(fine: pa.ChunkedArray, finest: pa.ChunkedArray, unit: str) -> pa.Array:
    """Microseconds of a column that Arrow wrote.

    Arrow writes a time before 1970 with a negative number of nanoseconds in its day, and reads it as 2**64 more. As nanoseconds, both are
    the same number of 64 bits: what was written from nanoseconds fits into them; of coarser units, only such a number is no whole count of
    microseconds.
    """
    one, other = (pa.concat_arrays(a.chunks) if a.num_chunks else a.combine_chunks() for a in (fine, finest))
    us, ns = (a.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False) for a in (one, other))
    # numpy's int64 wraps as well
    wrapped = (us >= 2**63 // 1000) & (us <= 2**64 // 1000) if unit == "ns" else ns - us * 1000 == 2**64 % 1000
    if not wrapped.any():
        return one
    right = np.where(wrapped, ns // 1000 if unit == "ns" else us - 2**64 // 1000, us)
    return pa.array(right, mask=~one.is_valid().to_numpy(zero_copy_only=False)).cast(one.type)


def _fitting(fine: pa.ChunkedArray, coarse: pa.ChunkedArray) -> pa.Array:
    """Microseconds, of which those that overflowed (other than the milliseconds say) are the ends of int64."""
    one, other = fine.combine_chunks(), coarse.combine_chunks()
    one, other = (pa.concat_arrays(a.chunks) if isinstance(a, pa.ChunkedArray) else a for a in (one, other))
    us, ms = (a.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False) for a in (one, other))
    ends = np.where(ms < 0, -(2**63) + 1, 2**63 - 1)
    wrong = us // 1000 != ms
    if not wrong.any():
        return one
    return pa.array(np.where(wrong, ends, us), mask=~one.is_valid().to_numpy(zero_copy_only=False)).cast(one.type)
