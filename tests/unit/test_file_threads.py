"""Event files that Arrow reads are read by Arrow alone: a thread of Arrow's that lets go of Python's bytes while the interpreter goes down
ends the process with SIGABRT, whatever it has done."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.sources.file_formats.arrow_file import ArrowFile
from pipelines.sources.file_formats.file_format import FileFormat, UnreadableFileError
from pipelines.sources.file_formats.parquet_file import ParquetFile
from transforms.definitions import EventSource, Field

SOURCE = EventSource(name="orders", fields=[Field("a", "int64", required=True)], event_time="at", tie_breaker="a")
TABLE = pa.table({f"c{i}": list(range(1000)) for i in range(4)})


def write(path: Path, made: type[FileFormat], damaged: bool) -> None:
    sink = io.BytesIO()
    if made is ParquetFile:
        pq.write_table(TABLE, sink)
    else:
        with pa.ipc.new_file(sink, TABLE.schema) as writer:
            writer.write_table(TABLE)
    data = bytearray(sink.getvalue())
    if damaged:  # the footer, whose length stands before the last mark
        end = -8 if made is ParquetFile else -10
        length = int.from_bytes(data[end : end + 4], "little")
        data[end - length : end] = b"\xaa" * length
    path.write_bytes(data)


@pytest.mark.parametrize("damaged", [False, True])
@pytest.mark.parametrize("made", [ArrowFile, ParquetFile])
def test_arrow_gets_files_of_its_own(made: type[FileFormat], damaged: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "f", made, damaged)
    read: list[Any] = []

    def kept(of: Callable[..., Any]) -> Callable[..., Any]:
        def reads(source: Any, *args: Any, **options: Any) -> Any:
            read.append(source)
            return of(source, *args, **options)

        return reads

    for module, name in ((pa.ipc, "open_file"), (pa.ipc, "open_stream"), (pq, "ParquetFile")):
        monkeypatch.setattr(module, name, kept(getattr(module, name)))

    @contextmanager
    def opened() -> Iterator[BinaryIO]:
        with (tmp_path / "f").open("rb") as f:
            yield f

    with pytest.raises(UnreadableFileError) if damaged else nullcontext():
        batches = list(made(SOURCE).read(opened, 100, {}))
        assert sum(len(b.numbers) for b in batches) == TABLE.num_rows
    assert read and all(isinstance(source, pa.NativeFile) for source in read)
