"""Feature rows as analysis reads them: divided into shares, which rows are in which follows from the files' names, the numbers of their
rows and a limit alone; and read as batches, in their order.

A file of more rows than a share may have is cut by the numbers of its rows, not by its row groups: a share is bounded whoever wrote the
file. Parquet is decoded from the beginning of a row group, so a share decodes what its first group has before it as well. Of groups as the
batch job writes them (65,536 rows) that is little; where one group has many shares, they decode some half of their number times its rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from transforms.errors import DataError

__all__ = ["RowRange", "batches_of", "read_batches", "shares_of"]

BATCH = 65_536


@dataclass(frozen=True)
class RowRange:
    """The rows of ``file`` from number ``begin`` on, up to ``end``; ``whole``: they are all of it."""

    file: str
    begin: int
    end: int
    whole: bool = True


def shares_of(rows: Mapping[str, int], most: int) -> list[list[RowRange]]:
    """Files, of so many rows each, by name: neighbours together as long as they have no more than ``most`` rows, which is what a share
    has; a file that has more is cut into ranges of ``most`` rows and one of the rest. Files without rows are in none."""
    out: list[list[RowRange]] = []
    held = 0
    for file, n in sorted(rows.items()):
        for begin in range(0, n, most):
            end = min(begin + most, n)
            if not out or held + end - begin > most:
                out.append([])
                held = 0
            out[-1].append(RowRange(file, begin, end, n <= most))
            held += end - begin
    return out


def read_batches(ranges: Iterable[RowRange], columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """The batches of Parquet files, or of ranges of their rows, in the order given."""
    for one in ranges:
        yield from batches_of(one.file, one, columns)


def batches_of(source: Any, rows: RowRange, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """The batches of a range of rows: ``source`` is its file, wherever it is now, a path or open for reading. Only the row groups that
    have some of the rows are decoded, a batch at a time, and nothing of a group that lies after the last of them. Raises DataError where
    the file has fewer rows than that, or more than were to be all."""
    with pq.ParquetFile(source) as parquet:
        n = parquet.metadata.num_rows
        if n < rows.end or (rows.whole and n != rows.end):
            least = "" if rows.whole else "at least "
            raise DataError(f"{rows.file} has {n:,} rows, where {least}{rows.end:,} were found before: another program wrote it; run again")
        starts = [0, *accumulate(parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups))]
        groups = [i for i, (first, after) in enumerate(pairwise(starts)) if first < rows.end and after > rows.begin]
        at = starts[groups[0]]
        for batch in parquet.iter_batches(BATCH, row_groups=groups, columns=list(columns)):
            skipped = max(0, rows.begin - at)
            taken = batch.slice(skipped, max(0, rows.end - at - skipped))
            at += batch.num_rows
            if taken.num_rows:
                arrays = [taken.column(taken.schema.get_field_index(c)) for c in columns]
                yield pa.RecordBatch.from_arrays(arrays, names=list(columns))
            if at >= rows.end:
                break
