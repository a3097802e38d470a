"""Record batches that expand to more than is taken at once, and records that are too large to be read: some kilobytes of zstd may hold
gigabytes. They are read piece by piece; of a record that is too large a head, its length and its hash are kept.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from pipelines.sources.broker import Original
from pipelines.sources.kafka.compression import BlockTooLarge, Expanded
from transforms.errors import DataError

__all__ = [
    "HEAD_BYTES",
    "MAX_BATCH_BYTES",
    "MAX_COUNT",
    "MAX_FETCH_BYTES",
    "MAX_HEADERS",
    "MAX_RECORD_BYTES",
    "Cut",
    "Part",
    "bytes_at",
    "read_part",
    "too_large",
    "too_many",
    "varint",
]

MAX_FETCH_BYTES = 32 << 20
"""Uncompressed bytes of records taken from one fetch."""
MAX_COUNT = 1_000_000
"""Records taken from one fetch."""
MAX_RECORD_BYTES = 8 << 20
"""A larger record becomes a cut dead letter. Brokers take 1 MB by default, though of compressed bytes."""
MAX_HEADERS = 1_000
"""A record with more becomes a cut dead letter. Each has to be looked at to find the next, and two bytes are enough for one."""
MAX_BATCH_BYTES = 256 << 20
"""What lies further in one batch is not read: it could be made to take hours."""
HEAD_BYTES = 16 << 10
"""What is kept of the value of a record that is too large."""
_PIECE = 256 << 10

Cut = dict[int, tuple[Original, str]]
"""Offset -> key, beginning of the value, headers as far as they are known, and what is said of the record."""


@dataclass
class Part:
    """Some records of one batch: their bytes as they stand in an uncompressed batch (without value where it is ``cut``), how many, and the
    offset where the next part begins; None: the batch is read."""

    pieces: list[bytes] = field(default_factory=list)
    count: int = 0
    cut: Cut = field(default_factory=dict)
    next_offset: int | None = None


def varint(data: memoryview | bytes | bytearray, at: int) -> tuple[int, int]:
    """A zigzag varint and the position after it. Raises IndexError."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte <= 0x7F:
            return (value >> 1) ^ -(value & 1), at
        shift += 7
        if shift > 63:
            raise IndexError


def bytes_at(data: memoryview | bytes, at: int) -> tuple[bytes | None, int]:
    """Bytes behind their length, and the position after them. Raises IndexError."""
    size, at = varint(data, at)
    if size < 0:
        return None, at
    if at + size > len(data):
        raise IndexError
    return bytes(data[at : at + size]), at + size


def too_large(size: int, value_size: int, digest: str, hashed: int, what: str = "its value has") -> str:
    """What is said of a record of ``size`` bytes; ``digest`` is of the first ``hashed`` bytes of its value, or of ``what`` was counted."""
    part = "" if hashed == value_size else f" of its first {hashed:,} bytes"
    return (
        f"a record of {size:,} bytes is larger than the {MAX_RECORD_BYTES:,} that are read; {what} {value_size:,} bytes,"
        f" SHA-256{part} {digest}; this letter holds the first {min(HEAD_BYTES, hashed):,}"
    )


def too_many(count: int, value_size: int, digest: str) -> str:
    """What is said of a record of ``count`` headers; ``digest`` is of its value."""
    return (
        f"a record of {count:,} headers has more than the {MAX_HEADERS:,} that are read; its value has {value_size:,} bytes,"
        f" SHA-256 {digest}; this letter holds the first {min(HEAD_BYTES, value_size):,}, and no headers"
    )


class _Window:
    """Some bytes of an expanded batch, from ``at`` on. Reading moves them: no position is kept over :meth:`have` or :meth:`take`."""

    def __init__(self, source: Expanded) -> None:
        self.source, self.data, self.at = source, b"", 0

    def have(self, n: int) -> None:
        """Read until ``n`` bytes lie ahead, or the end."""
        lacking = n - (len(self.data) - self.at)
        if lacking > 0:
            more = self.source.read(max(lacking, _PIECE))
            self.data, self.at = self.data[self.at :] + more, 0

    def take(self, n: int) -> bytes:
        """Up to ``n`` bytes."""
        self.have(n)
        taken = self.data[self.at : self.at + n]
        self.at += len(taken)
        return taken


