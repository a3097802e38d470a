"""The bytes of a file that an erasure reads and writes, in parts: memory is bounded whatever a file is decompressed to.

Who puts one file among the events decides what it becomes: some kilobytes may be any number of gigabytes.
"""

from __future__ import annotations

import bz2
import codecs
import gzip
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO, cast

import pyarrow as pa

__all__ = ["PART_BYTES", "all_stand_in", "packing", "text_parts"]

PART_BYTES = 1 << 20


def text_parts(f: BinaryIO, encoding: str | None, start: bytes = b"") -> Iterator[bytes]:
    """The bytes of an open file, of which ``start`` is read already; of another encoding as UTF-8, and what is none of it replaced."""
    decoder = codecs.getincrementaldecoder(encoding)("replace") if encoding else None
    while block := start or f.read(PART_BYTES):
        start = b""
        yield block if decoder is None else decoder.decode(block).encode()
    if decoder is not None:
        yield decoder.decode(b"", final=True).encode()


def all_stand_in(parts: Iterator[bytes], wanted: Sequence[re.Pattern[bytes]], longest: int) -> bool:
    """Whether each pattern is found in some bytes, given in parts: as if they were searched in one, over the borders of parts, too. None
    looks at more than ``longest`` bytes, with those before and behind what it finds."""
    left, held, begin = list(wanted), b"", 0
    for part in parts:
        held += part
        if len(held) - begin <= longest:
            continue
        # What ends where the part does may go on: it is looked at again, with what follows.
        left = [p for p in left if not any(found.end() < len(held) for found in p.finditer(held, begin))]
        if not left:
            return True
        held = held[max(len(held) - longest - 1, 0) :]
        begin = 1  # the byte before is seen, and nothing begins there
    return not any(p.search(held, begin) is None for p in left)


class _Open:
    """A file that stays open when who writes to it is done."""

    closed = False

    def __init__(self, out: IO[bytes]) -> None:
        self.write, self.flush = out.write, out.flush

    def close(self) -> None:
        """Nothing."""


@contextmanager
def packing(path: Path, out: IO[bytes]) -> Iterator[BinaryIO]:
    """What is written is compressed as the suffix of a file's name says, and written to ``out``."""
    name = path.name.lower()
    if name.endswith(".zst"):
        with pa.CompressedOutputStream(pa.PythonFile(_Open(out), mode="w"), "zstd") as smaller:
            yield cast(BinaryIO, smaller)
    elif name.endswith(".bz2"):
        with bz2.BZ2File(out, "w") as smaller:
            yield cast(BinaryIO, smaller)
    elif name.endswith(".gz"):
        with gzip.GzipFile(filename="", mode="wb", fileobj=out, mtime=0) as smaller:
            yield cast(BinaryIO, smaller)
    else:
        yield cast(BinaryIO, out)
