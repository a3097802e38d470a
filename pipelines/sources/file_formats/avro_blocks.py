"""The blocks of an Avro container file, decompressed within a bound: a few kilobytes may be written to become any number of gigabytes.

By the standard library's codecs and Arrow's: what fastavro would want a package more for (snappy, zstandard) is read as well.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterator
from io import SEEK_END, BytesIO
from typing import Any, BinaryIO

import pyarrow as pa

from pipelines.sources.kafka.compression import snappy_block

__all__ = ["MOST_BYTES", "Overrun", "blocks", "places"]

MOST_BYTES = 64 << 20
"""Of one block, decompressed. Writers make blocks of some kilobytes, and of 16 MB at most unless they are told otherwise."""
_SYNC_BYTES = 16
_SEARCHED_BYTES = 64 << 10
_CRC_BYTES = 4


class Overrun(Exception):
    """A block goes on where a part of a file was to end: the bytes of a sync marker stood within it."""


def places(f: BinaryIO, sync: bytes, begin: int, most: int) -> list[tuple[int, int]]:
    """Where the blocks of a file may be divided, from ``begin``, the first one's place, to its end: behind the first sync marker after
    ``most`` bytes each time. What looks like a marker and is none is told by the walk through the part before it (:class:`Overrun`)."""
    size, out, at = f.seek(0, SEEK_END), list[tuple[int, int]](), begin
    while (end := _behind_sync(f, sync, at + most, size)) < size:
        out.append((at, end))
        at = end
    return [*out, (at, size)]


def _behind_sync(f: BinaryIO, sync: bytes, begin: int, size: int) -> int:
    """The place behind the first marker from ``begin`` on; ``size`` where none is."""
    at, held = begin, b""
    while at < size:
        f.seek(at)
        read = f.read(_SEARCHED_BYTES)
        if not read:
            break
        if (found := (held + read).find(sync)) >= 0:
            return at - len(held) + found + _SYNC_BYTES
        at += len(read)
        held = (held + read)[-(_SYNC_BYTES - 1) :]
    return size


def blocks(f: BinaryIO, codec: str, sync: bytes, upto: int | None = None) -> Iterator[tuple[int, bytes]]:
    """(how many records it says that it holds, their bytes) of each block of a file that stands at the first of them; ``upto``: of those
    before this place, where one must begin or the file end, else Overrun is raised behind them. Raises ValueError and EOFError, and what
    the codec raises, for damage; ValueError for a block beyond the bound, and for a codec that is not known."""
    expand = _CODECS.get(codec)
    if expand is None:
        raise ValueError(f"its blocks are compressed by {codec[:40]!r}, unknown here; write it with {', '.join(_CODECS)}")
    while (upto is None or f.tell() < upto) and (first := f.read(1)) != b"":
        count = _number(f, first)
        size = _number(f, f.read(1))
        if count < 0 or size < 0:
            raise ValueError(f"a block says that it has {count} records in {size} bytes")
        if size > MOST_BYTES:
            raise _too_large(size)
        data = f.read(size)
        if len(data) != size or len(end := f.read(_SYNC_BYTES)) != _SYNC_BYTES:
            raise EOFError(f"the file ends within a block of {count} records")
        if end != sync:
            raise ValueError("a block does not end with the file's sync marker")
        plain = expand(data)
        if len(plain) > MOST_BYTES:
            raise _too_large(len(plain))
        yield count, plain
    if upto is not None and f.tell() != upto:
        raise Overrun


def _too_large(size: int) -> ValueError:
    return ValueError(f"a block has {size:,} bytes or more when decompressed, above the limit of {MOST_BYTES:,}; write smaller blocks")


def _number(f: BinaryIO, first: bytes) -> int:
    """A zigzag varint of at most ten bytes, of which the first one is read already."""
    value = shift = 0
    byte = first
    while shift < 70:
        if not byte:
            raise EOFError("the file ends within the head of a block")
        value |= (byte[0] & 0x7F) << shift
        if byte[0] <= 0x7F:
            return (value >> 1) ^ -(value & 1)
        shift += 7
        byte = f.read(1)
    raise ValueError("the head of a block is no number")


def _by(made: Callable[[], Any]) -> Callable[[bytes], bytes]:
    def expand(data: bytes) -> bytes:
        machine = made()
        plain: bytes = machine.decompress(data, MOST_BYTES + 1)
        if len(plain) <= MOST_BYTES and not machine.eof:
            raise EOFError("a compressed block is cut off")
        return plain

    return expand


def _zstandard(data: bytes) -> bytes:
    out = BytesIO()
    with pa.CompressedInputStream(pa.BufferReader(data), "zstd") as stream:
        while out.tell() <= MOST_BYTES and (piece := stream.read(1 << 20)):
            out.write(piece)
    return out.getvalue()


def _snappy(data: bytes) -> bytes:
    plain = snappy_block(memoryview(data)[:-_CRC_BYTES])
    if zlib.crc32(plain) != int.from_bytes(data[-_CRC_BYTES:], "big"):
        raise ValueError("the checksum of a block is another")
    return plain


_CODECS: dict[str, Callable[[bytes], bytes]] = {
    "null": lambda data: data,
    "deflate": _by(lambda: zlib.decompressobj(-zlib.MAX_WBITS)),
    "snappy": _snappy,
    "zstandard": _zstandard,
    "bzip2": _by(bz2.BZ2Decompressor),
    "xz": _by(lambda: lzma.LZMADecompressor(memlimit=MOST_BYTES)),
}
