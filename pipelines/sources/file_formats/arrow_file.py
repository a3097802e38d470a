"""Arrow IPC: the file format (Feather is one) and the stream format, whichever the bytes are. Used whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import pyarrow as pa

from pipelines.sources.file_formats.arrow_sizes import check_batches
from pipelines.sources.file_formats.file_format import FileFormat, Opened, RawBatch, UnreadableFileError, check_not_empty, whole
from pipelines.sources.file_formats.physical import PICKLED, RUNS_CODE, pickled, plain_columns

__all__ = ["ArrowFile"]

_FAULTS = (pa.ArrowException, ValueError, MemoryError, RuntimeError, EOFError)


class ArrowFile(FileFormat):
    """Memory is bounded by a record batch, and that by what it says of itself: see :mod:`pipelines.sources.file_formats.arrow_sizes`."""

    title: ClassVar[str] = "Arrow IPC"
    packed: ClassVar[bool] = False

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


def _decode(opened: Opened, as_file: bool, batch_rows: int) -> Iterator[pa.RecordBatch]:
    with opened() as f, pa.PythonFile(f, mode="r") as source:
        try:
            reader = pa.ipc.open_file(source) if as_file else pa.ipc.open_stream(source)
        except RuntimeError as error:  # pyarrow-hotfix, whose text shows the pickle
            raise ValueError(RUNS_CODE if PICKLED.decode() in str(error) else str(error)) from None
        if any(pickled(each) for each in reader.schema):
            raise ValueError(RUNS_CODE)
        for i in range(reader.num_record_batches) if as_file else iter(int, 1):
            try:
                batch = reader.get_batch(i) if as_file else reader.read_next_batch()
            except StopIteration:
                return
            batch.validate(full=True)  # the bytes of a column are taken as they lie: lengths and offsets may be anything
            yield from plain_columns(pa.Table.from_batches([batch])).to_batches(batch_rows)
