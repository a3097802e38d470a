"""A text in another encoding, read as UTF-8."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

from pipelines.sources.file_formats.file_format import UnreadableFileError

__all__ = ["byte_order_mark", "marked_encoding", "transcoded"]

_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32", "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32", "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16", "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16", "utf-16-be"),
    (codecs.BOM_UTF8, None, "utf-8"),
)


def marked_encoding(start: bytes) -> str | None:
    """The encoding that a byte order mark at the beginning of a file names; None: there is none, or that of UTF-8."""
    return next((name for mark, name, _ in _MARKS if start.startswith(mark)), None)


def byte_order_mark(start: bytes) -> tuple[bytes, str]:
    """The byte order mark at the beginning of a file, and the encoding of what is behind it, in that order of bytes; UTF-8 without one."""
    return next(((mark, codec) for mark, _, codec in _MARKS if start.startswith(mark)), (b"", "utf-8"))


@contextmanager
def transcoded(f: BinaryIO, encoding: str, why: str, fix: str) -> Iterator[BinaryIO]:
    """The bytes of an open file in UTF-8, without a byte order mark. Reading raises UnreadableFileError where they are none of the
    encoding, which says ``why`` it was taken, and the ``fix``."""
    with io.BufferedReader(cast(Any, _Transcoded(f, encoding, why, fix)), 1 << 20) as buffered:
        yield cast(BinaryIO, buffered)


class _Transcoded(io.RawIOBase):
    def __init__(self, f: BinaryIO, encoding: str, why: str, fix: str) -> None:
        self.f, self.encoding, self.why, self.fix = f, encoding, why, fix
        self.decoder = codecs.getincrementaldecoder(encoding)()
        self.ready, self.done, self.at = b"", False, 0

    def readable(self) -> bool:
        """Always."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer; 0 at the end."""
        while not self.ready and not self.done:
            block = self.f.read(1 << 18)
            self.done = not block
            try:
                self.ready = self.decoder.decode(block, final=self.done).encode("utf-8", "surrogatepass")
            except UnicodeDecodeError as error:
                raise UnreadableFileError(
                    f"it is not {self.encoding}, {self.why}: {error.reason} near byte {self.at + error.start:,}; {self.fix}"
                ) from None
            self.at += len(block)
        n = min(len(buffer), len(self.ready))
        buffer[:n], self.ready = self.ready[:n], self.ready[n:]
        return n
