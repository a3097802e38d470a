"""A text file in parts: between lines, each some bytes long, so that every line lies in one of them."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

from pipelines.sources.file_formats.file_format import FileRange, Opened

__all__ = ["line_count", "line_parts", "section"]

_BUFFER = 1 << 20


def line_parts(f: BinaryIO, begin: int, most: int) -> list[FileRange]:
    """The parts of an open file of lines: from 0 on, of ``most`` bytes and the rest of a line each; none ends at ``begin`` or before."""
    size = f.seek(0, os.SEEK_END)
    borders = [0]
    while (at := max(borders[-1], begin) + most) < size:
        f.seek(at - 1)  # so that a line which begins there is not passed
        while (line := f.readline(_BUFFER)) and not line.endswith(b"\n"):
            pass
        if (end := f.tell()) >= size:
            break
        borders.append(end)
    return [(a, b) for a, b in zip(borders, [*borders[1:], size], strict=True) if a < b]


def line_count(f: BinaryIO) -> int:
    """How many lines follow in an open file; the last one may have no end."""
    count, last = 0, b"\n"
    while block := f.read(_BUFFER):
        count += block.count(b"\n")
        last = block[-1:]
    return count + (last != b"\n")


@contextmanager
def section(opened: Opened, part: FileRange) -> Iterator[BinaryIO]:
    """The bytes of a part of a file, as a file of its own."""
    with opened() as f, io.BufferedReader(cast(Any, _Section(f, *part)), _BUFFER) as found:
        yield cast(BinaryIO, found)


class _Section(io.RawIOBase):
    """From one place of a file to another."""

    def __init__(self, f: BinaryIO, begin: int, end: int) -> None:
        self.f, self.left = f, end - begin
        if begin:  # what is decompressed is at its beginning, and may not be able to go there
            f.seek(begin)

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer; 0 at the end."""
        block = self.f.read(min(len(buffer), self.left))
        buffer[: len(block)] = block
        self.left -= len(block)
        return len(block)
