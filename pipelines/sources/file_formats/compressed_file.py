"""A file of bytes that were compressed as a whole: gzip, zstd, bzip2, any number of members behind each other."""

from __future__ import annotations

import bz2
import gzip
import io
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO, cast

import pyarrow as pa

from pipelines.sources.file_formats.file_format import UnreadableFileError, one_line

__all__ = ["look_through", "opened"]


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """The decompressed bytes of a file, by its name."""
    name = str(path).lower()
    with open(path, "rb") as f:
        if name.endswith(".gz"):
            with gzip.GzipFile(fileobj=f) as unzipped:
                yield cast(BinaryIO, unzipped)
        elif name.endswith(".bz2"):
            with bz2.BZ2File(f) as plain:
                yield cast(BinaryIO, plain)
        elif name.endswith(".zst"):
            with pa.CompressedInputStream(pa.PythonFile(f, mode="r"), "zstd") as stream, io.BufferedReader(stream, 1 << 20) as buffered:
                yield cast(BinaryIO, buffered)
        else:
            yield f


def look_through(path: str | os.PathLike[str]) -> None:
    """Decompress to the end. Raises UnreadableFileError for damage, which may show there alone."""
    try:
        if os.stat(path).st_size == 0:
            raise UnreadableFileError("the file is empty (0 bytes); compressed, nothing is some bytes long")
        with opened(path) as plain:
            while plain.read(1 << 20):
                pass
    except OSError as e:
        if e.errno is not None:
            raise
        raise UnreadableFileError(one_line(e)) from e
    except (EOFError, zlib.error, pa.ArrowException, ValueError) as e:
        raise UnreadableFileError(one_line(e)) from e
