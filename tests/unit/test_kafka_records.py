"""Record batches as columns, against kafka-python's own reading of the same bytes."""

from __future__ import annotations

import contextlib
import struct
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from crc32c import crc32c
from hypothesis import given, settings
from hypothesis import strategies as st
from kafka.consumer.fetcher import Fetcher
from kafka.protocol.consumer import FetchResponse, IsolationLevel
from kafka.record.default_records import DefaultRecordBatchBuilder
from kafka.record.memory_records import MemoryRecords
from kafka.structs import TopicPartition

from pipelines.sources.kafka.record_batches import Columns, decode
from tests.examples import examples
from transforms.errors import DataError
from transforms.origin import HEADERS

Aborted = FetchResponse.FetchableTopicResponse.PartitionData.AbortedTransaction

blobs = st.none() | st.binary(max_size=200)
headers = st.lists(st.tuples(st.text(max_size=10), blobs), max_size=3)
records = st.tuples(st.integers(0, 2**41), blobs, blobs, headers)
# records, gap before each, codec, producer (-1: none), transactional
batches = st.tuples(
    st.lists(st.tuples(records, st.integers(0, 200)), min_size=1, max_size=20),
    st.sampled_from([0, 1, 4]),
    st.sampled_from([-1, 7, 8]),
    st.booleans(),
)


def batch(first: int, rows: list[tuple[int, Any]], codec: int = 0, producer: int = -1, transactional: bool = False) -> bytes:
    """A record batch of (offset, (ms, key, value, headers)), built by kafka-python."""
    builder = DefaultRecordBatchBuilder(2, codec, transactional, producer, 0 if producer >= 0 else -1, 0 if producer >= 0 else -1, 1 << 20)
    for offset, (ms, key, value, heads) in rows:
        assert builder.append(offset - first, ms, key, value, heads) is not None
    raw = bytearray(builder.build())
    struct.pack_into(">q", raw, 0, first)
    struct.pack_into(">i", raw, 23, rows[-1][0] - first)
    return sealed(raw)


def marker(offset: int, producer: int, commit: bool) -> bytes:
    """A control batch."""
    row: tuple[int, bytes, bytes, list[Any]] = (0, struct.pack(">hh", 0, int(commit)), struct.pack(">hi", 0, 0), [])
    raw = bytearray(batch(offset, [(offset, row)], producer=producer, transactional=True))
    struct.pack_into(">h", raw, 21, struct.unpack_from(">h", raw, 21)[0] | 0x20)
    return sealed(raw)


def sealed(raw: bytearray) -> bytes:
    """With its length and checksum set right."""
    struct.pack_into(">i", raw, 8, len(raw) - 12)
    struct.pack_into(">I", raw, 17, crc32c(memoryview(raw)[21:]))
    return bytes(raw)


def rows_of(columns: Columns) -> list[tuple[Any, ...]]:
    """(offset, us, payload, key, value, headers) per record."""
    found = columns.original(range(len(columns)))
    assert columns.keys().to_pylist() == [key for key, _, _ in found]
    made = columns.headers()
    assert made.type == HEADERS and made.to_pylist() == [[tuple(header) for header in heads] for _, _, heads in found]
    return list(zip(columns.offsets.tolist(), columns.timestamps_us.tolist(), columns.payloads.to_pylist(), *zip(*found))) if found else []


def by_kafka_python(raw: bytes, offset: int, aborted: list[tuple[int, int]]) -> tuple[list[tuple[Any, ...]], int]:
    """The same from kafka-python, and its next offset."""
    reading = Fetcher.PartitionRecords(
        offset,
        TopicPartition("t", 0),
        MemoryRecords(raw),
        isolation_level=IsolationLevel.READ_COMMITTED,
        aborted_transactions=[Aborted(producer_id=p, first_offset=o) for p, o in aborted],
    )
    found = reading.take()
    return [(r.offset, r.timestamp * 1000, r.value, r.key, r.value, r.headers) for r in found], reading.next_fetch_offset


