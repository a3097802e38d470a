"""Records in other systems' shapes, as ``tandem infer`` has them read."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pipelines.inference.infer_source import infer_files
from pipelines.sources.event_files import events, list_files
from transforms.definitions import EventSource

__all__ = ["N", "NOW", "T0", "at", "inferred", "ms", "read", "z"]

N = 300
T0 = datetime(2024, 5, 1, 10, tzinfo=UTC)
NOW = 2 * 10**15


def at(n: int) -> datetime:
    return T0 + timedelta(seconds=37 * n, milliseconds=7 * n)


def ms(n: int) -> int:
    return (at(n) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


def z(n: int) -> str:
    return at(n).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def read(data: Path, text: str, name: str) -> list[dict[str, Any]]:
    """The events that the definition takes, all of which it must."""
    values: dict[str, Any] = {}
    exec(compile("\n".join(line for line in text.splitlines() if "feast_views" not in line), f"{name}.py", "exec"), values)
    source: EventSource = values[name]
    out: list[dict[str, Any]] = []
    for file in list_files(data, source, None, None, hashes=False):
        for valid, letters in events(file.path, source, NOW, 0, name=file.name, batch_rows=1_000, partitions=file.partitions):
            assert letters.num_rows == 0, letters.to_pylist()[:2]
            out += valid.to_pylist()
    return out


def inferred(tmp_path: Path, records: list[dict[str, Any]] | bytes, **more: Any) -> tuple[str, list[dict[str, Any]]]:
    folder = tmp_path / "events" / "things"
    folder.mkdir(parents=True)
    if isinstance(records, bytes):
        (folder / "a.csv").write_bytes(records)
    else:
        (folder / "a.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    text = infer_files(folder, name="things", data=tmp_path, group=True, **more).text
    return text, read(tmp_path, text, "things")
