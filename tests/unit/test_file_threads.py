"""Event files that Arrow reads are read by Arrow alone: a thread of Arrow's that lets go of Python's bytes while the interpreter goes down
ends the process with SIGABRT, whatever it has done."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow as pa
import pytest

from pipelines.sources.file_formats.arrow_file import ArrowFile
from pipelines.sources.file_formats.file_format import UnreadableFileError
from transforms.definitions import EventSource, Field

SOURCE = EventSource(name="orders", fields=[Field("a", "int64", required=True)], event_time="at", tie_breaker="a")
TABLE = pa.table({f"c{i}": list(range(1000)) for i in range(4)})


class Watched(io.FileIO):
    """A file that keeps which threads read it."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.readers: set[int] = set()

    def read(self, size: int | None = -1) -> bytes | None:  # type: ignore[override]
        self.readers.add(threading.get_ident())
        return super().read(-1 if size is None else size)


def write(path: Path, damaged: bool) -> None:
    sink = io.BytesIO()
    with pa.ipc.new_file(sink, TABLE.schema) as writer:
        writer.write_table(TABLE)
    data = bytearray(sink.getvalue())
    if damaged:
        length = int.from_bytes(data[-10:-6], "little")
        data[-10 - length : -10] = b"\xaa" * length
    path.write_bytes(data)


@pytest.mark.parametrize("damaged", [False, True])
def test_no_thread_of_arrow_reads_by_python(damaged: bool, tmp_path: Path) -> None:
    write(tmp_path / "f", damaged)
    with Watched(tmp_path / "f") as f:

        @contextmanager
        def opened() -> Iterator[BinaryIO]:
            f.seek(0)
            yield cast(BinaryIO, f)

        with pytest.raises(UnreadableFileError) if damaged else nullcontext():
            assert sum(len(b.numbers) for b in ArrowFile(SOURCE).read(opened, 100, {})) == TABLE.num_rows
        assert f.readers <= {threading.get_ident()}
