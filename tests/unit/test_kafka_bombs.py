"""Record batches made to fill every memory: a few kilobytes that expand to gigabytes, by every codec that Kafka has."""

from __future__ import annotations

import gzip
import hashlib
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipelines.sources.broker import DamagedLog
from pipelines.sources.kafka import large_batches, record_batches
from pipelines.sources.kafka.compression import Expanded, expand
from pipelines.sources.kafka.record_batches import Columns, decode
from tandem.testing.memory import grown
from tests.unit.test_kafka_records import batch, sealed, xerial
from transforms.errors import DataError

MIB = 1 << 20


def zigzag(value: int) -> bytes:
    value, out = (value << 1) ^ (value >> 63), b""
    while value > 0x7F:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def record(delta: int, value: bytes, key: bytes | None = b"k") -> bytes:
    body = (
        b"\0" + zigzag(delta) + zigzag(delta) + (zigzag(-1) if key is None else zigzag(len(key)) + key) + zigzag(len(value)) + value + b"\0"
    )
    return zigzag(len(body)) + body


def framed(codec: int, plain: bytes, count: int, first: int = 7) -> bytes:
    """A batch of these records' bytes, which a hostile producer may send."""
    pack: dict[int, Callable[[bytes], bytes]] = {
        0: bytes,
        1: lambda b: gzip.compress(b, 1),
        2: lambda b: pa.compress(b, "snappy", asbytes=True),
        3: lambda b: pa.compress(b, "lz4", asbytes=True),
        4: lambda b: pa.compress(b, "zstd", asbytes=True),
    }
    raw = bytearray(batch(first, [(first, (1000, None, b"", []))])[:61] + pack[codec](plain))
    struct.pack_into(">h", raw, 21, codec)
    struct.pack_into(">i", raw, 23, count - 1)
    struct.pack_into(">i", raw, 57, count)
    return sealed(raw)


def read_all(raw: bytes, first: int) -> list[Columns]:
    """As a reader asks for it, fetch by fetch."""
    at = first
    found: list[Columns] = []
    for _ in range(100):
        columns = decode(raw, at)
        if columns.next_offset == at:
            return found
        found.append(columns)
        at = columns.next_offset
    raise AssertionError("it never ends")


@pytest.mark.parametrize("codec", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [20 * MIB, 40 * MIB])
def test_a_record_that_is_too_large_is_cut(codec: int, size: int) -> None:
    """SECURITY H1: 40 MiB of blanks in a few kilobytes. The records around it are read."""
    plain = record(0, b"before") + record(1, b" " * size) + record(2, b"after")
    raw = framed(codec, plain, 3)
    assert len(raw) < size / 15
    parts = read_all(raw, 7)
    assert [o for c in parts for o in c.offsets.tolist()] == [7, 8, 9]
    assert [p for c in parts for p in c.payloads.to_pylist()] == [b"before", None, b"after"]
    ((original, line),) = {o: kept for c in parts for o, kept in c.cut.items()}.values()
    assert original == (b"k", b" " * large_batches.HEAD_BYTES, [])
    assert f"its value has {size:,} bytes, SHA-256 {hashlib.sha256(b' ' * size).hexdigest()}; this letter holds the first 16,384" in line
    assert [k for c in parts for k, _, _ in c.original(range(len(c)))] == [b"k"] * 3


@pytest.mark.parametrize(
    ("size", "value", "said"),
    [(20 * MIB, b"value", "its value has 5 bytes"), (40 * MIB, b"", "its key, value and headers have 41,943,047 bytes")],
    ids=["read whole", "read piece by piece"],
)
@pytest.mark.parametrize("codec", [1, 4])
def test_a_key_that_is_too_large_is_cut_and_not_told_as_a_value(codec: int, size: int, value: bytes, said: str) -> None:
    """SECURITY H1: the same by the key, behind which the value lies; the line said that the value had all of these bytes."""
    plain = record(0, b"before") + record(1, b"value", b" " * size) + record(2, b"after")
    parts = read_all(framed(codec, plain, 3), 7)
    assert [p for c in parts for p in c.payloads.to_pylist()] == [b"before", None, b"after"]
    ((original, line),) = {o: kept for c in parts for o, kept in c.cut.items()}.values()
    assert original == (b" " * large_batches.HEAD_BYTES, value, []) and f"; {said}, SHA-256 " in line


