"""What an Arrow IPC file's record batches take in memory, told before they are decoded: a compressed column says so itself, in eight bytes.

The metadata of Arrow's messages is FlatBuffers; of it the few fields that tell sizes are read here, after Arrow's Message.fbs, Schema.fbs
and File.fbs. What is damaged is left to Arrow's own reader, which says it better.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from typing import BinaryIO

from pipelines.sources.file_formats.sizes import MOST_BYTES

__all__ = ["batch_bytes", "check_batches"]

_CONTINUES = b"\xff\xff\xff\xff"
_FILE_END = 10
"""The footer's length (four bytes) and ``ARROW1``."""
_MOST_METADATA = 64 << 20
_DICTIONARY, _RECORDS = 2, 3
_BYTES_PER_NOTHING = 4
"""What a value costs that takes no bytes of the file."""


class _TooLarge(ValueError):
    """It says what it takes."""


def check_batches(f: BinaryIO, as_file: bool) -> None:
    """Raises ValueError for a file, or a stream, with a batch of more than :data:`MOST_BYTES` that are not in it, the dictionaries that are
    held beside it included."""
    dictionaries: dict[int, int] = {}
    try:
        for at in _blocks(f) if as_file else iter((0,)):
            place: int | None = at
            while place is not None:
                place = _check_message(f, place, dictionaries)
                if as_file:
                    break
    except _TooLarge:
        raise
    except (struct.error, OverflowError, IndexError, ValueError):
        return  # damaged
    except OSError as error:
        if error.errno != errno.EINVAL:  # a place that is none; others are the disk's
            raise


def batch_bytes(f: BinaryIO) -> list[int]:
    """What each record batch of a file takes in it, as its footer says; [] where that says nothing."""
    try:
        footer = _footer(f)
        if footer is None:
            return []
        places = footer.structs(3, 24)
        return [struct.unpack_from("<i", footer.data, at + 8)[0] + struct.unpack_from("<q", footer.data, at + 16)[0] for at in places]
    except (struct.error, OverflowError, IndexError, ValueError):
        return []


def _blocks(f: BinaryIO) -> Iterator[int]:
    """Where the messages of a file lie, as its footer says."""
    footer = _footer(f)
    if footer is None:
        return
    for field in (2, 3):  # dictionaries, record batches
        for at in footer.structs(field, 24):
            yield struct.unpack_from("<q", footer.data, at)[0]


def _footer(f: BinaryIO) -> _Table | None:
    size = f.seek(0, os.SEEK_END)
    f.seek(max(0, size - _FILE_END))
    (length,) = struct.unpack_from("<i", f.read(4))
    if not 0 < length <= min(size, _MOST_METADATA):
        return None
    f.seek(max(0, size - _FILE_END - length))
    return _Table.root(f.read(length))


def _check_message(f: BinaryIO, at: int, dictionaries: dict[int, int]) -> int | None:
    """Look at the message at a place; where the next one begins, None at the end. ``dictionaries``: the bytes of those before, by their
    numbers."""
    f.seek(at)
    head = f.read(8)
    begin = at + (8 if head[:4] == _CONTINUES else 4)
    (length,) = struct.unpack_from("<i", head, begin - at - 4)
    if not 0 < length <= _MOST_METADATA:
        return None
    f.seek(begin)
    message = _Table.root(f.read(length))
    body, kind, header = message.number(3, "<q"), message.number(1, "<B"), message.table(2)
    if header is not None and kind == _RECORDS:
        size = _batch_size(f, header, begin + length, body)
        _check(size + sum(dictionaries.values()), f"a record batch of {header.number(0, '<q')} rows takes")
    if header is not None and kind == _DICTIONARY and (values := header.table(1)) is not None:
        number, adds = header.number(0, "<q"), header.number(2, "<B")  # one that does not add takes the place of the one before
        dictionaries[number] = adds * dictionaries.get(number, 0) + _batch_size(f, values, begin + length, body)
        _check(sum(dictionaries.values()), f"its {len(dictionaries)} dictionaries take")
    return begin + length + body if body >= 0 else None


def _check(size: int, what: str) -> None:
    if size > MOST_BYTES:
        raise _TooLarge(f"{what} {size / 1e9:.1f} GB when decoded, above the limit of {MOST_BYTES / 1e9:.1f} GB; write smaller batches")


def _batch_size(f: BinaryIO, batch: _Table, body: int, length: int) -> int:
    """The bytes that a batch takes and that are not in the file."""
    rows = batch.number(0, "<q")
    size = 0
    if batch.table(3) is not None:  # its buffers are compressed, each behind its length
        for at in batch.structs(2, 16):
            offset, held = struct.unpack_from("<qq", batch.data, at)
            if held >= 8:
                f.seek(body + offset)
                (plain,) = struct.unpack_from("<q", f.read(8))
                size += plain if plain >= 0 else held
    values = sum(max(0, struct.unpack_from("<q", batch.data, at)[0]) for at in batch.structs(1, 16))
    nothing = _BYTES_PER_NOTHING * (values or rows)
    return max(size, nothing if nothing > 32 * max(length, 0) else 0)


class _Table:
    """A table of FlatBuffers at a place in some bytes."""

    def __init__(self, data: bytes, at: int) -> None:
        self.data, self._at = data, at
        self._fields = at - struct.unpack_from("<i", data, at)[0]
        self._size = struct.unpack_from("<H", data, self._fields)[0]

    @classmethod
    def root(cls, data: bytes) -> _Table:
        return cls(data, struct.unpack_from("<I", data)[0])

    def _place(self, field: int) -> int:
        """Where a field lies; 0: it is not there."""
        slot = 4 + 2 * field
        offset = struct.unpack_from("<H", self.data, self._fields + slot)[0] if slot < self._size else 0
        return self._at + offset if offset else 0

    def number(self, field: int, form: str) -> int:
        """A scalar; 0 where it is not there."""
        place = self._place(field)
        return int(struct.unpack_from(form, self.data, place)[0]) if place else 0

    def table(self, field: int) -> _Table | None:
        """A table within."""
        place = self._place(field)
        return _Table(self.data, place + struct.unpack_from("<I", self.data, place)[0]) if place else None

    def structs(self, field: int, size: int) -> range:
        """Where the structs of a vector lie."""
        place = self._place(field)
        if not place:
            return range(0)
        vector = place + struct.unpack_from("<I", self.data, place)[0]
        count = min(struct.unpack_from("<I", self.data, vector)[0], len(self.data) // size)
        return range(vector + 4, vector + 4 + count * size, size)
