"""A Parquet file as an erasure reads and writes it: some rows at a time, whatever the file's size.

A row group is read as one where it takes no more than :data:`PART_BYTES` when decoded, and otherwise in parts of as many rows as do so on
average: where few rows have most of the bytes, a part may take as much as its row group. One that the contract would not read, as it takes
more than 2 GiB, is not read here either, so this is what bounds memory. What stays keeps its types, the file's metadata and its codecs; a
row group stays one, or becomes one for each part. In a file with timestamps of 96 bits, all timestamps become such.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.forgetting.column_types import types_in
from pipelines.forgetting.key_values import Mask
from pipelines.lake.data_files import replaced
from pipelines.sources.file_formats.file_format import UnreadableFileError, one_line
from pipelines.sources.file_formats.sizes import group_sizes

__all__ = ["PART_BYTES", "UNREADABLE", "ParquetParts", "parquet_parts", "without"]

UNREADABLE = (pa.ArrowException, OSError, EOFError, ValueError, RuntimeError, MemoryError, zlib.error)
"""What a file raises that is damaged, not of the format that its name says, or of which a type would run code (pyarrow-hotfix)."""

PART_BYTES = 64 << 20
_BUFFER = 1 << 20
"""What is read of a column's pages at once, compressed."""


class ParquetParts:
    """An open Parquet file; ``int96``: the unit that timestamps of 96 bits are read in. Raises what Arrow does, ValueError for one of whose
    columns the rows are not as many, and for a row group that is too large."""

    def __init__(self, source: pa.NativeFile, int96: str = "ns") -> None:
        self.source = source
        self.file = pq.ParquetFile(source, buffer_size=_BUFFER, coerce_int96_timestamp_unit=int96)
        self.schema: pa.Schema = self.file.schema_arrow
        leaves = [self.file.schema.column(i) for i in range(len(self.file.schema))]
        self.int96 = [i for i, leaf in enumerate(leaves) if leaf.physical_type == "INT96"]
        self.codecs = self._codecs()

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """All rows in their order, of all columns or of some."""
        fields = [i for i, field in enumerate(self.schema) if columns is None or field.name in columns]
        for number, size in enumerate(group_sizes(self.file, self.source, PART_BYTES)):
            rows = self.file.metadata.row_group(number).num_rows
            at_once = max(1, rows * PART_BYTES // max(size, 1))
            yield from [self.file.read_row_group(number, columns)] if rows <= at_once else self._some(number, rows, at_once, fields)

    def _some(self, group: int, rows: int, at_once: int, fields: Sequence[int]) -> Iterator[pa.Table]:
        """Each column by itself: what reads several at once ends the process (pyarrow 10) where one of them is shorter than it says."""
        ends = np.cumsum([_leaves(field.type) for field in self.schema]).tolist()
        leaves = [range(end - _leaves(self.schema.field(i).type), end) for i, end in enumerate(ends)]
        readers = [self.file.reader.iter_batches(at_once, row_groups=[group], column_indices=[*leaves[i]]) for i in fields]
        schema = pa.schema([self.schema.field(i) for i in fields], self.schema.metadata)
        for begin in range(0, rows, at_once):
            here = [next(reader, None) for reader in readers]
            if any(batch is None or batch.num_rows != min(at_once, rows - begin) for batch in here):
                raise ValueError(f"row group {group} says that it has {rows} rows, and not all its columns do")
            yield pa.Table.from_arrays([batch.column(0) for batch in here if batch is not None], schema=schema)

    def _codecs(self) -> str | dict[str, str]:
        """How its columns are compressed, as a writer takes it."""
        meta = self.file.metadata
        chunks = [meta.row_group(0).column(i) for i in range(meta.num_columns)] if meta.num_row_groups else []
        codecs = {c.path_in_schema: "NONE" if c.compression == "UNCOMPRESSED" else c.compression for c in chunks}
        return codecs if len({*codecs.values()}) > 1 else next(iter(codecs.values()), "SNAPPY")


@contextmanager
def parquet_parts(path: Path, int96: str = "ns") -> Iterator[ParquetParts]:
    """A file opened to be read in parts: by its path alone, as folders ``key=value`` are no columns of it."""
    with pa.OSFile(str(path)) as source:
        yield ParquetParts(source, int96)


def without(
    path: Path, about: Callable[[pa.Table], Mask], dry_run: bool = False, gone: Callable[[pa.Table], object] = lambda rows: None
) -> int:
    """Rewrite a file without the rows that ``about`` says of each of its tables, in one step; how many there were. ``gone`` is given these
    rows, some at a time. Raises UnreadableFileError for a file that cannot be read, or not be written as it is."""
    count, found = 0, list[Any]()  # a bit for each row, None for a table that stays whole
    try:
        with parquet_parts(path) as parts:
            for table in parts.tables():
                mine = about(table)
                found.append(np.packbits(mine) if mine.any() else None)
                if mine.any():
                    count += int(mine.sum())
                    gone(table.filter(pa.array(mine)))
    except UNREADABLE as error:
        raise UnreadableFileError(one_line(error)) from error
    if count and not dry_run:
        try:
            _rewrite(path, found)
        except (pa.ArrowException, ValueError) as error:
            raise UnreadableFileError(f"its other rows cannot be written again: {one_line(error)}") from error
    return count


def _rewrite(path: Path, masks: Iterable[Any]) -> None:
    with parquet_parts(path, _unit(path)) as parts, replaced(path.resolve(), durable=True, as_before=True) as out:
        how: dict[str, Any] = {"version": "2.6", "use_compliant_nested_type": False, "use_deprecated_int96_timestamps": bool(parts.int96)}
        with pq.ParquetWriter(out, parts.schema, compression=parts.codecs, **how) as writer:
            for table, mask in zip(parts.tables(), masks, strict=True):
                stays = table
                if mask is not None:
                    stays = table.filter(pa.array(~np.unpackbits(mask, count=table.num_rows).astype(bool)))
                if stays.num_rows:
                    writer.write_table(stays, row_group_size=stays.num_rows)


def _unit(path: Path) -> str:
    """In which timestamps of 96 bits are what the file says: nanoseconds, or microseconds where one is too far away. One before 1970 that
    Arrow wrote is right as nanoseconds alone; see :mod:`pipelines.sources.file_formats.parquet_file`. Raises ValueError where no unit has
    them all."""
    with parquet_parts(path) as fine, parquet_parts(path, "us") as coarse:
        kept = (fine.file.metadata.metadata or {}).get(b"ARROW:schema")
        written = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(kept))) if kept else None
        if not fine.int96 or (written is not None and {kind.unit for f in written for kind in _times(f.type)} <= {"ns"}):
            return "ns"
        names = [f.name for f in fine.schema if any(_times(f.type))]
        far = near = False
        for one, other in zip(fine.tables(names), coarse.tables(names), strict=True):
            for a, b in ((a, b) for a, b in zip(_moments(one), _moments(other), strict=True) if a.type != b.type):
                ns, us = (each.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False) for each in (a, b))
                differ = ns // 1000 != us
                wrapped = differ & (written is not None) & (ns - us * 1000 == 2**64 % 1000)
                far |= bool((differ & ~wrapped).any())
                near |= bool(wrapped.any() or (~differ & (ns % 1000 != 0)).any())
    if far and near:
        raise ValueError("timestamps of 96 bits, some beyond nanoseconds and some finer than microseconds")
    return "us" if far else "ns"


def _times(kind: pa.DataType) -> Iterator[pa.DataType]:
    return (each for each in types_in(kind) if pa.types.is_timestamp(each))


def _moments(table: pa.Table) -> Iterator[pa.Array]:
    """The timestamps of all columns, at any depth."""
    waiting = [chunk for column in table.columns for chunk in column.chunks]
    while waiting:
        each = waiting.pop()
        if pa.types.is_timestamp(each.type):
            yield each
        elif isinstance(each, pa.ExtensionArray):
            waiting.append(each.storage)
        elif pa.types.is_map(each.type):
            waiting += [each.keys, each.items]
        elif pa.types.is_struct(each.type):
            waiting += each.flatten()
        elif each.type.num_fields:
            waiting.append(each.flatten())


def _leaves(kind: pa.DataType) -> int:
    """How many columns of a file a column is: those that hold values, of all its parts."""
    return sum(1 for each in types_in(kind) if not each.num_fields)