@pytest.mark.parametrize("codec", [1, 3, 4])
def test_what_expands_beyond_all_is_not_expanded(codec: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """SECURITY H1: no more is expanded than the limit says, and none of it is kept."""
    monkeypatch.setattr(large_batches, "MAX_BATCH_BYTES", 48 * MIB)
    read = 0

    class Counted(Expanded):
        def read(self, n: int) -> bytes:
            nonlocal read
            found = super().read(n)
            read += len(found)
            return found

    monkeypatch.setattr(large_batches, "Expanded", Counted)
    plain = record(0, b"a") + record(1, bytes(120 * MIB)) + record(2, b"b") * 3
    raw = framed(codec, plain, 5)
    del plain
    with grown() as most:
        parts = read_all(raw, 7)
        peak = most()
    assert read <= 4 * 50 * MIB and peak < 3 * large_batches.MAX_FETCH_BYTES
    assert [o for c in parts for o in c.offsets.tolist()] == [7, 8, 9]
    lines = {o: line for c in parts for o, (_, line) in c.cut.items()}
    assert "its value has 125,829,120 bytes, SHA-256 of its first" in lines[8]
    assert "3 records from here on lie beyond" in lines[9] and parts[-1].next_offset == 12


@pytest.mark.parametrize("java", [False, True])
def test_a_block_of_snappy_that_holds_more_than_is_expanded_is_not(java: bool) -> None:
    """SECURITY H1: a plain block can only be expanded whole: 120 MiB of blanks in 6 MB. What comes before it in Java's framing, and after
    the batch, is read."""
    before, bomb = record(0, b"a" * 5000), record(1, bytes(120 * MIB)) + record(2, b"b")
    blocks = [pa.compress(b, "snappy", asbytes=True) for b in ([before, bomb] if java else [before + bomb])]
    raw = bytearray(batch(7, [(7, (1000, None, b"", []))])[:61])
    raw += xerial(b"x")[:16] + b"".join(struct.pack(">i", len(b)) + b for b in blocks) if java else blocks[0]
    struct.pack_into(">h", raw, 21, 2)
    struct.pack_into(">i", raw, 23, 2)
    struct.pack_into(">i", raw, 57, 3)
    whole = sealed(raw) + batch(10, [(10, (5, None, b"next", []))])
    del bomb, raw, blocks
    with grown() as most:
        parts = read_all(whole, 7)
        peak = most()
    assert peak < 2 * large_batches.MAX_FETCH_BYTES
    lines = {o: line for c in parts for o, (_, line) in c.cut.items()}
    first = 8 if java else 7
    assert list(lines) == [first] and f"{10 - first} records from here on lie where a block of" in lines[first]
    assert [p for c in parts for p in c.payloads.to_pylist()] == [*([b"a" * 5000] if java else []), None, b"next"]


@pytest.mark.parametrize("piece", [1, 64, 1000, 1 << 18])
@pytest.mark.parametrize("codec", [0, 1, 2, 3, 4])
def test_a_batch_that_is_taken_in_parts(codec: int, piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """SECURITY H1: bytes per fetch are bounded, and every record is given out once, wherever it lies in what is read at a time."""
    monkeypatch.setattr(large_batches, "_PIECE", piece)
    for module in (large_batches, record_batches):
        monkeypatch.setattr(module, "MAX_FETCH_BYTES", 10_000)
    values = [bytes([n % 256]) * (n % 700) for n in range(300)]
    raw = framed(codec, b"".join(record(n, v) for n, v in enumerate(values)), 300)
    raw += batch(400, [(400, (5, None, b"next", []))])
    parts = read_all(raw, 7)
    assert len(parts) >= 5 and max(sum(len(p or b"") for p in c.payloads.to_pylist()) for c in parts) <= 10_000
    assert [p for c in parts for p in c.payloads.to_pylist()] == [*values, b"next"]
    assert [o for c in parts for o in c.offsets.tolist()] == [*range(7, 307), 400]
    assert decode(raw, 100).offsets[0] == 100, "from anywhere within"


@pytest.mark.parametrize(("count", "size"), [(40_000, 1000), (400, 100_000), (12, 3 * MIB), (6, 7 * MIB)])
@pytest.mark.parametrize("codec", [1, 2, 3, 4])
def test_ordinary_records_of_a_batch_that_expands_to_more_than_a_fetch(codec: int, count: int, size: int) -> None:
    """A topic of texts that are much alike: a megabyte of it holds forty. Each record is read, and none is called damaged."""
    raw = framed(codec, b"".join(record(n, b"%08d" % n + b" " * size) for n in range(count)), count)
    at = 7
    for columns in read_all(raw, at):
        assert not columns.cut
        for offset, payload in zip(columns.offsets.tolist(), columns.payloads.to_pylist()):
            assert offset == at and len(payload) == size + 8 and payload.startswith(b"%08d" % (at - 7))
            at += 1
    assert at == 7 + count


def test_so_many_records_are_taken_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (large_batches, record_batches):
        monkeypatch.setattr(module, "MAX_COUNT", 100)
    raw = framed(4, b"".join(record(n, b"") for n in range(250)), 250)
    assert [len(c) for c in read_all(raw, 7)] == [100, 100, 50]


@pytest.mark.parametrize("length", [-12, -1, 0, 48])
def test_a_length_that_cannot_be_ends(length: int) -> None:
    """SECURITY low (record batch lengths): a length of -12 was read for ever."""
    raw = bytearray(batch(7, [(7, (1, None, b"a", []))]))
    struct.pack_into(">i", raw, 8, length)
    with pytest.raises(DamagedLog, match=f"offset 7: a length of {length} bytes") as caught:
        decode(bytes(raw), 7)
    assert (caught.value.first, caught.value.following) == (7, 8)


DAMAGE: dict[str, Callable[[bytearray, np.random.Generator], Any]] = {
    "flipped": lambda body, r: body.__setitem__(int(r.integers(len(body))), int(r.integers(256))),
    "cut": lambda body, r: body.__delitem__(slice(int(r.integers(len(body))), None)),
    "noise": lambda body, r: body.__setitem__(slice(None), r.bytes(len(body))),
}


@pytest.mark.parametrize("codec", [1, 2, 3, 4])
@pytest.mark.parametrize("how", DAMAGE)
def test_damaged_bodies_are_data_errors(codec: int, how: str) -> None:
    """SECURITY low (damaged gzip): it raised zlib.error. What can still be read is as long as it was; batches before it are given out."""
    random = np.random.default_rng(codec)
    good = batch(3, [(3, (1, None, b"good", []))])
    for _ in range(60):
        raw = bytearray(framed(codec, b"".join(record(n, random.bytes(40)) for n in range(20)), 20))
        body = bytearray(raw[61:])
        DAMAGE[how](body, random)
        hostile = sealed(bytearray(raw[:61]) + body)
        error: DamagedLog | None = None
        try:
            found = decode(hostile, 7)
        except DamagedLog as raised:
            error = raised
        if error is None:
            assert len(found) == 20
            continue
        before = decode(good + hostile, 3)
        assert (error.following, before.payloads.to_pylist()) == (27, [b"good"]) and before.next_offset in (4, 7)


def test_sizes_that_are_only_said_are_not_allocated() -> None:
    """SECURITY H1: a snappy block of ten bytes that says it holds four gigabytes."""
    for body in (
        b"\xff\xff\xff\xff\x0f" + b"\0" * 5,
        xerial(b"x")[:16] + struct.pack(">i", -4) + b"abcd",
        b"\x82SNAPPY\0" + bytes(8) + b"\x7f\xff\xff\xff",
    ):
        with pytest.raises(DataError, match="cannot be read"):
            expand(2, memoryview(body), 1 << 40)


def with_headers(delta: int, headers: bytes, count: int) -> bytes:
    body = b"\0" + zigzag(delta) + zigzag(delta) + zigzag(-1) + zigzag(1) + b"v" + zigzag(count) + headers
    return zigzag(len(body)) + body


@pytest.mark.parametrize("codec", [0, 4])
def test_a_record_of_ever_so_many_headers_is_cut(codec: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """SECURITY H1: each header is found by the one before it, so half a million of two bytes, a message of 3 KB, took 17 s. Those of the
    records around it are read."""
    most, looked = large_batches.MAX_HEADERS, 0
    read = record_batches._varints

    def counted(data: Any, at: Any) -> Any:
        nonlocal looked
        looked += 1
        return read(data, at)

    monkeypatch.setattr(record_batches, "_varints", counted)
    one = zigzag(1) + b"h" + zigzag(1) + b"x"
    for many in (most + 1, 200_000):
        plain = with_headers(0, one * most, most) + with_headers(1, b"\0\0" * many, many) + with_headers(2, one, 1)
        (columns,) = read_all(framed(codec, plain, 3), 7)
        assert columns.payloads.to_pylist() == [b"v", None, b"v"]
        looked = 0
        assert [len(each) for each in columns.headers().to_pylist()] == [most, 0, 1]
        assert looked <= 2 * most + 10
        ((original, line),) = columns.cut.values()
        assert original == (None, b"v", []) and columns.original([1]) == [original]
        assert line.startswith(f"a record of {many:,} headers has more than the {most:,} that are read; its value has 1 bytes, SHA-256")


@pytest.mark.parametrize("name", [False, True])
@pytest.mark.parametrize("size", [2, 1 << 31, (1 << 63) - 1])
def test_a_headers_size_that_leads_out_of_the_batch_is_damage(size: int, name: bool) -> None:
    """SECURITY H1: the greatest made a sum negative, which was Arrow's error and the stream's end."""
    lie = zigzag(size) + b"n" if name else zigzag(1) + b"n" + zigzag(size) + b"v"
    columns = decode(framed(0, record(0, b"good") + with_headers(1, lie, 1), 2), 7)
    for look in (columns.headers, lambda: columns.original([1])):
        with pytest.raises(DataError, match="headers are cut off"):
            look()
