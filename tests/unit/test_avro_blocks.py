"""Avro container files whose bytes are few and whose records are not: refused within a bound, whatever their codec and their schema."""

from __future__ import annotations

import bz2
import io
import json
import lzma
import zlib
from collections.abc import Callable
from typing import Any

import fastavro
import pyarrow as pa
import pytest

from pipelines.sources.file_formats import avro_blocks
from pipelines.sources.file_formats.avro_file import AvroFile
from pipelines.sources.file_formats.file_format import UnreadableFileError
from pipelines.sources.formats.avro_schemas import written_by
from pipelines.sources.formats.avro_weight import UnusableSchema
from pipelines.sources.formats.schema_registry import RegisteredSchema
from tandem.testing.memory import grown
from transforms.definitions import EventSource, Field

SOURCE = EventSource(name="orders", fields=[Field("k", "string", required=True)], event_time="at", tie_breaker="k", files="events/orders")
SYNC = b"S" * 16
TEXT = {"type": "record", "name": "R", "fields": [{"name": "k", "type": "string"}]}


def number(n: int) -> bytes:
    n, out = (n << 1) ^ (n >> 63), b""
    while n > 0x7F:
        out, n = out + bytes([n & 0x7F | 0x80]), n >> 7
    return out + bytes([n])


def text(value: bytes) -> bytes:
    return number(len(value)) + value


def container(schema: Any, codec: str, *blocks: tuple[int, bytes]) -> bytes:
    """A file of blocks that are compressed already, whatever they say."""
    meta = {b"avro.schema": json.dumps(schema).encode(), b"avro.codec": codec.encode()}
    head = b"Obj\x01" + number(2) + b"".join(text(key) + text(value) for key, value in meta.items()) + number(0) + SYNC
    return head + b"".join(number(count) + text(data) + SYNC for count, data in blocks)


def read(data: bytes) -> list[Any]:
    found = AvroFile(SOURCE).read(lambda: io.BytesIO(data), 1_000, {})
    return [row for batch in found if batch.rows is not None for row in batch.rows.to_pylist()]


def deflate(data: bytes) -> bytes:
    machine = zlib.compressobj(9, zlib.DEFLATED, -15)
    return machine.compress(data) + machine.flush()


def snappy(data: bytes) -> bytes:
    return bytes(pa.compress(data, codec="snappy", asbytes=True)) + zlib.crc32(data).to_bytes(4, "big")


CODECS: dict[str, Callable[[bytes], bytes]] = {
    "null": bytes,
    "deflate": deflate,
    "snappy": snappy,
    "zstandard": lambda data: pa.compress(data, codec="zstd", asbytes=True),
    "bzip2": bz2.compress,
    "xz": lzma.compress,
}


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(avro_blocks, "MOST_BYTES", 4 << 20)
    return 4 << 20


@pytest.mark.parametrize("codec", CODECS)
def test_every_codec_is_read(codec: str) -> None:
    """Spark writes snappy unless it is told otherwise."""
    one, two = text(b"a") + text("ü".encode()), text(b"c" * 40_000)
    assert [r["k"] for r in read(container(TEXT, codec, (2, CODECS[codec](one)), (1, CODECS[codec](two)), (0, CODECS[codec](b""))))] == [
        "a", "ü", "c" * 40_000,
    ]  # fmt: skip


@pytest.mark.parametrize("codec", ["null", "deflate", "bzip2", "xz"])
def test_what_fastavro_writes_is_read(codec: str) -> None:
    out, rows = io.BytesIO(), [{"k": f"o{i}"} for i in range(5_000)]
    fastavro.writer(out, TEXT, rows, codec=codec, sync_interval=1_000)
    assert read(out.getvalue()) == rows


@pytest.mark.parametrize("codec", [c for c in CODECS if c != "null"])
def test_a_bomb_is_refused_within_the_bound(small: int, codec: str) -> None:
    """SECURITY H1's kind: some kilobytes that become 32 times the bound."""
    bomb = container(TEXT, codec, (1, CODECS[codec](number(32 * small) + b"a" * (32 * small))))
    assert len(bomb) < 32 * small // 10
    with grown() as most:
        with pytest.raises(UnreadableFileError, match=r"limit|says that it holds|memory"):
            read(bomb)
        assert codec == "snappy" or most() < 8 * small  # snappy cannot become more than 64 times its bytes


