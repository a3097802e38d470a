"""Kafka's record batches (format 2) as columns: the bytes of a fetch become arrays, without an object per record.

kafka-python builds a Python object per record (about 8 us each); here numpy reads the fields of all records of a fetch at once
(about 0.5 us each). One thing stays a loop over records: each record's length says where the next one begins, and nothing else does.

Format: https://kafka.apache.org/documentation/#recordbatch and #record; transactions: KIP-98 (a batch of an aborted transaction is
left out, a control batch carries the marker that ends one).
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from crc32c import crc32c

from pipelines.sources.broker import DamagedLog, Ints, Original
from pipelines.sources.kafka.compression import expand
from pipelines.sources.kafka.large_batches import (
    HEAD_BYTES,
    MAX_COUNT,
    MAX_FETCH_BYTES,
    MAX_HEADERS,
    MAX_RECORD_BYTES,
    Cut,
    bytes_at,
    read_part,
    too_large,
    too_many,
    varint,
)
from transforms.errors import DataError

__all__ = ["Columns", "decode"]

_BATCH = struct.Struct(">qiibIhiqqqhii")
_LENGTH = struct.Struct(">qi")
_MAGIC_AT = struct.calcsize(">qii")
_CRC_FROM = struct.calcsize(">qiibI")
_COMPRESSION, _LOG_APPEND, _TRANSACTIONAL, _CONTROL = 0x07, 0x08, 0x10, 0x20


@dataclass(frozen=True)
class Columns:
    """The records of a fetch, in order of their offsets.

    ``offsets`` and ``timestamps_us`` int64 [N], ``payloads`` binary [N] (null: a tombstone), ``next_offset``: the position after all of
    them, past transaction markers, aborted records and what compaction removed. ``data`` uint8 and ``keys_at`` int64 [N] find keys
    and headers again. ``epoch``: the leader's when it took the last batch. ``cut``: of records that are too large, by offset, what is
    kept of them; their payload is null.
    """

    offsets: Ints
    timestamps_us: Ints
    payloads: pa.Array
    next_offset: int
    data: npt.NDArray[np.uint8]
    keys_at: Ints
    epoch: int = -1
    cut: Mapping[int, tuple[Original, str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.offsets)

    def slice(self, first: int, last: int) -> Columns:
        """Rows ``first`` to ``last`` (exclusive); a slice that leaves rows out at its end ends at the first of those."""
        after = int(self.offsets[last]) if last < len(self) else self.next_offset
        payloads = self.payloads.slice(first, last - first)
        keys_at = self.keys_at[first:last]
        stamps = self.timestamps_us[first:last]
        return Columns(self.offsets[first:last], stamps, payloads, after, self.data, keys_at, self.epoch, self.cut)

    def keys(self) -> pa.Array:
        """The keys of all rows: binary [N], null where there is none."""
        sizes, begins = _varints(self.data, self.keys_at)
        return _binary(self.data, begins, begins + np.maximum(sizes, 0), sizes < 0)

    def headers(self) -> pa.Array:
        """The headers of all rows: :data:`transforms.origin.HEADERS` [N]; a name that is not UTF-8 has replacement characters, and what
        is cut has none. Raises DataError when they are damaged."""
        try:
            return _headers(self.data, self.keys_at, np.isin(self.offsets, np.array([*self.cut], np.int64)))
        except IndexError:
            raise DataError(f"records before offset {self.next_offset}: headers are cut off; the topic's data is damaged") from None

    def original(self, rows: Iterable[int]) -> list[Original]:
        """Key, value and headers of a few rows, for dead letters. Raises DataError when they are damaged."""
        found: list[Original] = []
        data = memoryview(self.data.data)
        for row in rows:
            if (kept := self.cut.get(int(self.offsets[row]))) is not None:
                found.append(kept[0])
                continue
            try:
                key, at = bytes_at(data, int(self.keys_at[row]))
                value, at = bytes_at(data, at)
                count, at = varint(data, at)
                headers = []
                for _ in range(count):
                    name, at = bytes_at(data, at)
                    content, at = bytes_at(data, at)
                    headers.append(((name or b"").decode("utf-8", "replace"), content))
            except IndexError:
                raise DataError(f"record at offset {self.offsets[row]}: its headers are cut off; the topic's data is damaged") from None
            found.append((key, value, headers))
        return found


def decode(records: bytes, offset: int, aborted: Sequence[tuple[int, int]] = ()) -> Columns:
    """The committed records at or after ``offset`` in the record batches of one fetch; an incomplete last batch is left for the next fetch.

    ``aborted``: (producer id, first offset) of the aborted transactions that the broker named. What expands to more than
    :data:`~pipelines.sources.kafka.large_batches.MAX_FETCH_BYTES` is left for the next fetch too, within a batch if need be. Raises
    :class:`DamagedLog` on damage (every batch's CRC is checked), on formats older than Kafka 0.11 and on unknown compression; what
    comes before such a batch is given out first.
    """
    view = memoryview(records)
    pending = sorted(aborted, key=lambda a: a[1], reverse=True)
    aborting: set[int] = set()
    pieces: list[memoryview | bytes] = []
    spans: list[tuple[int, int, int]] = []  # of each batch kept: where its records begin and end in the joined pieces, and how many
    bases: list[tuple[int, int, int]] = []  # its first offset, first timestamp, and the timestamp that the broker gave to all (else -1)
    at, joined, total, next_offset, epoch = 0, 0, 0, offset, -1
    cut: Cut = {}
    lasts: list[int] = []
    while at + _BATCH.size <= len(view):
        first, length = _LENGTH.unpack_from(view, at)
        end = at + _LENGTH.size + length
        if end > len(view):
            break
        last = first
        try:
            if length < _BATCH.size - _LENGTH.size:
                raise DataError(f"record batch at offset {first}: a length of {length} bytes; the topic's data is damaged")
            if (magic := view[at + _MAGIC_AT]) != 2:
                raise DataError(f"record batch at offset {first}: message format {magic} is of before Kafka 0.11; rewrite the topic")
            _, _, leader, _, crc, attributes, last_delta, first_ms, last_ms, producer, _, _, count = _BATCH.unpack_from(view, at)
            if crc32c(view[at + _CRC_FROM : end]) != crc:
                raise DataError(f"record batch at offset {first}: wrong checksum; the log or the way from it is damaged")
            body, last = view[at + _BATCH.size : end], first + max(last_delta, 0)
            if producer >= 0:
                while pending and pending[-1][1] <= last:
                    aborting.add(pending.pop()[0])
                if attributes & _CONTROL and _aborts(body):
                    aborting.discard(producer)
            following: int | None = None
            if not (attributes & _CONTROL or last < offset or not count or (attributes & _TRANSACTIONAL and producer in aborting)):
                codec, room = attributes & _COMPRESSION, MAX_FETCH_BYTES - joined
                piece = expand(codec, body, room) if total + count <= MAX_COUNT else None
                if piece is None:
                    if pieces:
                        break  # alone, the next time
                    part = read_part(codec, body, first, last, count, offset, room)
                    piece, count, following = b"".join(part.pieces), part.count, part.next_offset
                    cut.update(part.cut)
                pieces.append(piece)
                spans.append((joined, joined + len(piece), count))
                bases.append((first, first_ms, last_ms if attributes & _LOG_APPEND else -1))
                joined, total = joined + len(piece), total + count
        except DataError as error:
            if pieces:
                break
            raise DamagedLog(str(error), first, max(last, offset) + 1) from None
        lasts += [last] * (len(spans) - len(lasts))
        epoch, at = leader, end
        if following is not None:
            next_offset = following
            break
        next_offset = max(next_offset, last + 1)
    try:
        columns = _columns(b"".join(pieces), spans, bases, next_offset, epoch, cut)
    except DataError:
        columns = _before_damage(pieces, spans, bases, lasts, offset, epoch)
    skip = int(np.searchsorted(columns.offsets, offset))
    return columns.slice(skip, len(columns)) if skip else columns


def _before_damage(
    pieces: list[memoryview | bytes], spans: list[tuple[int, int, int]], bases: list[tuple[int, int, int]], lasts: list[int], offset: int,
    epoch: int,
) -> Columns:  # fmt: skip
    """The records of the batches before the one that is damaged. Raises DamagedLog where that is the first."""
    for n, (piece, (begin, end, count), base) in enumerate(zip(pieces, spans, bases, strict=True)):
        try:
            _columns(bytes(piece), [(0, end - begin, count)], [base], lasts[n] + 1, epoch, {})
        except DataError as error:
            if n == 0:
                raise DamagedLog(str(error), base[0], max(lasts[0], offset) + 1) from None
            return _columns(b"".join(pieces[:n]), spans[:n], bases[:n], base[0], epoch, {})
    raise AssertionError("every batch can be read alone")


def _columns(
    joined: bytes, spans: list[tuple[int, int, int]], bases: list[tuple[int, int, int]], next_offset: int, epoch: int, cut: Cut
) -> Columns:
    """All records of the joined bodies of batches; what is too large is added to ``cut``."""
    data = np.frombuffer(joined, np.uint8)
    try:
        begins, ends = _bounds(joined, spans)
        base = np.repeat(np.array(bases, np.int64).reshape(-1, 3), [count for _, _, count in spans], axis=0)
        delta_ms, at = _varints(data, begins + 1)  # after the attributes, which mean nothing yet
        delta, keys_at = _varints(data, at)
        key_size, key_begins = _varints(data, keys_at)
        value_size, values_at = _varints(data, key_begins + np.maximum(key_size, 0))
        values_end = values_at + np.maximum(value_size, 0)
        headers, after = _varints(data, values_end)
    except IndexError:
        raise DataError(f"records before offset {next_offset}: a record is longer than its batch; the topic's data is damaged") from None
    if (after > ends).any() or ((headers == 0) & (after != ends)).any() or (headers < 0).any():
        raise DataError(f"records before offset {next_offset}: a record's fields do not fill it; the topic's data is damaged")
    timestamps_ms = np.where(base[:, 2] >= 0, base[:, 2], base[:, 1] + delta_ms)
    offsets = base[:, 0] + delta
    long = ends - begins > MAX_RECORD_BYTES
    large = long | (headers > MAX_HEADERS)
    for row in np.flatnonzero(large).tolist():
        value = memoryview(joined)[values_at[row] : values_end[row]]
        digest = hashlib.sha256(value).hexdigest()
        if long[row]:
            line = too_large(int(ends[row] - begins[row]), int(value_size[row]), digest, len(value))
        else:
            line = too_many(int(headers[row]), len(value), digest)
        key = None if key_size[row] < 0 else joined[key_begins[row] : key_begins[row] + min(int(key_size[row]), HEAD_BYTES)]
        cut[int(offsets[row])] = ((key, bytes(value[:HEAD_BYTES]), []), line)
    payloads = _binary(joined, values_at, values_end, (value_size < 0) | large)
    return Columns(offsets, timestamps_ms * 1000, payloads, next_offset, data, keys_at, epoch, cut)


def _bounds(data: bytes, spans: list[tuple[int, int, int]]) -> tuple[Ints, Ints]:
    """Where each record's body begins and ends, by following the lengths. Raises IndexError when they lead out of a batch."""
    begins: list[int] = []
    ends: list[int] = []
    for at, end, count in spans:
        for _ in range(count):  # the one loop over records: see the module
            size = data[at]
            at += 1
            if size > 0x7F:
                size &= 0x7F
                shift = 7
                while True:
                    byte = data[at]
                    at += 1
                    size |= (byte & 0x7F) << shift
                    if byte <= 0x7F:
                        break
                    shift += 7
            begins.append(at)
            at += size >> 1  # zigzag; a negative length shows as a wrong end
            ends.append(at)
        if at != end:
            raise IndexError
    return np.array(begins, np.int64), np.array(ends, np.int64)


def _varints(data: npt.NDArray[np.uint8], at: Ints) -> tuple[Ints, Ints]:
    """The zigzag varints at these positions, int64, and the positions after them. Raises IndexError."""
    byte = data[at]
    value = (byte & 0x7F).astype(np.uint64)
    at = at + 1
    left = np.flatnonzero(byte > 0x7F)
    shift = 7
    while left.size:
        if shift > 63:
            raise IndexError
        byte = data[at[left]]
        value[left] |= (byte & 0x7F).astype(np.uint64) << np.uint64(shift)
        at[left] += 1
        shift += 7
        left = left[byte > 0x7F]
    signed = (value >> np.uint64(1)).view(np.int64) ^ -(value & np.uint64(1)).view(np.int64)
    return signed, at


def _headers(data: npt.NDArray[np.uint8], keys_at: Ints, without: npt.NDArray[np.bool_]) -> pa.Array:
    """The headers of records, from where their keys' sizes stand; one step for the first header of all, one for the second. Those of the
    rows ``without`` are left out. Raises IndexError."""
    for _ in range(2):  # past key and value
        sizes, begins = _varints(data, keys_at)
        keys_at = begins + np.maximum(sizes, 0)
    counts, at = _varints(data, keys_at)
    counts[without] = 0
    rows, steps = np.arange(len(counts)), list[tuple[Ints, ...]]()
    while (left := counts[rows] > len(steps)).any():
        rows, at = rows[left], at[left]
        name_size, name_at = _varints(data, at)
        size, begin = _varints(data, name_at + np.maximum(name_size, 0))
        at = begin + np.maximum(size, 0)
        if (at > len(data)).any() or (size > len(data)).any():  # a size that is large enough makes the sum negative
            raise IndexError
        steps.append((rows, name_at, name_at + np.maximum(name_size, 0), begin, at, size))
    ends = np.concatenate([[0], np.cumsum(np.maximum(counts, 0))]).astype(np.int32)
    if not steps:
        return pa.MapArray.from_arrays(pa.array(ends), pa.array([], pa.string()), pa.array([], pa.binary()))
    row, name_at, name_end, begin, end, size = (np.concatenate(each) for each in zip(*steps, strict=True))
    order = np.argsort(row, kind="stable")
    names, values = _binary(data, name_at[order], name_end[order], None), _binary(data, begin[order], end[order], size[order] < 0)
    try:
        texts = names.cast(pa.string())
    except pa.ArrowInvalid:
        texts = pa.array([name.decode("utf-8", "replace") for name in names.to_pylist()], pa.string())
    return pa.MapArray.from_arrays(pa.array(ends), texts, values)


def _binary(data: bytes | npt.NDArray[np.uint8], begins: Ints, ends: Ints, null: npt.NDArray[np.bool_] | None) -> pa.Array:
    """The slices of ``data`` as a binary array: values and the gaps between them are an array over it; every second one is taken."""
    if not len(begins):
        return pa.array([], pa.binary())
    edges = np.empty(2 * len(begins), np.int32)
    edges[0::2], edges[1::2] = begins, ends
    both = pa.Array.from_buffers(pa.binary(), len(edges) - 1, [None, pa.py_buffer(edges), pa.py_buffer(data)])
    return both.take(pa.array(np.arange(0, len(edges), 2, dtype=np.int32), mask=null if null is not None and null.any() else None))


def _aborts(body: memoryview) -> bool:
    """Whether a control batch ends a transaction by abort: its one record's key is (version int16, type int16), type 0 for abort."""
    _, at = varint(body, 0)
    _, at = varint(body, at + 1)  # after the attributes: the timestamp's delta
    _, at = varint(body, at)  # the offset's delta
    key, _ = bytes_at(body, at)
    return key is not None and len(key) >= 4 and key[2:4] == b"\x00\x00"
