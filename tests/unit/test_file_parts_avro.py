"""An Avro file in parts is the file: values that their types cannot hold, texts that look like a block's end, and damage included."""

from __future__ import annotations

import io
import random
import zlib
from pathlib import Path
from typing import Any

import fastavro
import pytest

from tests.unit.file_parts import FIELDS, NOW, same, whole
from transforms.definitions import EventSource, Field

AVRO_FIELDS: list[dict[str, Any]] = [
    {"name": "key", "type": "string"},
    {"name": "value", "type": ["null", "double", "int"]},  # of several types: its values tell
    {"name": "note", "type": ["null", "string"]},
    {"name": "at", "type": "long"},
    {"name": "small", "type": ["null", "int"]},
    {"name": "tags", "type": {"type": "array", "items": {"type": "map", "values": "long"}}},
]


def avro(path: Path, n: int = 640, *, sync: bytes | None = None, records: int = 16, odd: bool = True, codec: str = "null") -> Path:
    """Blocks of some records; with ``odd``, values that their own types cannot hold stand among others, as other writers leave them."""
    parsed = fastavro.parse_schema({"type": "record", "name": "R", "fields": AVRO_FIELDS})
    fields = [{**f, "type": ["null", "long"]} if f["name"] == "small" else f for f in AVRO_FIELDS]
    wide = fastavro.parse_schema({"type": "record", "name": "W", "fields": fields})
    sync, out = sync or random.Random(n).randbytes(16), io.BytesIO()
    fastavro.writer(out, parsed, [], codec=codec, sync_marker=sync)
    rng = random.Random(records)
    for begin in range(0, n, records):
        block = io.BytesIO()
        for i in range(begin, min(n, begin + records)):
            value = (None, i % 100, float(i % 97))[i % 3]
            small = 2**40 + i if odd and i % 37 == 5 else None if i % 5 == 0 else i
            tags = [{f"t{j}": j for j in range(rng.randrange(3))} for _ in range(i % 3)]
            record = {"key": f"k{i}", "value": value, "note": "x" * (i % 7), "at": NOW - 9_000_000 + i, "small": small, "tags": tags}
            fastavro.schemaless_writer(block, wide, record)
        plain = block.getvalue()
        data = plain if codec == "null" else zlib.compress(plain, wbits=-15)
        out.write(zigzag(min(n, begin + records) - begin) + zigzag(len(data)) + data + sync)
    path.write_bytes(out.getvalue())
    return path


def zigzag(n: int) -> bytes:
    n, out = n << 1, b""
    while n > 0x7F:
        out, n = out + bytes([n & 0x7F | 0x80]), n >> 7
    return out + bytes([n])


AVRO_SOURCE = EventSource(
    name="orders",
    fields=[*FIELDS, Field("small", "int64", max=600), Field("t1", "int64", path="tags[0].t1")],
    event_time="at",
    tie_breaker="key",
    files="events/orders",
)


@pytest.mark.parametrize("codec", ["null", "deflate"])
def test_avro(tmp_path: Path, codec: str) -> None:
    path = avro(tmp_path / "a.avro", codec=codec)
    counts = [len(same(path, AVRO_SOURCE, most, rows=50)) for most in (1, 2000, 10**9)]
    assert counts[0] == 40 and 3 <= counts[1] <= 30 and counts[2] == 1
    valid, letters = whole(path, AVRO_SOURCE)
    wide = [i for i in range(640) if i % 37 == 5]
    assert {int(d["row"]) for d in letters} >= set(wide), "beyond its int, and beyond the field's max"
    assert len(valid) + len(letters) == 640 and any(e["t1"] == 1 for e in valid)


@pytest.mark.parametrize("rows", [1, 7, 5000])
def test_a_value_that_an_avro_type_cannot_hold_changes_none_beside_it(tmp_path: Path, rows: int) -> None:
    path, clean = avro(tmp_path / "a.avro"), avro(tmp_path / "b.avro", odd=False)
    (odd, _), (plain, _) = whole(path, AVRO_SOURCE, rows), whole(clean, AVRO_SOURCE, rows)
    held = {e["key"]: e for e in plain}
    assert odd and all(held[e["key"]] == e for e in odd)


@pytest.mark.parametrize("sync", [b"\0" * 16, b"x" * 16])
def test_bytes_of_avro_records_that_look_like_a_sync_marker(tmp_path: Path, sync: bytes) -> None:
    """A part that would begin within a block is told by the one before it, and the file is read as one."""
    path = tmp_path / "a.avro"
    inner = avro(path, sync=sync).read_bytes()
    block = zigzag(1) + zigzag(len(held := _held(sync))) + held + sync
    path.write_bytes(inner + block + inner[inner.index(sync) + 16 :])
    parts = same(path, AVRO_SOURCE, 1)
    assert len(parts) == 1 and parts[0].within is None and not parts[0].fault


def _held(sync: bytes) -> bytes:
    """A record whose text is a marker twice over."""
    out = io.BytesIO()
    record: dict[str, Any] = {"key": "k", "value": None, "note": (sync * 2).decode(), "at": NOW - 9_000_000, "small": 1, "tags": []}
    fastavro.schemaless_writer(out, fastavro.parse_schema({"type": "record", "name": "R", "fields": AVRO_FIELDS}), record)
    return out.getvalue()


def test_damaged_avro_has_one_verdict(tmp_path: Path) -> None:
    """Whichever part the damage lies in: no row of the file is used, and the reason is the same, with the rows before it."""
    path = avro(tmp_path / "a.avro", codec="deflate")
    data, rng, refused = path.read_bytes(), random.Random(4), 0
    for _ in range(60):
        spoilt = bytearray(data)
        for _ in range(rng.choice([1, 1, 4])):
            at = rng.randrange(len(data))
            spoilt[at : at + 2] = rng.randbytes(2)
        path.write_bytes(spoilt)
        same(path, AVRO_SOURCE, rng.choice([1, 900, 4000]))
        refused += whole(path, AVRO_SOURCE)[0] == []
    assert refused > 30
    for cut in (0, 3, 200, len(data) - 9, len(data) - 20):
        path.write_bytes(data[:cut])
        same(path, AVRO_SOURCE, 1)
    path.write_bytes(data + b"\x02")
    (part,) = same(path, AVRO_SOURCE, 1)
    assert part.fault == "the file ends within the head of a block (behind row 639)"
