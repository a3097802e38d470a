"""Arrow IPC: the file format (Feather is one) and the stream format, whichever the bytes are. Used whole or not at all. A file is divided
between record batches, which its footer lists; a stream has no footer."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from pipelines.sources.file_formats.arrow_sizes import batch_bytes, check_batches
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
    packed,
    whole,
)
from pipelines.sources.file_formats.physical import PICKLED, RUNS_CODE, pickled, plain_columns

__all__ = ["ArrowFile"]

ROWS = 65_536
"""In batches that are looked at and not used."""
_FAULTS = (pa.ArrowException, ValueError, MemoryError, RuntimeError, EOFError)


class ArrowFile(FileFormat):
    """Memory is bounded by a record batch, and that by what it says of itself: see :mod:`pipelines.sources.file_formats.arrow_sizes`."""

    title: ClassVar[str] = "Arrow IPC"
    packed: ClassVar[bool] = False
    divided: ClassVar[bool] = True

    def read(self, opened: Opened, batch_rows: int, given: Mapping[str, Any]) -> Iterator[RawBatch]:
        """See the base class."""
        with opened() as f:
            check_not_empty(f)
            start = f.read(8)
            if start.startswith(b"FEA1"):
                raise UnreadableFileError("it is Feather of version 1, which was replaced in 2020; write it again with version=2")
            as_file = start.startswith(b"ARROW1")
            try:
                check_batches(f, as_file)
            except ValueError as error:
                raise UnreadableFileError(str(error)) from None
        yield from whole(lambda: _decode(opened, as_file, batch_rows), _FAULTS)

    def parts(self, opened: Opened, most: int) -> list[FileRange]:
        """Between record batches, by what they take in the file."""
        try:
            with opened() as f:
                if not f.read(8).startswith(b"ARROW1"):
                    return []
                check_batches(f, True)
                sizes = batch_bytes(f)
            with opened() as f, native(f) as source, _places():
                as_listed = _reader(source, True).num_record_batches == len(sizes)
        except OSError as e:
            if e.errno is not None:  # the disk's error; those of the format carry no number
                raise
            return []
        except _FAULTS:
            return []
        return packed(sizes, most) if as_listed else []

    def look(self, opened: Opened, part: FileRange) -> Look:
        """Each record batch is decoded."""
        return looked(_decode(opened, True, ROWS, part), _FAULTS)

    def read_part(self, opened: Opened, part: FileRange, first: int, batch_rows: int, given: Mapping[str, Any]) -> Iterator[RawBatch]:
        """See the base class."""
        for batch in _decode(opened, True, batch_rows, part):
            yield RawBatch(pa.array(np.arange(first, first + batch.num_rows, dtype=np.int64)), rows=batch)
            first += batch.num_rows


@contextmanager
def _places() -> Iterator[None]:
    """A place before the file's beginning, which only the file can have named, is damage, and no error of the disk's."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise ValueError("it names a place that no file has") from None
        raise


def _reader(source: pa.NativeFile, as_file: bool) -> Any:
    """Raises ValueError for a file that would run code."""
    try:
        reader = pa.ipc.open_file(source) if as_file else pa.ipc.open_stream(source)
    except RuntimeError as error:  # pyarrow-hotfix, whose text shows the pickle
        raise ValueError(RUNS_CODE if PICKLED.decode() in str(error) else str(error)) from None
    if any(pickled(each) for each in reader.schema):
        raise ValueError(RUNS_CODE)
    return reader


def _decode(opened: Opened, as_file: bool, batch_rows: int, part: FileRange | None = None) -> Iterator[pa.RecordBatch]:
    """All rows, in order; of some of a file's record batches alone."""
    with opened() as f, native(f) as source:
        with _places():
            reader = _reader(source, as_file)
        for i in range(*(part or (0, reader.num_record_batches))) if as_file else iter(int, 1):
            try:
                with _places():
                    batch = reader.get_batch(i) if as_file else reader.read_next_batch()
            except StopIteration:
                return
            batch.validate(full=True)  # the bytes of a column are taken as they lie: lengths and offsets may be anything
            yield from plain_columns(pa.Table.from_batches([batch])).to_batches(batch_rows)