def read_part(codec: int, body: memoryview, first: int, last: int, count: int, offset: int, limit: int) -> Part:
    """The records at or after ``offset`` of a batch (offsets ``first`` to ``last``, ``count`` records), up to ``limit`` bytes or so, at
    least one. Raises DataError on damage."""
    source, part, taken = Expanded(codec, body), Part(), 0
    window, here, number = _Window(source), first - 1, 0
    try:
        for number in range(count):
            if source.at - (len(window.data) - window.at) >= MAX_BATCH_BYTES:
                _give_up(part, first, max(here + 1, offset), count - number, f"beyond {MAX_BATCH_BYTES:,} bytes of one batch")
                return part
            window.have(10)
            size, begin = varint(window.data, window.at)
            if size < 0:
                raise IndexError
            if size > MAX_RECORD_BYTES:
                window.at = begin
                here, entry = _cut_record(window, first, size)
                if here < offset:
                    continue
                if part.count:
                    part.next_offset = here
                    return part
                part.cut[here] = entry
                record = _without_value(here - first)
            else:
                head = begin - window.at
                window.have(head + size)
                begin = window.at + head
                _, at = varint(window.data, begin + 1)
                delta, _ = varint(window.data, at)
                end = begin + size
                if end > len(window.data):
                    raise IndexError
                record, here = window.data[window.at : end], first + delta
                window.at = end
                if here < offset:
                    continue
                if part.count and (taken + len(record) > limit or part.count >= MAX_COUNT):
                    part.next_offset = here
                    return part
            part.pieces.append(record)
            part.count += 1
            taken += len(record)
    except BlockTooLarge as error:
        _give_up(part, first, max(here + 1, offset), count - number, f"where {error}")
    except IndexError:
        raise DataError(f"record batch at offset {first}: a record is longer than its batch; the topic's data is damaged") from None
    return part


def _cut_record(window: _Window, first: int, size: int) -> tuple[int, tuple[Original, str]]:
    """Offset, head and detail of the record of ``size`` bytes that begins here; the window stands behind it then, or at the limit."""
    window.have(2 * HEAD_BYTES)
    begin = window.at
    _, at = varint(window.data, begin + 1)
    delta, at = varint(window.data, at)
    key_size, at = varint(window.data, at)
    key = None if key_size < 0 else window.data[at : at + min(key_size, HEAD_BYTES)]
    left = size - (at - begin)
    if key_size > HEAD_BYTES:  # the value lies somewhere behind it
        window.at = at
        hashed, digest, _ = _hash(window, left)
        return first + delta, ((key, b"", []), too_large(size, left, digest, hashed, "its key, value and headers have"))
    value_size, at = varint(window.data, at + max(key_size, 0))
    window.at = at
    left = size - (at - begin)
    if value_size > left:
        raise IndexError
    hashed, digest, head = _hash(window, max(value_size, 0))
    window.take(0)
    _pass(window, left - max(value_size, 0))
    return first + delta, ((key, head, []), too_large(size, value_size, digest, hashed))


def _hash(window: _Window, size: int) -> tuple[int, str, bytes]:
    """How many bytes were hashed, the hash, and the first of them."""
    hashed, digest, head = 0, hashlib.sha256(), b""
    while hashed < size and window.source.at < MAX_BATCH_BYTES + _PIECE:
        piece = window.take(min(_PIECE, size - hashed))
        if not piece:
            raise IndexError
        if not hashed:
            head = piece[:HEAD_BYTES]
        digest.update(piece)
        hashed += len(piece)
    return hashed, digest.hexdigest(), head


def _pass(window: _Window, size: int) -> None:
    while size > 0 and window.source.at < MAX_BATCH_BYTES + _PIECE:
        size -= len(window.take(min(_PIECE, size))) or size


def _without_value(delta: int) -> bytes:
    """A record of this offset with neither key, value nor headers."""
    body = b"\x00\x00" + _zigzag(delta) + b"\x01\x01\x00"
    return _zigzag(len(body)) + body


def _zigzag(value: int) -> bytes:
    value, out = value << 1, bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _give_up(part: Part, first: int, at: int, count: int, where: str) -> None:
    """The rest of the batch becomes one letter."""
    line = f"{count:,} records from here on lie {where} and are not read; produce smaller batches"
    part.cut[at] = ((None, b"", []), line)
    part.pieces.append(_without_value(at - first))
    part.count += 1