@settings(max_examples=examples(80))
@given(st.lists(batches, max_size=6), st.lists(st.booleans(), max_size=6), st.integers(0, 400), st.integers(0, 60))
def test_as_kafka_python_reads_them(plan: list[Any], ends: list[bool], offset: int, cut: int) -> None:
    """Any batches (gaps as compaction leaves them, compressed, in transactions), read from any offset, cut off anywhere."""
    raw, at, aborted = b"", 0, []
    opened: dict[int, int] = {}
    for (rows, codec, producer, transactional), commit in zip(plan, [*ends, *[True] * len(plan)]):
        placed, first = [], at
        for row, gap in rows:
            at += gap
            placed.append((at, row))
            at += 1
        in_transaction = transactional and producer >= 0
        raw += batch(first, placed, codec, producer, in_transaction)
        if in_transaction:
            opened.setdefault(producer, first)
            if not commit:
                aborted.append((producer, opened[producer]))
            raw += marker(at, producer, commit)
            del opened[producer]
            at += 1
    raw = raw[: len(raw) - cut]
    columns = decode(raw, offset, aborted)
    expected, following = by_kafka_python(raw, offset, aborted)
    assert rows_of(columns) == expected
    assert columns.next_offset == max(following, offset)
    assert columns.payloads.type == pa.binary() and columns.offsets.dtype == columns.timestamps_us.dtype == np.int64
    for size in (1, 3):
        pieces = [columns.slice(i, min(i + size, len(columns))) for i in range(0, len(columns), size)]
        assert [row for piece in pieces for row in rows_of(piece)] == expected
        assert [p.next_offset for p in pieces] == [*columns.offsets[size::size].tolist(), columns.next_offset][: len(pieces)]


def test_the_broker_s_own_timestamps() -> None:
    """With log append time, the batch's greatest timestamp is that of all."""
    raw = bytearray(batch(5, [(5, (100, None, b"a", [])), (6, (90, None, b"b", []))]))
    struct.pack_into(">h", raw, 21, 0x08)
    struct.pack_into(">q", raw, 35, 777)
    assert decode(sealed(raw), 0).timestamps_us.tolist() == [777_000, 777_000]


def compressed(codec: int, body: Any) -> bytes:
    raw = bytearray(batch(0, [(i, (1, b"k", b"value %d" % i, [])) for i in range(100)]))
    plain = bytes(raw[61:])
    struct.pack_into(">h", raw, 21, codec)
    return sealed(raw[:61] + body(plain))


def xerial(plain: bytes) -> bytes:
    blocks = b""
    for i in range(0, len(plain), 300):
        block = pa.compress(plain[i : i + 300], "snappy", asbytes=True)
        blocks += struct.pack(">i", len(block)) + block
    return b"\x82SNAPPY\x00" + struct.pack(">ii", 1, 1) + blocks


@pytest.mark.parametrize(
    ("codec", "body"),
    [
        pytest.param(2, lambda plain: pa.compress(plain, "snappy", asbytes=True), id="snappy"),
        pytest.param(2, xerial, id="snappy as Java writes it"),
        pytest.param(3, lambda plain: pa.compress(plain, "lz4", asbytes=True), id="lz4"),
    ],
)
def test_codecs_that_kafka_python_lacks(codec: int, body: Any) -> None:
    assert decode(compressed(codec, body), 0).payloads.to_pylist() == [b"value %d" % i for i in range(100)]


@pytest.mark.parametrize("codec", [1, 2, 3, 4])
def test_damaged_compression_is_one_line(codec: int) -> None:
    with pytest.raises(DataError, match="a compressed record batch cannot be read"):
        decode(compressed(codec, lambda plain: b"\x82SNAPPY\x00 no such thing at all"), 0)


def test_an_unknown_codec_is_one_line() -> None:
    with pytest.raises(DataError, match="codec 5, unknown here"):
        decode(compressed(5, lambda plain: plain), 0)


def test_damage_is_noticed() -> None:
    good = batch(3, [(i, (1, b"k", b"v%d" % i, [("h", b"x")])) for i in range(3, 9)])
    for i in range(21, len(good)):
        with pytest.raises(DataError, match="record batch at offset 3: wrong checksum"):
            decode(good[:i] + bytes([good[i] ^ 0x40]) + good[i + 1 :], 0)
    old = bytearray(good)
    old[16] = 1
    with pytest.raises(DataError, match="message format 1 is of before Kafka 0"):
        decode(bytes(old), 0)


@settings(max_examples=examples(80))
@given(st.integers(61, 160), st.integers(0, 255))
def test_nonsense_under_a_right_checksum_is_one_line(at: int, byte: int) -> None:
    """A producer that writes nonsense: either it can be read as records, or it is a DataError; nothing else."""
    raw = bytearray(batch(3, [(i, (1, b"k", b"v%d" % i, [("h", b"x")])) for i in range(3, 12)]))
    raw[min(at, len(raw) - 1)] = byte
    with contextlib.suppress(DataError):
        columns = decode(sealed(raw), 3)
        columns.original(range(len(columns)))


def test_nothing() -> None:
    columns = decode(b"", 7)
    assert (len(columns), columns.next_offset, columns.payloads.to_pylist(), columns.original([])) == (0, 7, [], [])
