"""Files in parts against the same files as wholes; what several suites of parts start from."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.batch.divide import FilePart, division, look_at, part_events, put_together
from pipelines.sources.event_files import EventFile, events
from transforms.definitions import EventSource, Field
from transforms.file_formats import Csv

NOW = 1_700_000_000_000_000
FIELDS = [Field("key", "string", required=True), Field("value", "float64", max=90), Field("note", "string")]


def source_of(dialect: Csv | None = None) -> EventSource:
    return EventSource(name="orders", fields=FIELDS, event_time="at", tie_breaker="key", files="events/orders", file_format=dialect)


def file_of(path: Path) -> EventFile:
    return EventFile(str(path), f"events/orders/{path.name}", path.stat().st_size, "")


def told(pairs: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Events, and dead letters in order of their numbers."""
    valid, letters = [], []
    for v, d in pairs:
        valid += v.to_pylist()
        letters += d.to_pylist()
    return valid, sorted(letters, key=lambda d: d["row"] or 0)


def whole(path: Path, source: EventSource, rows: int = 65_536) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    return told(events(path, source, NOW, 0, name=f"events/orders/{path.name}", batch_rows=rows))


def in_its_parts(path: Path, source: EventSource, most: int, rows: int = 65_536) -> tuple[Any, Any, list[FilePart]]:
    """As :func:`whole`, by its parts, looked at in any order."""
    parts = division(file_of(path), source, most)
    if len(parts) > 1:
        looks = [(part, look_at(part, source)) for part in random.Random(most).sample(parts, len(parts))]
        parts = put_together(looks)
    found = [told(part_events(part, source, NOW, 0, lambda what, count: None, rows)) for part in parts]
    for _, letters in found:
        assert letters == sorted(letters, key=lambda d: d["row"] or 0)
    return [e for valid, _ in found for e in valid], [d for _, letters in found for d in letters], parts


def same(path: Path, source: EventSource, most: int, rows: int = 65_536) -> list[FilePart]:
    valid, letters, parts = in_its_parts(path, source, most, rows)
    assert (valid, letters) == whole(path, source)
    assert len({p.name for p in parts}) == len(parts)
    return parts


def line(i: int, value: str = "1.5") -> bytes:
    return b'{"key": "k%d", "value": %s, "note": "x", "at": %d}' % (i, value.encode(), NOW - 10_000_000 + i)


def written_parquet(path: Path) -> Path:
    """Ten groups of rows."""
    n = 640
    columns: dict[str, Any] = {
        "key": [f"k{i}" for i in range(n)], "value": [float(i % 100) for i in range(n)], "note": ["x" * (i % 7) for i in range(n)],
        "at": pa.array([NOW - 9_000_000 + i for i in range(n)], pa.timestamp("us", "UTC")),
    }  # fmt: skip
    pq.write_table(pa.table(columns), path, row_group_size=64, use_dictionary=False, compression="none")
    return path


def refused_damages(path: Path, times: int, seed: int) -> int:
    """Damages a file so often behind its first four bytes, each time anew, and holds its parts against the whole; how many were refused."""
    data, rng, refused = path.read_bytes(), random.Random(seed), 0
    for _ in range(times):
        spoilt = bytearray(data)
        for _ in range(rng.choice([1, 1, 4])):
            at = rng.randrange(4, len(data))
            spoilt[at : at + 3] = rng.randbytes(3)
        path.write_bytes(spoilt)
        same(path, source_of(), rng.choice([1, 4000, 20_000]))
        refused += whole(path, source_of())[0] == []
    return refused