@pytest.mark.parametrize("codec", [c for c in CODECS if c != "null"])
@pytest.mark.parametrize("how", ["cut", "flipped", "empty", "text"])
def test_damaged_blocks_are_told(codec: str, how: str) -> None:
    data = CODECS[codec](text(b"abc" * 1_000))
    middle = len(data) // 2
    broken = {"cut": data[:middle], "flipped": data[:middle] + bytes(b ^ 0xFF for b in data[middle:]), "empty": b"", "text": b"hello"}[how]
    with pytest.raises(UnreadableFileError):
        read(container(TEXT, codec, (1, broken)))


def one(of: Any) -> Any:
    return {"type": "record", "name": "R", "fields": [{"name": "k", "type": of}]}


def doubling(levels: int) -> Any:
    made: Any = "string"
    for i in range(levels):
        fields = [{"name": "a", "type": made}, {"name": "b", "type": f"N{i - 1}" if i else "string"}]
        made = {"type": "record", "name": f"N{i}", "fields": fields}
    return one(made)


@pytest.mark.parametrize(
    ("schema", "count", "block", "told"),
    [
        (one({"type": "array", "items": "null"}), 1, number(2**50) + number(0), "values that take no bytes"),
        (one({"type": "array", "items": "null"}), 1, number(-(2**50)) + number(0) * 2, "values that take no bytes"),
        (one({"type": "array", "items": {"type": "fixed", "name": "F", "size": 0}}), 1, number(2**50), "values that take no bytes"),
        (one({"type": "array", "items": {"type": "record", "name": "E", "fields": []}}), 1, number(2**50), "values that take no bytes"),
        (one("null"), 2**50, b"", "its records take no bytes"),
        ({"type": "record", "name": "R", "fields": []}, 2**50, b"", "its records take no bytes"),
        (one(["null", "R"]), 1, b"\x02" * 100_000 + b"\x00", "holds itself, to any depth"),
        (one({"type": "array", "items": "R"}), 1, b"\x02" * 100_000, "holds itself, to any depth"),
        (one({"type": "map", "values": "R"}), 1, b"\x02\x00" * 100_000, "holds itself, to any depth"),
        (doubling(60), 1, b"\x00", "at least"),
        (TEXT, 2**50, text(b"a"), "says that it has"),
        (TEXT, 5, text(b"a") * 2, "says that it has"),
        (TEXT, -1, text(b"a"), "says that it has -1 records"),
        (TEXT, 1, text(b"a") + b"left", "4 bytes of a block are left over"),
        (TEXT, 1, number(2**50) + b"abc", "Expected"),
        (TEXT, 1, number(-5) + b"abc", ""),
        (one({"type": "fixed", "name": "F", "size": 2**40}), 1, b"abc", "at least"),
        (one(["null", "string"]), 1, number(-1) + text(b"a"), ""),
        (one({"type": "enum", "name": "E", "symbols": ["A", "B"]}), 1, number(-1), ""),
    ],
)
def test_what_a_file_says_of_itself_is_not_believed(schema: Any, count: int, block: bytes, told: str) -> None:
    """Not one of them is decoded: some would take all memory, run for ever, or end the process by its stack."""
    with pytest.raises(UnreadableFileError, match=told):
        read(container(schema, "null", (count, block)))


@pytest.mark.parametrize("tail", [number(1) + number(2**45) + b"abc", number(1) + number(-3), b"\xff" * 12, number(1), number(1) + b"\x80"])
def test_a_damaged_head_of_a_block(tail: bytes) -> None:
    with pytest.raises(UnreadableFileError):
        read(container(TEXT, "null", (1, text(b"a"))) + tail)


@pytest.mark.parametrize("part", [number(2**40), number(-(2**40)) + number(2**40), number(1) + number(2**40)])
def test_a_header_that_says_anything(part: bytes) -> None:
    with pytest.raises(UnreadableFileError):
        read(b"Obj\x01" + part)


def test_infer_does_not_decode_by_a_schema_without_end() -> None:
    """A topic's schema by which a record of some kilobytes would end the process."""

    class Registry:
        url = "http://registry"

        def schema(self, number: int, serialized: bool = False) -> RegisteredSchema:
            return RegisteredSchema(json.dumps(one(["null", "R"])), "AVRO", ())

    with pytest.raises(UnusableSchema, match="holds itself"):
        written_by(1, Registry())  # type: ignore[arg-type]
