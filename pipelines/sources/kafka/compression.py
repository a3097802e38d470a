"""What a compressed record batch holds, read piece by piece: nothing is allocated because a few bytes say that it is needed.

By Arrow's codecs and the standard library's: kafka-python wants a package more for each.
"""

from __future__ import annotations

import gzip
import io
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO, cast

import pyarrow as pa

from transforms.errors import DataError

__all__ = ["MOST_OF_SNAPPY", "BlockTooLarge", "Expanded", "expand", "snappy_block"]

_XERIAL = b"\x82SNAPPY\x00"
_PIECE = 1 << 20
_SNAPPY_RATIO = 64
"""Its format cannot expand by more: 64 bytes by a copy of three."""
MOST_OF_SNAPPY = 64 << 20
"""Bytes that one block may hold: it can only be expanded whole. Java writes blocks of 32 KB, others one block per batch."""
_DAMAGE = (OSError, EOFError, pa.ArrowException, IndexError, struct.error, zlib.error, ValueError, OverflowError)


class BlockTooLarge(ValueError):
    """A block of snappy says that it holds more than :data:`MOST_OF_SNAPPY`: it is whole, and is not expanded."""


class Expanded:
    """The records of a batch as a file that is only read ahead, by its compression (0 none, 1 gzip, 2 snappy, 3 lz4, 4 zstd).

    :meth:`read` and the constructor raise DataError for what is damaged, and for other codecs; :meth:`read` also BlockTooLarge.
    """

    def __init__(self, codec: int, body: memoryview) -> None:
        self.at = 0
        """How many bytes were read."""
        self.beyond: BlockTooLarge | None = None
        """What comes next, and is not expanded."""
        if not 0 <= codec <= 4:
            raise DataError(f"a record batch is compressed by codec {codec}, unknown here; have the producer use gzip, snappy, lz4 or zstd")
        try:
            if codec == 1:
                self._file: BinaryIO = cast(BinaryIO, gzip.GzipFile(fileobj=io.BytesIO(body), mode="rb"))
            elif codec == 2:
                self._file = cast(BinaryIO, _Blocks(_snappy(body)))
            elif codec:
                plain = pa.BufferReader(pa.py_buffer(body))
                self._file = cast(BinaryIO, pa.CompressedInputStream(plain, "lz4" if codec == 3 else "zstd"))
            else:
                self._file = io.BytesIO(body)
        except _DAMAGE as error:
            raise _damaged(error) from None

    def read(self, n: int) -> bytes:
        """The next ``n`` bytes, fewer only at the end, or before a block that is too large."""
        if self.beyond is not None:
            raise self.beyond
        whole = io.BytesIO()  # which grows in place: joined pieces would be there twice
        try:
            while n > 0 and (piece := self._file.read(min(n, _PIECE))):
                whole.write(piece)
                n -= len(piece)
        except BlockTooLarge as error:
            self.beyond = error
        except _DAMAGE as error:
            raise _damaged(error) from None
        if self.beyond is not None and not whole.tell():
            raise self.beyond
        self.at += whole.tell()
        return whole.getvalue()


def expand(codec: int, body: memoryview, limit: int) -> memoryview | bytes | None:
    """All records of a batch, or None where they take more than ``limit`` bytes. Raises DataError."""
    if codec == 0:
        return body if len(body) <= limit else None
    source = Expanded(codec, body)
    try:
        found = source.read(limit + 1)
    except BlockTooLarge:
        return None
    return found if len(found) <= limit and source.beyond is None else None


def _damaged(error: Exception) -> DataError:
    return DataError(f"a compressed record batch cannot be read: {error}; the topic's data is damaged")


class _Blocks:
    """Blocks as a file."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks, self._left = blocks, memoryview(b"")

    def read(self, n: int) -> bytes:
        while not self._left:
            block = next(self._blocks, None)
            if block is None:
                return b""
            self._left = memoryview(block)
        piece, self._left = self._left[:n], self._left[n:]
        return bytes(piece)


def _snappy(body: memoryview) -> Iterator[bytes]:
    """Snappy as Java writes it (a header, then length and block, again and again), or one plain block."""
    if bytes(body[:8]) != _XERIAL:
        yield snappy_block(body)
        return
    at = 16
    while at < len(body):
        (size,) = struct.unpack_from(">i", body, at)
        if not 0 < size <= len(body) - at - 4:
            raise EOFError(f"a block of {size} bytes at {at} of {len(body)}")
        at += 4 + size
        yield snappy_block(body[at - size : at])


def snappy_block(block: memoryview) -> bytes:
    """A plain block of snappy. Raises ValueError, IndexError and pa.ArrowException for what is none, BlockTooLarge."""
    size = shift = at = 0  # the size when uncompressed comes first, as a plain varint
    while True:
        byte = block[at]
        size |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte <= 0x7F:
            break
    if size > _SNAPPY_RATIO * len(block):
        raise ValueError(f"a block of {len(block)} bytes says that it holds {size}")
    if size > MOST_OF_SNAPPY:
        raise BlockTooLarge(f"a block of {len(block):,} bytes of snappy holds {size:,}, more than the {MOST_OF_SNAPPY:,} that are expanded")
    return bytes(pa.decompress(pa.py_buffer(block), decompressed_size=size, codec="snappy", asbytes=True))
